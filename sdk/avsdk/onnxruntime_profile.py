"""What executed, read from the profile that ONNX Runtime writes of a run: the provider and the types of every node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PRECISIONS = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "uint8": "int8", "int8": "int8",
}  # fmt: skip
_NARROW_FIRST = ("int8", "fp16", "bf16", "fp32", "fp64")
_CONVERSIONS = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
_WEIGHTED = ("Conv", "Gemm", "MatMul")


def kernels_of(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The arguments of every kernel that ran, and its ``name``."""
    nodes = [
        {**event["args"], "name": event.get("name", "")}
        for event in events
        if event.get("cat") == "Node" and "args" in event
    ]
    return [arguments for arguments in nodes if arguments.get("provider")]


def placement_of(kernels: Sequence[Mapping[str, Any]], devices: Mapping[str, str]) -> dict[str, float]:
    """Share of nodes per device; ``devices`` names them by provider."""
    counted = Counter(arguments["provider"] for arguments in kernels)
    return {devices.get(name, name): count / len(kernels) for name, count in counted.items()}


def precision_shares_of(
    kernels: Sequence[Mapping[str, Any]], products: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Share of FLOPs per precision; kernels that only change the type count where there are no others.

    ``products``: multiply-adds per output element by the name of a node, for kernels whose packed weights the profile
    leaves out; a kernel's name is that of its node, with more behind it.
    """
    computing = [arguments for arguments in kernels if arguments.get("op_name") not in _CONVERSIONS]
    shares: Counter[str] = Counter()
    for arguments in computing or kernels:
        shares[_precision(arguments)] += _flops(arguments, products or {})
    total = sum(shares.values()) or 1
    return {name: count / total for name, count in shares.items() if count}


def _precision(arguments: Mapping[str, Any]) -> str:
    """The precision that a kernel computed in: the narrowest numeric type among its inputs."""
    kinds = [
        _PRECISIONS[kind] for entry in arguments.get("input_type_shape", ()) for kind in entry if kind in _PRECISIONS
    ]
    return min(kinds, key=_NARROW_FIRST.index) if kinds else "fp32"


def _flops(arguments: Mapping[str, Any], products: Mapping[str, int]) -> int:
    """Multiply-adds of a weighted kernel, times two; other kernels count one operation per output element, at least."""
    inputs = [shape for entry in arguments.get("input_type_shape", ()) for shape in entry.values()]
    outputs = [shape for entry in arguments.get("output_type_shape", ()) for shape in entry.values()]
    elements = int(np.prod(outputs[0], dtype=np.int64)) if outputs and outputs[0] else 0
    name = arguments.get("op_name", "")
    if not any(word in name for word in _WEIGHTED) or len(inputs) < 2:
        return elements
    if "Conv" in name:
        kernel = next((shape for shape in inputs[1:] if len(shape) >= 3), None)
        known = int(np.prod(kernel[1:], dtype=np.int64)) if kernel else _product_of(arguments["name"], products)
        return 2 * elements * known if known else elements
    return 2 * elements * int(inputs[0][-1])


def _product_of(kernel: str, products: Mapping[str, int]) -> int:
    """The entry of the longest node name that the kernel's begins with; 0 where there is none."""
    fitting = [name for name in products if kernel == name or kernel.startswith(f"{name}_")]
    return products[max(fitting, key=len)] if fitting else 0
