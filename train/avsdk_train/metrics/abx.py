"""ABX discriminability of phones: how often a token is nearer to another phone than to its own, in percent.

A and X are tokens of one phone, B of another one, all in the same context. Within speakers all three are one speaker's;
across speakers X is another's. A cell's error is the share of its triplets with d(X, A) > d(X, B), and half the share
of those with equal distances, which codes often make; the distances are those of ``avsdk_train.metrics.dtw``.

Cells are averaged as the ZeroSpeech challenges do, who differ across speakers. 2019 and 2020: over contexts, then over
pairs of speakers, then over ordered pairs of phones. 2021, and Libri-light: over contexts and speakers of X together,
then over speakers of A, then over ordered pairs of phones. Within speakers both are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk_train.metrics.dtw import Counts, Floats, Segments
from avsdk_train.metrics.items import Item

Speakers = Literal["within", "across"]
Averaging = Literal["2019", "2021"]
"""The year of the challenge whose order of averaging is taken."""

_RESAMPLES = 1000
_COVERAGE = 0.95
_PAIRS_AT_ONCE = 1 << 20
_EQUAL = 1e-12
"""Sums of the same distances in another order differ by this much at most."""


@dataclass(frozen=True)
class Limits:
    """How large item files are thinned out, as for Libri-light: at random, by ``seed``. ``None`` is no limit."""

    tokens: int | None = None
    """Of one phone, context and speaker."""
    other_speakers: int | None = None
    """That X is taken from, for each A and B."""
    seed: int = 0


@dataclass(frozen=True)
class AbxScore:
    """The error in percent, its 95 % bootstrap interval over contexts, and how many cells it is the mean of.

    ``means``: the error in each resample. Scores of the same items are resampled alike, so that they can be paired.
    """

    error: float
    interval: tuple[float, float] | None
    cells: int
    means: tuple[float, ...] = field(default=(), repr=False)

    def gain_over(self, other: AbxScore) -> tuple[float, tuple[float, float] | None]:
        """How many points lower the error is than another's on the same items, with the paired 95 % interval."""
        if self.cells != other.cells or not self.means:
            return other.error - self.error, None
        return other.error - self.error, _interval(np.asarray(other.means) - np.asarray(self.means))


@dataclass(frozen=True)
class Cell:
    """The triplets of two phones in one context: tokens by number. Within speakers X are the other tokens of A."""

    phones: tuple[str, str]
    context: tuple[str, str]
    speakers: tuple[str, str]
    a: Counts
    b: Counts
    x: Counts


def abx_score(
    items: Sequence[Item],
    features: Mapping[str, NDArray[Any]],
    rate_hz: float,
    speakers: Speakers,
    *,
    averaging: Averaging = "2021",
    limits: Limits | None = None,
    threads: int = 1,
) -> AbxScore:
    """The error of features (frames, d) by recording, at ``rate_hz`` frames per second.

    Raises ``UnusableInput`` where the features do not fit the items, ``UsageError`` where no triplet can be made.
    """
    cells = abx_cells(items, speakers, limits or Limits())
    if not cells:
        raise UsageError(
            f"the {len(items)} tokens of the item file make no triplet {speakers} speakers",
            expected="two phones in the same context, "
            + ("one of them twice by a speaker" if speakers == "within" else "one of them by two speakers"),
        )
    errors = cell_errors(cells, item_segments(items, features, rate_hz), threads=threads)
    return averaged(cells, errors, averaging)


def item_segments(items: Sequence[Item], features: Mapping[str, NDArray[Any]], rate_hz: float) -> Segments:
    """The frames of every token."""
    names = list(dict.fromkeys(item.file for item in items))
    begin, total = {}, 0
    for name in names:
        if name not in features:
            raise UnusableInput(
                f"there are no features of {name!r}", expected="features of every recording of the items"
            )
        found = features[name]
        if found.ndim != 2 or not len(found) or not np.isfinite(found).all():
            raise UnusableInput(
                f"the features of {name!r} have the shape {list(found.shape)}"
                + ("" if np.isfinite(found).all() else " and values that are no numbers"),
                expected="finite numbers, (frames, values), at least one frame",
            )
        begin[name] = total
        total += len(found)
    spans = np.array([item.frames(rate_hz, len(features[item.file])) for item in items])
    first = np.array([begin[item.file] for item in items]) + spans[:, 0]
    return Segments(np.concatenate([features[name] for name in names]), first, spans[:, 1] - spans[:, 0] + 1)


def abx_cells(items: Sequence[Item], speakers: Speakers, limits: Limits) -> list[Cell]:
    """All cells, in a fixed order."""
    random = np.random.default_rng(limits.seed)
    contexts: dict[tuple[str, str], dict[tuple[str, str], list[int]]] = {}
    for index, item in enumerate(items):
        contexts.setdefault(item.context, {}).setdefault((item.speaker, item.phone), []).append(index)
    cells: list[Cell] = []
    for context, groups in sorted(contexts.items()):
        tokens = {key: _thinned(np.array(group), limits.tokens, random) for key, group in sorted(groups.items())}
        make = _cells_within if speakers == "within" else _cells_across
        cells += make(context, tokens, limits, random)
    return cells


def cell_errors(cells: Sequence[Cell], segments: Segments, *, threads: int = 1) -> Floats:
    """The error of every cell, 0..1. A distance that several cells need is computed once."""
    sizes = np.cumsum([len(cell.x) * (len(cell.a) + len(cell.b)) for cell in cells])
    cuts = np.flatnonzero(np.diff(sizes // _PAIRS_AT_ONCE)) + 1
    parts = [cells[begin:end] for begin, end in itertools.pairwise([0, *cuts.tolist(), len(cells)])]
    return np.concatenate([_errors_of_some(part, segments, threads) for part in parts])


def averaged(cells: Sequence[Cell], errors: Floats, averaging: Averaging = "2021") -> AbxScore:
    """The error over all cells, and its interval over contexts: the cells of a context share their tokens."""
    contexts = _numbered([cell.context for cell in cells])
    speakers = [cell.speakers if averaging == "2019" else cell.speakers[0] for cell in cells]
    groups = _numbered(list(zip([cell.phones for cell in cells], speakers, strict=True)))
    phones = _numbered([cell.phones for cell in cells])[np.unique(groups, return_index=True)[1]]

    def mean(weights: Floats) -> float:
        by_group, has_group = _means(groups, errors, weights)
        by_phones, has_phones = _means(phones, by_group, has_group.astype(np.float64))
        return 100 * float(by_phones[has_phones].mean())

    error = mean(np.ones(len(cells)))
    count = int(contexts.max()) + 1
    if count < 2:
        return AbxScore(error, None, len(cells))
    random = np.random.default_rng(0)
    picks = (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(_RESAMPLES))
    means = [mean(pick[contexts].astype(np.float64)) for pick in picks]
    return AbxScore(error, _interval(np.asarray(means)), len(cells), tuple(means))


def _interval(means: Floats) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - _COVERAGE) / 2, (1 + _COVERAGE) / 2])
    return float(low), float(high)


def _means(groups: Counts, values: Floats, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The weighted mean of each group, 0 for one without weight, and which groups have any."""
    total = np.bincount(groups, weights)
    present = total > 0
    return np.bincount(groups, weights * values) / np.where(present, total, 1), present


Tokens = Mapping[tuple[str, str], Counts]
"""By speaker and phone."""


def _cells_within(context: tuple[str, str], tokens: Tokens, limits: Limits, random: np.random.Generator) -> list[Cell]:
    return [
        Cell((phone, other), context, (speaker, speaker), group, tokens[another, other], group)
        for (speaker, phone), group in tokens.items()
        if len(group) > 1
        for another, other in tokens
        if another == speaker and other != phone
    ]


def _cells_across(context: tuple[str, str], tokens: Tokens, limits: Limits, random: np.random.Generator) -> list[Cell]:
    cells = []
    for (speaker, phone), (another, other) in itertools.permutations(tokens, 2):
        if another != speaker or other == phone:
            continue
        listeners = [name for name, spoken in tokens if spoken == phone and name != speaker]
        if limits.other_speakers is not None and len(listeners) > limits.other_speakers:
            listeners = sorted(random.choice(listeners, limits.other_speakers, replace=False))
        cells += [
            Cell(
                (phone, other),
                context,
                (speaker, name),
                tokens[speaker, phone],
                tokens[speaker, other],
                tokens[name, phone],
            )
            for name in listeners
        ]
    return cells


def _errors_of_some(cells: Sequence[Cell], segments: Segments, threads: int) -> Floats:
    count = len(segments)
    wanted = [_pair_keys(cell.x, other, count) for cell in cells for other in (cell.a, cell.b)]
    pairs, places = np.unique(np.concatenate(wanted), return_inverse=True)
    distances = segments.distances(pairs // count, pairs % count, threads)[places]
    errors, begin = np.empty(len(cells)), 0
    for index, cell in enumerate(cells):
        middle = begin + len(cell.x) * len(cell.a)
        end = middle + len(cell.x) * len(cell.b)
        to_a, to_b = distances[begin:middle].reshape(len(cell.x), -1), distances[middle:end].reshape(len(cell.x), -1)
        farther = to_a[:, :, None] - to_b[:, None, :]
        scores = np.where(np.abs(farther) <= _EQUAL, 0.5, farther > 0)
        errors[index] = scores[cell.x[:, None] != cell.a].mean()
        begin = end
    return errors


def _thinned(group: Counts, most: int | None, random: np.random.Generator) -> Counts:
    return group if most is None or len(group) <= most else np.sort(random.choice(group, most, replace=False))


def _pair_keys(x: Counts, other: Counts, count: int) -> Counts:
    return np.asarray((x[:, None] * count + other[None, :]).reshape(-1))


def _numbered(names: Sequence[Any]) -> Counts:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])
