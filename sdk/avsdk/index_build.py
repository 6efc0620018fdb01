"""Building an index: every recording of a folder embedded once, also after an interruption, and then what changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from avsdk import __version__
from avsdk.arrays import read_arrays
from avsdk.errors import AvsdkError, DiskFull, IndexRefused, NotAvailable, NotMet, UnusableInput, UsageError
from avsdk.files import atomic_folder, sha256_file, typed_write_errors, write_atomic
from avsdk.index import (
    DESCRIPTION,
    EXACT_MOST,
    GRAPH,
    PLACES,
    SUFFIX,
    VECTORS,
    Description,
    Index,
    Owner,
    Recording,
    Vectors,
    open_index,
    usearch_index,
)
from avsdk.schema import SCHEMA, encode


@dataclass(frozen=True)
class Embedded:
    """What a recording became: ``vectors`` float32 (n, size), ``places`` float64 (n, 2) in seconds."""

    vectors: Vectors
    places: NDArray[np.float64]


class Distribute(Protocol):
    """Embeds many recordings, in whatever order they are done; an error of one is its answer, and the others go on."""

    def __call__(self, files: Sequence[Path]) -> Iterable[tuple[Path, Embedded | AvsdkError]]:
        """Each file with what became of it."""


@dataclass(frozen=True)
class Built:
    """How a build went: recordings embedded now, those taken from before, and the unreadable ones with the reason."""

    index: Index
    embedded: int
    kept: int
    skipped: Mapping[str, str]


def build_index(
    folder: Path,
    suffixes: Sequence[str],
    out: Path,
    owner: Owner,
    distribute: Distribute,
    advance: Callable[[int], None] = lambda count: None,
) -> Built:
    """Bring the index ``out`` up to date with the recordings beneath ``folder``, whole or not at all.

    Recordings that did not change keep their vectors. A build that was interrupted has left the finished recordings
    beside ``out``, and the next one takes them. Raises ``UsageError`` for a folder without recordings,
    ``UnusableInput`` where none of them could be read, ``IndexRefused`` where a damaged index stands at ``out``.
    """
    files = recordings_beneath(folder, suffixes)
    _check_out(out)
    known = _Known(folder, out, owner)
    waiting = [file for file in files if not known.has(file)]
    advance(len(files) - len(waiting))
    skipped: dict[str, str] = {}
    for file, answer in distribute(waiting):
        advance(1)
        if isinstance(answer, Embedded):
            known.keep(file, answer)
        elif isinstance(answer, (DiskFull, NotMet)):  # the same for every recording
            raise answer
        else:
            skipped[_name(folder, file)] = answer.failed
    usable = [file for file in files if _name(folder, file) not in skipped]
    if not usable:
        name, reason = next(iter(skipped.items()))
        raise UnusableInput(f"none of the {len(files)} recordings can be used; {name}: {reason}", expected="recordings")
    _write(out, owner, folder, [(file, *known.read(file)) for file in usable], skipped)
    known.forget()
    return Built(open_index(out), len(waiting) - len(skipped), len(files) - len(waiting), skipped)


def recordings_beneath(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of these kinds beneath a folder, in the order of their names; hidden ones are left out."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", expected="a folder of recordings")
    found = [
        file for file in folder.rglob("*")
        if file.suffix.lower() in suffixes and file.is_file() and not any(
            part.startswith(".") for part in file.relative_to(folder).parts)
    ]  # fmt: skip
    if not found:
        raise UsageError(f"{folder} holds no recording", expected=f"files of the kinds {' '.join(suffixes)}")
    return sorted(found, key=lambda file: _name(folder, file))


class _Known:
    """What is known of recordings before they are embedded: by the index that stands there, or an interrupted build.

    A recording is the same by size and time, else by its content. What a build finishes is kept beside the index, one
    ``.npz`` for each recording, named by its identity and the model's.
    """

    def __init__(self, folder: Path, out: Path, owner: Owner) -> None:
        self._folder, self._owner = folder, owner
        self._parts = out.with_name(f".{out.name}.parts")
        before = open_index(out) if out.exists() else None
        self._before = before if before is not None and before.description.owner.sha256 == owner.sha256 else None
        self._recordings = {item.path: item for item in self._before.description.recordings} if self._before else {}

    def has(self, file: Path) -> bool:
        """Whether the vectors of the recording as it is now are known."""
        return self._old(file) is not None or self._part(file).is_file()

    def keep(self, file: Path, found: Embedded) -> None:
        """Write what a recording became."""
        path = self._part(file)
        with typed_write_errors(path):
            self._parts.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            with temporary.open("wb") as stream:
                np.savez(stream, vectors=found.vectors, places=found.places)
            temporary.replace(path)

    def read(self, file: Path) -> tuple[Embedded, str]:
        """The vectors of a recording, and the hash of its content. Raises ``UnusableInput`` where it has changed."""
        old = self._old(file)
        if old is not None and self._before is not None:
            own = slice(old.first, old.first + old.count)
            return Embedded(self._before.vectors[own], self._before.places[own]), old.sha256
        part = self._part(file)
        if not part.is_file():
            raise UnusableInput(f"{file} changed while it was indexed", expected="files that stay", fix="run it again")
        found = read_arrays(part, lambda why: IndexRefused(f"{part} is damaged: {why}", fix="remove it, and run again"))
        return Embedded(found["vectors"], found["places"]), sha256_file(file)

    def forget(self) -> None:
        """Everything is in the index now."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def _old(self, file: Path) -> Recording | None:
        old, status = self._recordings.get(_name(self._folder, file)), file.stat()
        if old is None or old.bytes != status.st_size:
            return None
        return old if old.mtime_ns == status.st_mtime_ns or old.sha256 == sha256_file(file) else None

    def _part(self, file: Path) -> Path:
        status = file.stat()
        facts = [self._owner.sha256, _name(self._folder, file), status.st_size, status.st_mtime_ns]
        return self._parts / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.npz"


def _check_out(out: Path) -> None:
    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out} ends in {out.suffix!r}", expected=f"a name that ends in {SUFFIX}")
    if out.exists() and not (out / DESCRIPTION).is_file():
        raise UsageError(f"{out} is there and is no index", expected="a new name, or an index to bring up to date")


def _write(
    out: Path, owner: Owner, folder: Path, found: Sequence[tuple[Path, Embedded, str]], skipped: Mapping[str, str]
) -> None:
    recordings: list[Recording] = []
    first = 0
    for file, item, digest in found:
        status = file.stat()
        recordings.append(
            Recording(_name(folder, file), status.st_size, status.st_mtime_ns, digest, first, len(item.vectors))
        )
        first += len(item.vectors)
    vectors = np.concatenate([np.asarray(item.vectors, np.float32) for _, item, _ in found])
    with atomic_folder(out) as temporary:
        np.save(temporary / VECTORS, vectors)
        np.save(temporary / PLACES, np.concatenate([np.asarray(item.places, np.float64) for _, item, _ in found]))
        if len(vectors) > EXACT_MOST:
            _write_graph(temporary / GRAPH, vectors)
        description = Description(
            owner=owner,
            root=str(folder.resolve()),
            size=vectors.shape[1],
            count=len(vectors),
            recordings=tuple(recordings),
            files={item.name: sha256_file(item) for item in sorted(temporary.iterdir())},
            skipped=skipped,
            avsdk=__version__,
        )
        document: dict[str, Any] = {"schema": SCHEMA, **encode(description)}
        write_atomic(temporary / DESCRIPTION, json.dumps(document, indent=1) + "\n")


def _write_graph(path: Path, vectors: Vectors) -> None:
    """The approximate index, where usearch is installed; without it the search stays exact, and slower."""
    with contextlib.suppress(NotAvailable):
        graph = usearch_index().Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
        graph.add(np.arange(len(vectors)), vectors)
        graph.save(str(path))


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
