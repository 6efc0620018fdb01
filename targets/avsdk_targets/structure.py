"""Whether an ONNX file from elsewhere can mean anything: names, order, operators, weights. Runs in a child process.

``avsdk.onnx_check`` has looked through the file's own bytes before; here the onnx package reads it. Runtimes notice
some of this too, one in a riddle, another by a crash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.errors import ModelRefused, NotAvailable, UnknownName
from avsdk.onnx_check import TYPE_BITS, OnnxFacts
from avsdk.worker import call_in_child

_TIMEOUT_S = 600.0
_MEMORY_MB = 16_384
_BLOCK = 1 << 22
"""Weights looked at in one go."""
_RUNTIME_DOMAINS = frozenset({"", "ai.onnx.ml", "com.microsoft"})
"""Domains whose operators one runtime or another has; whether it has them all is its compiler's to say."""
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather"})
"""Operators whose constant input is a weight; elsewhere an infinite constant is a mask, or a bound."""
_AGAIN = "export it again, or get it again from who made it"


def require_structure(onnx: Path, facts: OnnxFacts) -> None:
    """Raise ``ModelRefused`` for a model that contradicts itself, ``NotAvailable`` for operators that nothing here has.

    A cycle, a tensor made twice or never, an operator that its opset lacks, a tensor whose content is not of its shape,
    and weights that are NaN or infinite.
    """
    from onnx import defs

    newest = defs.onnx_opset_version()
    if facts.opset > newest:
        raise NotAvailable(
            f"{onnx} has opset {facts.opset}, newer than {newest}, the newest that is known here",
            expected=f"opset 7..{newest}",
            fix=f"export the model again with opset {newest} or older, or upgrade the package onnx",
        )
    call_in_child(examine, name="examine", timeout_s=_TIMEOUT_S, memory_mb=_MEMORY_MB, path=str(onnx))


def examine(path: str) -> None:
    """In the child: do ``require_structure``."""
    import onnx

    unreadable: type[Exception] = import_module("google.protobuf.message").DecodeError  # onnx has no type of its own
    name = Path(path).name
    try:
        model = onnx.load(path, load_external_data=False)
    except (unreadable, ValueError) as error:
        raise ModelRefused(f"{name} cannot be read as ONNX: {error}", expected="an ONNX model", fix=_AGAIN) from error
    opsets = {_own(item.domain): item.version for item in model.opset_import}
    functions = {(_own(item.domain), item.name) for item in model.functions}
    for graph, outer in _graphs(model.graph, frozenset()):
        _check_names(name, graph, outer)
        _check_order(name, graph, outer)
        for node in graph.node:
            _check_operator(name, node, opsets, functions)
        for tensor in _tensors(graph):
            _check_tensor(name, tensor)
        _check_weights(Path(path), graph)


def _graphs(graph: Any, outer: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """The graph and those inside its nodes, each with the names that it may take from outside."""
    yield graph, outer
    known = outer | _given(graph) | {name for node in graph.node for name in node.output}
    for node in graph.node:
        for inner in _inner(node):
            yield from _graphs(inner, known)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _given(graph: Any) -> frozenset[str]:
    """What is there before the first node: inputs and weights."""
    named = [*graph.input, *graph.initializer]
    return frozenset([item.name for item in named] + [item.values.name for item in graph.sparse_initializer])


def _check_names(model: str, graph: Any, outer: frozenset[str]) -> None:
    for kind, items in (("inputs", graph.input), ("weights", graph.initializer), ("outputs", graph.output)):
        twice = _first_repeated(item.name for item in items)
        if twice:
            raise ModelRefused(
                f"{model} has two {kind} of the name {twice!r}", expected="names that are given once", fix=_AGAIN
            )
    given = _given(graph)
    made: dict[str, str] = {}
    for node in graph.node:
        for output in filter(None, node.output):
            if output in made or output in given:
                other = f"by {made[output]}" if output in made else "by an input or a weight"
                raise ModelRefused(
                    f"{model} makes the tensor {output!r} twice: {other} and by {_called(node)}",
                    expected="one maker for every tensor",
                    fix=_AGAIN,
                )
            made[output] = _called(node)
    known = given | outer | made.keys()
    for node in graph.node:
        for taken in filter(None, node.input):
            if taken not in known:
                raise ModelRefused(
                    f"{model}: {_called(node)} reads {taken!r}, which nothing makes",
                    expected="an input, a weight or the output of another node",
                    fix=_AGAIN,
                )
    for output in graph.output:
        if output.name not in known:
            raise ModelRefused(
                f"{model} gives {output.name!r}, which nothing makes", expected="the output of a node", fix=_AGAIN
            )


def _check_order(model: str, graph: Any, outer: frozenset[str]) -> None:
    """Refuse a cycle; the order in which the nodes stand does not matter to the runtimes."""
    maker = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    waits: list[set[int]] = []
    followers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        needed = {maker[name] for name in _read_by(node) if name in maker}
        waits.append(needed)
        for other in needed:
            followers.setdefault(other, []).append(index)
    left = [len(needed) for needed in waits]
    ready = [index for index, count in enumerate(left) if count == 0]
    while ready:
        for follower in followers.get(ready.pop(), ()):
            left[follower] -= 1
            if left[follower] == 0:
                ready.append(follower)
    stuck = {index for index, count in enumerate(left) if count}
    if stuck:
        round_trip = _cycle(stuck, waits)
        raise ModelRefused(
            f"{model} is cyclic: {' -> '.join(_called(graph.node[index]) for index in round_trip)}",
            expected="a graph without a way back",
            fix=f"a loop needs the operator Loop or Scan: {_AGAIN}",
        )


def _cycle(stuck: set[int], waits: list[set[int]]) -> list[int]:
    """One way round, in the direction of the data, its first node again at the end; at most a few are shown."""
    seen: list[int] = []
    index = min(stuck)
    while index not in seen:
        seen.append(index)
        index = min(waits[index] & stuck)
    found = [*seen[seen.index(index) :], index][::-1]
    return found if len(found) <= 6 else [*found[:5], found[-1]]


def _read_by(node: Any) -> Iterator[str]:
    """What a node takes, and what the graphs inside it take from outside; a name of their own is no harm here."""
    yield from node.input
    for inner in _inner(node):
        own = _given(inner) | {name for item in inner.node for name in item.output}
        for item in inner.node:
            yield from (name for name in _read_by(item) if name not in own)
        yield from (item.name for item in inner.output if item.name not in own)


def _check_operator(model: str, node: Any, opsets: Mapping[str, int], functions: set[tuple[str, str]]) -> None:
    from onnx import defs

    domain = _own(node.domain)
    if (domain, node.op_type) in functions:
        return
    if domain not in opsets:
        raise ModelRefused(
            f"{model}: {_called(node)} is of the domain {domain or 'ai.onnx'!r}, whose version the model does not say",
            expected=f"one of the domains that it imports: {', '.join(item or 'ai.onnx' for item in opsets)}",
            fix=_AGAIN,
        )
    if domain not in _RUNTIME_DOMAINS:
        raise NotAvailable(
            f"{model}: {_called(node)} is of the operator domain {domain!r}, which no runtime here has",
            expected="ONNX's own operators, or functions that the model defines itself",
            fix="export the model without this operator: replace it by ONNX's own before the export",
        )
    if domain == "" and not defs.has(node.op_type, opsets[""]):
        known = {item.name for item in defs.get_all_schemas() if not item.domain}
        near = UnknownName.among("operator", node.op_type, known)
        raise ModelRefused(
            f"{model}: {_called(node)} is no operator of ONNX's opset {opsets['']}",
            expected="an operator of that opset",
            fix=near.fix or _AGAIN,
        )


def _tensors(graph: Any) -> Iterator[Any]:
    """The weights, and the tensors that the nodes hold themselves."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(model: str, tensor: Any) -> None:
    """Refuse a tensor whose type nobody knows, and one whose content is not of its shape.

    ``avsdk.onnx_check`` has measured what lies in other files.
    """
    from onnx import TensorProto, helper

    kind, dims = tensor.data_type, list(tensor.dims)
    if kind not in TensorProto.DataType.values() or kind == TensorProto.UNDEFINED:
        wrong = f"is of the type {kind}"
    elif min(dims, default=0) < 0:
        wrong = f"has the shape {dims}"
    elif tensor.data_location == TensorProto.EXTERNAL:
        return
    elif tensor.HasField("raw_data"):
        held, bits = len(tensor.raw_data), TYPE_BITS.get(kind, 8)
        needed = -(-math.prod(dims) * bits // 8)
        wrong = f"has the shape {dims} and {held} bytes" if held != needed else ""
    else:
        held = len(getattr(tensor, helper.tensor_dtype_to_field(kind)))
        packed = TYPE_BITS.get(kind, 8) < 8 or kind in (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
        wrong = f"has the shape {dims} and {held} values" if held != math.prod(dims) and not packed else ""
    if wrong:
        raise ModelRefused(
            f"the tensor {tensor.name!r} of {model} {wrong}",
            expected="one of ONNX's types, and as many values as its shape says",
            fix=_AGAIN,
        )


def _check_weights(path: Path, graph: Any) -> None:
    weighted = {name for node in graph.node if node.op_type in _WEIGHTED for name in node.input}
    for tensor in graph.initializer:
        for block in _floats(path, tensor):
            wrong = "NaN" if np.isnan(block).any() else ""
            if not wrong and tensor.name in weighted and np.isinf(block).any():
                wrong = "infinity"
            if wrong:
                raise ModelRefused(
                    f"the weights {tensor.name!r} of {path.name} hold {wrong}",
                    expected="numbers: every answer of such a model is worthless",
                    fix="take an earlier checkpoint: its training has diverged, or the file is damaged",
                )


def _floats(path: Path, tensor: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The values of a tensor of floats, block by block: external data is never held whole."""
    from onnx import TensorProto, numpy_helper

    kinds = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2"}
    if tensor.data_type not in kinds:
        return
    if tensor.data_location != TensorProto.EXTERNAL:
        yield numpy_helper.to_array(tensor)
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    count = int(np.prod(tensor.dims, dtype=np.int64))
    kind = np.dtype(kinds[tensor.data_type])
    with (path.parent / entries["location"]).open("rb") as stream:
        stream.seek(int(entries.get("offset", 0)))
        for start in range(0, count, _BLOCK):
            yield np.fromfile(stream, kind, min(_BLOCK, count - start))


def _first_repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _called(node: Any) -> str:
    return (
        f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} of {(list(node.output) or ['nothing'])[0]!r}"
    )


def _own(domain: str) -> str:
    return "" if domain == "ai.onnx" else str(domain)
