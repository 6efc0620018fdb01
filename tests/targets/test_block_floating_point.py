"""Block floating point against a slow reference in exact fractions, and the properties that it promises."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_numpy

from avsdk.errors import UnknownName
from avsdk_targets.block_floating_point import FORMATS, BlockFormat, load_format, quantised

ARRAYS = some_numpy.arrays(
    np.float32,
    some_numpy.array_shapes(min_dims=2, max_dims=4, max_side=9),
    elements=some.floats(-60000, 60000, width=32, allow_subnormal=False),
)
BITS = some.sampled_from([2, 6, 11])
BLOCKS = some.sampled_from([1, 3, 4, 16])


def one_block(values: list[float], bits: int) -> list[float]:
    """The definition, spelt out: exact fractions, one number at a time."""
    peak = max((abs(value) for value in values), default=0.0)
    exponent = min(max(math.floor(math.log2(peak)) if peak else -14, -14), 15)
    while peak and exponent < 15 and Fraction(peak) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while peak and exponent > -14 and Fraction(peak) < Fraction(2) ** exponent:
        exponent -= 1
    step = Fraction(2) ** (exponent + 1 - bits)
    largest = 2**bits - 1
    return [float(max(-largest, min(largest, round(Fraction(value) / step))) * step) for value in values]


def reference(values: np.ndarray, bits: int, block: int, groups: int) -> np.ndarray:
    """Axis 1 holds the channels."""
    found = values.copy()
    channels = values.shape[1] // groups
    for place in np.ndindex(values.shape[0], *values.shape[2:]):
        for group in range(groups):
            for first in range(0, channels, block):
                low = group * channels + first
                high = group * channels + min(first + block, channels)
                where = (place[0], slice(low, high), *place[1:])
                found[where] = one_block([float(value) for value in values[where]], bits)
    return found


@settings(deadline=None, max_examples=60)
@given(ARRAYS, BITS, BLOCKS)
def test_equals_the_definition_in_exact_fractions(values: np.ndarray, bits: int, block: int) -> None:
    found = quantised(values, BlockFormat("any", bits), block=block, axis=1)
    assert np.array_equal(found, reference(values, bits, block, groups=1))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_block_never_spans_two_groups(groups: int) -> None:
    values = np.random.default_rng(3).standard_normal((2, 12, 5)).astype(np.float32) * np.logspace(-4, 4, 5)
    found = quantised(values, FORMATS["fp11"], block=8, axis=1, groups=groups)
    assert np.array_equal(found, reference(values.astype(np.float32), 6, 8, groups))


@settings(deadline=None, max_examples=60)
@given(ARRAYS, BITS, BLOCKS)
def test_no_element_moves_by_more_than_a_mantissa_step_of_its_block(values: np.ndarray, bits: int, block: int) -> None:
    found = quantised(values, BlockFormat("any", bits), block=block, axis=1)
    for first in range(0, values.shape[1], block):
        part, moved = values[:, first : first + block], found[:, first : first + block]
        peak = np.maximum(np.abs(part).max(axis=1, keepdims=True), 2.0**-14).astype(np.float64)
        assert (np.abs(part.astype(np.float64) - moved) <= peak * 2.0**-bits).all()


@settings(deadline=None, max_examples=60)
@given(ARRAYS, BITS, BLOCKS)
def test_what_is_on_the_grid_stays(values: np.ndarray, bits: int, block: int) -> None:
    once = quantised(values, BlockFormat("any", bits), block=block, axis=1)
    assert np.array_equal(quantised(once, BlockFormat("any", bits), block=block, axis=1), once)


def test_small_whole_numbers_are_exact() -> None:
    numbers = np.arange(-63, 64, dtype=np.float32)[None]
    assert np.array_equal(quantised(numbers, FORMATS["fp11"], block=16, axis=1), numbers)
    assert np.array_equal(quantised(numbers * 32 + 1, FORMATS["fp16"], block=64, axis=1), numbers * 32 + 1)


@settings(deadline=None, max_examples=60)
@given(ARRAYS, BLOCKS)
def test_more_bits_are_never_further_off(values: np.ndarray, block: int) -> None:
    errors = [
        np.abs(values - quantised(values, BlockFormat("any", bits), block=block, axis=1).astype(np.float64))
        for bits in (2, 4, 6, 8, 11)
    ]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert (fine <= coarse).all()


def test_the_axis_is_the_callers() -> None:
    values = np.random.default_rng(0).standard_normal((3, 20, 4)).astype(np.float32)
    along = quantised(values, FORMATS["fp11"], block=8, axis=1)
    assert np.array_equal(
        quantised(values.transpose(1, 0, 2), FORMATS["fp11"], block=8, axis=0).transpose(1, 0, 2), along
    )
    assert not np.array_equal(quantised(values, FORMATS["fp11"], block=8, axis=2), along)


def test_values_beyond_the_exponent_are_held_and_those_below_are_lost() -> None:
    values = np.array([[1e6, 2.0**-30, 0.0]], np.float32)
    found = quantised(values, FORMATS["fp16"], block=1, axis=1)
    assert found[0, 0] == 2047 * 2.0**5
    assert found[0, 1] == found[0, 2] == 0


def test_a_format_that_arria_10_does_not_have_is_refused() -> None:
    assert load_format("FP11").bits == 6
    with pytest.raises(UnknownName, match="unknown block floating point format 'FP13AGX'"):
        load_format("FP13AGX")
