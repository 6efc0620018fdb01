"""A PyTorch module as an ExportedProgram whose dynamic axes are those of its ``GraphSpec``.

One program serves every target: the ONNX file is translated from it, and converters that start from PyTorch load the
saved ``.pt2`` and fix the sizes themselves.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from avsdk.errors import UsageError
from avsdk.files import atomic_file
from avsdk.spec import AxisRange, GraphSpec


def tracing_sizes(graph: GraphSpec) -> dict[str, int]:
    """One small size per dynamic axis, no two alike and none of them 1 where the ranges allow it.

    An exporter takes 1 for a broadcast axis and two equal sizes for one axis; a range that starts at 64 gives a quick
    trace.
    """
    return {
        name: nearest_size(axis, axis.min + axis.multiple_of * (2 * position + 1))
        for position, (name, axis) in enumerate(graph.axes.items())
    }


def nearest_size(axis: AxisRange, wanted: int) -> int:
    """The largest size of the range that is at most ``wanted``, or the range's least."""
    least = -(-axis.min // axis.multiple_of) * axis.multiple_of
    return max(least, min(wanted, axis.max) // axis.multiple_of * axis.multiple_of)


def export_program(
    network: nn.Module, graph: GraphSpec, examples: Mapping[str, Tensor] | None = None
) -> ExportedProgram:
    """Export ``network`` in evaluation mode, with the inputs in the order of ``graph.inputs``.

    ``examples`` are the inputs to trace with, for a graph without dynamic axes; else zeros of the spec's own sizes.
    Raises ``UsageError`` when the module cannot be exported or its code contradicts the spec's ranges.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    sizes = tracing_sizes(graph)
    usable = examples if examples is not None and not graph.axes else {}
    inputs = tuple(
        usable.get(tensor.name, torch.zeros(tensor.sized(sizes), dtype=getattr(torch, tensor.dtype)))
        for tensor in graph.inputs
    )
    with quiet_torch():
        try:
            program = torch.export.export(network, inputs, dynamic_shapes=_dynamic_shapes(graph))
        except Exception as error:  # the exporter raises types of many modules of torch, and the module's own
            raise UsageError(
                f"torch.export cannot export graph {graph.name!r}: {_first_lines(error)}",
                expected="a module without control flow on data, valid for " + _ranges(graph),
                fix="change the module, or the ranges of its ModelSpec",
            ) from error
    _check_outputs(program, graph, sizes)
    return program


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write the program to ``path`` (.pt2). It holds pickled parts and source paths: it never leaves this host."""
    with atomic_file(path) as temporary, quiet_torch():
        torch.export.save(program, temporary)


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence the deprecation notices that PyTorch's exporter causes in PyTorch itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _dynamic_shapes(graph: GraphSpec) -> tuple[dict[int, Any], ...]:
    dims = {name: _dim(name, axis) for name, axis in graph.axes.items() if _is_free(axis)}
    return tuple(
        {place: dims[axis] for place, axis in enumerate(tensor.shape) if isinstance(axis, str) and axis in dims}
        for tensor in graph.inputs
    )


def _is_free(axis: AxisRange) -> bool:
    return axis.min // axis.multiple_of != axis.max // axis.multiple_of


def _dim(name: str, axis: AxisRange) -> Any:
    """A torch dimension; one that must be a multiple of k is k times a free one."""
    least, most = -(-axis.min // axis.multiple_of), axis.max // axis.multiple_of
    if axis.multiple_of == 1:
        return Dim(name, min=least, max=most)
    return axis.multiple_of * Dim(f"{name}_steps", min=least, max=most)


def _check_outputs(program: ExportedProgram, graph: GraphSpec, sizes: Mapping[str, int]) -> None:
    """The program's outputs must have the number, types and (at the traced sizes) the shapes that the spec promises."""
    names = program.graph_signature.user_outputs
    nodes = {node.name: node for node in program.graph.nodes}
    found = [nodes[name].meta["val"] for name in names if isinstance(name, str) and name in nodes]
    if len(found) != len(graph.outputs):
        raise UsageError(
            f"the module of graph {graph.name!r} returns {len(found)} tensors",
            expected=f"{len(graph.outputs)}: {', '.join(tensor.name for tensor in graph.outputs)}",
        )
    for tensor, value in zip(graph.outputs, found, strict=True):
        shape = tuple(_hint(size) for size in value.shape)
        wanted = tuple(sizes.get(axis) if isinstance(axis, str) else axis for axis in tensor.shape)
        dtype = str(value.dtype).removeprefix("torch.")
        fits = len(shape) == len(wanted) and all(w in (None, s) for w, s in zip(wanted, shape, strict=True))
        if not fits or dtype != tensor.dtype:
            raise UsageError(
                f"output {tensor.name!r} of graph {graph.name!r} is {dtype} {list(shape)} at {dict(sizes)}",
                expected=f"{tensor.dtype} {list(tensor.shape)}, as its spec says",
                fix="correct the ModelSpec",
            )


def _hint(size: Any) -> int:
    """The traced size of a symbolic dimension."""
    return int(size) if isinstance(size, int) else int(size.node.hint)


def _ranges(graph: GraphSpec) -> str:
    return ", ".join(f"{name} {axis}" for name, axis in graph.axes.items()) or "the sizes of its example inputs"


def _first_lines(error: Exception, count: int = 6) -> str:
    lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    return "\n".join(lines[:count])
