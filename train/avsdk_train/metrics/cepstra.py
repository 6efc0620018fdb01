"""The features that need no training: MFCC with slopes and curvatures, standardised per speaker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.ops.spectrum import Frames
from avsdk.ops.speech import MelBands, mfcc, with_deltas

RATE_HZ = 16_000
FRAMES_PER_S = 100.0
_MEL = MelBands(RATE_HZ, Frames(size=400, window=400, hop=160), bands=40)

Features = NDArray[np.float32]


def cepstra(sound: NDArray[Any], mel: MelBands = _MEL) -> Features:
    """13 MFCC with slopes and curvatures (frames, 39) of a sound (samples,), windows of 25 ms every 10 ms."""
    return np.asarray(with_deltas(mfcc(sound, mel)), np.float32)


def standardised_by_speaker(features: Mapping[str, Features], speakers: Mapping[str, str]) -> dict[str, Features]:
    """Mean 0 and deviation 1 of every coefficient over all that a speaker says (CMVN); keys are recordings."""
    groups: dict[str, list[str]] = {}
    for name in features:
        groups.setdefault(speakers[name], []).append(name)
    found: dict[str, Features] = {}
    for names in groups.values():
        spoken = np.concatenate([features[name] for name in names]).astype(np.float64)
        mean, deviation = spoken.mean(axis=0), np.maximum(spoken.std(axis=0), 1e-8)
        found.update({name: np.asarray((features[name] - mean) / deviation, np.float32) for name in names})
    return {name: found[name] for name in features}
