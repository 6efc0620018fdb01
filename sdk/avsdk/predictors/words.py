"""Spoken words and written ones to vectors of one space, whatever runs the graphs: padding, windows, batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsdk.errors import BundleRefused, SizeNotBuilt, UnknownName, UnusableInput, UsageError
from avsdk.index_build import Embedded
from avsdk.schema import check_schema, decode
from avsdk.session import Array
from avsdk.spec import ModelSpec, Sizes

ASSET = "words"
ACOUSTIC, PHONE = "acoustic", "phone"
LEAST_FRAMES = 2
_AXES = {"features": "frames", "phones": "phones"}
_MOST_PHONES, _MOST_WORDS = 512, 1 << 20

Infer = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""``infer(graph, feeds) -> outputs``."""
Built = Callable[[str], Sequence[Sizes]]
"""``built(graph)``: the sizes that a graph was built at, none where its axes are free."""


@dataclass(frozen=True)
class WordFile:
    """``words.json``: the phones in the order of the network's table, pronunciations, and the windows of a search.

    ``lexicon``: a word to its phones with spaces between. ``hop_s``: the time of one feature frame. Recordings are
    searched in windows of ``windows_s``, one every ``step_s``.
    """

    phones: tuple[str, ...]
    lexicon: Mapping[str, str]
    hop_s: float = 0.01
    windows_s: tuple[float, ...] = (0.3, 0.5, 0.8)
    step_s: float = 0.1


def read_word_file(path: Path) -> WordFile:
    """Read ``words.json`` strictly."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleRefused(f"{path} cannot be read: {error}", expected="the asset as avsdk wrote it") from error
    found = decode(
        WordFile, check_schema(document, where=path.name, refused=BundleRefused), where=path.name, refused=BundleRefused
    )
    timed = 1e-4 <= found.hop_s <= 1 and found.step_s >= found.hop_s and found.windows_s
    if not timed or not all(found.hop_s * LEAST_FRAMES <= window <= 10 for window in found.windows_s):
        raise BundleRefused(
            f"{path.name} has windows of {list(found.windows_s)} s every {found.step_s} s, frames of {found.hop_s} s",
            expected="windows of some frames up to 10 s",
        )
    if not (0 < len(set(found.phones)) == len(found.phones) <= _MOST_PHONES and len(found.lexicon) <= _MOST_WORDS):
        raise BundleRefused(f"{path.name} has {len(found.phones)} phones", expected="distinct phones")
    return found


class WordViews:
    """Both views over graphs that ``infer`` runs; vectors (n, size) are of length 1."""

    def __init__(self, spec: ModelSpec, file: WordFile, infer: Infer, built: Built) -> None:
        self.file = file
        self._spec, self._infer, self._built = spec, infer, built
        self._numbers = {phone: place + 1 for place, phone in enumerate(file.phones)}

    def spoken(self, words: Sequence[Array]) -> Array:
        """The vectors of spoken words, each the features (frames, size) of one.

        Raises ``UnusableInput`` for a word of less than two frames, ``SizeNotBuilt`` for one that is too long.
        """
        for word in words:
            if len(word) < LEAST_FRAMES:
                raise UnusableInput(
                    f"the word lasts {len(word) * self.file.hop_s:g} s, {len(word)} frames",
                    expected=f"at least {LEAST_FRAMES} frames",
                )
        return self._embedded(ACOUSTIC, "features", [np.asarray(word, np.float32) for word in words])

    def written(self, pronunciations: Sequence[Sequence[str]]) -> Array:
        """The vectors of pronunciations, each a list of phones. Raises ``UnknownName`` for a phone that is none."""
        rows = []
        for phones in pronunciations:
            if not phones:
                raise UsageError("a word without any phone", expected="phones, as 'AY ER N'")
            unknown = [phone for phone in phones if phone not in self._numbers]
            if unknown:
                raise UnknownName.among("phone", unknown[0], self._numbers)
            rows.append(np.array([self._numbers[phone] for phone in phones], np.int32))
        return self._embedded(PHONE, "phones", rows)

    def pronunciations(self, text: str, more: Mapping[str, str] | None = None) -> list[str]:
        """The phones of a written text: of its words by the lexicon, or those that stand between two slashes.

        ``more`` goes before the model's own lexicon. Raises ``UnknownName`` for a word that neither has.
        """
        phones: list[str] = []
        parts = text.split("/")
        if len(parts) % 2 == 0:
            raise UsageError(f"{text!r} has a slash without another", expected="phones between two: /AY ER N/")
        for place, part in enumerate(parts):
            if place % 2:
                phones += part.upper().split()
                continue
            for word in part.lower().split():
                found = (more or {}).get(word) or self.file.lexicon.get(word)
                if found is None:
                    raise UnknownName.among(
                        "word", word, self.file.lexicon,
                        fix="give its phones between slashes, as '/AY ER N/', or a lexicon: --set lexicon=FILE",
                    )  # fmt: skip
                phones += found.split()
        if not phones:
            raise UsageError("the text is empty", expected="a word, or phones between slashes: /AY ER N/")
        return phones

    def windows(self, features: Array) -> Embedded:
        """A recording's features (frames, size) in windows of every length of the file."""
        hop_s = self.file.hop_s
        if len(features) < LEAST_FRAMES:
            raise UnusableInput(f"the recording has {len(features)} frames", expected=f"at least {LEAST_FRAMES}")
        spans = list(dict.fromkeys(self._spans(len(features))))
        vectors = self.spoken([features[start:stop] for start, stop in spans])
        return Embedded(vectors, np.array(spans, np.float64) * hop_s)

    def _spans(self, count: int) -> Iterator[tuple[int, int]]:
        step = max(1, round(self.file.step_s / self.file.hop_s))
        for window_s in self.file.windows_s:
            length = max(LEAST_FRAMES, round(window_s / self.file.hop_s))
            last = max(0, count - length)
            for start in [*range(0, last, step), last]:
                yield start, min(count, start + length)

    def _embedded(self, graph: str, name: str, rows: Sequence[Array]) -> Array:
        """Rows of like length together, padded; the answers in the order of the rows."""
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        answers: dict[int, Array] = {}
        while order:
            size, batch = self._room(graph, _AXES[name], [len(rows[place]) for place in order])
            now, order = order[:batch], order[batch:]
            given = [rows[place] for place in now]
            padded = np.zeros((self._batch(graph) or len(now), size, *given[0].shape[1:]), given[0].dtype)
            lengths = np.ones(len(padded), np.int32)
            for place, row in enumerate(given):
                padded[place, : len(row)], lengths[place] = row, len(row)
            found = self._infer(graph, {name: padded, "length": lengths})["embedding"]
            answers.update(zip(now, found))
        return np.stack([answers[place] for place in range(len(rows))])

    def _room(self, graph: str, axis: str, lengths: Sequence[int]) -> tuple[int, int]:
        """The size to pad to and how many rows go together, for rows in the order of their length."""
        built = sorted(sizes[axis] for sizes in self._built(graph))
        most = max(built, default=self._spec.graph(graph).axes[axis].max)
        if lengths[0] > most:
            line = f"or avsdk export MODEL --target T --axis {graph}.{axis}={lengths[0]}" if built else ""
            raise SizeNotBuilt(
                f"a word of {lengths[0]} {axis}", expected=f"at most {most}", fix=f"cut it {line}".strip()
            )
        together = min(len(lengths), self._batch(graph) or self._spec.graph(graph).axes["batch"].max)
        while lengths[together - 1] > most:
            together -= 1
        longest = lengths[together - 1]
        return next((size for size in built if size >= longest), longest), together

    def _batch(self, graph: str) -> int:
        """The batch that the graph was built at, 0 where it is free."""
        return max((sizes.get("batch", 1) for sizes in self._built(graph)), default=0)
