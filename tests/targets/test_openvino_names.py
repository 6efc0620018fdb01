"""OpenVINO's reader renames and drops inputs; what is fed must still reach the tensor that it was meant for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk import plugins
from avsdk.session import session_class
from avsdk.spec import GraphSpec, TensorSpec
from avsdk_targets.compiler import CompileJob


def answered(
    folder: Path, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], *held: onnx.TensorProto
) -> np.ndarray:
    """The output ``y`` of a model whose inputs are the feeds, through compiler and session."""
    pytest.importorskip("openvino")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(item.shape)) for name, item in feeds.items()]
    shape = next(iter(feeds.values())).shape
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape))]
    graph = helper.make_graph(nodes, "g", values, made, initializer=list(held))
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    tensors = tuple(TensorSpec(name, "float32", item.shape) for name, item in feeds.items())
    spec = GraphSpec("g", tensors, (TensorSpec("y", "float32", shape),))
    compiler = plugins.load("compilers", "openvino")()
    compiled = compiler.compile(CompileJob(file, spec, "cpu", "host", "fp32", folder))
    with session_class("openvino").open(folder, compiled.artifact, spec, 1) as session:
        found: np.ndarray = session.run(feeds)["y"]
    return found


def test_an_output_that_is_an_input_is_not_what_lies_in_memory(tmp_path: Path) -> None:
    """The reader gives the input the output's name, and a file keeps one; unfed, it answered with old memory."""
    x, other = np.float32([1, 2, 3]), np.float32([9, 9])
    assert answered(tmp_path, [helper.make_node("Max", ["x"], ["y"])], {"x": x, "other": other}).tolist() == [1, 2, 3]


def test_an_input_that_decides_nothing_may_be_fed(tmp_path: Path) -> None:
    x, like = np.float32([1, 2, 3]), np.float32([9])
    nodes = [helper.make_node("CastLike", ["x", "like"], ["c"]), helper.make_node("Add", ["c", "one"], ["y"])]
    held = numpy_helper.from_array(np.float32([1]), "one")
    assert answered(tmp_path, nodes, {"x": x, "like": like}, held).tolist() == [2, 3, 4]
