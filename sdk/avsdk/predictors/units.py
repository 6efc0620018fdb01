"""Speech to units and units to speech, whatever runs the graphs: windows, padding, cropping, Griffin-Lim.

A unit depends on a bounded stretch of sound (``UnitFile.context``), so a long recording is encoded in overlapping
windows, and what is kept of each is what the whole recording would have given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsdk.errors import BundleRefused, SizeNotBuilt, UnknownName, UsageError
from avsdk.ops.spectrum import Frames, griffin_lim
from avsdk.schema import check_schema, decode
from avsdk.session import Array
from avsdk.spec import GraphSpec, ModelSpec

RATE_HZ = 16_000
SPECTRUM = Frames(size=1024, window=400, hop=160)
ASSET = "units"
MOST_FRAMES = 2048
"""The longest window where any is possible, in feature frames: attention's cost grows with its square."""
_SOUND_FRAMES, _FADE_FRAMES = 3000, 50
"""Griffin-Lim takes half a minute at a time; pieces are faded into one another over half a second."""

Infer = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""``infer(graph, feeds) -> outputs``."""
Built = Callable[[str], tuple[int, ...]]
"""``built(graph)``: the lengths that a graph was built at, empty where its time is free."""


@dataclass(frozen=True)
class UnitFile:
    """``units.json``: feature frames per unit, frames to either side that a unit depends on, and names in the order of
    the decoder's and the inverter's tables. ``entries``: the size of the codebook, 0 where it was not noted.
    """

    stride: int
    context: int
    speakers: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    entries: int = 0


@dataclass(frozen=True)
class Units:
    """What was said: ``codes`` (units,), the ``vectors`` before the codebook and its ``entries`` (units, size).

    One unit lasts ``unit_s`` seconds; the sound had ``samples`` at ``RATE_HZ``.
    """

    codes: Array
    vectors: Array
    entries: Array
    unit_s: float
    samples: int


@dataclass(frozen=True)
class Window:
    """A stretch that a graph is run on, and the part of it that is kept; all in the same steps of time."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def read_unit_file(path: Path) -> UnitFile:
    """Read ``units.json`` strictly."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleRefused(f"{path} cannot be read: {error}", expected="the asset as avsdk wrote it") from error
    content = check_schema(document, where=path.name, refused=BundleRefused)
    found = decode(UnitFile, content, where=path.name, refused=BundleRefused)
    if found.entries < 0 or not (
        1 <= found.stride <= 64 and 0 <= found.context <= 1 << 16 and found.context % found.stride == 0
    ):
        raise BundleRefused(
            f"{path.name} has the stride {found.stride} and the context {found.context}",
            expected="a stride of 1..64 frames, and a context that is a multiple of it",
        )
    return found


class SpeechUnits:
    """Both directions over graphs that ``infer`` runs."""

    def __init__(self, spec: ModelSpec, file: UnitFile, infer: Infer, built: Built) -> None:
        self.file = file
        self._spec, self._infer, self._built = spec, infer, built

    def units(self, features: Array, samples: int) -> Units:
        """The units of a recording's features (frames, size)."""
        stride = self.file.stride
        parts: list[Mapping[str, Array]] = []
        for window in self._windows("encoder", "frames", len(features), self.file.context):
            piece = features[window.start : window.stop]
            size = self._size("encoder", "frames", len(piece))
            feeds = {
                "features": np.pad(piece, ((0, size - len(piece)), (0, 0)))[None],
                "length": np.array([len(piece)], np.int32),
            }
            kept = slice((window.keep_start - window.start) // stride, -(-(window.keep_stop - window.start) // stride))
            parts.append({name: value[0, kept] for name, value in self._infer("encoder", feeds).items()})
        codes, vectors, entries = (
            np.concatenate([part[name] for part in parts]) for name in ("codes", "vectors", "entries")
        )
        return Units(codes, vectors, entries, stride * SPECTRUM.hop / RATE_HZ, samples)

    def features(self, codes: Array, speaker: str) -> Array:
        """The features (frames, size) that the decoder makes of codes for one of its speakers."""
        return self._decoded("decoder", codes, "speaker", _index(speaker, self.file.speakers, "speaker"), "features")

    def magnitudes(self, codes: Array, voice: str) -> Array:
        """The linear magnitudes (frames, bins) that the inverter makes of codes for one of its voices."""
        return self._decoded("inverter", codes, "voice", _index(voice, self.file.voices, "voice"), "magnitudes")

    def _decoded(self, graph: str, codes: Array, who: str, index: int, answer: str) -> Array:
        stride = self.file.stride
        parts = []
        for window in self._windows(graph, "units", len(codes), self.file.context // stride):
            piece = codes[window.start : window.stop]
            size = self._size(graph, "units", len(piece))
            feeds = {
                "codes": np.pad(piece, (0, size - len(piece)))[None].astype(np.int32),
                "length": np.array([len(piece)], np.int32),
                who: np.array([index], np.int32),
            }
            kept = slice((window.keep_start - window.start) * stride, (window.keep_stop - window.start) * stride)
            parts.append(self._infer(graph, feeds)[answer][0, kept])
        return np.concatenate(parts)

    def _windows(self, graph: str, axis: str, count: int, context: int) -> Iterator[Window]:
        """The whole where a graph takes it at once, else windows of the greatest length that it was built at."""
        per_frame = 1 if axis == "frames" else self.file.stride
        greatest = max(self._built(graph), default=0)
        axis_range = self._graph(graph).axes.get(axis)
        if not greatest:
            greatest = min(MOST_FRAMES // per_frame, axis_range.max if axis_range else MOST_FRAMES)
            greatest = max(greatest, min(count, 4 * context))
        try:
            return windows(count, greatest, context, self.file.stride if axis == "frames" else 1)
        except SizeNotBuilt as error:
            fix = f"avsdk export MODEL --target T --axis {graph}.{axis}={4 * context}"
            raise SizeNotBuilt(f"graph {graph!r}: {error.failed}", expected=error.expected, fix=fix) from error

    def _size(self, graph: str, axis: str, count: int) -> int:
        """The least length at which ``count`` steps can be run."""
        step = self.file.stride if axis == "frames" else 1
        fitting = [size for size in self._built(graph) if size >= count]
        return min(fitting) if fitting else -(-count // step) * step

    def _graph(self, name: str) -> GraphSpec:
        return self._spec.graph(name)


def windows(count: int, greatest: int, context: int, multiple: int = 1) -> Iterator[Window]:
    """Cover ``count`` steps by stretches of at most ``greatest``, each with ``context`` beyond what is kept of it.

    Borders are multiples of ``multiple``, the end aside. Raises ``SizeNotBuilt`` where nothing would be kept.
    """
    greatest -= greatest % multiple
    if count <= greatest:
        return iter([Window(0, count, 0, count)])
    kept = greatest - 2 * context
    kept -= kept % multiple
    if kept < multiple:
        raise SizeNotBuilt(
            f"{count} steps do not fit into {greatest}", expected=f"more than {2 * context} for several windows"
        )
    return _cut(count, kept, context)


def _cut(count: int, kept: int, context: int) -> Iterator[Window]:
    start = 0
    while start < count:
        stop = min(start + kept, count)
        yield Window(max(0, start - context), min(count, stop + context), start, stop)
        start = stop


def sound_from_magnitudes(magnitudes: Array, samples: int) -> Array:
    """Griffin-Lim on a recording of any length: pieces of half a minute, faded into one another."""
    hop = SPECTRUM.hop
    sound = np.zeros(samples, np.float32)
    for window in windows(len(magnitudes), _SOUND_FRAMES, _FADE_FRAMES):
        first, last = window.start * hop, min(window.stop * hop, samples)
        piece = griffin_lim(magnitudes[window.start : window.stop], SPECTRUM, samples=max(0, last - first))
        sound[first:last] += piece * _fade(window, hop)[: last - first]
    return sound


def _fade(window: Window, hop: int) -> Array:
    """Rises over the overlap with the window before, falls over that with the one after: together they are 1."""
    weights = np.ones((window.stop - window.start) * hop, np.float32)
    rise, fall = 2 * (window.keep_start - window.start) * hop, 2 * (window.stop - window.keep_stop) * hop
    if rise:
        weights[:rise] = (np.arange(rise) + 0.5) / rise
    if fall:
        weights[-fall:] *= (np.arange(fall)[::-1] + 0.5) / fall
    return weights


def _index(name: str, known: tuple[str, ...], what: str) -> int:
    if not known:
        raise UsageError(
            f"the model has no {what} {name!r}",
            expected=f"a model with a {what}",
            fix="train an inverter: docs/unit-discovery.md",
        )
    if name.isdecimal() and name not in known and int(name) < len(known):
        return int(name)
    if name not in known:
        raise UnknownName.among(what, name, known)
    return known.index(name)
