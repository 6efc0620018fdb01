"""ABX: warping, cells, averaging and ties by hand, and item files that are damaged or do not fit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk_train.metrics.abx import Limits, abx_cells, abx_score
from avsdk_train.metrics.dtw import Segments, angular_distances, warped_distances
from avsdk_train.metrics.items import COLUMNS, Item, check_items, read_items, write_items

Floats = NDArray[np.float64]


def directions(*degrees: float) -> Floats:
    """One frame per angle in the plane: their angular distance is the difference over 180."""
    return np.array([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees])


def warped(costs: list[list[float]]) -> float:
    found = warped_distances(np.array([costs], float), np.array([len(costs)]), np.array([len(costs[0])]))
    return float(found[0])


def plainly_warped(costs: Floats) -> float:
    """Sum, then walk back, one cell at a time."""
    n, m = costs.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i, j in itertools.product(range(n), range(m)):
        total[i + 1, j + 1] = costs[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    i, j, length = n, m, 1
    while (i, j) != (1, 1):
        corner, left, up = total[i - 1, j - 1], total[i, j - 1], total[i - 1, j]
        if corner <= left and corner <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        length += 1
    return float(total[n, m]) / length


# -- distances ---------------------------------------------------------------------------------------------------------


def test_the_frame_distance_is_the_angle_and_zero_frames_are_far_from_all_but_each_other() -> None:
    found = angular_distances(np.vstack([directions(0, 90), [[0, 0]]]), np.vstack([3 * directions(0, 180), [[0, 0]]]))
    np.testing.assert_allclose(found, [[0, 1, 1], [0.5, 0.5, 1], [1, 1, 0]], atol=1e-8)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([[0.3]], 0.3),
        ([[0.1, 0.2, 0.3]], 0.6 / 3),  # one row: all of it
        ([[0.1], [0.2]], 0.3 / 2),
        ([[0, 1], [1, 0]], 0.0),  # the diagonal
        ([[1, 0], [0, 1]], 2 / 2),  # the diagonal again: 1 + 1 over two cells, as good as 1 + 0 + 1 over three
        ([[0, 1], [0, 0]], 0.0),
        ([[0.2, 0.9, 0.9], [0.1, 0.9, 0.9], [0.9, 0.4, 0.5]], 1.2 / 4),  # down, diagonal, right: 0.2 + 0.1 + 0.4 + 0.5
    ],
)
def test_warping_by_hand(costs: list[list[float]], expected: float) -> None:
    assert warped(costs) == pytest.approx(expected, abs=1e-12)


def test_warping_agrees_with_the_plain_way_at_any_sizes_and_with_many_ties() -> None:
    random = np.random.default_rng(0)
    rows, columns = random.integers(1, 9, 300), random.integers(1, 9, 300)
    for costs in (random.random((300, 8, 8)), random.integers(0, 3, (300, 8, 8)) / 2.0):
        found = warped_distances(costs, rows, columns)
        plain = [plainly_warped(costs[k, :n, :m]) for k, (n, m) in enumerate(zip(rows, columns, strict=True))]
        np.testing.assert_allclose(found, plain, rtol=1e-12)


@pytest.mark.parametrize("kinds", [5, 100_000], ids=["codes", "continuous"])
def test_segments_are_compared_alike_whatever_they_are_computed_with(kinds: int) -> None:
    random = np.random.default_rng(1)
    units = random.normal(size=(kinds, 6))
    frames = units[random.integers(0, kinds, 3000)]
    length = random.integers(1, 14, 100)
    segments = Segments(frames, np.arange(100) * 30, length)
    one, other = random.integers(0, 100, (2, 500))
    found = segments.distances(one, other, threads=2)
    pieces = [frames[30 * k : 30 * k + length[k]] for k in range(100)]
    plain = [plainly_warped(angular_distances(pieces[a], pieces[b])) for a, b in zip(one[:60], other[:60], strict=True)]
    np.testing.assert_allclose(found[:60], plain, atol=1e-7)
    np.testing.assert_array_equal(found, segments.distances(one, other))
    if kinds == 5:
        assert (found[one == other] == 0).all()  # exactly: the distance of a code to itself is no rounding error


# -- cells and averages ------------------------------------------------------------------------------------------------


def token(phone: str, speaker: str, place: int, context: str = "a a") -> Item:
    """One token per second of a recording per speaker."""
    before, after = context.split()
    return Item(speaker, place + 0.2, place + 0.8, phone, before, after, speaker)


def at_one_frame_per_second(**angles: list[float]) -> dict[str, Floats]:
    return {speaker: directions(*found) for speaker, found in angles.items()}


def test_within_speakers_by_hand() -> None:
    items = [token("p", "s", 0), token("p", "s", 1), token("q", "s", 2)]
    features = at_one_frame_per_second(s=[0, 40, 60])
    # A=0, X=40: 40 against 20, wrong; A=40, X=0: 40 against 60, right. q has one token only, so it is never A.
    score = abx_score(items, features, 1, "within")
    assert (score.error, score.cells, score.interval) == (50, 1, None)


def test_across_speakers_by_hand() -> None:
    items = [token("p", "s", 0), token("q", "s", 1), token("p", "t", 0), token("q", "t", 1)]
    features = at_one_frame_per_second(s=[0, 90], t=[50, 80])
    # (p, q, s, t): X=50, A=0, B=90: wrong. (q, p, s, t): X=80, A=90: right.
    # (p, q, t, s): X=0, A=50, B=80: right. (q, p, t, s): X=90, A=80: right.
    assert abx_score(items, features, 1, "across").error == pytest.approx(25)
    assert abx_score(items, features, 1, "across").cells == 4


def test_equal_distances_count_half() -> None:
    items = [token("p", "s", 0), token("p", "s", 1), token("q", "s", 2)]
    assert abx_score(items, at_one_frame_per_second(s=[7, 7, 7]), 1, "within").error == 50
    assert abx_score(items, at_one_frame_per_second(s=[0, 40, -40]), 1, "within").error == 25  # a tie, a right answer


def test_cells_are_averaged_over_contexts_then_speakers_then_phones() -> None:
    items, angles = [], []
    # Speaker s: p is told from q wrongly in one context and rightly in two; speaker t: rightly in its only one.
    for context, (a, x, b) in {"1 1": (0, 50, 50), "2 2": (0, 1, 90), "3 3": (0, 1, 90)}.items():
        for phone, angle in (("p", a), ("p", x), ("q", b)):
            items.append(token(phone, "s", len(angles), context))
            angles.append(float(angle))
    items += [token(phone, "t", place, "1 1") for place, phone in enumerate("ppq")]
    features = at_one_frame_per_second(s=angles, t=[0, 1, 90])
    # In "1 1", A=0 and X=50: B is nearer, wrong; A=50 and X=0: a tie. So 0.75; 0.25 over contexts; 0.125 over speakers.
    assert abx_score(items, features, 1, "within").error == pytest.approx(12.5)
    # Another pair of phones, always right, counts as much as p and q do.
    more = [*items, token("r", "t", 3, "9 9"), token("r", "t", 4, "9 9"), token("q", "t", 5, "9 9")]
    wider = {**features, "t": directions(0, 1, 90, 0, 1, 90)}
    score = abx_score(more, wider, 1, "within")
    assert score.error == pytest.approx(6.25)
    assert score.interval is not None
    assert score.interval[0] <= score.error <= score.interval[1]


def test_the_years_differ_in_how_they_average_across_speakers() -> None:
    # A and B of s; X of t in two contexts (wrong, wrong), of u in one (right).
    items = [token(phone, "s", place, context) for place, (phone, context) in enumerate(
        itertools.product("pq", ("1 1", "2 2")))]  # fmt: skip
    items += [token("p", "t", 0, "1 1"), token("p", "t", 1, "2 2"), token("p", "u", 0, "1 1")]
    features = at_one_frame_per_second(s=[0, 0, 90, 90], t=[80, 80], u=[10])
    assert abx_score(items, features, 1, "across", averaging="2019").error == pytest.approx(50)
    assert abx_score(items, features, 1, "across", averaging="2021").error == pytest.approx(200 / 3)


def test_the_result_does_not_depend_on_threads_and_separable_phones_make_no_error() -> None:
    random = np.random.default_rng(2)
    items = [token("pq"[k % 2], "st"[k // 2 % 2], k, f"{k // 4 % 5} x") for k in range(80)]
    noise = {speaker: random.normal(size=(80, 4)) for speaker in "st"}
    one, two = (abx_score(items, noise, 1, "across", threads=threads) for threads in (1, 2))
    assert one == two
    assert 20 < one.error < 80
    told_apart = {s: np.eye(2)[np.arange(80) % 2] for s in "st"}
    assert abx_score(items, told_apart, 1, "across").error == 0


def test_large_files_are_thinned_out_alike_every_time() -> None:
    items = [token("pq"[k % 2], "stuvw"[k // 2 % 5], k) for k in range(200)]
    limits = Limits(tokens=3, other_speakers=2)
    cells = abx_cells(items, "across", limits)
    assert {len(part) for cell in cells for part in (cell.a, cell.b, cell.x)} == {3}
    assert len(cells) == 2 * 5 * 2
    again = abx_cells(items, "across", limits)
    assert all((one.x == two.x).all() for one, two in zip(cells, again, strict=True))


def test_no_triplet_is_an_error() -> None:
    items = [token("p", "s", 0), token("q", "t", 1)]
    with pytest.raises(UsageError, match="the 2 tokens of the item file make no triplet within speakers"):
        abx_score(items, at_one_frame_per_second(s=[0, 1], t=[0, 1]), 1, "within")


# -- which frames a token has ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("onset", "offset", "rate", "expected"),
    [
        (0.0, 0.05, 100, (0, 4)),
        (0.57, 0.64, 100, (57, 63)),  # 0.57 * 100 - 0.5 is 56.49999 in binary
        (0.005, 0.025, 100, (0, 2)),  # the middles at 0.005 and 0.025 count
        (0.006, 0.024, 100, (1, 1)),
        (0.51, 0.67, 25, (13, 16)),
        (0.57, 0.60, 25, (14, 14)),
        (0.581, 0.599, 25, (14, 14)),  # holds the middle of no frame
        (0.90, 1.00, 100, (90, 94)),  # the recording ends before
    ],
)
def test_a_token_takes_the_frames_whose_middle_it_holds(
    onset: float, offset: float, rate: float, expected: tuple[int, int]
) -> None:
    assert Item("f", onset, offset, "p", "a", "b", "s").frames(rate, 95) == expected


# -- item files --------------------------------------------------------------------------------------------------------

HEADER = " ".join(COLUMNS)
LINE = "f 0.1 0.2 AA B C s"


def item_file(folder: Path, *lines: str) -> Path:
    path = folder / "test.item"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_item_file_is_read_and_written(tmp_path: Path) -> None:
    items = read_items(item_file(tmp_path, HEADER, LINE, "", "g 0.25 0.5 BB AA C t"))
    assert items == [Item("f", 0.1, 0.2, "AA", "B", "C", "s"), Item("g", 0.25, 0.5, "BB", "AA", "C", "t")]
    write_items(tmp_path / "again.item", items)
    assert read_items(tmp_path / "again.item") == items
    turned = item_file(tmp_path, " ".join(reversed(COLUMNS)), " ".join(reversed(LINE.split())))
    assert read_items(turned) == items[:1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no column #file, onset"),
        (["file onset offset"], "has no column #file, #phone"),
        ([HEADER], "names no token"),
        ([HEADER, LINE, "f 0.1 0.2 AA B C"], "line 3 has 6 columns(.|\n)*Expected: 7"),
        ([HEADER, LINE + " more"], "line 2 has 8 columns"),
        ([HEADER, "f zero 0.2 AA B C s"], "line 2 has the times zero and 0.2"),
        ([HEADER, "f 0.3 0.2 AA B C s"], "line 2 runs from 0.3 to 0.2 s"),
        ([HEADER, "f -0.3 0.2 AA B C s"], "line 2 runs from -0.3"),
        ([HEADER, "f 0.1 nan AA B C s"], "line 2 runs from 0.1 to nan s"),
        ([HEADER, "f 0.1 inf AA B C s"], "line 2 runs from 0.1 to inf s"),
    ],
)
def test_a_damaged_item_file_is_refused_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        read_items(item_file(tmp_path, *lines))


def test_an_item_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnusableInput, match="x.item cannot be read"):
        read_items(tmp_path / "x.item")
    with pytest.raises(UnusableInput, match="y.item cannot be read"):
        read_items(tmp_path / "y.item")


def test_tokens_outside_the_recordings_are_refused() -> None:
    items = [Item("1688-0001", 0.5, 1.0, "AA", "B", "C", "s")]
    check_items(items, {"1688-0001": 1.0})
    check_items(items, {"1688-0001": 0.99})  # an alignment counts in frames of 10 ms
    with pytest.raises(UnusableInput, match=r"AA of 1688-0001 at 0.5-1 s, and the recording ends at 0.900 s"):
        check_items(items, {"1688-0001": 0.9})
    with pytest.raises(UnusableInput, match="'1688-0001', which is not in the data(.|\n)*did you mean '1688-0002'"):
        check_items(items, {"1688-0002": 1.0})


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "no features of 's'"),
        ({"s": np.zeros(3)}, r"features of 's' have the shape \[3\]"),
        ({"s": np.zeros((0, 2))}, r"the shape \[0, 2\]"),
        ({"s": np.full((3, 2), np.nan)}, "values that are no numbers"),
    ],
)
def test_features_that_do_not_fit_are_refused(features: dict[str, Floats], message: str) -> None:
    items = [token("p", "s", 0), token("p", "s", 1), token("q", "s", 2)]
    with pytest.raises(UnusableInput, match=message):
        abx_score(items, features, 1, "within")


def test_two_scores_of_the_same_items_are_compared_in_pairs() -> None:
    """Features are better by less than contexts differ among each other: the pairs show it all the same."""
    random = np.random.default_rng(0)
    items, features = [], {}
    for place, (context, phone, speaker) in enumerate(itertools.product(range(12), "ab", "xyz")):
        items.append(Item(f"f{place}", 0.0, 0.1, phone, f"c{context}", "n", speaker))
        own = directions(*(20.0 * (phone == "b") + random.normal(0, 3.0 + 3.0 * context, 10)))
        features[f"f{place}"] = own
    clearer = {
        item.file: features[item.file] + (0.1 if item.phone == "b" else -0.1) * np.array([[0.0, 1.0]]) for item in items
    }
    plain, better = (abx_score(items, found, 100.0, "across") for found in (features, clearer))
    gain, interval = better.gain_over(plain)
    assert gain == pytest.approx(plain.error - better.error)
    assert interval is not None and plain.interval is not None
    assert 0 < interval[0] <= gain <= interval[1]
    assert interval[1] - interval[0] < plain.interval[1] - plain.interval[0]
    assert plain.gain_over(plain) == (0.0, (0.0, 0.0))
    fewer = abx_score(items[:-6], features, 100.0, "across")
    assert fewer.gain_over(plain)[1] is None, "of other items, so that nothing can be paired"
