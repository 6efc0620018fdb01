"""The OpenVINO compiler: settings reach the session, an NPU is refused for the reason that its compiler gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.engines.openvino import OpenVinoSession
from avsdk.errors import NotAvailable, UsageError
from avsdk.schema import encode
from avsdk.session import Artifact
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.compiler import CompileJob
from avsdk_targets.compilers import openvino as compiler_module
from avsdk_targets.compilers.openvino import OpenVinoCompiler, build
from avsdk_targets.target import resolve

pytest.importorskip("openvino")

SHAPE = ("batch", 3, 16, 16)
GRAPH = GraphSpec(
    "g",
    (TensorSpec("x", "float32", SHAPE),),
    (TensorSpec("y", "float32", ("batch", 8, 16, 16)),),
    {"batch": AxisRange(1, 4, 1, 1)},
)


def quantised(name: str, out: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [name, f"{out}.s", f"{out}.z"], [f"{out}.q"]),
        helper.make_node("DequantizeLinear", [f"{out}.q", f"{out}.s", f"{out}.z"], [out]),
    ]


def written(path: Path, *, with_int8: bool = False) -> Path:
    """A 3x3 convolution, with its input and filters in int8 where asked."""
    weights = np.random.default_rng(0).uniform(-1, 1, (8, 3, 3, 3)).astype(np.float32)
    constants = {"w": weights}
    nodes = []
    source, filters = "x", "w"
    if with_int8:
        for name, out in (("x", "xq"), ("w", "wq")):
            constants |= {f"{out}.s": np.float32(1 / 127), f"{out}.z": np.int8(0)}
            nodes += quantised(name, out)
        source, filters = "xq", "wq"
    nodes.append(helper.make_node("Conv", [source, filters], ["y"], pads=[1, 1, 1, 1]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 8, 16, 16))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def request(folder: Path, precision: str = "fp32", device: str = "cpu", **given: Any) -> dict[str, Any]:
    onnx_file = given.pop("onnx", None) or written(folder / "g.onnx")
    return {
        "onnx": str(onnx_file),
        "graph": encode(GRAPH),
        "device": device,
        "precision": precision,
        "sizes": given.pop("sizes", None),
        "options": given,
        "out": str(folder),
    }


def test_settings_travel_from_the_command_line_to_the_plugin(tmp_path: Path) -> None:
    options = {"hint": "throughput", "pinning": "no"}
    job = CompileJob(written(tmp_path / "g.onnx"), GRAPH, "cpu", "host", "fp32", tmp_path, options=options)
    artifact = OpenVinoCompiler().compile(job).artifact
    assert artifact.options["session"] == options
    assert artifact.options["requires"]["engine"] == "openvino"
    with OpenVinoSession.open(tmp_path, artifact, GRAPH, 1) as session:
        assert isinstance(session, OpenVinoSession)
        assert session._compiled.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
        assert session._compiled.get_property("ENABLE_CPU_PINNING") is False


def test_without_settings_none_are_recorded(tmp_path: Path) -> None:
    assert "session" not in build(request(tmp_path))["options"]


def test_a_wrong_value_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    asked = request(tmp_path, streams="-1", onnx=tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match=r"openvino.streams is '-1'"):
        build(asked)


def test_every_setting_is_offered_with_its_values() -> None:
    assert set(OpenVinoCompiler.settings) == {
        "hint", "streams", "pinning", "hyper_threading", "cores", "execution", "cache",
    }  # fmt: skip
    assert "one of: latency, throughput" in OpenVinoCompiler.settings["hint"]


@pytest.mark.parametrize(
    ("device", "precision", "text"),
    [
        ("cpu", "fp16w", "openvino:cpu computes in fp32, bf16, fp16, int8, not fp16w"),
        ("gpu", "bf16", "openvino:gpu computes in fp32, fp16, int8, not bf16"),
        ("npu", "fp32", "openvino:npu computes in fp16, int8, not fp32"),
        ("hetero:npu+cpu", "fp32", "openvino:npu computes in fp16, int8, not fp32"),
        ("auto", "fp32", "not auto"),
        ("cpu", "fp32", ""),
        ("hetero:gpu+cpu", "fp16", ""),
        ("cpu", "int8", ""),
    ],
)
def test_devices_and_precisions(device: str, precision: str, text: str) -> None:
    refusal = OpenVinoCompiler().refusal(device, "host", precision)
    assert text in refusal
    assert bool(text) == bool(refusal)


def test_a_precision_of_another_device_is_told_with_one_that_serves() -> None:
    assert OpenVinoCompiler().check("npu", "npu-4000", "fp32").fix == "--precision fp16"


def test_axes_stay_dynamic_but_on_an_npu() -> None:
    kept = {device: OpenVinoCompiler().keeps_axes(device) for device in ("cpu", "gpu", "npu", "hetero:npu+cpu")}
    assert kept == {"cpu": True, "gpu": True, "npu": False, "hetero:npu+cpu": False}


def test_an_npu_wants_sizes(tmp_path: Path) -> None:
    job = CompileJob(tmp_path / "g.onnx", GRAPH, "npu", "npu-4000", "fp16", tmp_path)
    with pytest.raises(UsageError, match="openvino is built at fixed sizes"):
        OpenVinoCompiler().compile(job)


def test_an_export_asks_the_compiler_per_device_whether_axes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoCompiler, "keeps_axes", lambda self, device: device != "cpu")
    options = ExportOptions(tmp_path, sizes=({"batch": 2},))
    with Exporter(str(written(tmp_path / "g.onnx")), options, lambda text: None) as exporter:
        bundle = exporter.export(resolve("openvino")).bundle
    assert [dict(item.shapes or {}) for item in bundle.manifest.artifacts] == [{"batch": 2}]
    assert bundle.manifest.parity.verdict == "pass"


def test_int8_wants_a_model_that_brings_its_own(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable) as caught:
        build(request(tmp_path, "int8"))
    assert "graph 'g': int8 was asked for, and the model has no quantised operation" in str(caught.value)
    assert "QuantizeLinear" in caught.value.expected


@pytest.mark.parametrize(
    ("with_int8", "precision", "text"),
    [
        (True, "int8", ""),
        (False, "fp32", ""),
        (True, "fp32", "its int8 executes as int8, not as fp32"),
        (False, "int8", "the model has no quantised operation"),
    ],
)
def test_a_check_tells_whether_int8_and_the_precision_agree(
    with_int8: bool, precision: str, text: str, tmp_path: Path
) -> None:
    model = onnx.load(written(tmp_path / "g.onnx", with_int8=with_int8))
    found = [item for item in OpenVinoCompiler().findings(model, "g", [], "cpu", "host", precision) if item.blocks]
    assert bool(found) == bool(text)
    assert not text or (text in found[0].text and "--precision" in found[0].fix)


def test_int8_is_reported_as_the_share_that_executed(tmp_path: Path) -> None:
    given = request(tmp_path, "int8", onnx=written(tmp_path / "q.onnx", with_int8=True))
    made = build(given)
    artifact = Artifact("g", "openvino", "cpu", "int8", tuple(made["files"]), None, made["options"])
    feeds = {"x": np.random.default_rng(1).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)}
    with OpenVinoSession.open(tmp_path, artifact, GRAPH, 1) as session:
        session.run(feeds)
        shares = session.execution().precision_shares
    assert shares["int8"] > 0.5
    assert session.effective_precision.startswith("int8 (")


def test_the_npu_compilers_own_reason_is_given() -> None:
    verdict = OpenVinoCompiler().check("npu", "npu-4000", "fp16")
    if verdict.ok:
        pytest.skip("OpenVINO's NPU compiler library is here")
    assert "VCL compiler loading failed" in verdict.reason
    assert "libopenvino_intel_npu_compiler" in verdict.reason
    assert "openvino/libs" in verdict.fix
    assert OpenVinoCompiler().identity()["openvino"] in verdict.fix, "the library must be of the same release"


class RecordedCore:
    """Takes the calls that an NPU compile makes, and answers as its plugin does."""

    def __init__(self, platform: str = "", failure: str = "") -> None:
        self.platform = platform
        self.failure = failure
        self.asked: dict[str, Any] = {}

    def get_property(self, plugin: str, name: str) -> str:
        assert (plugin, name) == ("NPU", "DEVICE_ARCHITECTURE")
        if not self.platform:
            raise RuntimeError("no device")
        return self.platform

    def compile_model(self, model: Any, plugin: str, config: dict[str, str]) -> RecordedCore:
        self.asked = {"plugin": plugin, **config}
        if self.failure:
            raise RuntimeError(self.failure)
        return self

    def export_model(self) -> bytes:
        return b"\x7fblob"


def test_an_npu_blob_is_compiled_by_the_plugin_for_the_profiles_platform(tmp_path: Path) -> None:
    core = RecordedCore()
    asked = request(tmp_path, "fp16", "npu", npu_platform="4000", hint="throughput")
    files, options = compiler_module._write_blob(core, None, asked, "2026.4.1-22982-abc")
    assert core.asked == {
        "plugin": "NPU",
        "NPU_COMPILER_TYPE": "PLUGIN",
        "NPU_PLATFORM": "4000",
        "INFERENCE_PRECISION_HINT": "f16",
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    assert files == ["g.npu4000.blob"]
    assert (tmp_path / files[0]).read_bytes() == b"\x7fblob"
    assert options["requires"] == {"engine": "openvino", "exact": "2026.4.1"}


def test_without_a_profile_the_platform_is_this_machines(tmp_path: Path) -> None:
    asked = request(tmp_path, "fp16", "npu")
    assert compiler_module._write_blob(RecordedCore("3720"), None, asked, "2026.4.1")[0] == ["g.npu3720.blob"]
    with pytest.raises(NotAvailable, match="the NPU platform is ''") as caught:
        compiler_module._write_blob(RecordedCore(), None, asked, "2026.4.1")
    assert "npu-4000" in caught.value.fix


def test_a_graph_that_the_npu_compiler_refuses_is_typed(tmp_path: Path) -> None:
    asked = request(tmp_path, "fp16", "npu", npu_platform="4000")
    core = RecordedCore(failure="Exception from src/a.cpp:1:\nUpper bounds were not specified\n\n")
    with pytest.raises(NotAvailable, match="graph 'g': Upper bounds were not specified"):
        compiler_module._write_blob(core, None, asked, "2026.4.1")
