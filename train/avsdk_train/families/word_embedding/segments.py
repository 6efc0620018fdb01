"""Where the words of recordings are: alignments in the formats that people have, filtered and split by speaker."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import UnusableInput, UsageError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FSDD = re.compile(r"(\d)_([a-z]+)_(\d+)")
_FSDD_TEST = 5
_LIBRISPEECH = re.compile(r"(\d+)-\d+-\d+")
_SIDE = re.compile(r"(sw0*\d+-?[AB])")
_TEXTGRID = re.compile(r'"(?:[^"]|"")*"|<exists>|(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?')
_SILENCES = frozenset(("", "sil", "sp", "spn", "<eps>", "<unk>", "!sil", "<sil>"))


@dataclass(frozen=True)
class Segment:
    """One spoken word: where it is in the recording ``utterance``, in seconds; ``end_s`` is None for all of it.

    ``part`` is ``train`` or ``test`` where the corpus says so.
    """

    utterance: str
    speaker: str
    word: str
    start_s: float
    end_s: float | None
    part: str = ""


def read_segments(path: Path) -> list[Segment]:
    """The words of an alignment: a table with a first line (.tsv), CTM (.ctm), MS-State (.text), or a TextGrid.

    Words are in small letters; silences and noises are left out. Raises ``UnusableInput``, with the line, for damage.
    """
    readers: dict[str, Callable[[Path], list[Segment]]] = {
        ".tsv": _from_table, ".ctm": _from_ctm, ".text": _from_ms_state, ".textgrid": _from_textgrid,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is no alignment that is known", expected=f"a file named {' '.join(readers)}")
    found = reader(path)
    if not found:
        raise UnusableInput(f"{path} has no word", expected="at least one word")
    return found


def digits_beneath(folder: Path) -> list[Segment]:
    """The Free Spoken Digit Dataset: a recording per word, named ``7_jackson_32.wav``; 0 to 4 are its test part."""
    found = []
    for path in sorted(folder.rglob("*.wav")):
        match = _FSDD.fullmatch(path.stem)
        if match:
            part = "test" if int(match[3]) < _FSDD_TEST else "train"
            found.append(Segment(path.stem, match[2], DIGITS[int(match[1])], 0.0, None, part))
    if not found:
        raise UsageError(f"no spoken digit beneath {folder}", expected="files named as 7_jackson_32.wav")
    return found


def chosen_segments(
    segments: Iterable[Segment], *, least_s: float = 0.0, most_s: float = math.inf, letters: int = 1, times: int = 1
) -> list[Segment]:
    """Those of a length and of enough letters whose word is, among these, said so many times.

    Whole recordings have no length here and pass.
    """
    long_enough = [
        item
        for item in segments
        if len(item.word) >= letters and (item.end_s is None or least_s <= item.end_s - item.start_s <= most_s)
    ]
    counts = Counter(item.word for item in long_enough)
    return [item for item in long_enough if counts[item.word] >= times]


def speaker_splits(speakers: Iterable[str], held_out: int) -> list[tuple[str, ...]]:
    """Every choice of so many speakers to be held out, in a fixed order."""
    names = sorted(set(speakers))
    if not 0 < held_out < len(names):
        raise UsageError(f"{held_out} of {len(names)} speakers are held out", expected=f"1..{len(names) - 1}")
    return list(itertools.combinations(names, held_out))


def split_by_speaker(segments: Sequence[Segment], held_out: Iterable[str]) -> tuple[list[Segment], list[Segment]]:
    """The words of all other speakers, and those of the ones held out."""
    names = set(held_out)
    missing = names - {item.speaker for item in segments}
    if missing:
        raise UsageError(f"no word of the speaker {min(missing)!r}", expected="speakers of the data")
    rest = [item for item in segments if item.speaker not in names]
    return rest, [item for item in segments if item.speaker in names]


def plain_word(tagged: str) -> str:
    """The word of a transcript of Switchboard; empty for silence, noise, and words that are broken off.

    ``[laughter-yes]`` is yes; ``[pronounced/meant]`` is what was meant; ``{coined}`` and ``about_1`` lose their marks.
    """
    word = tagged.lower()
    if word.startswith("[laughter-"):
        word = word[len("[laughter-") :].rstrip("]")
    elif word.startswith("[") and word.endswith("]"):
        word = word[1:-1].partition("/")[2]
    word = re.sub(r"_\d+$", "", word.strip("{}"))
    broken = word.startswith("-") or word.endswith("-") or "[" in word
    return "" if broken or word in _SILENCES else word


# -- formats -----------------------------------------------------------------------------------------------------------


def _from_table(path: Path) -> list[Segment]:
    lines = _lines(path)
    columns = lines[0].split("\t") if lines else []
    due = ("utt", "speaker", "word", "start_s", "end_s")
    missing = [name for name in due if name not in columns]
    if missing:
        raise UnusableInput(f"{path} has no column {', '.join(missing)}", expected=f"a first line with {' '.join(due)}")
    found = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != len(columns):
            raise UnusableInput(f"{path}, line {number} has {len(fields)} columns", expected=f"{len(columns)}")
        row = dict(zip(columns, fields, strict=True))
        start_s, end_s = _times(row["start_s"], row["end_s"], path, number)
        found.append(Segment(row["utt"], row["speaker"], row["word"].lower(), start_s, end_s))
    return found


def _from_ctm(path: Path) -> list[Segment]:
    """Lines of ``utterance channel start duration word [confidence]``, comments after ``;;``."""
    found = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.partition(";;")[0].split()
        if not fields:
            continue
        if len(fields) not in (5, 6):
            raise _bad_line(path, number, line, "utterance channel start duration word")
        start, duration = _numbers(fields[2], fields[3], path, number)
        word = plain_word(fields[4])
        if word:
            start_s, end_s = _times(start, start + duration, path, number)
            found.append(Segment(fields[0], _speaker(fields[0], fields[1]), word, start_s, end_s))
    return found


def _from_ms_state(path: Path) -> list[Segment]:
    """Lines of ``utterance start end word``; the conversation's side is the speaker, as ``sw2001A`` of its name."""
    found = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4:
            raise _bad_line(path, number, line, "utterance start end word")
        word = plain_word(fields[3])
        if word:
            start_s, end_s = _times(fields[1], fields[2], path, number)
            found.append(Segment(fields[0], _speaker(fields[0], ""), word, start_s, end_s))
    return found


def _from_textgrid(path: Path) -> list[Segment]:
    """The tier of intervals named ``words`` or ``NAME - words``; Praat's long and short texts hold the same values."""
    text = re.sub(r"\[\d*\]", "", "\n".join(_lines(path)))
    values = iter(_TEXTGRID.findall(text))
    found: list[Segment] = []
    try:
        if next(values) != '"ooTextFile"' or next(values) != '"TextGrid"':
            raise UnusableInput(f"{path} is no TextGrid", expected="a text that Praat wrote")
        _, _, _, tiers = (next(values) for _ in range(4))
        for _ in range(int(tiers)):
            kind, name, _, _, size = (next(values) for _ in range(5))
            of_words = kind == '"IntervalTier"' and name.strip('"').rpartition(" - ")[2].lower() == "words"
            speaker = name.strip('"').rpartition(" - ")[0] or _speaker(path.stem, "")
            for number in range(1, int(size) + 1):
                marks = [next(values) for _ in range(3 if kind == '"IntervalTier"' else 2)]
                word = plain_word(marks[-1][1:-1].strip())
                if of_words and word:
                    start_s, end_s = _times(marks[0], marks[1], path, number)
                    found.append(Segment(path.stem, speaker, word, start_s, end_s))
    except (StopIteration, ValueError) as error:
        raise UnusableInput(f"{path} ends before its tiers do", expected="a whole TextGrid") from error
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableInput(f"{path} cannot be read: {error}", expected="an alignment in UTF-8") from error


def _numbers(one: object, other: object, path: Path, number: int) -> tuple[float, float]:
    try:
        return float(str(one)), float(str(other))
    except ValueError as error:
        raise UnusableInput(f"{path}, line {number} has the times {one} and {other}", expected="seconds") from error


def _times(start: object, end: object, path: Path, number: int) -> tuple[float, float]:
    start_s, end_s = _numbers(start, end, path, number)
    if not 0 <= start_s < end_s < math.inf:
        raise UnusableInput(f"{path}, line {number}: a word from {start} to {end} s", expected="0 <= start < end")
    return start_s, end_s


def _speaker(utterance: str, channel: str) -> str:
    """LibriSpeech's reader, Switchboard's side of a conversation, else the recording and its channel."""
    if match := _LIBRISPEECH.fullmatch(utterance):
        return match[1]
    if match := _SIDE.match(utterance):
        return match[1]
    return f"{utterance}-{channel}" if channel not in ("", "1") else utterance


def _bad_line(path: Path, number: int, line: str, expected: str) -> UnusableInput:
    return UnusableInput(f"{path}, line {number}: {line[:80]!r}", expected=expected)
