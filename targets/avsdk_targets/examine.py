"""What a model's nodes are, read by the onnx package, and what the engines' tables say of them. Runs in a child."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import defs, inliner, numpy_helper

from avsdk import plugins
from avsdk.errors import NotAvailable
from avsdk.onnx_check import check_onnx
from avsdk.schema import encode
from avsdk_targets.compiler import Compiler
from avsdk_targets.operator_table import Finding, NodeFact, OperatorTable, load_table
from avsdk_targets.rewrites.functions import has_body
from avsdk_targets.rewrites.steps import rewrite

_HALF_MAX = 65504.0
_LARGE_REDUCTION = 4096
"""Elements summed in one go from where on a sum of squares of usual activations comes near the end of fp16's range."""
_REDUCING = {"InstanceNormalization", "ReduceSumSquare", "ReduceL2", "LayerNormalization", "GroupNormalization"}
_ROUNDS = 4
_OWN = ("", "ai.onnx")


def examine(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per build: findings, and what will be rewritten.

    A build has ``engine``, ``device``, ``arch``, ``precision``, ``shapes``, ``program`` (whether there is one).

    ``onnx`` is the file, ``graph`` its name, as texts. The answer holds ``applied``, and ``findings`` as documents.
    """
    described: dict[str, list[NodeFact]] = {}
    return [_examined(Path(request["onnx"]), request["graph"], build, described) for build in request["builds"]]


def _examined(file: Path, graph: str, build: Mapping[str, Any], described: dict[str, list[NodeFact]]) -> dict[str, Any]:
    engine: Compiler = plugins.load("compilers", build["engine"])()
    compiler = engine.route(program=build["program"])
    with TemporaryDirectory(prefix="avsdk-check-") as folder:
        try:
            path, applied = _rewritten(file, Path(folder), compiler, build["shapes"])
        except NotAvailable as error:
            found = Finding(graph, "", "", "rewrite", error.failed, error.fix, blocks=True)
            return {"applied": [], "findings": [encode(found)]}
        limit = compiler.onnx_limits.refusal(check_onnx(path))
        findings = [Finding(graph, "", "", "version", limit, blocks=True)] if limit else []
        model = _loaded(path)
    table = load_table(compiler.engine)
    key = "rewritten by " + compiler.engine if applied else "as it came"
    if table is not None and table.expands:
        model, key = _expanded(model, table), f"expanded for {table.engine}"
    if key not in described:
        described[key] = nodes_of(model)
    nodes = described[key]
    if table is not None and table.expands:  # what could not be written out here for want of a type, it writes out
        nodes = [node for node in nodes if not _writes_out(table, node)]
    findings += compiler.findings(model, graph, nodes, build["device"], build["arch"], build["precision"])
    return {"applied": applied, "findings": [encode(item) for item in findings]}


def _rewritten(
    file: Path, folder: Path, compiler: Compiler, shapes: Mapping[str, list[int]] | None
) -> tuple[Path, list[str]]:
    plan = compiler.rewrites
    if not plan.asks_for(check_onnx(file)):
        return file, []
    request = {
        "onnx": str(file),
        "out": str(folder / file.name),
        "opset": None if plan.opset is None else list(plan.opset),
        "ir": plan.ir,
        "lacking": sorted(plan.lacking),
        "shapes": shapes if plan.static else None,
    }
    return folder / file.name, list(rewrite(request)["applied"])


def _loaded(path: Path) -> onnx.ModelProto:
    """The model with its own functions written out and types inferred as far as they can be."""
    model = onnx.load(path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    return _inferred(model)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: beyond protobuf's 2 GB
        return model


def _expanded(model: onnx.ModelProto, table: OperatorTable) -> onnx.ModelProto:
    """The model with what the engine lacks, and would write out by ONNX's own definition, written out."""
    for _ in range(_ROUNDS):
        lacking = {("", node.op) for node in nodes_of(model) if _writes_out(table, node)}
        if not lacking:
            break
        try:
            model = _inferred(inliner.inline_selected_functions(model, sorted(lacking), inline_schema_functions=True))
        except RuntimeError:  # its own assertion, where a type is not known
            break
    return model


def _writes_out(table: OperatorTable, node: NodeFact) -> bool:
    """Whether the engine itself would replace the node: it has no kernel, ONNX has a definition, nothing forbids it."""
    if node.domain or table.lack(node) is None or not node.since:
        return False
    if not has_body(node.op, node.since):
        return False
    return not any(limit.blocks and limit.meets(node) for limit in table.limits)


# -- nodes -------------------------------------------------------------------------------------------------------------


def nodes_of(model: onnx.ModelProto) -> list[NodeFact]:
    """Every node of the model, those of branches and loops included."""
    opsets = {_own(item.domain): item.version for item in model.opset_import}
    return list(_nodes(model.graph, opsets, {}, {}))


def _nodes(
    graph: onnx.GraphProto,
    opsets: Mapping[str, int],
    outer: Mapping[str, onnx.TypeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> Iterator[NodeFact]:
    types = {**outer, **{item.name: item.type for item in (*graph.input, *graph.value_info, *graph.output)}}
    held = {**constants, **{item.name: item for item in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant":
            for item in node.attribute:
                if item.name == "value":
                    held[node.output[0]] = item.t
    for name, tensor in held.items():
        if name not in types:
            types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    outside = {item.name for item in graph.input} - set(held)
    for index, node in enumerate(graph.node):
        fact = _fact(node, index, opsets, types, held)
        notes = ["operand_from_outside"] if outside.intersection(node.input[1:]) else []
        if any(name and name not in held for name in node.input[1:]):
            notes.append("operand_not_constant")
        if any(name in outside and _shape(types.get(name)) == () for name in node.input):
            notes.append("scalar_from_outside")
        yield replace(fact, notes=(*fact.notes, *notes)) if notes else fact
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(inner, opsets, types, held)


def _fact(
    node: onnx.NodeProto,
    index: int,
    opsets: Mapping[str, int],
    types: Mapping[str, onnx.TypeProto],
    held: Mapping[str, onnx.TensorProto],
) -> NodeFact:
    domain = _own(node.domain)
    schema = None
    if domain in opsets and defs.has(node.op_type, opsets[domain], domain):
        schema = defs.get_schema(node.op_type, opsets[domain], domain)
    bound: dict[str, str] = {}
    for names, formals in (
        (node.input, schema.inputs if schema else ()),
        (node.output, schema.outputs if schema else ()),
    ):
        for place, name in enumerate(names):
            kind = _element(types.get(name))
            if formals and kind:
                bound.setdefault(formals[min(place, len(formals) - 1)].type_str, kind)
    tensors = {_element(types.get(name)) for name in (*node.input, *node.output) if name} - {""}
    return NodeFact(
        name=node.name or f"{node.op_type}_{index}",
        op=node.op_type,
        domain=domain,
        since=schema.since_version if schema else 0,
        types=bound,
        tensors=tuple(sorted(tensors)),
        shapes=tuple(_shape(types.get(name)) for name in node.input),
        given={**_attributes(node), **_operands(node, held)},
        notes=tuple(_notes(node, types, held)),
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for item in node.attribute:
        if item.type in (onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT):
            given[item.name] = onnx.helper.get_attribute_value(item)
        elif item.type == onnx.AttributeProto.STRING:
            given[item.name] = item.s.decode(errors="replace")
        else:
            given[item.name] = "*"
    return given


def _operands(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> dict[str, Any]:
    """Operands that are left out, and constants of one element."""
    found: dict[str, Any] = {}
    for place, name in enumerate(node.input):
        if not name:
            found[f"absent.{place}"] = True
        elif name in held and int(np.prod(held[name].dims, dtype=np.int64)) == 1:
            value = _array(held[name])
            found[f"input.{place}"] = None if value is None or value.dtype == object else value.reshape(-1)[0].item()
    return found


def _notes(
    node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], held: Mapping[str, onnx.TensorProto]
) -> Iterator[str]:
    shapes = [_shape(types.get(name)) for name in (*node.input, *node.output) if name]
    if any(shape is not None and None in shape for shape in shapes):
        yield "dynamic"
    if any(shape is not None and 0 in shape for shape in shapes):
        yield "empty"
    weights = [array for name in node.input if name in held and (array := _array(held[name])) is not None]
    if any(array.dtype.kind == "f" and array.size and np.nanmax(np.abs(array)) > _HALF_MAX for array in weights):
        yield "weights_beyond_fp16"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2] in held:
        zero = _array(held[node.input[2]])
        if zero is not None and zero.astype(np.float32).any():
            yield "zero_point"
    if node.op_type in _REDUCING and _reduced(shapes[0] if shapes else None) >= _LARGE_REDUCTION:
        yield "large_reduction"


def _reduced(shape: Sequence[int | None] | None) -> int:
    """Elements beyond batch and channels; an axis of unknown size counts as a large one."""
    if shape is None or len(shape) < 3:
        return 0
    return int(np.prod([_LARGE_REDUCTION if size is None else size for size in shape[2:]], dtype=np.int64))


def _array(tensor: onnx.TensorProto) -> Any:
    """The tensor's values; None for what lies outside the file or has no numbers."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return None
    return numpy_helper.to_array(tensor)


def _element(kind: onnx.TypeProto | None) -> str:
    """The element's type as ONNX writes it: ``float``, ``int64``; of what is no tensor ``seq(tensor(float))``."""
    if kind is None:
        return ""
    for field, word in (("sequence_type", "seq"), ("optional_type", "optional")):
        if kind.HasField(field):
            inner = getattr(kind, field).elem_type
            return f"{word}({'tensor(' + _element(inner) + ')' if inner.HasField('tensor_type') else _element(inner)})"
    if kind.HasField("tensor_type"):
        number = kind.tensor_type.elem_type
        return onnx.TensorProto.DataType.Name(number).lower() if number else ""
    return ""


def _shape(kind: onnx.TypeProto | None) -> tuple[int | None, ...] | None:
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim)


def _own(domain: str) -> str:
    return "" if domain in _OWN else domain
