"""XLA: what its HLO tells, what is refused, and, where its toolchain is installed, real builds on PJRT's CPU client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avsdk.bundle import Bundle
from avsdk.engines import xla as engine
from avsdk.engines.xla import XlaSession, environment_of, executed_shares
from avsdk.errors import BundleRefused, NotAvailable
from avsdk.session import Artifact
from avsdk.spec import GraphSpec
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.compiler import CompileJob, Verdict
from avsdk_targets.compilers.xla import XlaCompiler, _arguments
from avsdk_targets.doctor import diagnose
from avsdk_targets.proof import proof_for
from avsdk_targets.target import resolve
from avsdk_targets.toolchain import load_toolchain

MODEL = "tests.contracts.tiny_model:network"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model for a TPU; the contracts have it for this processor."""
    verdict = XlaCompiler().check("cpu", "host", "fp32")
    if not verdict.ok:
        pytest.skip(f"{verdict.reason} ({verdict.fix})")
    out = tmp_path_factory.mktemp("bundles")
    with Exporter(MODEL, ExportOptions(out), lambda text: None) as exporter:
        return exporter.export(resolve("tpu")).bundle


def test_the_artifact_is_stablehlo_with_plain_arrays_beside_it(bundle: Bundle) -> None:
    manifest = bundle.manifest
    (artifact,) = manifest.artifacts
    assert [Path(name).suffix for name in artifact.files] == [".stablehlo", ".npz"]
    assert bundle.file(artifact.files[0]).read_bytes()[:4] == b"ML\xefR", "MLIR bytecode"
    with np.load(bundle.file(artifact.files[1]), allow_pickle=False) as stored:
        places = sorted([*map(int, stored.files), *artifact.options["inputs"].values()])
    assert places == list(range(len(places)))
    assert set(artifact.options["inputs"]) == {"image"}
    assert dict(artifact.shapes or {}) == {"batch": 1, "height": 32, "width": 48}
    assert {"torch", "torch_xla", "jaxlib"} <= set(manifest.built_with)
    executed_on = "device" if XlaSession.availability("tpu").ok else "this-cpu"
    assert (manifest.parity.verdict, manifest.parity.executed_on) == ("pass", executed_on)
    assert manifest.effective_precision == "fp32"


@pytest.fixture(params=["stablehlo", "npz", "inputs"])
def damaged(request: pytest.FixtureRequest, bundle: Bundle, tmp_path: Path) -> Iterator[Artifact]:
    """The artifact with one of its parts wrong."""
    (artifact,) = bundle.manifest.artifacts
    for name in artifact.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.file(name), tmp_path / name)
    options = dict(artifact.options)
    if request.param == "stablehlo":
        (tmp_path / artifact.files[0]).write_bytes(b"ML\xefR and nothing that is MLIR")
    elif request.param == "npz":
        np.savez(tmp_path / artifact.files[1], **{"0": np.zeros(3, np.float32)})
    else:
        options["inputs"] = {"image": 10_000}
    yield Artifact("tiny", "xla", "cpu", "fp32", artifact.files, artifact.shapes, options)


def test_a_damaged_artifact_is_refused(damaged: Artifact, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="StableHLO|arguments that are not") as caught:
        XlaSession.open(tmp_path, damaged, bundle.manifest.spec.graphs[0], 1)
    assert caught.value.exit_code == 5


CONV = "  %c = f32[1,4,6,6]{3,2,1,0} convolution(%x, %w), window={size=3x3}, dim_labels=bf01_oi01->bf01"
HIGHEST = CONV + ", operand_precision={highest,highest}"
DOT = "  ROOT %d = bf16[2,18]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
ADD = "  %s = f32[2,3]{1,0} add(%a, %b)"


@pytest.mark.parametrize(
    ("lines", "device", "shares"),
    [
        ([CONV, ADD], "cpu", {"fp32": 1.0}),
        ([CONV], "tpu", {"bf16": 1.0}),
        ([HIGHEST], "tpu", {"fp32": 1.0}),
        ([CONV, DOT], "cpu", {"fp32": 1296 / 1332, "bf16": 36 / 1332}),
        ([ADD, "  %p = bf16[9]{0} parameter(0)"], "cpu", {"fp32": 1.0}),
        (["HloModule empty"], "cpu", {}),
    ],
)
def test_shares_are_read_off_the_compiled_module(lines: list[str], device: str, shares: dict[str, float]) -> None:
    assert executed_shares("\n".join(lines), device=device) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("device", "reason", "fix"),
    [("toaster", "not on toaster", "avsdk doctor"), ("tpu", "no TPU is attached", "avsdk doctor xla:tpu")],
)
def test_what_cannot_run_here_has_a_reason_and_a_fix(
    device: str, reason: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    monkeypatch.setattr(engine, "_TPU_NODES", ("no-such-node*",))
    state = XlaSession.availability(device)
    assert not state.ok
    assert reason in state.reason
    assert fix in state.fix


def test_without_the_toolchain_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_importable", lambda: False)
    monkeypatch.setattr(engine, "installed_python", lambda name: ())
    state = XlaSession.availability("cpu")
    assert (state.ok, state.fix) == (False, "avsdk toolchain install xla")


def test_a_measurement_moves_into_the_toolchain_unless_the_runtime_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "installed_python", lambda name: ("/opt/xla/python",))
    monkeypatch.setattr(engine, "_importable", lambda: False)
    assert XlaSession.python() == ("/opt/xla/python",)
    monkeypatch.setattr(engine, "_importable", lambda: True)
    assert XlaSession.python() == ()


def test_the_processor_stands_in_for_a_tpu_only_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    assert environment_of("tpu", 3) == {"PJRT_DEVICE": "TPU", "NPROC": "3"}
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    assert environment_of("tpu", 1)["PJRT_DEVICE"] == "CPU"
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    assert environment_of("cpu", 1)["PJRT_DEVICE"] == "CPU", "what is built for the processor runs there"


def test_a_tpu_that_is_absent_is_proven_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    monkeypatch.setattr(engine, "_TPU_NODES", ("no-such-node*",))
    monkeypatch.setattr(engine, "_importable", lambda: False)
    monkeypatch.setattr(engine, "installed_python", lambda name: ("/opt/xla/python",))
    (candidate,) = resolve("tpu-v5e").candidates
    proof = proof_for(candidate)
    assert (proof.executed_on, proof.python, dict(proof.env)) == (
        "this-cpu", ("/opt/xla/python",), {"PJRT_DEVICE": "CPU"}
    )  # fmt: skip


def test_a_processor_that_the_environment_puts_in_its_stead_is_no_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setattr(engine, "_importable", lambda: True)
    monkeypatch.setattr(XlaCompiler, "check", lambda self, device, arch, precision: Verdict(True))
    (found,) = diagnose("tpu")
    assert (found.can_run, found.fix) == (False, "unset PJRT_DEVICE")
    assert "stands in for it, as PJRT_DEVICE asks" in found.reason
    assert found.verified != "hardware"
    assert proof_for(resolve("tpu").candidates[0]).executed_on == "this-cpu"
    assert proof_for(resolve("xla:cpu").candidates[0]).executed_on == "device"


def test_a_bare_onnx_file_has_no_program(tmp_path: Path) -> None:
    job = CompileJob(tmp_path / "n.onnx", GraphSpec("n", (), (), {}), "cpu", "host", "fp32", tmp_path)
    with pytest.raises(NotAvailable, match="no PyTorch program"):
        XlaCompiler().compile(job)


@pytest.mark.parametrize("target", ["xla", "xla:cpu", "xla:tpu", "tpu", "tpu-v2", "tpu-v6e"])
def test_targets_of_xla_resolve(target: str) -> None:
    candidate = resolve(target).candidates[0]
    assert candidate.engine == "xla"
    assert not XlaCompiler().refusal(candidate.device, candidate.arch, "fp32")


def test_the_signature_of_pytorch_xla_is_read_without_pickles(tmp_path: Path) -> None:
    for room in ("functions", "data", "constants"):
        (tmp_path / room).mkdir()
    for name, value in (("data/fc.weight", 2.0), ("constants/0", 5.0)):
        with (tmp_path / name).open("wb") as stream:
            np.save(stream, np.full(3, value, np.float32))
    locations = [
        {"type_": "parameter", "position": -1, "name": "fc.weight"},
        {"type_": "input_arg", "position": 1, "name": ""},
        {"type_": "constant", "position": 0, "name": ""},
    ]
    (tmp_path / "functions" / "forward.meta").write_text(json.dumps({"input_locations": locations}))
    inputs, arrays = _arguments(tmp_path, [{"name": "first"}, {"name": "second"}])
    assert inputs == {"second": 1}
    assert {place: float(array[0]) for place, array in arrays.items()} == {"0": 2.0, "2": 5.0}
    with (tmp_path / "constants" / "0").open("wb") as stream:
        np.save(stream, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        _arguments(tmp_path, [{"name": "first"}, {"name": "second"}])


def test_its_toolchain_trains_too() -> None:
    toolchain = load_toolchain("xla")
    pins = dict(pin.split("==") for pin in toolchain.packages)
    assert toolchain.sdk
    assert pins["torch"] == pins["torch-xla"], "PyTorch/XLA admits PyTorch of its own release only"
    assert {"accelerate", "safetensors", "tensorboard", "opencv-python-headless", "typer", "rich", "libtpu"} <= set(
        pins
    )
