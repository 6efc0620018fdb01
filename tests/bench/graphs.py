"""Small ONNX graphs for tests of what counts their work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Sizes = Sequence[int | str | None]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node by the names of its tensors, separated by spaces; ``-`` is an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=outputs.split()[0], **attributes)


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sizes],
    weights: Mapping[str, Sizes | np.ndarray[Any, Any]] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
) -> Path:
    """Write the graph; weights are an array, or a shape to be filled with small numbers."""
    random = np.random.default_rng(0)
    arrays = {
        name: item if isinstance(item, np.ndarray) else 0.1 * random.standard_normal([int(n or 0) for n in item])
        for name, item in (weights or {}).items()
    }
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(item.astype(np.float32) if item.dtype == np.float64 else item, name)
            for name, item in arrays.items()
        ],
    )
    domains = [helper.make_opsetid(name, 1) for name in sorted({item.domain for item in nodes} - {""})]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=10)
    onnx.save(model, path)
    return path
