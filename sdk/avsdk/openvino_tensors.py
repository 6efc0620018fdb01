"""OpenVINO: tensors of the types that its Python binding and numpy do not share."""

from __future__ import annotations

from typing import Any

import numpy as np

from avsdk.dtypes import EXTENDED, STRING, from_stored, is_extended, stored
from avsdk.errors import UsageError
from avsdk.session import Array

_TYPES = {
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2",
    "float8_e8m0fnu": "f8e8m0",
    "float4_e2m1fn": "f4e2m1",
    "uint4": "u4",
    "int4": "i4",
    "uint2": "u2",
}


def value_from_array(array: Array) -> Any:
    """What the request takes for an input: the array itself, contiguous, or a tensor of a type that numpy lacks."""
    if not isinstance(array, np.ndarray):
        raise UsageError(
            f"OpenVINO takes tensors, not sequences: it was given a {type(array).__name__}",
            expected="a tensor",
            fix="--target onnxruntime, or a model whose inputs are tensors",
        )
    if array.dtype == object:
        return _binding().Tensor(array.astype(str))
    if not is_extended(array.dtype) or array.dtype.name not in _TYPES:
        return np.asarray(array, order="C")  # not ascontiguousarray, which makes a vector of a scalar
    openvino = _binding()
    kind = getattr(openvino.Type, _TYPES[array.dtype.name])
    tensor = openvino.Tensor(kind, openvino.Shape(array.shape))
    _bytes_of(tensor)[:] = stored(array)
    return tensor


def array_from_tensor(tensor: Any, dtype: str) -> Array:
    """A copy of an output, in the type that the graph's spec says."""
    if dtype == STRING:
        return np.asarray(tensor.str_data, dtype=object).reshape(tuple(tensor.shape))
    if dtype in EXTENDED:
        return from_stored(_bytes_of(tensor), dtype, tuple(tensor.shape))
    found: Array = tensor.data.copy()
    return found


def _bytes_of(tensor: Any) -> Array:
    """The tensor's own memory: its ``data`` is a view in whatever type of numpy has that many bits."""
    found: Array = tensor.data.reshape(-1).view(np.uint8)
    return found


def _binding() -> Any:
    import openvino

    return openvino
