"""An ExportedProgram as ONNX that every engine reads: pinned versions, our axis names, the spec inside, equal bytes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset20
from torch.export import ExportedProgram

from avsdk import __version__
from avsdk.errors import AvsdkError, UsageError
from avsdk.files import atomic_file
from avsdk.spec import GraphSpec, ModelSpec, TensorSpec
from avsdk_export.program import quiet_torch

IR_VERSION = 10
OPSET = 20
"""What the oldest supported engines read (ONNX Runtime 1.20, OpenVINO 2024.4, TensorRT-RTX).

The newest onnx package would write IR 14 and opset 28, which ONNX Runtime 1.31 refuses.
"""

SPEC_KEY = "avsdk.spec"
GRAPH_KEY = "avsdk.graph"
EXTERNAL_ABOVE_BYTES = 1_500_000_000
"""A protobuf file ends at 2 GB, and optimisers need room beneath that: larger weights go beside the file."""


def onnx_from_program(program: ExportedProgram, graph: GraphSpec, spec: ModelSpec) -> onnx.ModelProto:
    """Translate, simplify and clean. Raises ``UsageError`` where an operator has no ONNX form or still trains."""
    names = ([tensor.name for tensor in graph.inputs], [tensor.name for tensor in graph.outputs])
    with quiet_torch(), _quiet_exporter():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=names[0],
                output_names=names[1],
                custom_translation_table={torch.ops.aten.instance_norm.default: _instance_norm},
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except Exception as error:  # an exporter's own types, and those of its passes
            text = "\n".join(line for line in str(error).splitlines() if line.strip())
            raise UsageError(
                f"graph {graph.name!r} cannot be translated to ONNX: {text[:800]}",
                expected="operators that ONNX has",
                fix="replace the operator in the module",
            ) from error
    assert made is not None
    model = made.model_proto
    _check_versions(model)
    check_inference_only(model, graph)
    _clean(model, graph)
    embed_spec(model, graph, spec)
    onnx.checker.check_model(model)
    return model


def embed_spec(model: onnx.ModelProto, graph: GraphSpec, spec: ModelSpec) -> None:
    """Write the whole model's spec, and which of its graphs this is, into the file's metadata."""
    document = json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":"))
    del model.metadata_props[:]
    for key, value in ((GRAPH_KEY, graph.name), (SPEC_KEY, document)):
        model.metadata_props.add(key=key, value=value)


def write_onnx(model: onnx.ModelProto, path: Path, *, external_above: int = EXTERNAL_ABOVE_BYTES) -> list[Path]:
    """Write the model, weights inside the file; beside it (``<name>.data``) only above ``external_above`` bytes.

    Returns the files written, the model first. The same model gives the same bytes.
    """
    files = [path]
    if model.ByteSize() > external_above:
        data = path.with_name(path.name + ".data")
        data.unlink(missing_ok=True)  # onnx appends to what is there
        onnx.external_data_helper.convert_model_to_external_data(model, location=data.name, size_threshold=1024)
        onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
        files.append(data)
    with atomic_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return files


def _instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool,
    momentum: float, eps: float, cudnn_enabled: bool,
) -> Any:  # fmt: skip
    """``aten.instance_norm`` as one InstanceNormalization.

    PyTorch's own translation decomposes it to a BatchNormalization in training mode, which engines refuse or run
    slowly.
    """
    channels = input.shape[1]
    if not isinstance(channels, int):
        message = "instance norm over a dynamic number of channels"
        raise ValueError(message)
    if weight is None:
        weight = _constant(np.ones(channels, np.float32))
    if bias is None:
        bias = _constant(np.zeros(channels, np.float32))
    if use_input_stats:
        return opset20.InstanceNormalization(input, weight, bias, epsilon=eps)
    return opset20.BatchNormalization(input, weight, bias, running_mean, running_var, epsilon=eps)


def _constant(value: np.ndarray[Any, Any]) -> Any:
    return opset20.Constant(value=onnx.numpy_helper.from_array(value))


def _check_versions(model: onnx.ModelProto) -> None:
    """The exporter keeps its own opset when its version converter gives up; it must not do so unseen."""
    model.ir_version = min(model.ir_version, IR_VERSION)
    opsets = {item.domain: item.version for item in model.opset_import}
    foreign = sorted(set(opsets) - {"", "ai.onnx"})
    used = {node.domain for node in _nodes(model)}
    if opsets.get("", 0) > OPSET or any(domain in used for domain in foreign):
        raise AvsdkError(
            f"the exporter wrote opsets {opsets}", expected=f"operators of ONNX itself, opset {OPSET} or older"
        )
    del model.opset_import[:]
    model.opset_import.add(domain="", version=opsets[""])


def check_inference_only(model: onnx.ModelProto, graph: GraphSpec) -> None:
    """Raise ``UsageError`` for a node, of any subgraph, that would train."""
    for node in _nodes(model):
        trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if trains or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]):
            raise UsageError(
                f"the node {node.name!r} ({node.op_type}) of graph {graph.name!r} is in training mode",
                expected="a network that only infers",
                fix="make the module obey eval(), and give functional.dropout and batch_norm training=self.training",
            )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs and functions included."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for subgraph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                pending.extend(subgraph.node)


def _clean(model: onnx.ModelProto, graph: GraphSpec) -> None:
    """Name the axes as the spec does, and drop what changes between runs or tells where the source lies."""
    for node in _nodes(model):
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.ClearField("doc_string")
    del model.graph.value_info[:]  # engines infer shapes themselves; these carry the tracer's symbol names
    del model.graph.metadata_props[:]
    model.graph.name = graph.name
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    model.producer_name, model.producer_version = "avsdk", __version__
    for values, tensors in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            del value.metadata_props[:]
            value.ClearField("doc_string")
            _name_axes(value, tensor)


def _name_axes(value: onnx.ValueInfoProto, tensor: TensorSpec) -> None:
    for place, dimension in zip(tensor.shape, value.type.tensor_type.shape.dim, strict=True):
        fixed = dimension.dim_value if dimension.HasField("dim_value") else None
        dimension.Clear()
        if isinstance(place, int) or fixed:
            dimension.dim_value = fixed or int(place)
        else:
            dimension.dim_param = place


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """No notes on packages that are absent, nor the exporter's progress, among the command's own lines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
