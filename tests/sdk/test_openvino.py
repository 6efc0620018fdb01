"""The OpenVINO session says what executed, and refuses what would run as something else."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.engines.openvino import OpenVinoSession
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback, UsageError
from avsdk.openvino_devices import device_units, plugin_name
from avsdk.openvino_settings import checked_settings, properties_for, require_settings
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec
from avsdk.telemetry import refuse_telemetry

GRAPH = GraphSpec("g", (TensorSpec("x", "float32", (1, 64)),), (TensorSpec("y", "float32", (1, 64)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An IR of one matrix product."""
    refuse_telemetry()
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    x = ops.parameter([1, 64], np.float32, "x")
    x.output(0).get_tensor().set_names({"x"})
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y = ops.matmul(x, ops.constant(weights), False, False)
    y.output(0).get_tensor().set_names({"y"})
    path = tmp_path_factory.mktemp("ir")
    openvino.save_model(openvino.Model([ops.result(y)], [x], "g"), path / "g.xml", compress_to_fp16=False)
    return path


@pytest.fixture
def features() -> Iterator[list[str]]:
    """What this processor's plugin says that it computes in."""
    openvino = pytest.importorskip("openvino")
    yield list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def artifact(precision: str, device: str = "cpu", **options: Any) -> Artifact:
    return Artifact("g", "openvino", device, precision, ("g.xml", "g.bin"), None, options)


def opened(folder: Path, threads: int = 1, device: str = "cpu", **settings: str) -> OpenVinoSession:
    session = OpenVinoSession.open(folder, artifact("fp32", device, session=settings), GRAPH, threads)
    assert isinstance(session, OpenVinoSession)
    return session


def test_fp32_is_fp32_although_the_plugin_would_rather_take_bf16(folder: Path) -> None:
    with OpenVinoSession.open(folder, artifact("fp32"), GRAPH, 1) as session:
        assert session.effective_precision == "fp32"
        assert session.execution().precision_shares == {"fp32": 1.0}


def test_bf16_is_read_back(folder: Path, features: list[str]) -> None:
    if "BF16" not in features:
        with pytest.raises(SilentFallback):
            OpenVinoSession.open(folder, artifact("bf16"), GRAPH, 1)
        return
    with OpenVinoSession.open(folder, artifact("bf16"), GRAPH, 1) as session:
        assert session.effective_precision.startswith("bf16")


def test_fp16_that_would_run_as_something_else_is_refused(folder: Path, features: list[str]) -> None:
    if "FP16" in features:
        pytest.skip("this processor computes in fp16")
    with pytest.raises(SilentFallback) as caught:
        OpenVinoSession.open(folder, artifact("fp16"), GRAPH, 1)
    assert caught.value.exit_code == 4
    assert "was asked for f16" in str(caught.value)


def test_an_artifact_of_a_newer_openvino_is_refused_with_the_line_that_builds_it_again(folder: Path) -> None:
    with pytest.raises(NotAvailable) as caught:
        OpenVinoSession.open(folder, artifact("fp32", openvino="2099.1.0"), GRAPH, 1)
    assert caught.value.exit_code == 3
    assert "was built for openvino >= 2099.1, here is 20" in str(caught.value)
    assert f"avsdk export {folder} --target openvino:cpu" in caught.value.fix


def test_a_damaged_ir_is_a_typed_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "g.xml").write_text("<net")
    (tmp_path / "g.bin").write_bytes(b"")
    with pytest.raises(NotAvailable, match="cannot compile g.xml"):
        OpenVinoSession.open(tmp_path, artifact("fp32"), GRAPH, 1)


def test_streams_and_pinning_are_set_as_recorded_and_several_threads_may_run(folder: Path) -> None:
    feeds = [{"x": np.full((1, 64), value, np.float32)} for value in range(16)]
    with opened(folder) as single, opened(folder, threads=1, hint="throughput", streams="1", pinning="no") as session:
        assert session._compiled.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
        assert session._compiled.get_property("ENABLE_CPU_PINNING") is False
        expected = [single.run(item)["y"] for item in feeds]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda item: session.run(item)["y"], feeds))
    assert all(np.allclose(one, other, atol=1e-4) for one, other in zip(expected, found, strict=True))


def test_fewer_threads_than_asked_for_are_told(folder: Path) -> None:
    with opened(folder, threads=1) as session:
        assert session.remarks == ()
    with opened(folder, threads=4096) as session:
        threads = session._compiled.get_property("INFERENCE_NUM_THREADS")
        assert session.remarks == (f"OpenVINO runs graph 'g' with {threads} threads, not 4096",)


class TwoStreams:
    """A compiled model of two streams, of which the plugin shows the second one's graph; and both its requests."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.started = 0

    def get_property(self, name: str) -> int:
        assert name == "OPTIMAL_NUMBER_OF_INFER_REQUESTS"
        return 2

    def get_runtime_model(self) -> Any:
        return self.real.get_runtime_model() if self.started >= 2 else self

    def get_ops(self) -> list[Any]:
        return []

    def start_async(self, feeds: dict[str, np.ndarray], *, share_inputs: bool) -> None:
        assert share_inputs
        assert feeds["x"].shape == (1, 64)
        self.started += 1

    def wait(self) -> None:
        assert self.started == 2, "all are started before one is waited for"


def test_what_executed_is_known_whichever_stream_ran(folder: Path) -> None:
    """With sizes open, the plugin shows one stream's graph, and nothing of it before that stream has run."""
    with opened(folder, hint="throughput") as session:
        session.run({"x": np.ones((1, 64), np.float32)})
        streams = TwoStreams(session._compiled)
        session._compiled, session._requests = streams, queue.SimpleQueue()
        for _ in range(2):
            session._requests.put(streams)
        assert session._executed_shares() == {"fp32": 1.0}
        assert session._requests.qsize() == 2


def test_streams_that_the_plugin_dropped_are_an_error_with_both_values(folder: Path) -> None:
    with pytest.raises(SilentFallback) as caught:
        opened(folder, threads=1, hint="throughput", streams="2")
    assert caught.value.exit_code == 4
    assert "was asked for NUM_STREAMS=2 and set 1 with 1 threads" in str(caught.value)
    assert "--threads" in caught.value.fix


def test_a_second_load_comes_from_the_cache_that_was_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    with opened(folder) as session:
        assert not session.loaded_from_cache
    assert not (tmp_path / "openvino-cache").exists(), "nothing is kept that was not asked for"
    loaded = []
    for _ in range(2):
        with opened(folder, cache="yes") as session:
            loaded.append((session.loaded_from_cache, session.remarks))
    assert loaded == [(False, ()), (True, ("OpenVINO loaded graph 'g' from its cache (LOADED_FROM_CACHE)",))]
    (folder_of_it,) = (tmp_path / "openvino-cache").iterdir()
    assert folder_of_it.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", ["flipped", "truncated", "unrecorded"])
def test_a_damaged_kept_model_is_made_again(
    harm: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO itself loads one with a flipped byte, and gives other numbers."""
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    feeds = {"x": np.linspace(-1, 1, 64, dtype=np.float32)[None]}
    with opened(folder, cache="yes") as session:
        wanted = session.run(feeds)["y"]
    (kept,) = tmp_path.glob("openvino-cache/*/*.blob")
    content = bytearray(kept.read_bytes())
    if harm == "unrecorded":
        kept.with_suffix(".sha256").unlink()
    elif harm == "truncated":
        kept.write_bytes(content[:-9])
    else:
        content[len(content) // 2] ^= 0x40
        kept.write_bytes(content)
    with opened(folder, cache="yes") as session:
        assert np.array_equal(session.run(feeds)["y"], wanted)
        assert not session.loaded_from_cache
        assert session.remarks == ("OpenVINO's kept model of graph 'g' was damaged, and was made again",)
    with opened(folder, cache="yes") as session:
        assert session.loaded_from_cache
        assert np.array_equal(session.run(feeds)["y"], wanted)


@pytest.mark.parametrize(
    ("settings", "device", "text"),
    [
        ({"hint": "cumulative"}, "cpu", "openvino.hint is 'cumulative'"),
        ({"streams": "0"}, "cpu", "openvino.streams is '0'"),
        ({"streams": "many"}, "cpu", "a whole number from 1 to 999"),
        ({"pinning": "YES"}, "cpu", "one of: yes, no"),
        ({"cores": "fast"}, "cpu", "one of: any, performance, efficient"),
        ({"hnit": "latency"}, "cpu", "unknown setting of openvino 'hnit'"),
        ({"streams": 2}, "cpu", "openvino.streams is 2"),
        ({"pinning": "no"}, "npu", "openvino.pinning means nothing on npu"),
        ({"streams": "2"}, "hetero:npu", "openvino.streams means nothing on hetero:npu"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, Any], device: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_settings(settings, device)
    assert text in str(caught.value)


def test_the_settings_of_a_strangers_bundle_are_checked_as_well(folder: Path) -> None:
    with pytest.raises(BundleRefused) as caught:
        opened(folder, CACHE_DIR="/etc")
    assert caught.value.exit_code == 5
    with pytest.raises(BundleRefused, match="the settings of openvino are"):
        OpenVinoSession.open(folder, artifact("fp32", session=["hint"]), GRAPH, 1)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("unread", 5, "options.unread is 5"),
        ("unread", "x", "options.unread is 'x'"),
        ("unread", [{}], r"options.unread\[0\] is {}"),
        ("openvino", {"release": 1}, "options.openvino is"),
        ("openvino", "9" * 5000, "requires.minimum is"),
    ],
)
def test_the_options_of_a_strangers_bundle_are_read_strictly(
    folder: Path, option: str, value: object, text: str
) -> None:
    with pytest.raises(BundleRefused, match=text):
        OpenVinoSession.open(folder, artifact("fp32", **{option: value}), GRAPH, 1)


@pytest.mark.parametrize("precision", ["fp11", "fp16w"])
def test_a_precision_that_openvino_has_not_is_refused(folder: Path, precision: str) -> None:
    with pytest.raises(BundleRefused, match=f"the artifact's precision is '{precision}'"):
        OpenVinoSession.open(folder, artifact(precision), GRAPH, 1)


def test_what_executes_on_another_device_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as session:
        monkeypatch.setattr(session, "_units", ("gpu",))
        with pytest.raises(SilentFallback, match="OpenVINO executes on cpu"):
            session.execution()


def test_an_artifact_with_fewer_files_than_its_engine_loads_is_refused(folder: Path) -> None:
    with opened(folder) as session, pytest.raises(BundleRefused, match="lists 2 files"):
        session.file(2)


def test_only_what_was_asked_for_is_compared() -> None:
    has = {"SCHEDULING_CORE_TYPE": "ANY_CORE", "ENABLE_HYPER_THREADING": False, "NUM_STREAMS": 4}
    require_settings("cpu", {"cores": "any", "hyper_threading": "no", "streams": "4"}, has.__getitem__, 4)
    require_settings("cpu", {}, {}.__getitem__, 4)
    with pytest.raises(SilentFallback, match="SCHEDULING_CORE_TYPE=ECORE_ONLY and set ANY_CORE"):
        require_settings("cpu", {"cores": "efficient"}, has.__getitem__, 4)
    with pytest.raises(SilentFallback, match="ENABLE_HYPER_THREADING=YES and set NO"):
        require_settings("cpu", {"hyper_threading": "yes"}, has.__getitem__, 4)


def test_latency_is_one_stream_and_throughput_leaves_their_number_to_the_plugin() -> None:
    assert properties_for("cpu", {}, "f32", 2)["NUM_STREAMS"] == "1"
    assert "NUM_STREAMS" not in properties_for("cpu", {"hint": "throughput"}, "f32", 2)
    assert properties_for("gpu", {"pinning": "no", "hint": "throughput"}, "f16", 2) == {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f16",
    }


@pytest.mark.parametrize(
    ("device", "plugin"),
    [
        ("cpu", "CPU"),
        ("npu", "NPU"),
        ("hetero:gpu+cpu", "HETERO:GPU,CPU"),
        ("hetero:npu+gpu+cpu", "HETERO:NPU,GPU,CPU"),
    ],
)
def test_devices_have_the_plugins_names(device: str, plugin: str) -> None:
    assert plugin_name(device) == plugin


@pytest.mark.parametrize(
    "device", ["auto", "AUTO:NPU,CPU", "multi:gpu+cpu", "hetero:", "hetero:cpu+cpu", "hetero:cpu,gpu"]
)
def test_what_chooses_a_device_by_itself_is_no_device(device: str) -> None:
    assert device_units(device) == ()
    state = OpenVinoSession.availability(device)
    assert not state.ok
    assert "knows no OpenVINO device" in state.reason


@pytest.mark.parametrize("device", ["gpu", "npu", "hetero:npu+cpu"])
def test_an_absent_accelerator_is_told_with_its_plugins_own_reason(device: str, folder: Path) -> None:
    state = OpenVinoSession.availability(device)
    if state.ok:
        pytest.skip(f"this machine has an {device}")
    assert state.reason.startswith("OpenVINO has CPU")
    assert "no GPU" in state.reason or "no NPU" in state.reason
    assert state.fix
    with pytest.raises(NotAvailable):
        OpenVinoSession.open(folder, artifact("fp32", device), GRAPH, 1)


def test_hetero_executes_with_settings_and_precision_read_back_per_device(folder: Path) -> None:
    feeds = {"x": np.ones((1, 64), np.float32)}
    with opened(folder) as plain, opened(folder, device="hetero:cpu", pinning="no") as session:
        assert np.allclose(session.run(feeds)["y"], plain.run(feeds)["y"], atol=1e-4)
        assert session._property("cpu", "ENABLE_CPU_PINNING") is False
        execution = session.execution()
    assert execution.placement == {"cpu": 1.0}
    assert execution.precision_shares == {"fp32": 1.0}


class RecordedNpu:
    """The core and the compiled model of an NPU, as far as a session speaks to them."""

    precision = "f16"
    asked: tuple[Any, ...] = ()

    def import_model(self, content: bytes, plugin: str, config: dict[str, str]) -> RecordedNpu:
        type(self).asked = (content, plugin, config)
        self.inputs, self.outputs = [self], [self]
        return self

    def get_names(self) -> set[str]:
        return {"x", "y"}

    def get_property(self, name: str) -> Any:
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "EXECUTION_DEVICES": ["NPU.3720"],
            "PERFORMANCE_HINT": "LATENCY",
        }[name]

    def create_infer_request(self) -> object:
        return object()


def test_an_npu_blob_is_imported_and_its_precision_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    (tmp_path / "g.npu3720.blob").write_bytes(b"blob")
    blob = Artifact("g", "openvino", "npu", "fp16", ("g.npu3720.blob",), {}, {"session": {"hint": "latency"}})
    monkeypatch.setattr(openvino, "Core", RecordedNpu)
    monkeypatch.setattr("avsdk.openvino_devices._absence", lambda plugin: "")
    session = OpenVinoSession.open(tmp_path, blob, GRAPH, 1)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"}
    assert RecordedNpu.asked == (b"blob", "NPU", hints)
    assert isinstance(session, OpenVinoSession)
    session._ran = True
    assert session.execution().placement == {"npu": 1.0}
    assert session.effective_precision == "fp16"
    monkeypatch.setattr(RecordedNpu, "precision", "i8")
    with pytest.raises(SilentFallback, match="was asked for f16 and set i8"):
        OpenVinoSession.open(tmp_path, blob, GRAPH, 1)


def test_hetero_that_leaves_the_first_device_idle_is_an_error(folder: Path) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.read_model(folder / "g.xml")
    session = OpenVinoSession(folder, artifact("fp32", "hetero:gpu+cpu"), GRAPH, 1)
    session._units = device_units("hetero:gpu+cpu")
    names = [node.get_friendly_name() for node in model.get_ops()]
    with pytest.raises(SilentFallback, match="placed no operation on gpu: cpu 100%"):
        session._split(model, dict.fromkeys(names, "CPU"))
    assert session._split(model, dict.fromkeys(names, "GPU.0")) == {"gpu": 1.0, "cpu": 0.0}
    assert all(node.get_rt_info()["affinity"].astype(str) == "GPU.0" for node in model.get_ops())
