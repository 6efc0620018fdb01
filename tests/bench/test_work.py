"""The work of whole graphs: what is one operator, what moves how many bytes, what cannot be counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.bench.graphs import node, save_graph

from avsdk.errors import ModelRefused, UnusableInput, UsageError
from avsdk_bench.work import Operator, Work, graph_of, graph_work
from avsdk_bench.work_child import count_graph


def work_of(onnx_file: Path, **sizes: int) -> Work:
    return graph_work(onnx_file, graph_of(onnx_file), sizes)


def counted(path: Path, **shapes: list[int]) -> list[Operator]:
    """Counted in this process, which is quicker."""
    answer = count_graph(str(path), shapes)
    assert not answer["misfit"]
    assert not answer["work"]["not_counted"], answer["work"]["not_counted"]
    return [Operator(**{**item, "nodes": tuple(item["nodes"])}) for item in answer["work"]["operators"]]


def test_a_convolution_takes_its_bias_norm_and_activation_along(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a scale shift mean var", "n"),
        node("Relu", "n", "y"),
    ]
    of_norm = dict.fromkeys(("b", "scale", "shift", "mean", "var"), [8])
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [1, 3, 16, 16]}, {"w": [8, 3, 3, 3], **of_norm})
    (only,) = counted(path, x=[1, 3, 16, 16])
    assert (only.kind, only.nodes) == ("conv", ("Conv", "BatchNormalization", "Relu"))
    assert only.flops == 2 * 256 * 8 * 27 + 2 * 2048 + 2048
    assert only.fused_flops == 3 * 2048
    assert (only.read, only.weights, only.written) == (3 * 256, 8 * 27 + 5 * 8, 2048)
    assert only.moved_bytes("fp32") == 4 * (3 * 256 + 256 + 2048)
    assert only.moved_bytes("fp16") == 2 * (3 * 256 + 256 + 2048)
    assert only.moved_bytes("fp16w") == 4 * (3 * 256 + 2048) + 2 * 256
    assert only.moved_bytes("int8") == 3 * 256 + 256 + 2048


def test_a_result_that_is_read_again_is_written(tmp_path: Path) -> None:
    """The shortcut needs what stands before the activation."""
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "r"), node("Add", "a r", "s"),
        node("Conv", "s w", "t", pads=[1, 1, 1, 1]), node("Add", "t x", "y"),
    ]  # fmt: skip
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [1, 4, 8, 8]}, {"w": [4, 4, 3, 3]})
    found = counted(path, x=[1, 4, 8, 8])
    assert [item.nodes for item in found] == [("Conv", "Relu", "Add"), ("Conv",), ("Add",)]
    assert (found[2].read, found[2].written) == (512, 256)


def test_layer_norm_and_gelu_spelt_out_are_one_operator_each(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", "x axes", "mean"), node("Sub", "x mean", "c"), node("Pow", "c two", "q"),
        node("ReduceMean", "q axes", "var"), node("Add", "var eps", "v"), node("Sqrt", "v", "s"),
        node("Div", "c s", "n"),
        node("Mul", "n gamma", "g"), node("Add", "g beta", "l"), node("MatMul", "l w", "m"),
        node("Div", "m root", "d"), node("Erf", "d", "e"), node("Add", "e one", "f"), node("Mul", "m f", "h"),
        node("Mul", "h half", "y"),
    ]  # fmt: skip
    scalars = {name: np.array(value, np.float32) for name, value in (("two", 2), ("eps", 1), ("root", 1), ("one", 1))}
    weights = {"axes": np.array([-1]), "gamma": [6], "beta": [6], "w": [6, 9], "half": np.array(0.5, np.float32)}
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [2, 5, 6]}, {**scalars, **weights})
    norm, product = counted(path, x=[2, 5, 6])
    assert (norm.kind, len(norm.nodes), norm.read, norm.written) == ("norm", 9, 60, 60)
    assert (product.kind, product.nodes[0], len(product.nodes)) == ("matmul", "MatMul", 6)
    assert (product.read, product.weights, product.written) == (60, 9 * 6 + 3, 90)


def test_sizes_computed_in_the_graph_are_known(tmp_path: Path) -> None:
    """As exporters write them: the shape is read, cut, multiplied, joined; then resized and reshaped to it."""
    nodes = [
        node("Shape", "x", "shape"), node("Slice", "shape two four", "sides"), node("Mul", "sides double", "larger"),
        node("Slice", "shape zero two", "front"), node("Concat", "front larger", "sizes", axis=0),
        node("Resize", "x - - sizes", "r", mode="nearest"), node("Reshape", "r flat", "y"),
    ]  # fmt: skip
    weights = {name: np.array([value]) for name, value in (("two", 2), ("four", 4), ("zero", 0))}
    weights |= {"double": np.array([2, 2]), "flat": np.array([0, -1])}
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [1, 3, "height", "width"]}, weights)
    small, large = (counted(path, x=[1, 3, size, size]) for size in (8, 16))
    assert [(item.nodes, item.written) for item in small] == [(("Resize",), 3 * 256)]
    assert [item.written for item in large] == [3 * 1024]


def test_more_pixels_are_more_work_by_their_number(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [1, 3, "height", "width"]}, {"w": [8, 3, 3, 3]})
    small, large = work_of(path, height=8, width=8), work_of(path, height=16, width=8)
    assert large.flops == 2 * small.flops == 2 * 2 * 64 * 8 * 27
    assert (small.given, small.answered) == (3 * 64, 8 * 64)
    assert small.flops_by_kind() == {"conv": small.flops}
    assert work_of(path, height=8, width=8) is small, "counted again"


def test_integers_keep_their_size_and_tables_are_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    table = helper.make_tensor("table", TensorProto.FLOAT, [1000, 16], np.zeros(16000, np.float32))
    graph = helper.make_graph(
        [node("Gather", "table tokens", "y")],
        "net",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [table],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    (only,) = counted(path, tokens=[1, 5])
    assert (only.read, only.weights, only.written, only.other_bytes) == (80, 0, 80, 40)


def test_what_was_quantised_multiplies_in_int8_at_one_byte(tmp_path: Path) -> None:
    zero, scale = np.zeros((), np.int8), np.array(0.1, np.float32)
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w s z", "v"), node("Conv", "d v", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "y"),
    ]  # fmt: skip
    weights = {"s": scale, "z": zero, "w": np.ones((8, 3, 3, 3), np.int8)}
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [1, 3, 8, 8]}, weights)
    *_, product = counted(path, x=[1, 3, 8, 8])
    assert (product.nodes, product.quantised, product.computed_in("fp32")) == (("Conv", "Relu"), True, "int8")
    assert product.moved_bytes("fp32") == 3 * 64 + 8 * 27 + 8 * 64


def test_under_int8_only_products_are_narrow() -> None:
    norm = Operator("n", "norm", ("InstanceNormalization",), 100, 10, 2, 10)
    product = Operator("c", "conv", ("Conv",), 100, 10, 2, 10)
    assert (norm.computed_in("int8"), product.computed_in("int8")) == ("fp32", "int8")
    assert (norm.moved_bytes("int8"), product.moved_bytes("int8")) == (80 + 2, 22)
    assert product.computed_in("fp16w") == "fp32"


def loop_graph(path: Path) -> Path:
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Add", "v v", "w")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]),
        ],
    )
    times, true = np.array(3), np.array(True)
    return save_graph(path, [node("Loop", "n t x", "y", body=body)], {"x": [4]}, {"n": times, "t": true})


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("NonZero", "x", "places"), node("Cast", "places", "y", to=TensorProto.FLOAT)], "is not known before"),
        ([node("Strange", "x", "y", domain="somebody.else")], "Strange y"),
    ],
)
def test_what_cannot_be_counted_is_named(tmp_path: Path, nodes: list[onnx.NodeProto], text: str) -> None:
    found = count_graph(str(save_graph(tmp_path / "g.onnx", nodes, {"x": [2, 3]})), {"x": [2, 3]})
    assert text in " ".join(found["work"]["not_counted"])


def test_the_body_of_a_loop_is_not_counted_and_named(tmp_path: Path) -> None:
    found = count_graph(str(loop_graph(tmp_path / "g.onnx")), {"x": [4]})
    assert found["work"]["not_counted"] == ["the body of Loop y"]


def test_bad_sizes_and_files_are_refused(tmp_path: Path) -> None:
    nodes = [node("Add", "x b", "y")]
    path = save_graph(tmp_path / "g.onnx", nodes, {"x": [1, "width"]}, {"b": [1, 8]})
    with pytest.raises(UnusableInput, match="does not fit these sizes"):
        work_of(path, width=9)
    with pytest.raises(UsageError, match="no dynamic axis 'hight'"):
        work_of(path, hight=9)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelRefused):
        work_of(path)
