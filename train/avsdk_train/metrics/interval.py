"""Confidence intervals of a mean over few items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 2000
_COVERAGE = 0.95


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % bootstrap percentile interval of the mean; ``None`` for fewer than two values.

    Deterministic for a seed: the same values give the same interval everywhere.
    """
    if len(values) < 2:
        return None
    samples = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(samples), (_RESAMPLES, len(samples)))
    tail = (1 - _COVERAGE) / 2
    low, high = np.quantile(samples[picks].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
