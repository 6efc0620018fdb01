"""Average precision by hand, with ties by every order of them, and against the plain way on random data."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk_train.metrics.average_precision import (
    Ranking,
    _inverse_sum,
    acoustic_precisions,
    cross_view_precision,
    downsampled,
    tied_precisions,
    warped_precisions,
)
from avsdk_train.metrics.dtw import Segments

Array = NDArray[Any]


def on_circle(*degrees: float) -> Array:
    return np.array([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees])


def plain(ranked: list[bool], counted: list[bool] | None = None) -> float:
    """Precision at every counted match of a list without ties."""
    counted = counted or ranked
    return float(np.mean([np.mean(ranked[: k + 1]) for k in range(len(ranked)) if counted[k]]))


def ranking_of(distances: Array, matches: Array) -> Ranking:
    ranking = Ranking()
    ranking.add(distances, matches, matches, np.zeros(int(matches.sum()), np.int64))
    return ranking


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ([1, 1, 0], 1.0),
        ([0, 1], 0.5),
        ([1, 0, 1, 0, 1], (1 + 2 / 3 + 3 / 5) / 3),
        ([0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
    ],
)
def test_by_hand(matches: list[int], expected: float) -> None:
    marks = np.array(matches, bool)
    found = ranking_of(np.arange(len(marks)) / 10, marks).average_precision()
    assert found.value == pytest.approx(expected)
    assert (found.pairs, found.positives) == (len(matches), sum(matches))


@pytest.mark.parametrize(
    ("groups", "break_even"),
    [([[1], [1], [0]], 1.0), ([[0], [0], [1]], 0.5 * (1 / 3 + 0)), ([[1], [0], [1], [0], [0], [1]], 2 / 3)],
)
def test_precision_meets_recall(groups: list[list[int]], break_even: float) -> None:
    marks = np.array([mark for group in groups for mark in group], bool)
    found = ranking_of(np.arange(len(marks)) / 10, marks).average_precision().break_even
    assert found == pytest.approx(break_even)


@pytest.mark.parametrize(
    "groups", [[[1, 0]], [[0], [1, 1, 0]], [[1, 0, 0], [1, 0], [1, 1]], [[0, 0, 0, 1, 1]], [[1], [1, 0, 0, 1]]]
)
def test_a_tie_counts_with_the_mean_over_all_its_orders(groups: list[list[int]]) -> None:
    orders = itertools.product(*(list(itertools.permutations(group)) for group in groups))
    lists = [[bool(mark) for group in order for mark in group] for order in orders]
    marks = np.array([mark for group in groups for mark in group], bool)
    distances = np.repeat(np.arange(len(groups)) / 10, [len(group) for group in groups])
    expected = np.mean([plain(ranked) for ranked in lists])
    assert ranking_of(distances, marks).average_precision().value == pytest.approx(expected)


def test_large_ties_are_summed_as_exactly_as_small_ones() -> None:
    pairs, matches = np.array([40.0, 5000.0, 2.0, 70.0, 900_000.0]), np.array([3.0, 70.0, 1.0, 70.0, 5.0])
    found = tied_precisions(pairs, matches)
    before = hits = 0.0
    for k, (g, p) in enumerate(zip(pairs, matches, strict=True)):
        r = np.arange(1, g + 1)
        expected = np.mean((hits + 1 + (r - 1) * (p - 1) / (g - 1)) / (before + r))
        assert found[k] == pytest.approx(expected, rel=1e-11)
        before, hits = before + g, hits + p
    assert tied_precisions(np.array([3.0]), np.array([0.0]))[0] == 0


@pytest.mark.parametrize(("first", "count"), [(0, 70), (0, 5000), (1000, 100), (1024, 65), (5e7, 100), (10, 1e6)])
def test_the_sum_of_inverses(first: float, count: float) -> None:
    expected = math.fsum(1 / k for k in range(int(first) + 1, int(first + count) + 1))
    assert _inverse_sum(np.array([first]), np.array([count]))[0] == pytest.approx(expected, rel=1e-12)


def plainly(distances: Array, matches: Array, counted: Array) -> float:
    order = np.argsort(distances, kind="stable")
    return plain(list(matches[order]), list(counted[order]))


def test_spoken_pairs_agree_with_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsdk_train.metrics.average_precision._BLOCK", 700)  # several blocks, the last one short
    random = np.random.default_rng(0)
    words, speakers = random.integers(0, 12, 90), random.integers(0, 4, 90)
    vectors = random.normal(size=(90, 6)) + random.normal(size=(12, 6))[words]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = np.triu_indices(90, 1)
    distances = 1 - (units[one] * units[other]).sum(1)
    same = words[one] == words[other]
    differ = same & (speakers[one] != speakers[other])
    found, apart = acoustic_precisions(7 * vectors, [f"w{word}" for word in words], [str(name) for name in speakers])
    assert found.value == pytest.approx(plainly(distances, same, same), abs=1e-5)
    assert (found.pairs, found.positives) == (90 * 89 // 2, same.sum())
    assert apart is not None
    assert apart.value == pytest.approx(plainly(distances, same, differ), abs=1e-5)
    assert apart.positives == differ.sum()
    for score in (found, apart):
        assert score.interval is not None
        assert score.interval[0] < score.value < score.interval[1]


def test_views_agree_with_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsdk_train.metrics.average_precision._BLOCK", 100)
    random = np.random.default_rng(1)
    words = random.integers(0, 15, 60)  # of which the vocabulary has 12
    written = random.normal(size=(12, 5))
    spoken = random.normal(size=(60, 5)) + random.normal(size=(15, 5))[words]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (spoken, written)]
    distances = (1 - unit[0] @ unit[1].T).reshape(-1)
    same = (words[:, None] == np.arange(12)).reshape(-1)
    found = cross_view_precision(spoken, [f"{w}" for w in words], written, [f"{w}" for w in range(12)])
    assert found.value == pytest.approx(plainly(distances, same, same), abs=1e-5)
    assert (found.pairs, found.positives) == (60 * 12, same.sum())


def test_warped_pairs_agree_with_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsdk_train.metrics.average_precision._BLOCK", 2000)
    random = np.random.default_rng(2)
    segments = Segments(random.normal(size=(200, 4)), np.arange(20) * 10, random.integers(3, 10, 20))
    words, speakers = random.integers(0, 5, 20), random.integers(0, 2, 20)
    one, other = np.triu_indices(20, 1)
    distances = segments.distances(one, other)
    same = words[one] == words[other]
    found, apart = warped_precisions(segments, [str(w) for w in words], [str(s) for s in speakers])
    assert found.value == pytest.approx(plainly(distances, same, same), abs=1e-5)
    assert apart is not None
    assert found.pairs == 190


def test_identical_embeddings_share_their_place_and_perfect_ones_score_one() -> None:
    words = ["to", "two", "to", "two"]
    same = np.ones((4, 3))
    assert acoustic_precisions(same, words, "abcd")[0].value == pytest.approx(
        np.mean([plain(list(order)) for order in set(itertools.permutations([True, True, False, False, False, False]))])
    )
    assert acoustic_precisions(on_circle(0, 90, 1, 91), words, "aabb")[0].value == 1
    assert acoustic_precisions(on_circle(0, 90, 1, 91), words, "aaaa")[1] is None
    assert cross_view_precision(on_circle(0, 90), ["to", "two"], on_circle(1, 91), ["to", "two"]).value == 1


def test_a_token_is_brought_to_a_number_of_frames() -> None:
    np.testing.assert_allclose(
        downsampled(np.array([[0.0, 10], [1, 20], [2, 30]]), 5), [0, 10, 0.5, 15, 1, 20, 1.5, 25, 2, 30]
    )
    np.testing.assert_allclose(downsampled(np.array([[3.0]]), 4), [3, 3, 3, 3])


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(UsageError, match="no two tokens are the same word"):
        acoustic_precisions(on_circle(0, 1), ["a", "b"], ["s", "s"])
    with pytest.raises(UnusableInput, match=r"shape \[2, 2\] with values that are no numbers"):
        acoustic_precisions(np.full((2, 2), np.nan), ["a", "a"], ["s", "s"])
    with pytest.raises(UnusableInput, match=r"shape \[2\]"):
        acoustic_precisions(np.ones(2), ["a", "a"], ["s", "s"])
    with pytest.raises(UsageError, match="a word twice"):
        cross_view_precision(on_circle(0), ["a"], on_circle(0, 1), ["a", "a"])
    with pytest.raises(UnusableInput, match="a distance is no number"):
        ranking_of(np.array([np.nan]), np.array([True]))
