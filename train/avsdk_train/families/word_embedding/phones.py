"""Written words as phones: the ARPAbet symbols of Switchboard's dictionary, and lexicons as people have them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from avsdk.errors import NotAvailable, UnknownName, UnusableInput

SPEECH = tuple(
    """AA AE AH AO AW AX AY B CH D DH EH EL EN ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z
    ZH""".split()
)
NOISES = ("[NOISE]", "[VOCALIZED-NOISE]", "[LAUGHTER]")
PHONES = (*SPEECH, *NOISES)
"""45 symbols, numbered from 1: 0 stands beyond a word's end."""

_NUMBERS = {phone: number for number, phone in enumerate(PHONES, 1)}
_STRESS = re.compile(r"[0-2]$")
_VARIANT = re.compile(r"\(\d+\)$")
_POCKETSPHINX = Path("model") / "en-us" / "cmudict-en-us.dict"

Lexicon = Mapping[str, tuple[str, ...]]
"""The first pronunciation of every word, words in small letters."""


def phone_numbers(phones: Iterable[str]) -> list[int]:
    """The numbers of phones, stress marks aside. Raises ``UnknownName`` for one that is none."""
    found = []
    for phone in phones:
        symbol = _STRESS.sub("", phone.upper())
        if symbol not in _NUMBERS:
            raise UnknownName.among("phone", phone, PHONES)
        found.append(_NUMBERS[symbol])
    return found


def read_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """Pronunciations from lines of ``WORD  P H O1 N Z`` (CMUdict), or a table with the columns ``word`` and ``phones``.

    Of several pronunciations the first counts. Raises ``UnusableInput`` with the line for what is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableInput(f"{path} cannot be read: {error}", expected="a lexicon") from error
    columns = lines[0].split("\t") if lines else []
    if "word" in columns and "phones" in columns:
        rows = _table_rows(lines, columns, path)
    else:
        rows = [
            (number, *_word_and_phones(line))
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith((";;;", "#"))
        ]
    found: dict[str, tuple[str, ...]] = {}
    for number, word, phones in rows:
        if not phones:
            raise UnusableInput(f"{path}, line {number}: {word!r} has no phones", expected="a word and its phones")
        try:
            phone_numbers(phones)
        except UnknownName as error:
            raise UnusableInput(f"{path}, line {number}: {error.failed}", expected=error.expected) from error
        found.setdefault(word, tuple(_STRESS.sub("", phone.upper()) for phone in phones))
    if not found:
        raise UnusableInput(f"{path} names no word", expected="a word and its phones per line")
    return found


def pocketsphinx_dictionary() -> Path:
    """The dictionary of 134,000 words inside the package pocketsphinx, which is not loaded."""
    spec = importlib.util.find_spec("pocketsphinx")
    places = [Path(place) / _POCKETSPHINX for place in (spec.submodule_search_locations or [])] if spec else []
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise NotAvailable(
            "the dictionary of pocketsphinx is not here", expected="the package", fix="pip install pocketsphinx"
        )
    return found


def pronunciations(words: Iterable[str], lexicon: Lexicon) -> dict[str, tuple[str, ...]]:
    """The phones of every word. Raises ``UnusableInput`` that names those that the lexicon does not have."""
    wanted = sorted({word.lower() for word in words})
    unknown = [word for word in wanted if word not in lexicon]
    if unknown:
        listed = ", ".join(unknown[:20]) + (", ..." if len(unknown) > 20 else "")
        raise UnusableInput(
            f"{len(unknown)} of {len(wanted)} words are not in the lexicon: {listed}",
            expected="a pronunciation of every word",
            fix="add them to the lexicon, or leave them out",
        )
    return {word: tuple(lexicon[word]) for word in wanted}


def _table_rows(lines: list[str], columns: list[str], path: Path) -> list[tuple[int, str, list[str]]]:
    rows = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != len(columns):
            raise UnusableInput(f"{path}, line {number} has {len(fields)} columns", expected=f"{len(columns)}")
        row = dict(zip(columns, fields, strict=True))
        rows.append((number, row["word"].lower(), row["phones"].split()))
    return rows


def _word_and_phones(line: str) -> tuple[str, list[str]]:
    word, *phones = line.partition(" #")[0].split()
    return _VARIANT.sub("", word).lower(), phones
