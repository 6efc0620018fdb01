"""What a model takes and gives: tensors, dynamic axes with their ranges, pre- and post-processing as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from avsdk import dtypes
from avsdk.errors import Refused, SizeNotBuilt, UsageError
from avsdk.schema import SCHEMA, check_schema, decode, encode

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
"""What a graph or an asset may be called: files and folders get these names."""
LARGEST_SIZE = 2**31 - 1
"""What the runtimes can count to along one axis."""
Sizes = Mapping[str, int]
"""One size per dynamic axis: ``{"batch": 1, "height": 400, "width": 600}``."""


@dataclass(frozen=True)
class AxisRange:
    """The sizes that a dynamic axis may take: ``min <= size <= max`` and a multiple of ``multiple_of``."""

    min: int
    max: int
    multiple_of: int = 1
    default: int = 1

    def admits(self, size: int) -> bool:
        """Whether ``size`` is one that the axis may take."""
        return self.min <= size <= self.max and size % self.multiple_of == 0

    def __str__(self) -> str:
        step = f", a multiple of {self.multiple_of}" if self.multiple_of > 1 else ""
        return f"{self.min}..{self.max}{step}"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; dtype as numpy and ml_dtypes name it, or ``string``: see ``avsdk.dtypes``.

    ``shape`` holds an int for a fixed axis and a name for a dynamic one.
    """

    name: str
    dtype: str
    shape: tuple[Union[int, str], ...]  # noqa: UP007  (read at run time, on Python 3.9 too)

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape with every named axis replaced by its size."""
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.shape)


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX network: its tensors, and the range of every dynamic axis that they name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Mapping[str, AxisRange] = field(default_factory=dict)

    def default_sizes(self) -> dict[str, int]:
        """The default size of every dynamic axis."""
        return {name: axis.default for name, axis in self.axes.items()}

    def complete_sizes(self, partial: Sizes) -> dict[str, int]:
        """The default sizes with ``partial`` on top; refuses unknown axes and sizes out of range."""
        unknown = sorted(set(partial) - set(self.axes))
        if unknown:
            raise UsageError(
                f"graph {self.name!r} has no dynamic axis {unknown[0]!r}",
                expected=f"one of: {', '.join(sorted(self.axes))}" if self.axes else "no --axis: all sizes are fixed",
            )
        for name, size in partial.items():
            if not self.axes[name].admits(size):
                raise SizeNotBuilt(
                    f"axis {name!r} of graph {self.name!r} cannot be {size}", expected=str(self.axes[name])
                )
        return {**self.default_sizes(), **partial}

    def sizes_of(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Read the sizes of the dynamic axes off the inputs' shapes; refuses what the spec does not admit."""
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            if tensor.dtype in dtypes.LISTS:
                continue
            shape = shapes[tensor.name]
            if len(shape) != len(tensor.shape):
                raise SizeNotBuilt(
                    f"input {tensor.name!r} has shape {list(shape)}",
                    expected=f"{len(tensor.shape)} axes: {tensor.shape}",
                )
            for axis, size in zip(tensor.shape, shape):
                known = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
                if known != size:
                    raise SizeNotBuilt(f"axis {axis!r} of input {tensor.name!r} is {size}", expected=str(known))
        return self.complete_sizes(sizes)

    def problem(self) -> str:
        """What no graph can mean: a name that is a path, a range without sizes, an unknown dtype, an axis without a
        range; else empty.
        """
        if not NAME.fullmatch(self.name):
            return "its name is not of letters, digits, . _ and -, or longer than 80"
        for name, axis in self.axes.items():
            sound = 1 <= axis.min <= axis.max <= LARGEST_SIZE and axis.multiple_of >= 1
            if not sound or not axis.admits(axis.default):
                return f"axis {name!r} has the range {axis}, steps of {axis.multiple_of}, the default {axis.default}"
        names = [tensor.name for tensor in (*self.inputs, *self.outputs)]
        if len(set(names)) < len(names) or not self.inputs or not self.outputs:
            return f"the tensors are {names}"
        for tensor in (*self.inputs, *self.outputs):
            if tensor.dtype not in dtypes.KNOWN:
                return f"tensor {tensor.name!r} has the dtype {tensor.dtype!r}"
            if any(isinstance(axis, int) and not 0 <= axis <= LARGEST_SIZE for axis in tensor.shape):
                return f"tensor {tensor.name!r} has the shape {list(tensor.shape)}"
        for tensor in self.inputs:
            unknown = [axis for axis in tensor.shape if isinstance(axis, str) and axis not in self.axes]
            if unknown:
                return f"input {tensor.name!r} has the axis {unknown[0]!r}, which has no range"
        return ""


@dataclass(frozen=True)
class Step:
    """One step of pre- or post-processing: the name of an operation of ``avsdk.ops`` and its parameters."""

    op: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """A whole model.

    ``model`` is ``family/name`` or a free name; ``predictor`` names the device-side code that runs it.
    """

    model: str
    predictor: str
    graphs: tuple[GraphSpec, ...]
    preprocess: tuple[Step, ...] = ()
    postprocess: tuple[Step, ...] = ()
    assets: Mapping[str, str] = field(default_factory=dict)

    def graph(self, name: str) -> GraphSpec:
        """The graph of that name."""
        return next(graph for graph in self.graphs if graph.name == name)

    def sizes_for(self, graph: GraphSpec, partial: Sizes) -> dict[str, int]:
        """One size per axis of ``graph``: ``axis`` speaks of every graph that has it, ``graph.axis`` of that one.

        Raises ``UsageError`` for an axis that no graph has, and ``SizeNotBuilt`` for a size out of range.
        """
        own: dict[str, int] = {}
        for name in sorted(partial, key=lambda item: item in self._qualified()):
            head, _, axis = name.rpartition(".")
            if name in self._qualified():
                own.update({axis: partial[name]} if head == graph.name else {})
            elif name in graph.axes or not any(name in other.axes for other in self.graphs):
                own[name] = partial[name]
        return graph.complete_sizes(own)

    def _qualified(self) -> set[str]:
        return {f"{graph.name}.{axis}" for graph in self.graphs for axis in graph.axes}

    def to_json(self) -> dict[str, Any]:
        """The spec as a document with its schema number."""
        return {"schema": SCHEMA, **encode(self)}

    @classmethod
    def from_json(cls, document: object, *, where: str = "spec", refused: type[Refused] = Refused) -> ModelSpec:
        """Parse a spec strictly; ``where`` names the file in messages."""
        return decode(cls, check_schema(document, where=where, refused=refused), where=where, refused=refused)
