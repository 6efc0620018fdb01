"""Recordings as training batches: random pieces of features, and what the decoder or the inverter owes for them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk.sound import MAX_SECONDS, read_sound
from avsdk_train.families.unit_discovery.corpora import Utterance, read_corpus
from avsdk_train.families.unit_discovery.features import (
    HOP,
    RATE_HZ,
    Array,
    features_from_sound,
    magnitudes_from_sound,
)
from avsdk_train.families.unit_discovery.network import Shape
from avsdk_train.families.unit_discovery.settings import UnitSettings
from avsdk_train.family import Batch, Sample

_MEMORY_BYTES = 768 << 20
_WARPS = 5
"""Warps to either side of none: as many versions of a recording are kept."""
_PREVIEW_FRAMES = 400


class SpeechPieces:
    """Random pieces of the utterances beneath some folders, ``crop_frames`` long; with ``consistency`` each of them
    twice in a row, under two warps.

    A batch holds ``frames`` and ``target`` (batch, crop_frames, size), ``lengths`` and ``speakers`` (batch,) int64; for
    the inverter ``magnitudes`` (batch, crop_frames, bins) in the target's place, and the speakers are voices.
    """

    def __init__(self, settings: UnitSettings, shape: Shape, folders: Sequence[Path]) -> None:
        self._settings, self._shape = settings, shape
        self._folders = tuple(folders)
        every = tuple(item for folder in folders for item in read_corpus(folder))
        self.utterances = _of_voices(every, settings.voices)
        self.speakers = tuple(sorted({item.speaker for item in self.utterances}))
        most = shape.voices if settings.learns == "inverter" else shape.speakers
        if len(self.speakers) > most:
            raise UsageError(
                f"the data has {len(self.speakers)} speakers", expected=f"at most {most}, as the variant has room for",
                fix="another variant, or fewer speakers; an inverter's are chosen by --set voices=NAME,NAME",
            )  # fmt: skip
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.utterances)

    def fingerprint(self) -> str:
        """A hash of the utterances' names, places and speakers, and of the files' sizes."""
        digest = hashlib.sha256()
        for item in self.utterances:
            root = next(folder for folder in self._folders if item.path.is_relative_to(folder))
            name = item.path.relative_to(root).as_posix()
            size = item.path.stat().st_size
            digest.update(f"{name}\0{size}\0{item.speaker}\0{item.start_s}\0{item.end_s}\n".encode())
        return digest.hexdigest()

    def files(self) -> Sequence[Path]:
        """The recordings."""
        return tuple(dict.fromkeys(item.path for item in self.utterances))

    def __getstate__(self) -> Mapping[str, Any]:
        """For a worker process: what it reads from, without what was read."""
        dropped = ("_kept", "_kept_bytes", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in dropped}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Begin with nothing read."""
        self.__dict__.update(state)
        self._kept, self._kept_bytes, self._lock = OrderedDict(), 0, threading.Lock()

    def batch(self, samples: Sequence[Sample], progress: float) -> Batch:
        """One piece per sample; its place and its warp come from the sample's own generator."""
        del progress
        versions = 2 if self._settings.consistency else 1
        places = [(sample, self._start(sample)) for sample in samples]
        pieces = [self._piece(sample, start) for sample, start in places for _ in range(versions)]
        samples = [sample for sample in samples for _ in range(versions)]
        batch = {name: torch.from_numpy(np.stack([piece[name] for piece in pieces])) for name in pieces[0]}
        lengths = [min(self._count(sample.index), self._settings.crop_frames) for sample in samples]
        speakers = [self.speakers.index(self.utterances[sample.index].speaker) for sample in samples]
        return {**batch, "lengths": torch.tensor(lengths), "speakers": torch.tensor(speakers)}

    @property
    def learns_inverter(self) -> bool:
        """Whether the pieces are for the inverter."""
        return self._settings.learns == "inverter"

    def preview(self) -> tuple[Array, int]:
        """Features of the first utterance's beginning, and its speaker."""
        return self._features(0, 0)[:_PREVIEW_FRAMES], self.speakers.index(self.utterances[0].speaker)

    def _start(self, sample: Sample) -> int:
        last = self._count(sample.index) - self._settings.crop_frames
        return int(sample.random.integers(0, max(1, last + 1)))

    def _piece(self, sample: Sample, start: int) -> dict[str, Array]:
        frames = self._settings.crop_frames
        warp = int(sample.random.integers(-_WARPS, _WARPS + 1)) if self._settings.warp else 0

        def cut(whole: Array) -> Array:
            piece = whole[start : start + frames]
            return np.pad(piece, ((0, frames - len(piece)), (0, 0)))

        if self._settings.learns == "inverter":
            return {"frames": cut(self._features(sample.index, 0)), "magnitudes": cut(self._magnitudes(sample.index))}
        return {"frames": cut(self._features(sample.index, warp)), "target": cut(self._features(sample.index, 0))}

    def _count(self, index: int) -> int:
        return len(self._features(index, 0))

    def _features(self, index: int, warp: int) -> Array:
        factor = 1 + self._settings.warp * warp / _WARPS
        return self._remembered((index, warp), lambda sound: features_from_sound(sound, self._shape.features, factor))

    def _magnitudes(self, index: int) -> Array:
        return self._remembered((index, _WARPS + 1), magnitudes_from_sound)

    def _remembered(self, key: tuple[int, int], make: Any) -> Array:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made: Array = make(sound_of(self.utterances[key[0]]))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._kept_bytes += made.nbytes
            while self._kept_bytes > _MEMORY_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def sound_of(item: Utterance) -> NDArray[np.float32]:
    """The samples of an utterance at ``RATE_HZ``. Raises ``UnusableInput`` for one shorter than a frame's step."""
    sound = read_sound(item.path, RATE_HZ, MAX_SECONDS)
    last = None if item.end_s is None else round(item.end_s * RATE_HZ)
    cut = sound[round(item.start_s * RATE_HZ) : last]
    if len(cut) < HOP:
        raise UnusableInput(f"{item.path} holds {len(cut)} samples of speech", expected=f"at least {HOP} (10 ms)")
    return cut


def _of_voices(every: tuple[Utterance, ...], voices: tuple[str, ...]) -> tuple[Utterance, ...]:
    known = {item.speaker for item in every}
    for voice in voices:
        if voice not in known:
            raise UsageError(
                f"no utterance of the voice {voice!r}", expected=f"of: {', '.join(sorted(known)[:20])}",
                fix="--set voices=NAME,NAME",
            )  # fmt: skip
    return tuple(item for item in every if not voices or item.speaker in voices)
