"""Recordings of speech as corpora lay them: who speaks where, how long, and which part of the corpus it is.

Known are ZeroSpeech 2019 and 2020 (``train/unit``, ``train/voice``, ``test``, ``vads.txt``; ``S015_0361841101.wav``),
LibriSpeech (``1688-142285-0000.flac``, in folders by speaker and chapter or not, beneath ``train-clean-100`` and the
like), the Free Spoken Digit Dataset (``7_jackson_32.wav``; 0 to 4 of every digit and speaker are its test part), and
plain folders, where a recording's speaker is the folder that it lies in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from avsdk.errors import UnusableInput, UsageError
from avsdk.sound import READ_SUFFIXES, sound_seconds

Part = Literal["train", "test", "all"]

VADS = "vads.txt"
_ZEROSPEECH = re.compile(r"([SV]\d+)_\d+")
_LIBRISPEECH = re.compile(r"(\d+)-\d+-\d+")
_FSDD = re.compile(r"\d_([a-z]+)_(\d+)")
_FSDD_TEST = 5
_FOLDER_PARTS = {"train": "train", "test": "test", "dev": "test", "valid": "test"}
_OVERHANG_S = 0.05
"""What a stretch of speech may stand out over its recording."""


@dataclass(frozen=True)
class Utterance:
    """A stretch of a recording by one speaker; ``end_s`` is None where it goes on to the end.

    ``file_s`` is the whole recording's length. ``part`` is ``train``, ``test``, another folder's name that the corpus
    keeps apart, or empty where nothing tells.
    """

    path: Path
    speaker: str
    start_s: float = 0.0
    end_s: float | None = None
    file_s: float = 0.0
    part: str = ""

    @property
    def name(self) -> str:
        """The recording's name, as item files have it."""
        return self.path.stem

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return (self.file_s if self.end_s is None else self.end_s) - self.start_s


def read_corpus(folder: Path, part: Part = "train") -> list[Utterance]:
    """The utterances of a part of the corpus beneath a folder, in a fixed order; what belongs to no part is in each.

    Training recordings of ZeroSpeech are cut by ``vads.txt``, others are whole. Raises ``UsageError`` where there is
    none, and ``UnusableInput``, naming the file or line, for what is damaged.
    """
    if not folder.is_dir():
        raise UsageError(
            f"the data folder {str(folder)!r} is not a folder", expected="a folder of recordings", fix="--data DIR"
        )
    files = sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in READ_SUFFIXES and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not files:
        raise UsageError(f"no recording beneath {folder}", expected=f"files named {' '.join(READ_SUFFIXES)}")
    found = [_utterance(path, folder) for path in files]
    chosen = [item for item in found if part == "all" or item.part in (part, "")]
    if not chosen:
        there = ", ".join(sorted({item.part for item in found}))
        raise UsageError(f"no recording of the part {part!r} beneath {folder}", expected=f"there is: {there}")
    lengths = {item.path: sound_seconds(item.path) for item in chosen}
    chosen = [replace(item, file_s=lengths[item.path]) for item in chosen]
    return _cut_by_speech(chosen, folder)


def _utterance(path: Path, folder: Path) -> Utterance:
    for pattern in (_ZEROSPEECH, _LIBRISPEECH):
        match = pattern.fullmatch(path.stem)
        if match:
            return Utterance(path, match[1], part=_folder_part(path, folder))
    match = _FSDD.fullmatch(path.stem)
    if match:
        return Utterance(path, match[1], part="test" if int(match[2]) < _FSDD_TEST else "train")
    return Utterance(path, path.parent.name, part=_folder_part(path, folder))


def _folder_part(path: Path, folder: Path) -> str:
    """By the folders between, as ``train-clean-100`` is a part of ``train``; ZeroSpeech's ``parallel`` is its own."""
    names = [name.lower() for name in path.relative_to(folder).parts[:-1]]
    if "parallel" in names:
        return "parallel"
    kinds = (_FOLDER_PARTS.get(re.split(r"[-_]", name)[0], "") for name in names)
    return next(filter(None, kinds), "")


# -- vads.txt ----------------------------------------------------------------------------------------------------------


def _cut_by_speech(utterances: Sequence[Utterance], folder: Path) -> list[Utterance]:
    """Training utterances of ZeroSpeech in the stretches that ``vads.txt`` names; those it does not name stay whole."""
    found: list[Utterance] = []
    stretches: dict[Path, Mapping[str, list[tuple[float, float]]]] = {}
    for item in utterances:
        listing = _listing(item, folder)
        if listing is None:
            found.append(item)
            continue
        if listing not in stretches:
            stretches[listing] = read_vads(listing)
        for start_s, end_s in stretches[listing].get(item.name, [(0.0, item.file_s)]):
            if end_s > item.file_s + _OVERHANG_S:
                raise UnusableInput(
                    f"{listing} has {item.name} speak up to {end_s:g} s, and {item.path} ends at {item.file_s:.3f} s",
                    expected="stretches within the recordings",
                    fix="get the corpus again, or remove the line",
                )
            found.append(replace(item, start_s=start_s, end_s=min(end_s, item.file_s)))
    return found


def _listing(item: Utterance, folder: Path) -> Path | None:
    """The ``vads.txt`` above a training recording, within the folder or beside it."""
    if item.part not in ("train", "") or item.path.parent.name == "test" or not _ZEROSPEECH.fullmatch(item.name):
        return None
    beneath = [parent for parent in item.path.parents if parent.is_relative_to(folder)]
    above = list(folder.resolve().parents)[:2]
    return next((place / VADS for place in (*beneath, *above) if (place / VADS).is_file()), None)


def read_vads(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The stretches of speech by recording: lines of ``<name> <start> <end>`` in seconds, several per recording.

    A name may have folders and a suffix. Raises ``UnusableInput`` with the line for what is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableInput(f"{path} cannot be read: {error}", expected="lines of <name> <start> <end>") from error
    found: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        try:
            name, start_s, end_s = fields[0], *map(float, fields[1:])
        except ValueError as error:
            raise _bad_line(path, number, line) from error
        if not 0 <= start_s < end_s < float("inf"):
            raise _bad_line(path, number, line)
        found.setdefault(Path(name).stem, []).append((start_s, end_s))
    return found


def _bad_line(path: Path, number: int, line: str) -> UnusableInput:
    return UnusableInput(f"{path}, line {number}: {line[:80]!r}", expected="<name> <start> <end>, in seconds")
