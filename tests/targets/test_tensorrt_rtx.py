"""TensorRT for RTX: the fp16 cast, the build for four GPU generations, and a session that trusts no file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.engines import tensorrt_rtx as engine
from avsdk.engines.tensorrt_rtx import TensorRtRtxSession
from avsdk.errors import BundleRefused, NotAvailable
from avsdk.session import Artifact
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets.compiler import CompileJob
from avsdk_targets.compilers.tensorrt_rtx import TensorRtRtxCompiler, _profile
from avsdk_targets.half_onnx import half_from_full

_SHAPE = ("batch", 3, "height", "width")
_SPEC = GraphSpec(
    "transform",
    (TensorSpec("image", "float32", _SHAPE),),
    (TensorSpec("styled", "float32", _SHAPE),),
    {"batch": AxisRange(1, 64, 1, 1), "height": AxisRange(16, 1024, 4, 64), "width": AxisRange(16, 1024, 4, 64)},
)


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).normal(0, 0.1, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def _style_like(**changes: Any) -> onnx.ModelProto:
    """Pad, conv, instance norm, ReLU, nearest enlargement, conv: the operations of the style network, small."""
    nodes = [
        helper.make_node("Pad", ["image", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "w1", "b1"], ["c1"], strides=[2, 2]),
        helper.make_node("InstanceNormalization", ["c1", "scale", "shift"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node(
            "Resize", ["r1", "", "scales"], ["u1"], mode="nearest", coordinate_transformation_mode="asymmetric"
        ),
        helper.make_node("Conv", ["u1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "image"], ["styled"]),
    ]
    weights = [
        _weight("w1", 8, 3, 3, 3), _weight("b1", 8), _weight("w2", 3, 8, 3, 3), _weight("b2", 3),
        numpy_helper.from_array(np.ones(8, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(8, np.float32), "shift"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads"),
    ]  # fmt: skip
    weights = [changes.get(item.name, item) for item in weights]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, _SHAPE) for name in ("image", "styled")]
    graph = helper.make_graph(nodes, "transform", tensors[:1], tensors[1:], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"image": image})[0]
    return result


# -- the cast ----------------------------------------------------------------------------------------------------------


def test_the_cast_model_is_valid_keeps_its_borders_and_gives_nearly_the_same_numbers() -> None:
    model = _style_like()
    half = half_from_full(model)
    onnx.checker.check_model(half, full_check=True)
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 32, 48)).astype(np.float32)
    full, cast = _run(model, image), _run(half, image)
    assert cast.dtype == np.float32
    noise = float(np.sum((full - cast) ** 2))
    assert noise > 0, "nothing ran in fp16"
    assert 10 * np.log10(float(np.sum(full**2)) / noise) > 40


def test_convolutions_run_in_fp16_norms_in_fp32_and_scales_stay_fp32() -> None:
    half = onnx.shape_inference.infer_shapes(half_from_full(_style_like()))
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*half.graph.value_info, *half.graph.input)}
    kinds |= {item.name: item.data_type for item in half.graph.initializer}
    seen = {node.op_type: [kinds[name] for name in node.input if name] for node in half.graph.node}
    assert set(seen["Conv"]) == {TensorProto.FLOAT16}
    assert set(seen["InstanceNormalization"]) == {TensorProto.FLOAT}
    assert seen["Resize"] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    assert all(node.name for node in half.graph.node)
    assert len({name for node in half.graph.node for name in node.output}) == sum(
        len(n.output) for n in half.graph.node
    )


def test_an_input_of_several_nodes_is_cast_once() -> None:
    half = half_from_full(_style_like())
    assert sum(node.op_type == "Cast" and node.input[0] == "image" for node in half.graph.node) == 1


def test_a_weight_that_fp16_cannot_hold_keeps_its_operation_in_fp32() -> None:
    large = numpy_helper.from_array(np.full((3,), 1e5, np.float32), "b2")
    model = _style_like(b2=large)
    half = half_from_full(model)
    onnx.checker.check_model(half, full_check=True)
    assert [node for node in half.graph.node if node.op_type == "Conv"][1].input[2] == "b2"


def test_control_flow_is_refused() -> None:
    body = helper.make_graph([], "body", [], [])
    model = _style_like()
    model.graph.node.append(helper.make_node("If", ["flag"], ["x"], then_branch=body, else_branch=body))
    with pytest.raises(NotAvailable, match="the graph holds If"):
        half_from_full(model)


# -- the build ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["sm70", "sm87", "sm90", "", "host"])
def test_gpus_that_it_does_not_build_for_get_a_no_with_the_reason(arch: str) -> None:
    verdict = TensorRtRtxCompiler().check("some-gpu", arch, "fp16")
    assert not verdict.ok
    assert "does not build for some-gpu" in verdict.reason
    assert "sm120" in verdict.reason


def test_turing_is_built_in_fp16_only() -> None:
    assert "no fp32 matrix products on Turing" in TensorRtRtxCompiler().refusal("quadro-rtx-6000", "sm75", "fp32")
    assert TensorRtRtxCompiler().refusal("quadro-rtx-6000", "sm75", "fp16") == ""
    assert TensorRtRtxCompiler().refusal("rtx-3090", "sm86", "fp32") == ""


def test_the_profile_spans_the_ranges_of_the_axes() -> None:
    graph = {
        "inputs": [{"name": "image", "shape": list(_SHAPE)}, {"name": "style", "shape": [4]}],
        "axes": {
            name: {"min": axis.min, "max": axis.max, "default": axis.default} for name, axis in _SPEC.axes.items()
        },
    }
    assert _profile(graph, None, {}) == {
        "image": {"min": [1, 3, 16, 16], "opt": [1, 3, 64, 64], "max": [64, 3, 1024, 1024]}
    }
    fixed = {"batch": 1, "height": 40, "width": 60}
    assert _profile(graph, fixed, {})["image"] == dict.fromkeys(("min", "opt", "max"), [1, 3, 40, 60])
    assert _profile(graph, None, {"max_sizes": {"batch": 2}})["image"]["max"] == [2, 3, 1024, 1024]


def _job(tmp_path: Path, model: onnx.ModelProto, arch: str, precision: str) -> CompileJob:
    onnx.save(model, tmp_path / "transform.onnx")
    (tmp_path / "out").mkdir(exist_ok=True)
    return CompileJob(tmp_path / "transform.onnx", _SPEC, "some-gpu", arch, precision, tmp_path / "out")


@pytest.mark.parametrize("arch", ["sm75", "sm86", "sm89", "sm120"])
def test_an_engine_is_built_without_a_gpu(arch: str, tmp_path: Path) -> None:
    compiler = TensorRtRtxCompiler()
    verdict = compiler.check("some-gpu", arch, "fp16")
    if not verdict.ok:
        pytest.skip(f"{verdict.reason}; {verdict.fix}")
    compiled = compiler.compile(_job(tmp_path, _style_like(), arch, "fp16"))
    plan = (tmp_path / "out" / compiled.artifact.files[0]).read_bytes()
    options = compiled.artifact.options
    assert options["sha256"] == hashlib.sha256(plan).hexdigest()
    assert options["arch"] == arch
    assert options["precision_shares"]["fp16"] > 0.9
    assert compiled.built_with["tensorrt-rtx"] == options["tensorrt_rtx"]
    assert compiled.artifact.shapes is None


def test_a_graph_that_cannot_be_read_is_exit_3_with_the_parsers_reason(tmp_path: Path) -> None:
    compiler = TensorRtRtxCompiler()
    verdict = compiler.check("some-gpu", "sm86", "fp32")
    if not verdict.ok:
        pytest.skip(f"{verdict.reason}; {verdict.fix}")
    model = _style_like()
    model.graph.node[3].op_type = "NoSuchOperation"
    with pytest.raises(NotAvailable, match="NoSuchOperation"):
        compiler.compile(_job(tmp_path, model, "sm86", "fp32"))


# -- the session -------------------------------------------------------------------------------------------------------


def _session(tmp_path: Path, content: bytes, **options: Any) -> TensorRtRtxSession:
    (tmp_path / "x.rtx").write_bytes(content)
    return TensorRtRtxSession(
        tmp_path, Artifact("transform", "tensorrt_rtx", "rtx-3090", "fp16", ("x.rtx",), options=options), _SPEC, 1
    )


def test_without_package_or_driver_it_says_so() -> None:
    state = TensorRtRtxSession.availability("rtx-3090")
    if state.ok:
        pytest.skip("a GPU, its driver and the package are here")
    assert "not installed" in state.reason or "driver" in state.reason
    assert state.fix


def test_without_a_driver_the_package_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(engine.util, "find_spec", lambda name: object())
    monkeypatch.setattr(engine.ctypes, "CDLL", absent)
    state = TensorRtRtxSession.availability("rtx-3090")
    assert not state.ok
    assert "libcuda.so.1 cannot be loaded" in state.reason


@pytest.mark.parametrize("options", [{}, {"sha256": "0" * 64}])
def test_a_file_that_the_manifest_does_not_vouch_for_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BundleRefused, match="is not the one that the manifest vouches for") as caught:
        _session(tmp_path, b"plan", **options)._open()
    assert caught.value.exit_code == 5


def test_an_engine_of_another_version_is_refused_with_the_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_runtime_version", lambda: "1.8.0")
    session = _session(tmp_path, b"plan", sha256=hashlib.sha256(b"plan").hexdigest(), tensorrt_rtx="1.7.1.116")
    with pytest.raises(NotAvailable, match=r"made by TensorRT for RTX 1.7.1.116, here is 1.8.0") as caught:
        session._open()
    assert "export the bundle again" in caught.value.fix
