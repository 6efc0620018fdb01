"""What may be said about a set of latencies: medians with intervals, percentiles with enough samples, marked outliers.

Plain Python and numpy, so that it runs wherever a bundle runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
TAIL_CONFIDENCE = 0.99
WINDOW_RUNS = 25
WINDOW_S = 0.5
STEADY_WINDOWS = 3
STEADY_SPREAD = 0.02
OUTLIER_MADS = 14.8
PLACEMENT = 0.003


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def relative_width(self) -> float:
        """The interval's width as a share of the median."""
        return (self.high - self.low) / self.value if self.value else math.inf

    def contains(self, value: float) -> bool:
        """Whether the value lies within."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PairedRatio:
    """How one cell compares with another, round by round: ``ratio`` < 1 means that the first is faster."""

    ratio: Interval
    rounds: int

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or ``no difference shown``."""
        if self.ratio.contains(1.0):
            return "no difference shown"
        return "faster" if self.ratio.high < 1.0 else "slower"


@dataclass(frozen=True)
class WarmUp:
    """Where the steady part of a series begins, and whether a steady part was seen at all."""

    dropped: int
    steady: bool


def median_interval(round_medians: ArrayLike, *, seed: int = 0) -> Interval | None:
    """The median over rounds with its bootstrap interval; None with fewer than two rounds, which show no spread.

    Rounds are resampled, not iterations: iterations of one round share its disturbances and are not independent. The
    plain percentiles of so few rounds cover too little (87 % of 95 % with seven), so they are expanded. With five
    rounds the interval is the whole range, which covers the true median with 93.75 %; from six on it is 95 % or more.
    """
    values = np.asarray(round_medians, dtype=np.float64)
    if values.size < 2:
        return None
    chosen = np.random.default_rng(seed).integers(0, values.size, size=(RESAMPLES, values.size))
    medians = np.median(values[chosen], axis=1)
    tail = expanded_tail(values.size)
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return Interval(float(np.median(values)), float(low), float(high))


def expanded_tail(n: int) -> float:
    """The share to cut off each end of a bootstrap of ``n`` values so that the rest covers 95 %: below 2.5 % for few.

    ``Phi(-sqrt(n / (n - 1)) t)`` with Student's quantile t by its expansion in 1 / (n - 1) (Abramowitz and Stegun
    26.7.5). Source: Hesterberg, What Teachers Should Know about the Bootstrap, 2014, section 3.2.
    """
    z, v = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0), n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return NormalDist().cdf(-t * math.sqrt(n / v))


def paired_ratio(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> PairedRatio | None:
    """Compare two cells by the ratio of their medians within each round, so that a slow round slows both.

    The interval is that of the median ratio, wider by ``PLACEMENT`` at each end: rounds cannot see what two processes
    of one and the same program differ by, as where their memory lies. Source: Mytkowicz et al., Producing Wrong Data
    Without Doing Anything Obviously Wrong, ASPLOS 2009; the amount is what ``bench/numbers/self_test.py`` showed.
    """
    ratios = np.asarray(first, dtype=np.float64) / np.asarray(second, dtype=np.float64)
    found = median_interval(ratios, seed=seed)
    if found is None:
        return None
    low, high = found.low * (1.0 - PLACEMENT), found.high * (1.0 + PLACEMENT)
    return PairedRatio(Interval(found.value, low, high), int(ratios.size))


def allowed_over(n: int, percentile: float) -> int:
    """How many of ``n`` latencies may lie above a bound that still holds for the percentile with 99 % confidence.

    The largest t with P(Binomial(n, 1 - percentile) <= t) <= 0.01, the early-stopping rule of MLPerf LoadGen (written
    there as the incomplete beta function I(percentile; n - t, t + 1)). Returns -1 where not even t = 0 is allowed.
    """
    log_under, log_over = math.log(percentile), math.log1p(-percentile)
    total, t = 0.0, -1
    while t < n:
        k = t + 1
        chosen = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(chosen + k * log_over + (n - k) * log_under)
        if total > 1.0 - TAIL_CONFIDENCE:
            return t
        t = k
    return t


def minimum_samples(percentile: float) -> int:
    """The least number of samples from which the percentile may be stated: 64 for p90, 130 for p95, 662 for p99."""
    low, high = 1, 1
    while allowed_over(high, percentile) < 1:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if allowed_over(middle, percentile) >= 1 else (middle + 1, high)
    return low


def percentile_bound(samples: ArrayLike, percentile: float) -> float | None:
    """An upper bound of the percentile with 99 % confidence, or None where there are too few samples to state one."""
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    allowed = allowed_over(ordered.size, percentile)
    return float(ordered[ordered.size - allowed]) if allowed >= 1 else None


def outliers(samples: ArrayLike) -> list[int]:
    """The places of samples further than 14.8 median absolute deviations from the median: to be marked, not deleted."""
    values = np.asarray(samples, dtype=np.float64)
    if not values.size:
        return []
    distance = np.abs(values - np.median(values))
    spread = float(np.median(distance))
    return [int(place) for place in np.flatnonzero(distance > OUTLIER_MADS * spread)] if spread else []


def window_ends(durations_s: Sequence[float] | Floats, runs: int = WINDOW_RUNS, seconds: float = WINDOW_S) -> list[int]:
    """Cut a series into windows of at least ``runs`` runs and ``seconds``; an unfinished last window is left out."""
    ends: list[int] = []
    start, elapsed = 0, 0.0
    for place, duration in enumerate(durations_s, start=1):
        elapsed += duration
        if place - start >= runs and elapsed >= seconds:
            ends.append(place)
            start, elapsed = place, 0.0
    return ends


def warm_up(durations_s: ArrayLike, runs: int = WINDOW_RUNS, seconds: float = WINDOW_S) -> WarmUp:
    """Find the change point: drop the longest prefix of windows whose last one lies off the median of all later ones.

    Off is more than 2 % either way. Steady means that the last three windows have medians within 2 % of each other. A
    series too short for three windows is never called steady.
    """
    series = np.asarray(durations_s, dtype=np.float64)
    ends = window_ends(series, runs, seconds)
    if len(ends) < STEADY_WINDOWS:
        return WarmUp(dropped=0, steady=False)
    starts = [0, *ends[:-1]]
    medians = [float(np.median(series[start:end])) for start, end in zip(starts, ends, strict=True)]
    last = medians[-STEADY_WINDOWS:]
    steady = max(last) <= min(last) * (1.0 + STEADY_SPREAD)
    for place in reversed(range(len(ends) - STEADY_WINDOWS)):
        later = float(np.median(series[ends[place] :]))
        if abs(medians[place] / later - 1.0) > STEADY_SPREAD:
            return WarmUp(dropped=ends[place], steady=steady)
    return WarmUp(dropped=0, steady=steady)
