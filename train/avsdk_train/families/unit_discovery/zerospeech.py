"""Submissions to the ZeroSpeech challenges of 2019 and 2020: written, checked, and read for their bitrate.

metadata.yaml                            author, affiliation, open source
2019/metadata.yaml                       abx distance, system description, hyperparameters, ...
2019/code/                               where the system is open source
2019/{english,surprise}/test/*.txt       a line of numbers per unit, for every test recording
2019/{english,surprise}/test/*.wav       V001_0379088085.wav: a recording in the voice that synthesis.txt asks for
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk.files import atomic_folder
from avsdk.predictors.units import RATE_HZ, Units
from avsdk.sound import READ_SUFFIXES, read_sound, sound_seconds, write_sound
from avsdk_train.metrics.units import entropy_bits, row_codes

LANGUAGES = ("english", "surprise")
DISTANCES = ("dtw_cosine", "dtw_kl", "levenshtein")
METADATA, SYNTHESIS = "metadata.yaml", "synthesis.txt"
_ABOUT_ALL: Mapping[str, type] = {"author": str, "affiliation": str, "open source": bool}
_ABOUT_2019: Mapping[str, type] = {
    "abx distance": str,
    "system description": str,
    "using parallel train": bool,
    "using external data": bool,
}


class Model(Protocol):
    """A trained network or a bundle's predictor."""

    def __call__(self, media: Any) -> Units:
        """The units of a sound (samples,) at 16 kHz."""

    def resynthesised(self, units: Units, voice: str) -> NDArray[Any]:
        """The sound of the units in a voice."""


@dataclass(frozen=True)
class About:
    """What the challenge asks about a system; ``code`` is a folder, needed where it is open source."""

    author: str
    affiliation: str
    description: str
    hyperparameters: str = ""
    distance: str = "dtw_cosine"
    code: Path | None = None
    parallel: bool = False
    external: bool = False


def write_submission(model: Model, data: Path, out: Path, about: About) -> Path:
    """Encode the test recordings of every language beneath ``data`` (the challenge's folder ``2019``) into ``out``.

    Raises ``UsageError`` where there is none. The folder is written whole or not at all.
    """
    if about.distance not in DISTANCES:
        raise UsageError(f"the distance {about.distance!r}", expected=f"one of: {', '.join(DISTANCES)}")
    languages = [name for name in LANGUAGES if (data / name / "test").is_dir()]
    if not languages:
        raise UsageError(
            f"no test recordings beneath {data}", expected="english/test or surprise/test", fix="--data 2019"
        )
    with atomic_folder(out) as folder:
        _write_metadata(folder, about)
        for language in languages:
            _write_language(model, data / language, folder / "2019" / language / "test")
        if about.code:
            for file in sorted(path for path in about.code.rglob("*") if path.is_file()):
                place = folder / "2019" / "code" / file.relative_to(about.code)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read_bytes())
    return out


def submission_problems(folder: Path, data: Path) -> list[str]:
    """What the challenge would refuse, each with its file; empty for a valid submission.

    ``data`` is the challenge's folder ``2019``, whose test recordings and ``synthesis.txt`` say what is due.
    """
    problems, about = _metadata_problems(folder / METADATA, _ABOUT_ALL)
    more, details = _metadata_problems(folder / "2019" / METADATA, _ABOUT_2019)
    problems += more
    if details.get("abx distance") not in (None, *DISTANCES):
        problems.append(f"2019/{METADATA}: the distance {details['abx distance']!r} is none of {', '.join(DISTANCES)}")
    if about.get("open source") is True and not any((folder / "2019" / "code").glob("*")):
        problems.append("2019/code: empty or missing, though the system is open source")
    languages = [name for name in LANGUAGES if (data / name / "test").is_dir()]
    for language in languages:
        problems += _language_problems(folder, f"2019/{language}/test", data / language)
    return problems


def read_rows(path: Path) -> NDArray[np.float64]:
    """The numbers (units, columns) of a submission's text. Blank lines count for nothing.

    Raises ``UnusableInput`` with the line for what is damaged, for lines of different lengths, and for single columns,
    which the challenge's own reader leaves out without a word.
    """
    rows: list[list[float]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableInput(f"{path} cannot be read: {error}", expected="lines of numbers") from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            raise UnusableInput(f"{path}, line {number}: {line[:60]!r}", expected="numbers") from error
        if not np.isfinite(row).all() or len(row) < 2 or (rows and len(row) != len(rows[0])):
            expected = f"{len(rows[0])} finite ones, as before" if rows else "at least two finite ones"
            raise UnusableInput(f"{path}, line {number} has {len(row)} numbers: {line[:60]!r}", expected=expected)
        rows.append(row)
    if not rows:
        raise UnusableInput(f"{path} is empty", expected="a line of numbers per unit")
    return np.array(rows)


def listed_bitrate(folder: Path, listing: Path) -> float:
    """The challenge's bitrate in bit/s of a folder of texts, over a list of ``<file>.txt <seconds>``.

    A symbol is a whole line. Files that are absent count neither their lines nor their seconds.
    """
    rows: dict[str, NDArray[np.float64]] = {}
    total_s = 0.0
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            name, seconds = fields[0], float(fields[1])
        except (IndexError, ValueError) as error:
            raise UnusableInput(f"{listing}, line {number}: {line[:60]!r}", expected="<file>.txt <seconds>") from error
        if (folder / name).is_file():
            rows[name] = read_rows(folder / name)
            total_s += seconds
    if not rows:
        raise UsageError(f"{folder} has no file of {listing}", expected="the texts that the list names")
    symbols = np.concatenate(list(row_codes(rows).values()))
    bits = float(entropy_bits(np.bincount(symbols).astype(np.float64)))
    return len(symbols) / total_s * bits


# -- writing -----------------------------------------------------------------------------------------------------------


def _write_metadata(folder: Path, about: About) -> None:
    (folder / "2019").mkdir(parents=True)
    first: dict[str, str | bool] = {
        "author": about.author, "affiliation": about.affiliation, "open source": about.code is not None,
    }  # fmt: skip
    second: dict[str, str | bool] = {
        "abx distance": about.distance,
        "system description": about.description,
        "using parallel train": about.parallel,
        "using external data": about.external,
        **({"hyperparameters": about.hyperparameters} if about.hyperparameters else {}),
    }
    for path, entries in ((folder / METADATA, first), (folder / "2019" / METADATA, second)):
        lines = [f"{key}: {json.dumps(value)}" for key, value in entries.items()]  # JSON's words are YAML's as well
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_language(model: Model, language: Path, out: Path) -> None:
    out.mkdir(parents=True)
    voices = _voices(language)
    for path in _recordings(language):
        units = model(read_sound(path, RATE_HZ))
        rows = (" ".join(f"{value:.16f}" for value in row) for row in units.entries.tolist())
        (out / f"{path.stem}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        for voice in voices.get(path.stem, ()):
            write_sound(out / _spoken_name(path.stem, voice), model.resynthesised(units, voice), RATE_HZ)


def _recordings(language: Path) -> list[Path]:
    found = sorted(path for path in (language / "test").iterdir() if path.suffix.lower() in READ_SUFFIXES)
    if not found:
        raise UsageError(f"no recording in {language / 'test'}", expected="the challenge's test recordings")
    return found


def _voices(language: Path) -> dict[str, list[str]]:
    """The voices that each recording is due in: lines of ``test/S002_0379088085 V002``; none without the file."""
    path = language / SYNTHESIS
    found: dict[str, list[str]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) not in (0, 2):
            raise UnusableInput(f"{path}, line {number}: {line[:60]!r}", expected="<recording> <voice>")
        if fields:
            found.setdefault(Path(fields[0]).name.partition(".")[0], []).append(fields[1])
    return found


def _spoken_name(recording: str, voice: str) -> str:
    return f"{voice}_{recording.partition('_')[2] or recording}.wav"


# -- checking ----------------------------------------------------------------------------------------------------------


def _metadata_problems(path: Path, due: Mapping[str, type]) -> tuple[list[str], dict[str, Any]]:
    name = path.name if path.parent.name != "2019" else f"2019/{path.name}"
    if not path.is_file():
        return [f"{name}: missing"], {}
    found: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, colon, text = line.partition(":")
        if colon and key.strip() in due:
            found[key.strip()] = _scalar(text.strip())
    problems = [f"{name}: no {key!r}" for key in due if key not in found]
    for key, kind in due.items():
        if key in found and not isinstance(found[key], kind):
            wanted = "true or false" if kind is bool else "a text"
            problems.append(f"{name}: {key!r} is {found[key]!r}, not {wanted}")
    return problems, found


def _scalar(text: str) -> str | bool:
    """A scalar of YAML: a text, quoted or not, or true and false in its spellings."""
    if text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _language_problems(folder: Path, relative: str, language: Path) -> list[str]:
    problems: list[str] = []
    columns: dict[int, str] = {}
    due: Sequence[tuple[str, list[str]]] = [
        (path.stem, _voices(language).get(path.stem, [])) for path in _recordings(language)
    ]
    for recording, voices in due:
        text = folder / relative / f"{recording}.txt"
        if not text.is_file():
            problems.append(f"{relative}/{text.name}: missing")
        else:
            try:
                columns.setdefault(read_rows(text).shape[1], text.name)
            except UnusableInput as error:
                problems.append(error.failed.replace(str(folder) + "/", ""))
        for voice in voices:
            problems += _sound_problems(folder, f"{relative}/{_spoken_name(recording, voice)}")
    if len(columns) > 1:
        told = ", ".join(f"{name} has {count}" for count, name in columns.items())
        problems.append(f"{relative}: files of different widths: {told}")
    return problems


def _sound_problems(folder: Path, relative: str) -> list[str]:
    if not (folder / relative).is_file():
        return [f"{relative}: missing"]
    try:
        sound_seconds(folder / relative)
    except UnusableInput as error:
        return [error.failed.replace(str(folder) + "/", "")]
    return []
