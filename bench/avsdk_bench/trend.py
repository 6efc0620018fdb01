"""Whether something grows over time: the slope of a series with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from avsdk_bench.statistics import CONFIDENCE, Interval

_FEWEST = 6


def slope(times: Sequence[float], values: Sequence[float]) -> Interval | None:
    """The Theil-Sen slope, the median over all pairs of points, with its 95 % interval; None for fewer than 6 points.

    A few wild points move neither. The points are taken as independent. Source: Sen, Estimates of the Regression
    Coefficient Based on Kendall's Tau, 1968.
    """
    x, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.size < _FEWEST:
        return None
    first, second = np.triu_indices(x.size, k=1)
    apart = x[second] != x[first]
    slopes = np.sort((y[second] - y[first])[apart] / (x[second] - x[first])[apart])
    if not slopes.size:
        return None
    spread = math.sqrt(x.size * (x.size - 1) * (2 * x.size + 5) / 18.0)
    reach = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0) * spread
    low = max(0, math.floor((slopes.size - reach) / 2.0))
    high = min(slopes.size - 1, math.ceil((slopes.size + reach) / 2.0))
    return Interval(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def verdict(found: Interval) -> str:
    """``grows``, ``shrinks`` or ``no trend shown``."""
    if found.contains(0.0):
        return "no trend shown"
    return "grows" if found.low > 0 else "shrinks"
