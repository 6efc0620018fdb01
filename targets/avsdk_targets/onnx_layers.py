"""The layers of an ONNX model that a quantiser may narrow, by name. Needs onnx: only a compiler's child imports it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INLINE_BYTES = 1 << 30


def named_layers(model: Path, cache: Path) -> Path:
    """The model with a name for every node, as quantisers ask for nodes by name; weights beside it where large."""
    cache.mkdir(parents=True, exist_ok=True)
    named = cache / f"{model.stem}-named.onnx"
    if not named.exists():
        loaded = onnx.load(model)
        taken = {node.name for node in loaded.graph.node}
        for index, node in enumerate(loaded.graph.node):
            if not node.name:
                node.name = f"{node.op_type}_{index}" + "_" * (f"{node.op_type}_{index}" in taken)
        large = sum(len(item.raw_data) for item in loaded.graph.initializer) > _INLINE_BYTES
        onnx.save(loaded, named, save_as_external_data=large, location=f"{named.stem}.data")
    return named


def quantisable(model: Path) -> dict[str, str]:
    """Name and operator of each node that multiplies by weights, in the model's order."""
    graph = onnx.load(model, load_external_data=False).graph
    held = _weights(graph)
    return {
        node.name: node.op_type
        for node in graph.node
        if node.op_type in LAYERS and any(name in held for name in node.input[:2])
    }


def moves_into(model: Path, layers: Sequence[str], moving: Collection[str]) -> list[str]:
    """The nodes of the kinds ``moving`` whose every reader is quantised: in int8 they move a quarter of the bytes."""
    graph = onnx.load(model, load_external_data=False).graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {item.name for item in graph.output}
    quantised = set(layers)
    for node in reversed(graph.node):
        after = readers.get(node.output[0], [])
        moves = node.op_type in moving and bool(after) and node.output[0] not in outputs
        if moves and all(item.name in quantised and item.input[0] == node.output[0] for item in after):
            quantised.add(node.name)
    return [node.name for node in graph.node if node.name in quantised and node.op_type in moving]


def products(model: Path) -> dict[str, int]:
    """Multiply-adds per output element of each convolution, by name; a profile does not tell of packed weights."""
    graph = onnx.load(model, load_external_data=False).graph
    shapes = {item.name: list(item.dims) for item in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in graph.node:
        if node.op_type != "Conv" or not node.name:
            continue
        weight = makers[node.input[1]].input[0] if node.input[1] in makers else node.input[1]
        if weight in shapes:
            count = 1
            for size in shapes[weight][1:]:
                count *= size
            found[node.name] = count
    return found


def layer_signatures(onnx_file: str, cache: str) -> dict[str, tuple[float, float, float]]:
    """Of each layer how many weights it has, their sum and the sum of their magnitudes, whatever their layout."""
    model = onnx.load(named_layers(Path(onnx_file), Path(cache)))
    held = {item.name: item for item in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        names = [name for name in node.input[:2] if name in held]
        if node.op_type in LAYERS and names:
            weights = numpy_helper.to_array(held[names[0]]).astype(np.float64)
            found[node.name] = (float(weights.size), float(weights.sum()), float(np.abs(weights).sum()))
    return found


def _weights(graph: onnx.GraphProto) -> set[str]:
    held = {item.name for item in graph.initializer}
    return held | {name for node in graph.node if node.op_type == "Constant" for name in node.output}
