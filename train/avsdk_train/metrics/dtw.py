"""Dynamic time warping of many pairs of sequences at once, in numpy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_VALUES_AT_ONCE = 1 << 19
"""Frame distances that one thread holds at a time: they stay in its cache."""
_FEW = 1024
"""Of at most so many different frames, as a codebook makes them, all distances are kept in one table."""


def angular_distances(one: Floats, other: Floats) -> Floats:
    """``arccos(cosine) / pi`` between the rows of (..., n, d) and (..., m, d): (..., n, m), in 0..1.

    A zero vector is at 1 from any other and at 0 from another zero vector, as in ABXpy.
    """
    return _angles(_directions(one), _directions(other))


def warped_distances(costs: Floats, rows: Counts, columns: Counts) -> Floats:
    """The mean cost along each pair's best path, from frame distances (pairs, n, m): (pairs,).

    Of pair ``b`` the corner ``costs[b, :rows[b], :columns[b]]`` counts. Steps lead down, right and diagonally, each of
    weight 1, and the sum is divided by the number of cells on the path. Among equally good steps back the diagonal one
    is taken, else the one to the left (ABXpy's order, on which the length depends).

    All cells of an anti-diagonal are independent, so they are computed at once, for all pairs.
    """
    pairs, n, m = costs.shape
    by_cell = np.ascontiguousarray(costs.reshape(pairs, n * m).T)
    # Buffers for this anti-diagonal and the two before it, by row + 1; what lies outside the matrix stays infinite.
    totals = [np.full((n + 1, pairs), np.inf) for _ in range(3)]
    lengths = [np.zeros((n + 1, pairs), np.int32) for _ in range(3)]
    ends = rows + columns - 2
    found = np.empty(pairs)
    for diagonal in range(n + m - 1):
        low, high = max(0, diagonal - m + 1), min(n - 1, diagonal)
        here, before, further = diagonal % 3, (diagonal - 1) % 3, (diagonal - 2) % 3
        start, step = diagonal + low * (m - 1), max(1, m - 1)
        cost = by_cell[start : start + (high - low) * step + 1 : step]
        if diagonal == 0:
            total, length = cost, np.ones((1, pairs), np.int32)
        else:
            to, above = slice(low + 1, high + 2), slice(low, high + 1)
            left, up, corner = totals[before][to], totals[before][above], totals[further][above]
            side = np.minimum(left, up)
            total = np.minimum(side, corner) + cost
            length = np.where(left <= up, lengths[before][to], lengths[before][above])
            length = np.where(corner <= side, lengths[further][above], length) + 1
        totals[here][low + 1 : high + 2], lengths[here][low + 1 : high + 2] = total, length
        ended = np.flatnonzero(ends == diagonal)
        if len(ended):
            place = rows[ended] - 1 - low
            found[ended] = total[place, ended] / length[place, ended]
    return found


class Segments:
    """Stretches of frames, and the warped angular distances between any two of them.

    ``frames`` is (frames, d); segment ``s`` is ``frames[first[s] : first[s] + length[s]]``. Where there are few
    different frames, as codes make them, equal pairs of frames get exactly the same distance, and ties stay ties.
    """

    def __init__(self, frames: NDArray[Any], first: Counts, length: Counts) -> None:
        self._first, self._length = first, length
        self._directions = _directions(np.asarray(frames, np.float64))
        self._table: Floats | None = None
        if len(np.unique(frames[: 4 * _FEW], axis=0)) <= _FEW:
            units, kinds = np.unique(frames, axis=0, return_inverse=True)
            if len(units) <= _FEW:
                self._kinds = kinds.reshape(-1)
                table = angular_distances(units.astype(np.float64), units.astype(np.float64))
                self._table = (table + table.T) / 2
                np.fill_diagonal(self._table, 0)

    def __len__(self) -> int:
        return len(self._first)

    def distances(self, one: Counts, other: Counts, threads: int = 1) -> Floats:
        """The warped distance between the segments ``one[k]`` and ``other[k]``, for every ``k``."""
        rows, columns = self._length[one], self._length[other]
        parts = _parts(rows, columns)
        found = np.empty(len(one))

        def compute(part: Counts) -> None:
            found[part] = warped_distances(self._costs(one[part], other[part]), rows[part], columns[part])

        if threads == 1 or len(parts) == 1:
            for part in parts:
                compute(part)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(compute, parts))
        return found

    def _costs(self, one: Counts, other: Counts) -> Floats:
        """Frame distances (pairs, n, m); shorter segments are filled up with their last frame."""
        rows, columns = self._places(one), self._places(other)
        if self._table is not None:
            found: Floats = self._table[self._kinds[rows][:, :, None], self._kinds[columns][:, None, :]]
            return found
        return _angles(self._directions[rows], self._directions[columns])

    def _places(self, segments: Counts) -> Counts:
        length = self._length[segments]
        steps = np.minimum(np.arange(length.max()), length[:, None] - 1)
        return np.asarray(self._first[segments, None] + steps)


def _parts(rows: Counts, columns: Counts) -> list[Counts]:
    """Cut a list of pairs into those that are computed at once: of nearly the same size, so little is filled up."""
    classes = (np.log2(np.stack([rows, columns])) * 4).astype(np.int64)
    kinds = classes[0] * 256 + classes[1]
    order = np.argsort(kinds, kind="stable")
    parts: list[Counts] = []
    for group in np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1):
        most = max(1, _VALUES_AT_ONCE // int(rows[group].max() * columns[group].max()))
        parts += [group[begin : begin + most] for begin in range(0, len(group), most)]
    return parts


def _directions(vectors: Floats) -> Floats:
    norms = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    return np.asarray(np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0))


def _angles(one: Floats, other: Floats) -> Floats:
    """The angular distances between vectors of length 1 or 0."""
    distances: Floats = np.matmul(one, np.swapaxes(other, -1, -2))
    np.clip(distances, -1, 1, out=distances)
    np.arccos(distances, out=distances)
    distances /= np.pi
    empty_row, empty_column = _is_zero(one)[..., :, None], _is_zero(other)[..., None, :]
    if empty_row.any() or empty_column.any():
        distances = np.where(empty_row & empty_column, 0.0, np.where(empty_row ^ empty_column, 1.0, distances))
    return distances


def _is_zero(vectors: Floats) -> NDArray[np.bool_]:
    return np.asarray(~np.any(vectors, axis=-1))
