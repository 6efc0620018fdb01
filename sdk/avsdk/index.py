"""Vectors of recordings on disk, and the search among them. The only module that imports usearch.

    X.avidx/index.json     written last: whose vectors they are, the recordings, the hashes of the other files
            vectors.npy    float32 (n, size), each of length 1; memory-mapped
            places.npy     float64 (n, 2): where in its recording each vector begins and ends, in seconds
            graph.usearch  only beyond ``EXACT_MOST`` vectors and where usearch is installed: an approximate index

An index belongs to one bundle, by the hash of its manifest: vectors of another model mean nothing to it. It is
untrusted until ``open_index`` has parsed its description strictly and checked every file's hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from avsdk.bundle import MANIFEST, Bundle
from avsdk.errors import IndexRefused, NotAvailable, UsageError
from avsdk.files import safe_join, sha256_file
from avsdk.schema import check_schema, decode

DESCRIPTION = "index.json"
VECTORS, PLACES, GRAPH = "vectors.npy", "places.npy", "graph.usearch"
EXACT_MOST = 100_000
"""Up to so many vectors are searched by their dot products, all of them; beyond, usearch finds the candidates."""
SUFFIX = ".avidx"
_MAX_DESCRIPTION_BYTES = 256 << 20
_CANDIDATES = 8  # of the approximate index per hit that is asked for; they are then compared exactly
_OVERLAP = 0.5

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Owner:
    """The bundle that made the vectors: where it was, and the SHA-256 of its manifest, which hashes all the rest."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Recording:
    """One recording of the folder: its relative path, what tells whether it changed, and which vectors are its own."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str
    first: int
    count: int


@dataclass(frozen=True)
class Description:
    """What an index says of itself. ``root``: the folder of the recordings. ``skipped``: the unreadable ones, why."""

    owner: Owner
    root: str
    size: int
    count: int
    recordings: tuple[Recording, ...]
    files: Mapping[str, str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    avsdk: str = ""


@dataclass(frozen=True)
class Hit:
    """A found place: the recording's relative path, from where to where in seconds, and the cosine."""

    path: str
    start_s: float
    end_s: float
    score: float


class Index:
    """An opened index."""

    def __init__(self, path: Path, description: Description, vectors: Vectors, places: NDArray[np.float64]) -> None:
        self.path = path
        self.description = description
        self.vectors = vectors
        self.places = places
        self._firsts = np.array([item.first for item in description.recordings], np.int64)
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, query: NDArray[Any], top: int = 10) -> list[Hit]:
        """The ``top`` places nearest to a vector (size,), best first.

        Of places that overlap by more than half only the best counts. Raises ``UsageError`` for another size.
        """
        if query.shape != (self.description.size,):
            raise UsageError(
                f"the query has shape {query.shape}", expected=f"({self.description.size},), as {self.path} holds"
            )
        exact = np.asarray(query, np.float32)
        wanted = top
        while True:
            rows, scores = self._nearest(exact, wanted)
            hits = self._apart(rows, scores, top)
            if len(hits) == top or len(rows) == len(self):
                return hits
            wanted *= 4

    def _nearest(self, query: Vectors, wanted: int) -> tuple[NDArray[np.int64], Vectors]:
        """So many rows or more with their cosines, best first; equal ones in the order of the index."""
        if GRAPH in self.description.files and wanted * _CANDIDATES < len(self):
            rows = np.sort(self._approximate(query, wanted * _CANDIDATES))
            scores = np.asarray(self.vectors[rows] @ query)
        else:
            scores = np.asarray(self.vectors @ query)
            kept = min(len(scores), wanted)
            least = np.partition(scores, len(scores) - kept)[len(scores) - kept] if kept else np.inf
            rows = np.flatnonzero(scores >= least)
            scores = scores[rows]
        order = np.argsort(-scores, kind="stable")
        return rows[order], scores[order]

    def _approximate(self, query: Vectors, wanted: int) -> NDArray[np.int64]:
        if self._graph is None:
            graph = usearch_index().Index(ndim=self.description.size, metric="ip")
            graph.view(str(self.path / GRAPH))
            self._graph = graph
        found = np.asarray(self._graph.search(query, wanted).keys, np.int64)
        if found.size and (found.min() < 0 or found.max() >= len(self)):
            raise IndexRefused(f"{self.path} names a vector that it does not have", expected="a whole index")
        return found

    def _apart(self, rows: NDArray[np.int64], scores: Vectors, top: int) -> list[Hit]:
        taken: dict[int, list[tuple[float, float]]] = {}
        hits: list[Hit] = []
        for row, score in zip(rows.tolist(), scores.tolist()):
            if len(hits) == top:
                break
            which = int(np.searchsorted(self._firsts, row, side="right")) - 1
            start, end = (float(value) for value in self.places[row])
            before = taken.setdefault(which, [])
            if all(_shared(start, end, *other) <= _OVERLAP for other in before):
                before.append((start, end))
                hits.append(Hit(self.description.recordings[which].path, start, end, float(score)))
        return hits


def open_index(path: Path, owner: Bundle | None = None) -> Index:
    """Open an index; with ``owner`` make sure that its vectors are of this bundle.

    Raises ``UsageError`` where there is none, ``IndexRefused`` where it is damaged, hostile, newer than this avsdk, or
    of another model.
    """
    if not (path / DESCRIPTION).is_file():
        raise UsageError(
            f"{path} is no index", expected=f"a folder with {DESCRIPTION}", fix="avsdk index BUNDLE FOLDER"
        )
    description = _read_description(path)
    if owner is not None and owner_of(owner).sha256 != description.owner.sha256:
        raise IndexRefused(
            f"{path} holds vectors of another model: of {description.owner.path}",
            expected=f"an index of {owner.path}",
            fix=f"avsdk index {owner.path} {description.root} --out {path}",
        )
    for name, digest in description.files.items():
        if sha256_file(safe_join(path, name, refused=IndexRefused)) != digest:
            raise IndexRefused(
                f"{name} of {path} is damaged", expected=f"SHA-256 {digest[:12]}...", fix="build the index again"
            )
    vectors = _mapped(path / VECTORS, (description.count, description.size), np.float32)
    places = _mapped(path / PLACES, (description.count, 2), np.float64)
    return Index(path, description, vectors, places)


def owner_of(bundle: Bundle) -> Owner:
    """What an index remembers of its bundle."""
    return Owner(str(bundle.path.resolve()), sha256_file(bundle.path / MANIFEST))


def usearch_index() -> Any:
    """The module ``usearch.index``. Raises ``NotAvailable``."""
    try:
        from usearch import index
    except ImportError as error:
        raise NotAvailable(
            f"more than {EXACT_MOST} vectors are searched by usearch, which cannot be imported: {error}",
            expected="the package usearch",
            fix="pip install 'avsdk[search]'",
        ) from error
    return index


def _read_description(path: Path) -> Description:
    file = safe_join(path, DESCRIPTION, refused=IndexRefused)
    if file.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise IndexRefused(f"{file} has {file.stat().st_size} bytes", expected=f"at most {_MAX_DESCRIPTION_BYTES}")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IndexRefused(f"{file} is no JSON: {error}", expected="an index's description") from error
    found = decode(
        Description, check_schema(document, where=str(file), refused=IndexRefused), where=str(file),
        refused=IndexRefused,
    )  # fmt: skip
    _check(found, file)
    return found


def _check(found: Description, file: Path) -> None:
    """The recordings share the vectors out without gap, and only files that are known are named."""
    ends = [0]
    for item in found.recordings:
        if item.first != ends[-1] or item.count < 0:
            raise IndexRefused(f"{file}: {item.path!r} begins at vector {item.first}", expected=str(ends[-1]))
        ends.append(item.first + item.count)
    if ends[-1] != found.count or found.size < 1:
        raise IndexRefused(f"{file}: {found.count} vectors of {found.size}", expected=f"{ends[-1]} vectors")
    if not {VECTORS, PLACES} <= set(found.files) <= {VECTORS, PLACES, GRAPH}:
        raise IndexRefused(f"{file} lists {sorted(found.files)}", expected=f"{VECTORS}, {PLACES}, {GRAPH}")


def _mapped(path: Path, shape: Sequence[int], dtype: type) -> Any:
    """The array of an ``.npy`` file, mapped; its own header must say what is expected."""
    try:
        with path.open("rb") as stream:
            version = npy.read_magic(stream)
            header = npy.read_array_header_1_0(stream) if version == (1, 0) else None
            offset = stream.tell()
    except (ValueError, OSError, EOFError) as error:
        raise IndexRefused(
            f"{path} is no array: {error}", expected="a NumPy file", fix="build the index again"
        ) from error
    wanted = (tuple(shape), False, np.dtype(dtype))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if header != wanted or path.stat().st_size != offset + size:
        raise IndexRefused(f"{path} holds {header}", expected=f"{wanted}", fix="build the index again")
    if not size:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=tuple(shape))


def _shared(start: float, end: float, other_start: float, other_end: float) -> float:
    """The time that two places share, as a share of the shorter one."""
    common = min(end, other_end) - max(start, other_start)
    return max(0.0, common) / max(1e-9, min(end - start, other_end - other_start))
