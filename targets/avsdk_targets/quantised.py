"""Whether a model carries quantisation of its own, by the operators that our own reader finds in it."""

from __future__ import annotations

from pathlib import Path

from avsdk.errors import NotAvailable
from avsdk.onnx_check import check_onnx

QUANTISING = frozenset({
    "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
})  # fmt: skip
"""Operators that quantise activations. DequantizeLinear alone stores weights narrow and computes in fp32."""


def require_quantised(model: Path) -> None:
    """Raise ``NotAvailable`` for a model that cannot compute in int8, since nothing in it is quantised."""
    if not QUANTISING & check_onnx(model).ops.keys():
        raise NotAvailable(
            "the model carries no quantisation, so it cannot compute in int8",
            expected="QuantizeLinear and DequantizeLinear nodes, as an int8 model has",
            fix="--calibration DIR quantises it on real inputs; or --precision fp32",
        )


def require_plain(model: Path, precision: str) -> None:
    """Raise ``NotAvailable`` for a model that computes in int8 by its own nodes, whatever is asked for."""
    found = sorted(QUANTISING & check_onnx(model).ops.keys())
    if found:
        raise NotAvailable(
            f"the model is quantised ({found[0]}), so it does not compute in {precision}",
            expected="int8, as the model says",
            fix="--precision int8",
        )
