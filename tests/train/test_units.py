"""Bitrate, perplexity and use of a codebook, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from avsdk.errors import UnusableInput, UsageError
from avsdk_train.metrics.units import row_codes, unit_score


def test_by_hand() -> None:
    # Pooled: four of 0, two of 1, two of 2: 1.5 bits; eight codes over four seconds: 3 bit/s.
    score = unit_score([np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2])], [1.0, 3.0], entries=4)
    assert score.bitrate[0] == pytest.approx(3.0)
    assert score.perplexity[0] == pytest.approx(2**1.5)
    assert score.codes_used[0] == 0.75


def test_one_code_tells_nothing_and_all_equally_tell_the_most() -> None:
    silent = unit_score([np.zeros(25, int)], [1.0], entries=64)
    assert (silent.bitrate, silent.perplexity, silent.codes_used) == ((0.0, None), (1.0, None), (1 / 64, None))
    full = unit_score([np.arange(64)], [2.56], entries=64)
    assert full.bitrate[0] == pytest.approx(150)  # 25 a second, 6 bits each
    assert full.perplexity[0] == pytest.approx(64)
    assert full.codes_used[0] == 1


def test_intervals_cover_what_another_sample_gives() -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(32, 0.5))

    def sample() -> list[Any]:
        return [random.choice(32, 100, p=shares) for _ in range(40)]

    score = unit_score(sample(), [4.0] * 40, 32)
    again = [unit_score(sample(), [4.0] * 40, 32).bitrate[0] for _ in range(40)]
    value, interval = score.bitrate
    assert interval is not None
    assert interval[0] < value < interval[1]
    assert np.std(again) == pytest.approx((interval[1] - interval[0]) / 2 / 1.96, rel=0.4)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([0, 4]), "integers below 4"),
        (np.array([-1, 2]), "integers below 4"),
        (np.array([0.5]), "type float64"),
        (np.array([[1]]), r"shape \[1, 1\]"),
    ],
)
def test_what_is_no_code_is_refused(codes: Any, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        unit_score([codes], [1.0], entries=4)


def test_durations_and_emptiness_are_refused() -> None:
    with pytest.raises(UnusableInput, match="a recording of 0 s"):
        unit_score([np.array([1])], [0], entries=4)
    with pytest.raises(UsageError, match="not one code"):
        unit_score([np.array([], int)], [1.0], entries=4)


def test_a_symbol_is_a_whole_row() -> None:
    rows = {"a": np.array([[0.5, 1.0], [0.5, -1.0]]), "b": np.array([[0.5, 1.0]])}
    found = row_codes(rows)
    assert found["a"][0] == found["b"][0] != found["a"][1]
    assert row_codes({}) == {}
