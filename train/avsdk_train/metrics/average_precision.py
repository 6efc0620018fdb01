"""Same-different average precision of word embeddings: are pairs of the same word nearer than pairs of different words?

All pairs are ranked together by distance; AP is the mean, over the pairs of the same word, of the precision at that
pair (Carlin et al. 2011; Kamper et al. 2016). Pairs at equal distances have no order, so such a pair counts with the
precision that it has on average over all orders of them. Distances are equal where they agree to 4.8e-7, the accuracy
of a cosine in float32: pairs are counted in a histogram of so fine bins, block by block, and never held.

Intervals are 95 % by bootstrap over words, given the ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk_train.metrics.dtw import Counts, Floats, Segments

_BINS_PER_UNIT = 1 << 21
_FARTHEST = 2.0
_BLOCK = 1 << 22
"""Pairs at once."""
_FEW = 64
"""Up to so many equal distances the average over their orders is summed term by term."""
_RESAMPLES = 1000


@dataclass(frozen=True)
class AveragePrecision:
    """``value`` in 0-1 with its interval; the precision where recall is the same; how many pairs, how many counted."""

    value: float
    interval: tuple[float, float] | None
    break_even: float
    pairs: int
    positives: int


class Ranking:
    """Pairs by distance. Blocks are added in any order.

    ``matches`` are pairs of the same word. ``counted`` are those of them that AP is the mean over: all, or those of
    different speakers, while the precision is of all matches.
    """

    def __init__(self) -> None:
        bins = int(_FARTHEST * _BINS_PER_UNIT) + 1
        self._pairs, self._matches = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
        self._counted: list[Counts] = []
        self._words: list[Counts] = []

    def add(
        self, distances: NDArray[Any], matches: NDArray[np.bool_], counted: NDArray[np.bool_], words: Counts
    ) -> None:
        """Count pairs (pairs,) at ``distances`` in 0..2; ``words`` are the numbers of the counted pairs' words."""
        if not np.isfinite(distances).all():
            raise UnusableInput("a distance is no number", expected="finite embeddings")
        bins = np.rint(np.clip(distances, 0, _FARTHEST) * distances.dtype.type(_BINS_PER_UNIT)).astype(np.int32)
        self._pairs += np.bincount(bins, minlength=len(self._pairs))
        self._matches += np.bincount(bins[matches], minlength=len(self._pairs))
        self._counted.append(bins[counted].astype(np.int64))
        self._words.append(words)

    @property
    def counted(self) -> int:
        """How many pairs AP is the mean over."""
        return sum(map(len, self._counted))

    def average_precision(self) -> AveragePrecision:
        """Over all that was added. Raises ``UsageError`` where no pair is counted."""
        bins, words = np.concatenate(self._counted), np.concatenate(self._words)
        if not len(bins):
            raise UsageError("no two tokens are the same word, so there is no precision", expected="words that recur")
        filled = np.flatnonzero(self._pairs)
        pairs, matches = self._pairs[filled].astype(np.float64), self._matches[filled].astype(np.float64)
        precisions = np.zeros(len(self._pairs))
        precisions[filled] = tied_precisions(pairs, matches)
        found = precisions[bins]
        return AveragePrecision(
            float(found.mean()),
            _interval_over_words(found, words),
            _break_even(pairs, matches),
            int(pairs.sum()),
            len(bins),
        )


def tied_precisions(pairs: Floats, matches: Floats) -> Floats:
    """The expected precision at a match of each group of equal distances, nearest first: (groups,); 0 without matches.

    With G pairs and P matches before, g pairs and p matches in the group, a match stands at each place r = 1..g alike,
    and (r - 1)(p - 1)/(g - 1) of the others are before it: the mean over r of (P + 1 + (r - 1)(p - 1)/(g - 1))/(G + r).
    """
    before, matched = np.cumsum(pairs) - pairs, np.cumsum(matches) - matches
    found = np.zeros(len(pairs))
    groups = np.flatnonzero(matches)
    g, first, hits = pairs[groups], before[groups], matched[groups] + 1
    slope = (matches[groups] - 1) / np.maximum(g - 1, 1)
    sums = np.zeros(len(groups))
    few = g <= _FEW
    for r in range(1, int(g[few].max(initial=0)) + 1):
        at = few & (g >= r)
        sums[at] += (hits[at] + slope[at] * (r - 1)) / (first[at] + r)
    many = ~few
    inverse = _inverse_sum(first[many], g[many])
    sums[many] = slope[many] * g[many] + (hits[many] - slope[many] * (first[many] + 1)) * inverse
    found[groups] = sums / g
    return found


def acoustic_precisions(
    embeddings: NDArray[Any], words: Sequence[str], speakers: Sequence[str]
) -> tuple[AveragePrecision, AveragePrecision | None]:
    """AP over all pairs of tokens (tokens, size) by cosine distance, and over words of different speakers.

    The second is ``None`` where no word is said by two speakers.
    """
    directions, labels, voices = _directions(embeddings), _numbers(words), _numbers(speakers)
    every, apart = Ranking(), Ranking()
    count = len(directions)
    rows = max(1, _BLOCK // max(count, 1))
    for begin in range(0, count, rows):
        part = slice(begin, min(begin + rows, count))
        later = np.arange(begin, count)[None, :] > np.arange(count)[part, None]
        distances = (1 - directions[part] @ directions[begin:].T)[later]
        same = (labels[part, None] == labels[None, begin:])[later]
        other = (voices[part, None] != voices[None, begin:])[later] & same
        word = np.broadcast_to(labels[part, None], later.shape)[later]
        every.add(distances, same, same, word[same])
        apart.add(distances, same, other, word[other])
    return every.average_precision(), _or_none(apart)


def cross_view_precision(
    spoken: NDArray[Any], words: Sequence[str], written: NDArray[Any], vocabulary: Sequence[str]
) -> AveragePrecision:
    """AP over all pairs of a spoken token (tokens, size) and a written word (words, size), each word once."""
    if len(set(vocabulary)) != len(vocabulary):
        raise UsageError("the vocabulary has a word twice", expected="one embedding per word")
    one, other = _directions(spoken), _directions(written)
    places = {word: index for index, word in enumerate(vocabulary)}
    labels = np.array([places.get(word, -1) for word in words])
    ranking = Ranking()
    rows = max(1, _BLOCK // max(len(other), 1))
    for begin in range(0, len(one), rows):
        part = slice(begin, begin + rows)
        distances = (1 - one[part] @ other.T).reshape(-1)
        same = (labels[part, None] == np.arange(len(other))[None, :]).reshape(-1)
        present = labels[part][labels[part] >= 0]
        ranking.add(distances, same, same, present)
    return ranking.average_precision()


def warped_precisions(
    segments: Segments, words: Sequence[str], speakers: Sequence[str], *, threads: int = 1
) -> tuple[AveragePrecision, AveragePrecision | None]:
    """The same as ``acoustic_precisions`` by warped distances between the tokens' frames: the untrained baseline."""
    labels, voices = _numbers(words), _numbers(speakers)
    every, apart = Ranking(), Ranking()
    count = len(segments)
    rows = max(1, _BLOCK // 16 // max(count, 1))
    for begin in range(0, count - 1, rows):
        one, other = np.triu_indices(count - begin, 1, count - begin)
        inside = one < rows
        one, other = one[inside] + begin, other[inside] + begin
        distances = segments.distances(one, other, threads)
        same = labels[one] == labels[other]
        differ = same & (voices[one] != voices[other])
        every.add(distances, same, same, labels[one][same])
        apart.add(distances, same, differ, labels[one][differ])
    return every.average_precision(), _or_none(apart)


def downsampled(features: NDArray[Any], frames: int = 10) -> NDArray[np.float32]:
    """A token's frames (frames, size) as one vector: ``frames`` of them, evenly spaced from first to last, in between
    by straight lines.
    """
    places = np.linspace(0, len(features) - 1, frames)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(features) - 1)
    share = (places - below)[:, None]
    return np.asarray((1 - share) * features[below] + share * features[above], np.float32).reshape(-1)


def _or_none(ranking: Ranking) -> AveragePrecision | None:
    return ranking.average_precision() if ranking.counted else None


def _interval_over_words(precisions: Floats, words: Counts) -> tuple[float, float] | None:
    totals, counts = np.bincount(words, precisions), np.bincount(words).astype(np.float64)
    totals, counts = totals[counts > 0], counts[counts > 0]
    if len(counts) < 2:
        return None
    picks = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), _RESAMPLES)
    low, high = np.quantile((picks @ totals) / (picks @ counts), [0.025, 0.975])
    return float(low), float(high)


def _break_even(pairs: Floats, matches: Floats) -> float:
    """Where precision, raised to the best at any higher recall, is nearest to recall: the mean of both there."""
    hits = np.cumsum(matches)
    recall = hits / hits[-1]
    precision = np.maximum.accumulate((hits / np.cumsum(pairs))[::-1])[::-1]
    nearest = int(np.argmin(np.abs(precision - recall)))
    return float((precision[nearest] + recall[nearest]) / 2)


def _inverse_sum(first: Floats, count: Floats) -> Floats:
    """1/(first + 1) + ... + 1/(first + count): exact for the first thousand, then by Euler and Maclaurin's formula."""
    exact = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 1025))])
    start = np.maximum(first, np.minimum(1024, first + count))
    head = exact[np.minimum(1024, first + count).astype(np.int64)] - exact[np.minimum(1024, first).astype(np.int64)]
    rest = first + count - start
    middle, end = start + 0.5, start + rest + 0.5
    return np.asarray(head + np.log1p(rest / middle) + (1 / end**2 - 1 / middle**2) / 24)


def _numbers(names: Sequence[str]) -> Counts:
    return np.asarray(np.unique(np.array(list(names), dtype=str), return_inverse=True)[1], np.int64)


def _directions(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    found = np.asarray(embeddings, np.float32)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise UnusableInput(
            f"embeddings of shape {list(found.shape)}"
            + ("" if np.isfinite(found).all() else " with values that are no numbers"),
            expected="finite numbers, (tokens, size)",
        )
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(norms > 0, norms, 1), np.float32)
