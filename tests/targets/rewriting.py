"""Models for the tests of rewriting, and the comparison that all of them make: the same numbers before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from avsdk_targets.rewrites.steps import rewrite

Shape = Sequence[int | str]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Shape],
    outputs: Iterable[str],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 20,
    kind: int = TensorProto.FLOAT,
    ir: int = 10,
) -> onnx.ModelProto:
    """A model of these nodes; the shapes of its outputs are left open."""
    graph = helper.make_graph(
        list(nodes),
        "tested",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def one(op: str, inputs: dict[str, Shape], *operands: str, outputs: int = 1, **rest: Any) -> onnx.ModelProto:
    """A model of one node; ``weights``, ``opset`` and ``kind`` are the model's, the rest are the node's attributes."""
    model = {name: rest.pop(name) for name in ("weights", "opset", "kind") if name in rest}
    names = [f"y{index}" for index in range(outputs)]
    return model_of([helper.make_node(op, list(operands), names, name="node", **rest)], inputs, names, **model)


def rewritten(
    model: onnx.ModelProto,
    folder: Path,
    *,
    opset: tuple[int, int] | None = None,
    lacking: Iterable[str] = (),
    shapes: dict[str, list[int]] | None = None,
    ir: int | None = None,
    check: bool = True,
) -> tuple[onnx.ModelProto, list[str]]:
    """The model after the rules, and what they say that they did. Runs here, not in a child, as that is quicker."""
    source, out = folder / "before.onnx", folder / "after.onnx"
    onnx.save(model, source)
    request = {
        "onnx": str(source), "out": str(out), "opset": opset, "ir": ir, "lacking": sorted(lacking), "shapes": shapes,
    }  # fmt: skip
    applied = rewrite(request)["applied"]
    after = onnx.load(out)
    if check:
        onnx.checker.check_model(after, full_check=True)
    return after, applied


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime with graph optimisation off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(item) for item in session.run(None, feeds)]


def require_same(
    before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, np.ndarray], tolerance: float = 1e-5
) -> None:
    """Both give the same numbers under the same names, in the same types."""
    assert [item.name for item in before.graph.output] == [item.name for item in after.graph.output]
    assert [item.name for item in after.graph.input] == [item.name for item in before.graph.input]
    for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
        assert wanted.dtype == found.dtype
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def ops(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def normal(generator: np.random.Generator, *shape: int, kind: Any = np.float32) -> np.ndarray:
    return generator.standard_normal(shape).astype(kind)
