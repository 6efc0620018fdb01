"""Weights put aside while a model is rewritten, so that what copies the model copies a skeleton of a few kilobytes.

A weight on the shelf is an input of the skeleton with its type and shape; small constants, as axes and sizes, stay.
Weights in external data are read only where a constant is computed from them; their files are copied as they are.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from avsdk_targets.rewrites.draft import Array, graphs_of

_KEPT_BYTES = 4096
_INLINE_BYTES = 1 << 30
"""A model of more weights is written with external data: protobuf ends at 2 GiB."""


class Shelf:
    """Takes the large weights off ``model``, in place. ``restore`` puts them back into whatever became of it.

    ``folder`` is where the external data of the model lies.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._weights: dict[str, TensorProto] = {}
        for tensor in _tensors(model.graph):
            if uses_external_data(tensor) and _bytes(tensor) <= _KEPT_BYTES:
                _load(tensor, folder)
        _constants_to_initializers(model.graph)
        model.ir_version = max(model.ir_version, 4)  # from there on a weight need not be an input as well
        taken = {item.name for item in model.graph.initializer}
        inputs = [item for item in model.graph.input if item.name not in taken]
        kept = []
        for tensor in model.graph.initializer:
            if _bytes(tensor) <= _KEPT_BYTES:
                kept.append(tensor)
                continue
            held = TensorProto()
            held.CopyFrom(tensor)
            self._weights[tensor.name] = held
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        replace(model.graph.initializer, kept)
        replace(model.graph.input, inputs)

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def value(self, name: str) -> Array:
        """The value of a weight."""
        weight = TensorProto()
        weight.CopyFrom(self._weights[name])
        if uses_external_data(weight):
            _load(weight, self._folder)
        return numpy_helper.to_array(weight)

    def restore(self, model: onnx.ModelProto) -> None:
        """Put the weights that are still used back, in place."""
        used = _used(model.graph)
        replace(model.graph.input, [item for item in model.graph.input if item.name not in self._weights])
        kept = [item for item in model.graph.initializer if item.name in used]
        replace(model.graph.initializer, kept)
        model.graph.initializer.extend(item for name, item in self._weights.items() if name in used)


def save(model: onnx.ModelProto, path: Path, folder: Path) -> None:
    """Write the model, with its weights beside it where they are many, and with its external data from ``folder``."""
    for location in sorted({_location(tensor) for tensor in _tensors(model.graph) if uses_external_data(tensor)}):
        place = path.parent / location
        if not (place.exists() and place.samefile(folder / location)):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / location, place)
    if sum(tensor.ByteSize() for tensor in model.graph.initializer) > _INLINE_BYTES:
        onnx.save(model, path, save_as_external_data=True, location=_new_location(model, path.name))
    else:
        onnx.save(model, path)


def _new_location(model: onnx.ModelProto, name: str) -> str:
    """A file for the weights that none of the model's external data is in."""
    taken = {_location(tensor) for tensor in _tensors(model.graph) if uses_external_data(tensor)}
    return f"{name}.weights" if f"{name}.data" in taken else f"{name}.data"


def _bytes(tensor: TensorProto) -> int:
    """What the values take, wherever they are."""
    if not uses_external_data(tensor):
        return int(tensor.ByteSize())
    return int(math.prod(tensor.dims)) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _location(tensor: TensorProto) -> str:
    return str(next(entry.value for entry in tensor.external_data if entry.key == "location"))


def _load(tensor: TensorProto, folder: Path) -> None:
    """Read the values into the tensor, in place; the paths were judged before the model was opened."""
    load_external_data_for_tensor(tensor, str(folder))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every weight and constant, bodies of control flow included."""
    for body in graphs_of(graph):
        yield from body.initializer
        for node in body.node:
            yield from (item.t for item in node.attribute if item.HasField("t"))


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if value is not None and value.name == "value" and _bytes(value.t) > _KEPT_BYTES:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        replace(graph.node, kept)


def _used(graph: onnx.GraphProto) -> set[str]:
    bodies = list(graphs_of(graph))
    inner = {name for body in bodies for node in body.node for name in node.input}
    return inner | {item.name for body in bodies for item in body.output}


def replace(field: Any, items: Sequence[Any]) -> None:
    """Set a repeated field; its messages are copied first, as clearing frees them."""
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)
