"""One suite over every engine: what each compiler and session owes, whoever wrote it.

A pair that cannot compile or run here is skipped with the reason that ``avsdk doctor`` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from avsdk import plugins
from avsdk.bundle import Bundle
from avsdk.errors import AvsdkError, NotAvailable, SizeNotBuilt, UsageError
from avsdk.files import cache_home
from avsdk.session import Artifact, LoadedGraph, Session
from avsdk.spec import GraphSpec, TensorSpec
from avsdk.tensorrt_execution import DEVICES, EngineFileSession
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.compiler import Compiler
from avsdk_targets.device import list_devices
from avsdk_targets.doctor import diagnose
from avsdk_targets.target import resolve

MODEL = "tests.contracts.tiny_model:network"


def cases() -> list[tuple[str, str]]:
    """Every engine on every kind of hardware at every precision, once.

    Two devices are of one kind where the engine gives them one name (every Xeon is its cpu) or one runs what is built
    for the other (a processor stands in for a TPU); GPUs are Turing or another kind, as only Turing has rules of its
    own. A baseline is the model itself, so one precision shows what it owes. int8 is built from models that are
    quantised already, which the tiny one is not.
    """
    chosen: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for item in diagnose():
        if item.engine:
            target = item.target if ":" in item.target else f"{item.engine}:{item.target}"
            found = resolve(target).candidates[0]
            gpu = "turing" if found.arch == "sm75" else "gpu"
            session, compiler = plugins.load("engines", item.engine), plugins.load("compilers", item.engine)
            named = "cpu" if session.stand_in(found.device) else found.device
            kind = gpu if found.arch.startswith("sm") or not found.arch else named
            precisions = item.precisions[:1] if compiler.baseline else item.precisions
            chosen.setdefault((item.engine, kind), (target, precisions))
    pairs = [(target, precision) for target, precisions in chosen.values() for precision in precisions]
    return [(target, precision) for target, precision in pairs if precision != "int8"]


CASES = cases()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module", params=CASES, ids=[f"{target}-{precision}" for target, precision in CASES])
def bundle(request: pytest.FixtureRequest, home: Path) -> Bundle:
    """The tiny model, exported for one target at one precision."""
    target, precision = request.param
    candidate = resolve(target).candidates[0]
    compiler: Compiler = plugins.load("compilers", candidate.engine)()
    verdict = compiler.check(candidate.device, candidate.arch, precision)
    if not verdict.ok:
        pytest.skip(f"cannot compile: {verdict.reason} ({verdict.fix})")
    try:
        with Exporter(MODEL, ExportOptions(home, precision), lambda text: None) as exporter:
            # An engine whose attribute ``baseline`` names settings makes no bundle that ships; it is measured as built.
            made = exporter.build if compiler.baseline else exporter.export
            return made(resolve(target)).bundle
    except AvsdkError as error:
        if precision == "bf16" and error.exit_code == 4:
            pytest.skip(f"this processor has no bf16: {error.failed}")
        raise


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> Iterator[LoadedGraph]:
    """The bundle's only graph, where its engine can run here; one for all tests, since some take seconds to open."""
    loaded = _loaded(bundle)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def closed(bundle: Bundle) -> tuple[Session, dict[str, np.ndarray]]:
    """A session of the same that has been closed, and what it could have been fed."""
    loaded = _loaded(bundle)
    (session,) = loaded.open_sessions()
    session.close()
    return session, feeds(loaded)


def _loaded(bundle: Bundle) -> LoadedGraph:
    artifact = bundle.manifest.artifacts[0]
    session: type[Session] = plugins.load("engines", artifact.engine)
    state = session.availability(artifact.device)
    if not state.ok:
        pytest.skip(f"cannot run: {state.reason} ({state.fix})")
    return bundle.load_graphs(1)["tiny"]


def feeds(graph: LoadedGraph, seed: int = 0) -> dict[str, np.ndarray]:
    sizes = graph.built_sizes[0] if graph.built_sizes else graph.graph.default_sizes()
    generator = np.random.default_rng(seed)
    return {
        tensor.name: generator.uniform(0, 255, tensor.sized(sizes)).astype(tensor.dtype)
        for tensor in graph.graph.inputs
    }


def test_the_bundle_names_what_it_is(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.parity.verdict in {"pass", "not_run"}
    assert manifest.parity.reason or manifest.parity.verdict == "pass"
    assert manifest.built_with
    assert all(item.engine == manifest.engine for item in manifest.artifacts)
    assert "model/tiny.onnx" in manifest.files
    programs = [name for name in manifest.files if name.endswith(".pt2")]
    ships = not plugins.load("compilers", manifest.engine).baseline
    assert not (ships and programs), "a program with pickled parts never ships"


def test_what_does_not_ship_stays_in_the_cache_and_export_names_the_bench(bundle: Bundle, home: Path) -> None:
    target = bundle.manifest.target
    if not plugins.load("compilers", bundle.manifest.engine).baseline:
        assert bundle.path.parent == home
        return
    assert cache_home() in bundle.path.parents
    with (
        Exporter(MODEL, ExportOptions(home, bundle.manifest.precision), lambda text: None) as exporter,
        pytest.raises(NotAvailable, match="makes no bundle") as caught,
    ):
        exporter.export(resolve(target))
    assert caught.value.fix == f"avsdk bench {MODEL} --target {target}"


def test_parity_was_measured_where_the_engine_runs(bundle: Bundle, graph: LoadedGraph) -> None:
    parity = bundle.manifest.parity
    assert (parity.verdict, parity.executed_on) == ("pass", "device")
    assert parity.samples >= 1
    assert parity.outputs[0].snr_db >= 30


def test_runs_again_with_the_same_numbers_in_fresh_arrays(graph: LoadedGraph) -> None:
    first = graph.run(feeds(graph))["answer"]
    kept = first.copy()
    other = graph.run(feeds(graph, seed=1))["answer"]
    again = graph.run(feeds(graph))["answer"]
    assert np.array_equal(first, kept), "the runtime reused the buffer of an answer already given"
    assert np.allclose(again, kept, rtol=1e-5, atol=1e-3)
    assert not np.allclose(other, kept)


def test_effective_precision_is_read_back_and_as_asked(bundle: Bundle, graph: LoadedGraph) -> None:
    execution = graph.open_sessions()[0].execution()
    asked = bundle.manifest.precision
    assert execution.effective_precision.startswith("fp32" if asked == "fp16w" else asked)
    assert ("fp16 weights" in execution.effective_precision) == (asked == "fp16w")
    assert sum(execution.precision_shares.values()) == pytest.approx(1.0)
    assert sum(execution.placement.values()) == pytest.approx(1.0)


def test_refuses_wrong_names_types_and_ranks(graph: LoadedGraph) -> None:
    session = graph.open_sessions()[0]
    right = feeds(graph)
    with pytest.raises(UsageError, match="was fed"):
        session.run({"picture": right["image"]})
    with pytest.raises(UsageError, match="float64"):
        session.run({"image": right["image"].astype(np.float64)})
    with pytest.raises(SizeNotBuilt, match="4 axes"):
        session.run({"image": right["image"][0]})


def test_refuses_a_size_it_was_not_built_for(graph: LoadedGraph) -> None:
    other = np.zeros((1, 3, 64, 64), np.float32)
    if graph.built_sizes:
        with pytest.raises(SizeNotBuilt, match="--axis height=64,width=64"):
            graph.run({"image": other})
        with pytest.raises(SizeNotBuilt, match="was built at"):
            graph.open_sessions()[0].run({"image": other})
    else:
        assert graph.run({"image": other})["answer"].shape == other.shape
    with pytest.raises(SizeNotBuilt, match="multiple of 4"):
        graph.run({"image": np.zeros((1, 3, 64, 66), np.float32)})


def test_closing_twice_is_fine(closed: tuple[Session, dict[str, np.ndarray]]) -> None:
    closed[0].close()


def test_a_closed_session_says_so(closed: tuple[Session, dict[str, np.ndarray]]) -> None:
    session, given = closed
    with pytest.raises(UsageError, match="is closed"):
        session.run(given)


@pytest.mark.parametrize("name", plugins.list_names("engines"))
def test_an_unknown_device_is_no_exception_but_a_reason(name: str) -> None:
    session: type[Session] = plugins.load("engines", name)
    state = session.availability("toaster")
    assert session.engine == name
    assert not state.ok
    assert state.reason
    assert state.fix


def test_the_sessions_for_nvidia_know_every_gpu_of_the_catalogue_and_no_other() -> None:
    kinds = {name: plugins.load("engines", name) for name in plugins.list_names("engines")}
    engines = [name for name, kind in kinds.items() if issubclass(kind, EngineFileSession)]
    called = {item.called_by(name) for item in list_devices() for name in engines if name in item.engines}
    assert called == set(DEVICES)


@pytest.mark.parametrize("name", plugins.list_names("engines"))
def test_opening_on_an_absent_device_is_typed(name: str, tmp_path: Path) -> None:
    session: type[Session] = plugins.load("engines", name)
    tensor = TensorSpec("image", "float32", (1, 3, 4, 4))
    artifact = Artifact("tiny", name, "toaster", "fp32", ("model/tiny.onnx",))
    with pytest.raises(NotAvailable) as caught:
        session.open(tmp_path, artifact, GraphSpec("tiny", (tensor,), (tensor,)), 1)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", plugins.list_names("compilers"))
def test_every_compiler_has_its_session_and_its_limits(name: str) -> None:
    compiler: Compiler = plugins.load("compilers", name)()
    assert compiler.engine == name
    assert name in plugins.list_names("engines")
    newest = (onnx.IR_VERSION, onnx.defs.onnx_opset_version())
    assert compiler.onnx_limits.ir <= newest[0], "a newer model is refused before it has a reference"
    assert compiler.onnx_limits.opset <= newest[1]
    refusal = compiler.refusal("cpu", "host", "fp1")
    assert refusal


@pytest.mark.parametrize("name", plugins.list_names("compilers"))
def test_check_gives_a_reason_and_a_fix(name: str) -> None:
    compiler: Compiler = plugins.load("compilers", name)()
    verdict = compiler.check("cpu", "host", "fp1")
    assert not verdict.ok
    assert verdict.reason
    assert verdict.fix


@pytest.mark.parametrize("engine", plugins.list_names("compilers"))
def test_what_a_tuner_may_vary_are_settings_that_the_artifact_records(engine: str) -> None:
    compiler: Compiler = plugins.load("compilers", engine)()
    for device in ("cpu", "cuda", "gpu"):
        for name, values in compiler.tunables(device, many=True).items():
            assert name in compiler.settings
            assert len(set(values)) == len(values) > 1
            recorded = [compiler.session_options({name: value}, device) for value in values]
            assert len({repr(item) for item in recorded}) == len(values)
            assert all(set(item) <= {"session"} for item in recorded)
    assert compiler.session_options({}, "cpu") == {}
