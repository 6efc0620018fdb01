"""Confidence intervals of a mean or median over few items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_COVERAGE = 0.95


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % bootstrap percentile interval of the mean; ``None`` for fewer than two values.

    Deterministic for a seed: the same values give the same interval everywhere.
    """
    return _interval(values, seed, lambda resampled: resampled.mean(axis=1))


def median_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """The same of the median, which is what times are summed up by."""
    return _interval(values, seed, lambda resampled: np.median(resampled, axis=1))


def _interval(
    values: Sequence[float], seed: int, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    samples = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(samples), (_RESAMPLES, len(samples)))
    tail = (1 - _COVERAGE) / 2
    low, high = np.quantile(statistic(samples[picks]), [tail, 1 - tail])
    return float(low), float(high)
