"""ABX item files: which stretch of which recording is which phone, in which context, by which speaker.

The format is that of ZeroSpeech 2017 and 2021 and of Libri-light: a header and one line per token,
``#file onset offset #phone prev-phone next-phone speaker``, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import UnknownName, UnusableInput

COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
_ROUNDING = 1e-6
"""Of a frame: times are decimals, which binary numbers miss."""
_OVERHANG_S = 0.011
"""What an alignment may stand out over its recording: it counts in frames of 10 ms."""


@dataclass(frozen=True, slots=True)
class Item:
    """One token: ``phone`` between ``before`` and ``after`` from ``onset_s`` to ``offset_s`` of ``file``."""

    file: str
    onset_s: float
    offset_s: float
    phone: str
    before: str
    after: str
    speaker: str

    @property
    def context(self) -> tuple[str, str]:
        """The phones around it."""
        return self.before, self.after

    def frames(self, rate_hz: float, length: int) -> tuple[int, int]:
        """First and last frame, both included, of a recording with ``length`` frames at ``rate_hz``.

        Frame ``i`` counts where its middle, ``(i + 0.5) / rate_hz``, lies within the token; a token that holds the
        middle of no frame takes the one that its own middle lies in. The last frame is at most ``length - 1``.
        """
        first = math.ceil(self.onset_s * rate_hz - 0.5 - _ROUNDING)
        last = math.floor(self.offset_s * rate_hz - 0.5 + _ROUNDING)
        if last < first:
            first = last = int((self.onset_s + self.offset_s) / 2 * rate_hz)
        last = min(last, length - 1)
        return min(first, last), last


def read_items(path: Path) -> list[Item]:
    """The tokens of an item file; its columns may stand in any order.

    Raises ``UnusableInput``, with the line, for what is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableInput(f"{path} cannot be read: {error}", expected="an ABX item file") from error
    columns = lines[0].split() if lines else []
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UnusableInput(
            f"{path} has no column {', '.join(missing)}", expected=f"a first line with {' '.join(COLUMNS)}"
        )
    places = [columns.index(name) for name in COLUMNS]
    found = [
        _item(line.split(), places, len(columns), f"{path}, line {number}")
        for number, line in enumerate(lines[1:], 2)
        if line.strip()
    ]
    if not found:
        raise UnusableInput(f"{path} names no token", expected="at least one line after the first")
    return found


def check_items(items: Iterable[Item], durations_s: Mapping[str, float]) -> None:
    """Refuse tokens of recordings that are not there, or past the end of theirs."""
    for item in items:
        if item.file not in durations_s:
            raise UnusableInput(
                f"the item file names the recording {item.file!r}, which is not in the data",
                expected="every recording of the item file beneath the data folder",
                fix=_nearest(item.file, durations_s),
            )
        if item.offset_s > durations_s[item.file] + _OVERHANG_S:
            raise UnusableInput(
                f"the item file has {item.phone} of {item.file} at {item.onset_s:g}-{item.offset_s:g} s, "
                f"and the recording ends at {durations_s[item.file]:.3f} s",
                expected="times within the recording, in seconds",
                fix="use the item file that was made for these recordings",
            )


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write an item file that ``read_items`` and the challenges' own tools read."""
    from avsdk.files import write_atomic

    rows = (
        f"{item.file} {item.onset_s:.4f} {item.offset_s:.4f} {item.phone} {item.before} {item.after} {item.speaker}"
        for item in items
    )
    write_atomic(path, "\n".join((" ".join(COLUMNS), *rows)) + "\n")


def _item(fields: list[str], places: list[int], count: int, where: str) -> Item:
    if len(fields) != count:
        raise UnusableInput(f"{where} has {len(fields)} columns", expected=f"{count}, as the first line names them")
    file, onset, offset, phone, before, after, speaker = (fields[place] for place in places)
    try:
        onset_s, offset_s = float(onset), float(offset)
    except ValueError as error:
        raise UnusableInput(f"{where} has the times {onset} and {offset}", expected="seconds") from error
    if not 0 <= onset_s < offset_s < math.inf:
        raise UnusableInput(
            f"{where} runs from {onset} to {offset} s", expected="an onset before the offset, from 0 on"
        )
    return Item(file, onset_s, offset_s, phone, before, after, speaker)


def _nearest(name: str, known: Iterable[str]) -> str:
    return UnknownName.among("recording", name, known).fix
