"""What the operations of a .tflite file cost and compute in, by the lists that LiteRT's interpreter gives of them.

An operation has ``op_name``, ``inputs`` and ``outputs``, which are indices into the details of tensors: per index a
``shape`` and a ``dtype``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PRECISIONS = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
_ORDER = ("int8", "fp16", "bf16", "fp32", "fp64")
_WEIGHTED = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "CONV_3D": 1,
    "FULLY_CONNECTED": 1,
    "BATCH_MATMUL": 0,
    "TRANSPOSE_CONV": 1,
}
"""Operations that multiply and add, and the place of the operand whose shape says how often."""
MOVES = {
    "DELEGATE",
    "TRANSPOSE",
    "RESHAPE",
    "DEQUANTIZE",
    "QUANTIZE",
    "MIRROR_PAD",
    "PAD",
    "PADV2",
    "CONCATENATION",
    "CAST",
}
"""Operations that compute nothing; ``DELEGATE`` stands for nodes that are listed as well."""


def delegated_nodes(operations: Sequence[Mapping[str, Any]]) -> set[int]:
    """The nodes that stand behind the delegates: walked back from a delegate's outputs as far as its inputs."""
    producers = {
        int(tensor): number
        for number, operation in enumerate(operations)
        if operation["op_name"] != "DELEGATE"
        for tensor in operation["outputs"]
    }
    found: set[int] = set()
    for operation in operations:
        if operation["op_name"] != "DELEGATE":
            continue
        given, walked = {int(tensor) for tensor in operation["inputs"]}, [int(item) for item in operation["outputs"]]
        while walked:
            number = producers.get(walked.pop())
            if number is not None and number not in found:
                found.add(number)
                walked += [int(tensor) for tensor in operations[number]["inputs"] if int(tensor) not in given]
    return found


def precision_of(operation: Mapping[str, Any], details: Mapping[int, Mapping[str, Any]]) -> str:
    """The precision that an operation computed in: the narrowest numeric type among its data operands and results.

    Empty for one on whole numbers alone, as what makes an index of another.
    The types are the tensors': tflite-runtime does not list them with the operations.
    """
    indices = (int(index) for index in (*operation["inputs"], *operation["outputs"]))
    kinds = {np.dtype(details[index]["dtype"]).name for index in indices if index in details}
    known = [_PRECISIONS[kind] for kind in kinds if kind in _PRECISIONS]
    return min(known, key=_ORDER.index) if known else ""


def flops_of(operation: Mapping[str, Any], details: Mapping[int, Mapping[str, Any]]) -> int:
    """Two per multiply-add of a weighted operation; one per output element of the others."""
    outputs = [details[index] for index in operation["outputs"] if index in details]
    elements = int(np.prod(outputs[0]["shape"], dtype=np.int64)) if outputs else 0
    place = _WEIGHTED.get(operation["op_name"])
    if place is None or len(operation["inputs"]) <= place:
        return elements
    weights = details.get(int(operation["inputs"][place]))
    if weights is None or len(weights["shape"]) < 2:
        return elements
    shape = [int(size) for size in weights["shape"]]
    if operation["op_name"] == "DEPTHWISE_CONV_2D":  # 1, height, width, channels: each output sees one channel
        return 2 * elements * int(np.prod(shape[1:-1], dtype=np.int64))
    if operation["op_name"] in {"FULLY_CONNECTED", "BATCH_MATMUL"}:
        return 2 * elements * shape[-1]
    return 2 * elements * int(np.prod(shape[1:], dtype=np.int64))
