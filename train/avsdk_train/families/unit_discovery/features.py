"""Sound to features, by the same functions on the device and in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.ops.spectrum import Frames, magnitude
from avsdk.ops.speech import MelBands, log_mel, mfcc, standardised, with_deltas
from avsdk.spec import Step

Array = NDArray[np.float32]

RATE_HZ = 16_000
HOP = 160
FRAMES = Frames(size=400, window=400, hop=HOP)
SPECTRUM = Frames(size=1024, window=400, hop=HOP)
"""The inverter's spectrogram: as many frames as there are of the features."""
WEIGHT = 100.0
"""What is known of all speech counts as much as one second of a recording."""
_BANDS: Mapping[str, MelBands] = {
    "mfcc": MelBands(RATE_HZ, FRAMES, bands=40),
    "log_mel": MelBands(RATE_HZ, FRAMES, bands=80),
}
# Means and deviations over 160 speakers of LibriSpeech train-clean-100, two or three digits each: only where a
# recording is shorter than some seconds do they matter.
_STATISTICS: Mapping[str, tuple[list[float], list[float]]] = {
    "mfcc": (
        [-271, 52.8, 4.4, 19.5, 1.93, 3.51, -1.73, -0.319, 0.48, 0.0855, -0.236, 0.0414, 0.576] + [0.0] * 26,
        [
            86.9, 40.8, 20.7, 18.2, 14.5, 11.5, 10.5, 9.92, 8.46, 8.01, 7.14, 7.0, 6.29,
            10.6, 6.01, 2.98, 2.51, 2.14, 1.68, 1.56, 1.45, 1.26, 1.18, 1.07, 1.06, 0.95,
            4.93, 2.6, 1.47, 1.17, 1.07, 0.898, 0.848, 0.803, 0.72, 0.673, 0.629, 0.619, 0.575,
        ],
    ),
    "log_mel": (
        [
            -30, -28, -28, -26, -26, -26, -28, -30, -30, -31, -31, -32, -33, -34, -35, -36,
            -37, -38, -38, -39, -40, -40, -41, -41, -42, -42, -43, -43, -43, -44, -44, -44,
            -44, -44, -44, -44, -43, -44, -43, -44, -43, -44, -44, -44, -45, -45, -46, -46,
            -46, -46, -46, -46, -46, -47, -47, -47, -47, -48, -48, -49, -49, -49, -50, -50,
            -51, -52, -53, -54, -54, -55, -56, -56, -57, -57, -58, -58, -58, -59, -60, -60,
        ],
        [
            15, 15, 16, 18, 20, 20, 20, 19, 20, 20, 20, 20, 20, 20, 20, 19,
            19, 19, 18, 18, 18, 18, 18, 17, 17, 17, 17, 17, 17, 17, 17, 17,
            16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16,
            16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16,
            16, 16, 16, 16, 16, 16, 16, 16, 15, 15, 15, 15, 15, 15, 16, 16,
        ],
    ),
}  # fmt: skip


def steps_for(features: str) -> tuple[Step, ...]:
    """The same as ``features_from_sound`` as steps of a manifest."""
    mean, deviation = _STATISTICS[features]
    bands = _BANDS[features].bands
    cut = {"sample_rate_hz": RATE_HZ, "size": FRAMES.size, "window": FRAMES.window, "hop": HOP, "bands": bands}
    return (
        Step("sound_mono", {"sample_rate_hz": RATE_HZ}),
        Step(features, cut),
        Step("standardise_frames", {"mean": mean, "deviation": deviation, "weight": WEIGHT}),
    )


def features_from_sound(sound: NDArray[Any], features: str, warp: float = 1.0) -> Array:
    """Standardised features (frames, size) of a sound (samples,) at ``RATE_HZ``; ``warp`` as ``MelBands`` has it."""
    mel = replace(_BANDS[features], warp=warp)
    found = log_mel(sound, mel) if features == "log_mel" else with_deltas(mfcc(sound, mel))
    mean, deviation = (np.asarray(values) for values in _STATISTICS[features])
    return np.asarray(standardised(found, mean, deviation, WEIGHT), np.float32)


def magnitudes_from_sound(sound: NDArray[Any]) -> Array:
    """The linear magnitude spectrogram (frames, 513) that the inverter learns to make."""
    return np.asarray(magnitude(sound, SPECTRUM), np.float32)
