"""How much discrete units tell: bitrate, perplexity, and the share of the codebook that is in use.

Intervals are over recordings: 95 %, the estimate and 1.96 standard errors of the bootstrap to either side. Percentiles
would not do, since a resample of recordings never has more codes, and seldom more entropy, than the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError

_RESAMPLES = 1000
_DEVIATIONS = 1.96

Estimate = tuple[float, tuple[float, float] | None]
"""A value and its interval; ``None`` for a single recording."""


@dataclass(frozen=True)
class UnitScore:
    """``bitrate`` in bit/s, ``perplexity`` in codes, ``codes_used`` in 0-1."""

    bitrate: Estimate
    perplexity: Estimate
    codes_used: Estimate


def unit_score(codes: Sequence[NDArray[Any]], durations_s: Sequence[float], entries: int) -> UnitScore:
    """Of the codes (units,), integers below ``entries``, of recordings that last ``durations_s``."""
    for found, duration_s in zip(codes, durations_s, strict=True):
        _check(found, duration_s, entries)
    counts = np.array([np.bincount(found, minlength=entries) for found in codes], np.float64).reshape(-1, entries)
    if not counts.sum():
        raise UsageError("there is not one code", expected="at least one recording with a code")
    seconds = np.asarray(durations_s, np.float64)

    def measured(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of bitrate, perplexity and share, for rows of weights of the recordings."""
        pooled, total_s = weights @ counts, weights @ seconds
        bits = entropy_bits(pooled)
        return np.stack([pooled.sum(1) / total_s * bits, 2**bits, (pooled > 0).mean(1)])

    values = measured(np.ones((1, len(counts))))[:, 0]
    if len(counts) < 2:
        return UnitScore(*((float(value), None) for value in values))
    picks = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), _RESAMPLES)
    resampled = measured(picks[picks @ counts.sum(1) > 0].astype(np.float64))
    reach = _DEVIATIONS * resampled.std(axis=1)
    highest = (np.inf, float(entries), 1.0)
    return UnitScore(
        *(
            (float(value), (max(0.0, float(value - by)), min(most, float(value + by))))
            for value, by, most in zip(values, reach, highest, strict=True)
        )
    )


def _check(codes: NDArray[Any], duration_s: float, entries: int) -> None:
    whole = codes.ndim == 1 and codes.dtype.kind in "iu"
    if not whole or (len(codes) and not 0 <= codes.min() <= codes.max() < entries):
        raise UnusableInput(
            f"codes of shape {list(codes.shape)} and type {codes.dtype}", expected=f"(units,) integers below {entries}"
        )
    if not 0 < duration_s < float("inf"):
        raise UnusableInput(f"a recording of {duration_s} s", expected="seconds")


def entropy_bits(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The entropy of rows of counts, in bits; no code, no entropy."""
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1e-300)
    return np.asarray(-np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=-1))


def row_codes(features: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """A number for every different row over all recordings, (frames, values) each: what ZeroSpeech calls a symbol."""
    if not features:
        return {}
    _, numbers = np.unique(np.concatenate(list(features.values())), axis=0, return_inverse=True)
    ends = np.cumsum([len(found) for found in features.values()])[:-1]
    return dict(zip(features, np.split(numbers.reshape(-1), ends), strict=True))
