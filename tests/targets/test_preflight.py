"""What the preflight says of models before any build: operators, types, shapes, precision, rewrites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.errors import Refused
from avsdk_targets.axis_option import asked_axes
from avsdk_targets.operator_table import Limit, NodeFact, OperatorTable, Span, load_table, table_findings
from avsdk_targets.preflight import Checked, check_model, opened
from avsdk_targets.target import resolve

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str]


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    domain: str = "",
    kind: int = FLOAT,
) -> Path:
    """A model whose only output is ``y``."""
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    taken = [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()]
    graph = helper.make_graph(nodes, "g", taken, [helper.make_tensor_value_info("y", kind, None)], initializer=held)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=14 if opset > 26 else 8)
    file = folder / "model.onnx"
    onnx.save(model, file)
    return file


def gru(folder: Path) -> Path:
    random = np.random.default_rng(0)
    weights = {"w": random.random((1, 24, 16), np.float32), "r": random.random((1, 24, 8), np.float32)}
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=8)
    return saved(folder, [node], {"x": ["time", 1, 16]}, weights)


def conv(folder: Path, rank: int) -> Path:
    weights = {"w": np.ones((4, 3, *([3] * (rank - 2))), np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return saved(folder, [node], {"x": [1, 3, *([8] * (rank - 2))]}, weights)


def checked(file: Path, target: str, precision: str | None = None, axis: Sequence[str] = ()) -> Checked:
    axes = asked_axes(axis)
    with opened(str(file), axes, lambda text: None) as model:
        (found,) = check_model(model, [resolve(target)], precision, dict(axes.sizes[0]) if axes.sizes else {})
    return found


def texts(found: Checked, kind: str = "") -> str:
    return "\n".join(item.text for item in found.findings if not kind or item.kind == kind)


# -- whole models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_plain_network_has_a_path(tmp_path: Path, target: str) -> None:
    found = checked(conv(tmp_path, 4), target)
    assert (found.verdict, found.findings) == ("ok", ())
    assert found.basis


def test_a_gru_is_spelt_out_for_myriad_x_at_a_fixed_size(tmp_path: Path) -> None:
    found = checked(gru(tmp_path), "myriad-x", axis=["time=3"])
    assert found.verdict == "rewrite"
    assert "GRU spelt out" in texts(found, "rewrite")
    assert "built at fixed sizes: time=3" in texts(found, "shape")
    assert "fp16 will be built, the first precision of" in texts(found, "precision")


def test_a_three_dimensional_convolution_has_no_path_to_myriad_x(tmp_path: Path) -> None:
    assert checked(conv(tmp_path, 4), "myriad-x").has_path
    found = checked(conv(tmp_path, 5), "myriad-x")
    assert found.verdict == "no_path"
    assert "2-D convolutions only" in texts(found, "shape")


def test_an_old_opset_is_brought_up_and_a_new_one_down(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    assert "opset 6 -> " in texts(checked(saved(tmp_path, [relu], {"x": [1, 4]}, opset=6), "onnxruntime"), "rewrite")
    found = checked(saved(tmp_path, [relu], {"x": [1, 4]}, opset=28), "onnxruntime")
    assert found.verdict == "rewrite"
    assert "opset 28 -> 26" in texts(found, "rewrite")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "litert", "myriad-x", "quadro-rtx-6000"])
def test_an_operator_of_an_unknown_domain_has_no_path(tmp_path: Path, target: str) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="my.domain")
    found = checked(saved(tmp_path, [node], {"x": [1, 4]}, domain="my.domain"), target)
    assert found.verdict == "no_path"
    assert "my.domain" in texts(found) or "Frobnicate" in texts(found)


def test_a_type_that_a_kernel_lacks_is_named(tmp_path: Path) -> None:
    node = helper.make_node("BitShift", ["x", "x"], ["y"], direction="LEFT")
    found = checked(saved(tmp_path, [node], {"x": [4]}, kind=TensorProto.UINT16), "onnxruntime")
    assert found.verdict == "no_path"
    assert "not for uint16" in texts(found, "type")


def test_fp32_products_have_no_path_to_turing(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    file = saved(tmp_path, [node], {"x": [2, 3]}, {"w": np.ones((3, 4), np.float32)})
    assert checked(file, "tensorrt_rtx:quadro-rtx-6000", "fp16").has_path
    found = checked(file, "tensorrt_rtx:quadro-rtx-6000", "fp32")
    assert not found.has_path


def test_a_weight_beyond_fp16_and_a_large_norm_are_precision_traps(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "s", "s"], ["n"]),
        helper.make_node("Mul", ["n", "k"], ["y"]),
    ]
    weights = {"s": np.ones(3, np.float32), "k": np.float32(1e5)}
    found = checked(saved(tmp_path, nodes, {"x": [1, 3, 128, 128]}, weights), "myriad-x")
    assert "65504" in texts(found, "precision")
    assert "a sum of 4096 squares" in texts(found, "precision")
    assert found.has_path
    assert "65504" not in texts(checked(tmp_path / "model.onnx", "openvino"))


def test_a_zero_point_that_is_not_zero_has_no_path_to_tensorrt(tmp_path: Path) -> None:
    def quantised(zero: int) -> Path:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ]
        return saved(tmp_path, nodes, {"x": [4]}, {"scale": np.float32(0.1), "zero": np.int8(zero)})

    assert "symmetric" not in texts(checked(quantised(0), "tensorrt_rtx:quadro-rtx-6000", "fp16"))
    assert "symmetric" in texts(checked(quantised(3), "tensorrt_rtx:quadro-rtx-6000", "fp16"), "type")


@pytest.mark.parametrize(("target", "told"), [("nervana-nnp-i", "Intel ended Nervana"), ("tpu-v4", "PyTorch program")])
def test_a_target_that_takes_no_onnx_says_why(tmp_path: Path, target: str, told: str) -> None:
    found = checked(conv(tmp_path, 4), target)
    assert found.verdict == "no_path"
    assert told in texts(found)


def test_a_precision_that_a_device_lacks(tmp_path: Path) -> None:
    found = checked(conv(tmp_path, 4), "myriad-x", "fp32")
    assert not found.has_path
    assert found.findings[0].fix == "--precision fp16"


def test_a_model_that_cannot_be_read_is_refused_before_the_onnx_package(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x00" * 100)
    with pytest.raises(Refused), opened(str(file), asked_axes([]), lambda text: None):
        pass


# -- tables ------------------------------------------------------------------------------------------------------------

TABLE = OperatorTable(
    "made-up",
    "made-up 1.0",
    "by hand",
    {"Conv": (Span(11, 11, {"T": ("float",)}), Span(22, None, {"T": ("float", "double")})), "Relu": (Span(1),)},
    widens={"float16": "float"},
)


def fact(op: str, since: int = 1, **more: Any) -> NodeFact:
    return NodeFact("n", op, "", since, **more)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (fact("Relu", 14), None),
        (fact("Conv", 11, types={"T": "float"}), None),
        (fact("Conv", 11, types={"T": "float16"}), None),
        (fact("Conv", 22, types={"T": "double"}), None),
        (fact("Gelu", 20), ("operator", "made-up 1.0 has no Gelu")),
        (fact("Conv", 1), ("version", "made-up 1.0 has Conv of opset 11, 22 to the newest, not of 1")),
        (fact("Conv", 11, types={"T": "double"}), ("type", "made-up 1.0 has Conv for float, not for double")),
    ],
)
def test_what_a_table_lacks(node: NodeFact, told: tuple[str, str] | None) -> None:
    assert TABLE.lack(node) == told


@pytest.mark.parametrize(
    ("limit", "met"),
    [
        ({"operators": ("Conv",)}, True),
        ({"operators": ("Relu",)}, False),
        ({"ranks": (5,)}, True),
        ({"ranks": (4,)}, False),
        ({"types": ("float",)}, True),
        ({"types": ("double",)}, False),
        ({"given": {"group": (2,)}}, True),
        ({"given": {"group": ("", 1)}}, False),
        ({"given": {"dilations": ("*",)}}, False),
        ({"given": {"dilations": ("",)}}, True),
        ({"inputs": (1,)}, True),
        ({"inputs": (2,)}, False),
        ({"note": "dynamic"}, True),
        ({"note": "zero_point"}, False),
        ({"since": 12}, False),
    ],
)
def test_when_a_limit_is_met(limit: Mapping[str, Any], met: bool) -> None:
    shapes = ((1, 2, 3, 4, 5), (1,))
    node = fact("Conv", 11, tensors=("float",), shapes=shapes, given={"group": 2}, notes=("dynamic",))
    assert Limit("shape", "text", "source", **limit).meets(node) is met


def test_limits_speak_of_what_is_asked_for() -> None:
    limit = Limit("precision", "text", "source", precisions=("fp32",), archs=("sm75",))
    table = OperatorTable("made-up", "1", "", {"Conv": (Span(1),)}, limits=(limit,))
    assert list(table_findings(table, "g", [fact("Conv")], "gpu", "sm75", "fp32"))
    assert not list(table_findings(table, "g", [fact("Conv")], "gpu", "sm86", "fp32"))
    assert not list(table_findings(table, "g", [fact("Conv")], "gpu", "sm75", "fp16"))


@pytest.mark.parametrize("engine", ["litert", "onnxruntime", "openvino", "openvino_myriad", "tensorrt", "tensorrt_rtx"])
def test_every_table_says_what_it_holds_for_and_every_limit_its_source(engine: str) -> None:
    table = load_table(engine)
    assert table is not None
    assert table.engine == engine
    assert table.toolchain
    assert table.obtained
    assert len(table.operators) > 100
    assert {"Conv", "MatMul", "Relu", "Add"} <= set(table.operators)
    assert all(limit.source and limit.text for limit in table.limits)


def test_the_default_of_bf16_is_said_where_fp32_is_asked_for(tmp_path: Path) -> None:
    assert "own default is bf16" in texts(checked(conv(tmp_path, 4), "openvino", "fp32"), "precision")


def test_a_program_is_not_judged_by_the_table_of_the_other_converter(tmp_path: Path) -> None:
    with opened("tests.contracts.tiny_model:network", asked_axes([]), lambda text: None) as model:
        (found,) = check_model(model, [resolve("litert")], None, {})
    assert (found.verdict, found.basis) == ("ok", "litert-torch 0.10.0, which publishes no list of operators")
    bare = checked(conv(tmp_path, 4), "litert")
    assert bare.basis.startswith("onnx2tf")
