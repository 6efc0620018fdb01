"""Block floating point, as the FPGA AI Suite's multipliers take their inputs: one exponent per block of channels.

| arch_precision | mantissa                             | exponent |
|----------------|--------------------------------------|----------|
| FP11           | sign and 6 bits (INT7-BFP)           | 5 bits   |
| FP16           | sign and 11 bits (INT12-BFP)         | 5 bits   |

The mantissas of a block of ``c_vector`` channels are aligned to the block's largest exponent and rounded. Source:
FPGA AI Suite Handbook 2025.3, 9.4.1 Block Floating Point. Not in it, and chosen here: ties round to even, a magnitude
that rounds up past the mantissa is held at its largest value, and the exponent has fp16's range, smaller values
losing bits as fp16's do. With that, no element moves by more than 2**-bits of its block's largest magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnknownName

Array = NDArray[Any]

_LEAST_EXPONENT, _GREATEST_EXPONENT = -14, 15


@dataclass(frozen=True)
class BlockFormat:
    """``bits`` of magnitude beside the sign."""

    name: str
    bits: int


FORMATS = {"fp11": BlockFormat("FP11", 6), "fp16": BlockFormat("FP16", 11)}
"""The values of ``arch_precision`` that Arria 10 has; FP12AGX and FP13AGX are Agilex's."""


def load_format(name: str) -> BlockFormat:
    """The format of this name, in small letters or as the .arch file writes it."""
    if name.lower() not in FORMATS:
        raise UnknownName.among("block floating point format", name, FORMATS)
    return FORMATS[name.lower()]


def quantised(values: Array, block_format: BlockFormat, *, block: int, axis: int, groups: int = 1) -> Array:
    """``values`` as the multipliers see them, in float32, of the same shape.

    ``axis`` holds the channels: ``groups`` of equal size, each cut into blocks of ``block`` (its last one may be
    shorter), so that no block spans two groups.
    """
    moved = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    channels = moved.shape[-1] // groups
    grouped = moved.reshape(*moved.shape[:-1], groups, channels)
    missing = -channels % block
    padded = np.pad(grouped, [(0, 0)] * (grouped.ndim - 1) + [(0, missing)]) if missing else grouped
    blocks = padded.reshape(*padded.shape[:-1], -1, block)
    rounded = _rounded(blocks, block_format.bits).reshape(padded.shape)[..., :channels]
    return np.ascontiguousarray(np.moveaxis(rounded.reshape(moved.shape), -1, axis))


def _rounded(blocks: Array, bits: int) -> Array:
    """Every block of the last axis on the grid of its largest exponent."""
    _, exponent = np.frexp(np.abs(blocks).max(axis=-1, keepdims=True))
    shared = np.clip(exponent - 1, _LEAST_EXPONENT, _GREATEST_EXPONENT)
    step = np.ldexp(np.float32(1), shared + 1 - bits)
    largest = np.float32(2**bits - 1)
    return np.asarray(np.clip(np.rint(blocks / step), -largest, largest) * step, np.float32)
