"""The types that tensors have, by name: numpy's own, and those of ONNX that numpy lacks.

Numpy knows ``bfloat16``, the 8-bit floats and the types of 2 and 4 bits through the package ml_dtypes alone, and no
runtime's Python binding speaks them: arrays of them go in and out as the bytes that ONNX prescribes, the narrow ones
packed, the first element in the lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable, UnknownName

Array = NDArray[Any]

PLAIN = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)
"""The types that numpy has and every part of avsdk speaks."""

STRING = "string"
"""Text; numpy holds it as objects."""

EXTENDED: Mapping[str, tuple[int, int]] = {
    "bfloat16": (16, 16),
    "float8_e4m3fn": (17, 8),
    "float8_e4m3fnuz": (18, 8),
    "float8_e5m2": (19, 8),
    "float8_e5m2fnuz": (20, 8),
    "uint4": (21, 4),
    "int4": (22, 4),
    "float4_e2m1fn": (23, 4),
    "float8_e8m0fnu": (24, 8),
    "uint2": (25, 2),
    "int2": (26, 2),
}
"""The types that numpy lacks: their number in ONNX's ``TensorProto.DataType``, and their bits per element."""

LISTS = frozenset(("sequence", "optional"))
"""Kinds of value that are no tensor: a list of arrays, or nothing. They have no shape, and few engines take them."""

COMPLEX = frozenset(("complex64", "complex128"))
KNOWN = frozenset((*PLAIN, *EXTENDED, *COMPLEX, STRING))
"""Every type that a tensor of a spec may have."""


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Numpy's dtype of that name. Raises ``NotAvailable`` where only ml_dtypes has it and is not installed."""
    if name == STRING:
        return np.dtype(object)
    if name in PLAIN or name in COMPLEX:
        return np.dtype(name)
    if name not in EXTENDED:
        raise UnknownName.among("tensor type", name, KNOWN)
    try:
        module: Any = import_module("ml_dtypes")
    except ImportError as error:
        raise NotAvailable(
            f"tensors of {name} need the package ml_dtypes, which is not installed",
            expected="ml_dtypes, since numpy alone has no such type",
            fix="pip install ml_dtypes",
        ) from error
    found: np.dtype[Any] = np.dtype(getattr(module, name))
    return found


def is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether the array's type is one that numpy itself lacks."""
    return dtype.name in EXTENDED


def stored(array: Array) -> NDArray[np.uint8]:
    """The bytes of an array of an extended type as ONNX stores them: flat, narrow elements packed."""
    bits = EXTENDED[array.dtype.name][1]
    flat = np.ascontiguousarray(array).reshape(-1)
    if bits >= 8:
        return flat.view(np.uint8)
    each = 8 // bits
    narrow = flat.view(np.uint8) & ((1 << bits) - 1)
    padded = np.zeros(-(-narrow.size // each) * each, np.uint8)
    padded[: narrow.size] = narrow
    packed = np.zeros(padded.size // each, np.uint8)
    for place in range(each):
        packed |= padded[place::each] << (place * bits)
    return packed


def from_stored(content: bytes | Array, name: str, shape: tuple[int, ...]) -> Array:
    """The array whose bytes are ``content``, as ``stored`` gives them."""
    dtype, bits = numpy_dtype(name), EXTENDED[name][1]
    raw = np.frombuffer(content, np.uint8)
    size = int(np.prod(shape, dtype=np.int64))
    if bits >= 8:
        return raw[: size * bits // 8].view(dtype).reshape(shape).copy()
    each = 8 // bits
    spread = np.stack([(raw >> (place * bits)) & ((1 << bits) - 1) for place in range(each)], axis=-1).reshape(-1)
    narrow = spread[:size]
    if name.startswith("int"):  # ml_dtypes keeps a signed element sign-extended in its byte
        signs = 1 << (bits - 1)
        return ((narrow.astype(np.int8) ^ signs) - signs).astype(dtype).reshape(shape)
    return narrow.astype(np.uint8).view(dtype).reshape(shape).copy()
