"""Which files of a folder calibrate a quantiser, and which are held back to measure what it costs.

The choice is seeded, by the files' names; a file that stands there twice counts once, and none that is measured on may
calibrate, which is told by content.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import UsageError
from avsdk.files import sha256_file

SAMPLES = 64
"""Files that calibrate where nothing else is asked for."""
_HELD_SHARE = 10
_MOST_HELD = 32
_MOST_FILES = 100_000


@dataclass(frozen=True)
class Calibration:
    """What ``--calibration``, ``--data`` and ``--calibration-samples`` said; one of the folders at least."""

    folder: Path | None
    data: Path | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise UsageError(
                f"{self.samples} calibration samples", expected="at least 1", fix="--calibration-samples 64"
            )


def calibration_asked(folder: Path | None, data: Path | None, samples: int | None) -> Calibration | None:
    """What the command line asked for; None where it named no folder. Raises ``UsageError`` for a number alone."""
    if folder is None and samples is not None:
        raise UsageError(
            f"{samples} calibration samples of no folder", expected="a folder", fix="add --calibration DIR"
        )
    return None if folder is None and data is None else Calibration(folder, data, samples)


@dataclass(frozen=True)
class Chosen:
    """Files in the order in which they are tried, more than are wanted: an unreadable one is passed over.

    ``calibrating`` gives ``wanted`` samples, and ``asked`` says whether the user named that number; ``held_back`` is
    measured on. ``duplicates``: files whose content stands in the folder twice.
    """

    calibrating: tuple[Path, ...]
    held_back: tuple[Path, ...]
    wanted: int
    asked: bool = False
    duplicates: int = 0


def content_hash(files: Iterable[str]) -> str:
    """One hash of the files' contents, in their order."""
    return _digest(sha256_file(Path(file)) for file in files)


def listed(folder: Path, option: str) -> list[Path]:
    """Every file beneath the folder, hidden ones left out, by name. Raises ``UsageError`` where there is none."""
    if not folder.is_dir():
        raise UsageError(f"{option} {folder} is no folder", expected="a folder of the model's own inputs")
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not found:
        raise UsageError(f"{option} {folder} is empty", expected="files of the kind that the model is used on")
    if len(found) > _MOST_FILES:
        raise UsageError(f"{option} {folder} holds {len(found)} files", expected=f"at most {_MOST_FILES}")
    return found


def fingerprint(folder: Path | None) -> str:
    """A hash of the names, sizes and times of a folder's files: a part of the key of the build cache."""
    if folder is None or not folder.is_dir():
        return ""
    status = ((file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file())
    return _digest(f"{file.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}" for file, stat in status)


def choose(asked: Calibration, suffixes: Collection[str]) -> Chosen:
    """Choose the files. Raises ``UsageError`` for folders of another kind of media, too few files, and for leaks."""
    held: list[Path] = []
    if asked.data is not None:
        held = _shuffled(asked.data, _of_kind(asked.data, suffixes, "--data"))
    if asked.folder is None:
        return Chosen((), tuple(held[:_MOST_HELD]), 0)
    fitting = _of_kind(asked.folder, suffixes, "--calibration")
    distinct, duplicates = _distinct(_shuffled(asked.folder, fitting))
    if asked.data is not None:
        _require_apart(distinct, held)
        held = held[:_MOST_HELD]
        calibrating = distinct
    else:
        count = min(_MOST_HELD, -(-len(distinct) // _HELD_SHARE))
        held, calibrating = distinct[:count], distinct[count:]
        if not calibrating:
            raise UsageError(
                f"--calibration {asked.folder} holds one sample, which cannot calibrate and be measured on as well",
                expected="two files or more, better a hundred",
                fix="add files, or give others by --data",
            )
    wanted = SAMPLES if asked.samples is None else asked.samples
    if asked.samples is not None and len(calibrating) < wanted:
        raise _too_few(len(calibrating), wanted, duplicates)
    return Chosen(tuple(calibrating), tuple(held), wanted, asked.samples is not None, duplicates)


def require_enough(chosen: Chosen, usable: int, unreadable: Sequence[str]) -> None:
    """Raise ``UsageError`` where unreadable files left none, or fewer than the user asked for."""
    if not usable:
        raise UsageError(
            f"none of {len(unreadable)} files can be read: {unreadable[0]}"
            if unreadable
            else "no file is left to calibrate: the readable ones are held back to measure on",
            expected="files that the model's own preprocessing takes",
            fix="look at them with avsdk run, or give another folder",
        )
    if chosen.asked and usable < chosen.wanted:
        raise _too_few(usable, chosen.wanted, chosen.duplicates, len(unreadable))


def _too_few(found: int, wanted: int, duplicates: int, unreadable: int = 0) -> UsageError:
    others = [f"{duplicates} more are copies"] * bool(duplicates) + [f"{unreadable} cannot be read"] * bool(unreadable)
    return UsageError(
        f"{wanted} calibration samples were asked for and {found} are there"
        + (f"; {', '.join(others)}" if others else ""),
        expected=f"{wanted} different files beside those that are measured on",
        fix=f"--calibration-samples {max(1, found)}, or add files",
    )


def _of_kind(folder: Path, suffixes: Collection[str], option: str) -> list[Path]:
    files = listed(folder, option)
    fitting = [file for file in files if file.suffix.lower() in suffixes]
    if not fitting:
        kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
        raise UsageError(
            f"{option} {folder} holds nothing that this model takes: {held}",
            expected=f"files of the kinds {' '.join(suffixes)}",
            fix="give a folder of the model's own inputs",
        )
    return fitting


def _shuffled(folder: Path, files: Iterable[Path]) -> list[Path]:
    """In an order that depends on the names beneath the folder and on nothing else."""

    def key(file: Path) -> str:
        return hashlib.sha256(file.relative_to(folder).as_posix().encode()).hexdigest()

    return sorted(files, key=key)


def _distinct(files: Sequence[Path]) -> tuple[list[Path], int]:
    """The files without copies of one content; only files of one size are read for that."""
    sizes = Counter(file.stat().st_size for file in files)
    seen: set[str] = set()
    found = []
    for file in files:
        digest = sha256_file(file) if sizes[file.stat().st_size] > 1 else str(file)
        if digest not in seen:
            found.append(file)
        seen.add(digest)
    return found, len(files) - len(found)


def _require_apart(calibrating: Sequence[Path], held: Sequence[Path]) -> None:
    """Raise ``UsageError`` where a file that is measured on is among those that calibrate, by content."""
    sizes = {file.stat().st_size for file in calibrating} & {file.stat().st_size for file in held}
    known = {sha256_file(file): file for file in held if file.stat().st_size in sizes}
    both = [(file, known[digest]) for file in calibrating if file.stat().st_size in sizes
            for digest in (sha256_file(file),) if digest in known]  # fmt: skip
    if both:
        raise UsageError(
            f"{len(both)} calibration file{'s are' if len(both) > 1 else ' is'} in --data too, by content: "
            f"{both[0][0].name} is {both[0][1].name}",
            expected="data to measure on that the quantiser has not seen",
            fix="take them out of one folder; without --data a tenth of the calibration folder is held back",
        )


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
