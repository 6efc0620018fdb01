"""What a user says of a model beyond what its file says: names and ranges of axes, the steps around it, its name.

It comes from ``--axis`` and from a spec file, reaches the sources of models among their options as one JSON text, and
is laid over the spec that a source finds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Optional, Union

from avsdk.errors import UnknownName, UsageError
from avsdk.schema import decode, encode
from avsdk.spec import LARGEST_SIZE, AxisRange, GraphSpec, ModelSpec, Step, TensorSpec

OPTION = "spec"
"""The option of a source that holds a request."""


@dataclass(frozen=True)
class AskedRange:
    """The sizes that a dynamic axis may take; a step or default that is not given is the model's, or fits the rest."""

    min: int
    max: int
    multiple_of: Optional[int] = None  # noqa: UP045  (read at run time, on Python 3.9 too)
    default: Optional[int] = None  # noqa: UP045


@dataclass(frozen=True)
class AskedTensor:
    """The axes of one tensor: a size for a fixed one, a name for a dynamic one."""

    shape: tuple[Union[int, str], ...]  # noqa: UP007


@dataclass(frozen=True)
class SpecRequest:
    """What is asked for; what is left out stays as the model has it.

    ``axes`` by name, or ``graph.axis`` for one graph of several. ``steps`` hold both directions, or None.
    """

    model: str = ""
    predictor: str = ""
    inputs: Mapping[str, AskedTensor] = field(default_factory=dict)
    outputs: Mapping[str, AskedTensor] = field(default_factory=dict)
    axes: Mapping[str, AskedRange] = field(default_factory=dict)
    preprocess: tuple[Step, ...] = ()
    postprocess: tuple[Step, ...] = ()

    def to_option(self) -> dict[str, str]:
        """The request as a source's option; nothing where nothing is asked for."""
        return {} if self == SpecRequest() else {OPTION: json.dumps(encode(self), sort_keys=True)}


def request_from(options: Mapping[str, str]) -> SpecRequest:
    """The request among a source's options; an empty one where there is none."""
    return decode(SpecRequest, json.loads(options[OPTION]), where=OPTION) if OPTION in options else SpecRequest()


def requested_spec(spec: ModelSpec, request: SpecRequest, *, free: bool | frozenset[str] = False) -> ModelSpec:
    """The spec with the request laid over it.

    ``free``: the axes whose ranges the model's file does not give, so that any range may be asked for (True: all, and
    the fixed sizes are only those of an example); the ranges of the others can be narrowed. Raises ``UnknownName`` for
    a tensor or axis that the model lacks, and ``UsageError`` for what contradicts it.
    """
    _require_tensors(spec, request)
    graphs = tuple(_reshaped(graph, request, sizes_are_examples=free is True) for graph in spec.graphs)
    known = {axis for graph in graphs for axis in graph.axes}
    known |= {f"{graph.name}.{axis}" for graph in graphs for axis in graph.axes}
    for name in request.axes:
        if name not in known:
            raise UnknownName.among("dynamic axis", name, known, fix=_NO_AXES if not known else "")
    ranged = tuple(
        replace(graph, axes={name: _ranged(graph, name, request, free) for name in graph.axes}) for graph in graphs
    )
    return replace(
        spec,
        graphs=ranged,
        model=request.model or spec.model,
        predictor=request.predictor or spec.predictor,
        preprocess=request.preprocess or spec.preprocess,
        postprocess=request.postprocess or spec.postprocess,
    )


_NO_RANGE = AxisRange(0, 0, default=0)
"""Of an axis that only the request makes dynamic."""
_NO_AXES = "all sizes of this model are fixed: a spec file can name axes, avsdk export MODEL --spec FILE.toml"


def _require_tensors(spec: ModelSpec, request: SpecRequest) -> None:
    for kind, asked in (("input", request.inputs), ("output", request.outputs)):
        held = {tensor.name for graph in spec.graphs for tensor in getattr(graph, f"{kind}s")}
        for name in asked:
            if name not in held:
                raise UnknownName.among(kind, name, held)


def _reshaped(graph: GraphSpec, request: SpecRequest, *, sizes_are_examples: bool) -> GraphSpec:
    """The graph with the axes named as asked; an axis that gets another name gets it in every tensor."""
    renamed: dict[str, int | str] = {}
    inputs = tuple(_shaped(item, request.inputs, renamed, sizes_are_examples) for item in graph.inputs)
    examples = {
        axis: size
        for item, before in zip(inputs, graph.inputs)
        for axis, size in zip(item.shape, before.shape)
        if isinstance(size, int)
    }
    inputs = tuple(replace(item, shape=_renamed(item, renamed)) for item in inputs)
    held = {axis for item in inputs for axis in item.shape if isinstance(axis, str)}
    became_dynamic = bool(held - set(graph.axes)) and sizes_are_examples
    outputs = []
    for item in graph.outputs:
        if item.name in request.outputs:
            outputs.append(_shaped(item, request.outputs, {}, True))
        elif became_dynamic:  # which of an output's sizes follow an input's is not known
            outputs.append(replace(item, shape=tuple(f"{item.name}_{place}" for place in range(len(item.shape)))))
        else:
            outputs.append(replace(item, shape=_renamed(item, renamed)))
    axes = {renamed.get(name, name): axis for name, axis in graph.axes.items()}
    kept = {name: axis for name, axis in axes.items() if isinstance(name, str) and name in held}
    new = {name: replace(_NO_RANGE, default=examples.get(name, 0)) for name in sorted(held - set(kept))}
    for name in new:
        if name not in request.axes and f"{graph.name}.{name}" not in request.axes:
            raise UsageError(
                f"the axis {name!r} has no range",
                expected="min and max",
                fix=f"--axis {name}=MIN:MAX, or [axes.{name}]",
            )
    return replace(graph, inputs=inputs, outputs=tuple(outputs), axes={**kept, **new})


def _shaped(
    tensor: TensorSpec, asked: Mapping[str, AskedTensor], renamed: dict[str, int | str], sizes_are_examples: bool
) -> TensorSpec:
    """The tensor with the shape that is asked for; notes which axis got which name."""
    if tensor.name not in asked:
        return tensor
    shape = asked[tensor.name].shape
    fits = len(shape) == len(tensor.shape)
    for known, wanted in zip(tensor.shape, shape):
        if isinstance(known, str):
            fits &= renamed.setdefault(known, wanted) == wanted
        else:
            fits &= known == wanted or (sizes_are_examples and isinstance(wanted, str))
    if not fits or any(isinstance(axis, int) and axis < 1 for axis in shape):
        raise UsageError(
            f"the spec gives the tensor {tensor.name!r} the shape {list(shape)}",
            expected=f"{len(tensor.shape)} axes that fit the model's own, {list(tensor.shape)}: a size where it has "
            "that size, a name or a size where it has a name",
        )
    return replace(tensor, shape=tuple(shape))


def _renamed(tensor: TensorSpec, renamed: Mapping[str, int | str]) -> tuple[int | str, ...]:
    return tuple(renamed.get(axis, axis) if isinstance(axis, str) else axis for axis in tensor.shape)


def _ranged(graph: GraphSpec, name: str, request: SpecRequest, free: bool | frozenset[str]) -> AxisRange:
    """The axis' range as asked for: any where the file gives none, else one within the file's."""
    known = graph.axes[name]
    asked = request.axes.get(f"{graph.name}.{name}", request.axes.get(name))
    if asked is None:
        return known
    is_free = free is True or (free is not False and name in free) or known.max == _NO_RANGE.max
    step = asked.multiple_of or (1 if is_free else known.multiple_of)
    inside = known.min <= asked.min and asked.max <= known.max and step % known.multiple_of == 0
    if not is_free and not inside:
        raise UsageError(
            f"axis {name!r} of graph {graph.name!r} was asked for as {AxisRange(asked.min, asked.max, step)}",
            expected=f"a range within the model's own, {known}",
            fix=f"--axis {name}={max(asked.min, known.min)}:{min(asked.max, known.max)}",
        )
    default = _nearest(known.default, asked, step) if asked.default is None else asked.default
    found = AxisRange(asked.min, asked.max, step, default)
    if not (1 <= found.min <= found.max <= LARGEST_SIZE and found.admits(found.default)):
        raise UsageError(
            f"axis {name!r} cannot be {found} with the default {default}",
            expected="1 <= min <= max < 2**31, a multiple of the step between them, and a default that is one",
        )
    return found


def _nearest(wanted: int, asked: AskedRange, step: int) -> int:
    """The admitted size nearest to ``wanted``."""
    least, most = -(-asked.min // step) * step, asked.max // step * step
    return min(max(round(wanted / step) * step, least), most)
