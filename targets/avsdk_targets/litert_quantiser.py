"""Narrows a .tflite file by ai-edge-quantizer, in its toolchain: weights in fp16, or int8 by calibration."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avsdk.errors import NotAvailable
from avsdk_targets import litert_graph

Samples = Sequence[Mapping[str, "np.ndarray[Any, Any]"]]
Signature = Sequence[float]
"""How many weights a layer has, their sum and the sum of their magnitudes: the same in every layout."""

_HALF_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED", "EMBEDDING_LOOKUP")
_LAYERS = {
    "CONV_2D": "CONV_2D",
    "DEPTHWISE_CONV_2D": "DEPTHWISE_CONV_2D",
    "TRANSPOSE_CONV": "CONV_2D_TRANSPOSE",
    "FULLY_CONNECTED": "FULLY_CONNECTED",
    "BATCH_MATMUL": "BATCH_MATMUL",
}
"""Operations that multiply by weights: the interpreter's name and the quantiser's."""
_CLOSE = 1e-3


def halve_weights(path: str) -> None:
    """Store the weights of every weighted operation as fp16, each behind a DEQUANTIZE; rewrites the file."""
    from ai_edge_quantizer import qtyping, quantizer

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    work = quantizer.Quantizer(path)
    for operation in _HALF_WEIGHTS:
        work.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName[operation],
            op_config=config,
            algorithm_key="float_casting",
        )
    work.quantize().export_model(path, overwrite=True)


def quantise_all(path: str, interpreter: Any, samples: Samples, graph: Mapping[str, Any]) -> None:
    """Quantise every operation that the quantiser knows, as the Edge TPU asks for; rewrites the file."""
    from ai_edge_quantizer import recipe

    rules = recipe.static_wi8_ai8()
    _quantise(path, interpreter, samples, graph, [*rules, _rule(rules[0], "BATCH_MATMUL")])


def quantise_layers(
    path: str,
    interpreter: Any,
    samples: Samples,
    graph: Mapping[str, Any],
    signatures: Mapping[str, Signature],
    kept: Sequence[str],
) -> dict[str, str]:
    """Quantise what multiplies by weights and leave norms and the rest in fp32; rewrites the file.

    ``signatures``: of the ONNX layers, by name, which tell the file's operations; ``kept``: those that stay in fp32.
    Returns the precision of each layer that was found. Raises ``NotAvailable`` where one to be kept was not.
    """
    from ai_edge_quantizer import recipe

    first = recipe.static_wi8_ai8()[0]
    rules = [_rule(first, name) for name in _LAYERS.values()]
    layers = {}
    for scope, signature in _weighted(interpreter):
        name = next((name for name, known in signatures.items() if _same(known, signature)), "")
        if name:
            layers[name] = "fp32" if name in kept else "int8"
        if name in kept:
            rules.append({"regex": re.escape(scope), "operation": "*", "algorithm_key": "no_quantize", "op_config": {}})
    lost = set(kept) - set(layers)
    if lost:
        raise NotAvailable(
            f"the converted file has no layer with the weights of {min(lost)!r}, which is to stay in fp32",
            expected="each layer of the ONNX model, with its own weights",
            fix="a wider limit, so that it need not stay, or another engine",
        )
    _quantise(path, interpreter, samples, graph, rules)
    return {name: layers[name] for name in signatures if name in layers}


def _rule(first: Mapping[str, Any], operation: str) -> dict[str, Any]:
    """The rule for one operation.

    With weights per channel a matrix product of activations and constants has given zeros on every kernel
    (ai-edge-quantizer 0.10), so those are scaled per tensor.
    """
    rule: dict[str, Any] = copy.deepcopy(dict(first))
    rule["operation"] = operation
    if operation == "BATCH_MATMUL":
        rule["op_config"]["weight_tensor_config"]["granularity"] = "TENSORWISE"
    return rule


def _quantise(path: str, interpreter: Any, samples: Samples, graph: Mapping[str, Any], rules: list[Any]) -> None:
    """Quantise by the ranges that the samples reach."""
    from ai_edge_quantizer import quantizer

    work = quantizer.Quantizer(path, rules)
    (signature,) = interpreter.get_signature_list().items()
    names = dict(zip([item["name"] for item in graph["inputs"]], signature[1]["inputs"]))
    kept = {name: litert_graph.plain_names(graph)[name] for name in names}
    if set(kept.values()) == set(signature[1]["inputs"]):  # onnx2tf keeps them, and lists them in another order
        names = kept
    calibrated = work.calibrate({signature[0]: [{names[key]: feeds[key] for key in feeds} for feeds in samples]})
    work.quantize(calibrated).export_model(path, overwrite=True)


def _weighted(interpreter: Any) -> list[tuple[str, Signature]]:
    """The operations that multiply by constants: the name of what each makes, and its weights' signature."""
    details = {item["index"]: item for item in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()
    made = {int(index) for item in operations for index in item["outputs"]}
    given = {int(item["index"]) for item in interpreter.get_input_details()}
    found: list[tuple[str, Signature]] = []
    for item in operations:
        inputs = [int(index) for index in item["inputs"] if int(index) >= 0]
        constants = [index for index in inputs if index not in made | given and details[index]["dtype"] == np.float32]
        if item["op_name"] in _LAYERS and constants:
            weights = max((np.asarray(interpreter.get_tensor(index), np.float64) for index in constants), key=np.size)
            name = str(details[int(item["outputs"][0])]["name"])
            found.append((name, (float(weights.size), float(weights.sum()), float(np.abs(weights).sum()))))
    return found


def _same(known: Signature, found: Signature) -> bool:
    """Whether two layers have the same weights."""
    room = _CLOSE * max(known[2], 1e-30)
    return known[0] == found[0] and abs(known[1] - found[1]) <= room and abs(known[2] - found[2]) <= room
