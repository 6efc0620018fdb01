"""Features of speech by the conventions of librosa: log-mel energies, cepstra (MFCC) and their slopes.

Features are (frames, size), time first; a sound is (samples,), frames are those of ``avsdk.ops.spectrum``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avsdk.errors import UnusableInput, UsageError
from avsdk.ops import Array, Operation, Trace, is_count, is_number
from avsdk.ops.spectrum import Frames, power

SLOPE_FRAMES = 9
_LINEAR_TO_HZ, _HZ_PER_MEL = 1000.0, 200.0 / 3
_LOG_STEP = np.log(6.4) / 27
"""Slaney's mel scale: linear up to 1000 Hz, then 27 steps for a factor of 6.4 (Auditory Toolbox, 1998)."""

_WARPED_SHARE = 0.85
"""Up to this share of the highest frequency a warp is a plain factor."""


@dataclass(frozen=True)
class MelBands:
    """Triangles of equal area, evenly spaced on Slaney's mel scale, over a spectrum of ``frames``.

    ``warp`` moves every frequency by that factor, as a longer or shorter vocal tract does; in the upper part less and
    less, so that the highest stays (Jaitly and Hinton 2013).
    """

    sample_rate_hz: int = 16_000
    frames: Frames = Frames(size=400, window=400, hop=160)
    bands: int = 80
    low_hz: float = 0.0
    high_hz: float = 8000.0
    warp: float = 1.0

    def __post_init__(self) -> None:
        """Refuse frequencies that the sound does not have."""
        if not (0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2 and self.bands >= 1):
            raise UsageError(
                f"{self.bands} mel bands from {self.low_hz:g} to {self.high_hz:g} Hz at {self.sample_rate_hz} Hz",
                expected="0 <= low_hz < high_hz <= half the sampling rate, and a band",
            )
        if not 0.5 <= self.warp <= 2:
            raise UsageError(f"frequencies moved by {self.warp}", expected="a factor from 0.5 to 2")


def log_mel(sound: Array, mel: MelBands, *, top_db: float | None = None) -> Array:
    """Mel energies in decibels (frames, bands); 1e-10 is the least energy.

    With ``top_db`` nothing is further than that below the loudest value of the whole sound.
    """
    energy = power(sound, mel.frames) @ _filters(mel, str(sound.dtype))
    np.maximum(energy, 1e-10, out=energy)
    np.log10(energy, out=energy)
    energy *= 10
    return energy if top_db is None else np.maximum(energy, energy.max() - np.asarray(top_db, energy.dtype))


def mfcc(sound: Array, mel: MelBands, *, coefficients: int = 13, top_db: float | None = None) -> Array:
    """The first cepstral coefficients (frames, coefficients): an orthonormal DCT-II of ``log_mel``, no liftering."""
    return log_mel(sound, mel, top_db=top_db) @ _cosines(mel.bands, coefficients, str(sound.dtype))


def delta(features: Array, order: int = 1) -> Array:
    """The slope (order 1) or curvature (order 2) at every frame, of a polynomial fitted over nine frames.

    Near both ends the first and the last whole fit count. Fewer than nine frames are continued by their own ends.
    """
    half = SLOPE_FRAMES // 2
    weights = _slopes(order)
    short = len(features) < SLOPE_FRAMES
    padded = np.pad(features, ((half, half), (0, 0)), mode="edge") if short else features
    count = len(padded) - SLOPE_FRAMES + 1
    found = np.zeros((count, features.shape[1]), features.dtype)
    for index, weight in enumerate(weights):
        found += padded[index : index + count] * np.asarray(weight, features.dtype)
    return found if short else np.pad(found, ((half, half), (0, 0)), mode="edge")


def with_deltas(features: Array) -> Array:
    """The features, their slopes and their curvatures side by side (frames, 3 size)."""
    return np.concatenate([features, delta(features), delta(features, 2)], axis=1)


def standardised(features: Array, mean: Array, deviation: Array, weight: float) -> Array:
    """Every coefficient with mean 0 and deviation 1 over the recording.

    ``mean`` and ``deviation`` are those of all speech, and count like ``weight`` frames of it: so a recording of a few
    frames is moved by what is known of others, and a long one by its own. A weight of infinity leaves them alone.
    """
    known = 1.0 if np.isinf(weight) else weight / (weight + len(features))
    exact = features.astype(np.float64)
    own = exact.mean(axis=0)
    middle = known * mean + (1 - known) * own
    square = known * (np.square(deviation) + np.square(mean)) + (1 - known) * np.square(exact).mean(axis=0)
    spread = np.sqrt(np.maximum(square - np.square(middle), 1e-8))
    return np.asarray((exact - middle) / spread, features.dtype)


@lru_cache(maxsize=16)
def _filters(mel: MelBands, dtype: str) -> Array:
    """The triangles (bins, bands), each with area 1 over its width in hertz."""
    edges = _warped(_hz(np.linspace(_mel(mel.low_hz), _mel(mel.high_hz), mel.bands + 2)), mel)
    bins = np.arange(mel.frames.bins) * mel.sample_rate_hz / mel.frames.size
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))
    return np.ascontiguousarray(triangles, dtype)


def _warped(hz: Array, mel: MelBands) -> Array:
    corner = _WARPED_SHARE * mel.high_hz * min(mel.warp, 1) / mel.warp
    slope = (mel.high_hz - corner * mel.warp) / (mel.high_hz - corner)
    return np.where(hz <= corner, hz * mel.warp, mel.high_hz - slope * (mel.high_hz - hz))


def _mel(hz: float) -> float:
    if hz < _LINEAR_TO_HZ:
        return hz / _HZ_PER_MEL
    return _LINEAR_TO_HZ / _HZ_PER_MEL + float(np.log(hz / _LINEAR_TO_HZ)) / float(_LOG_STEP)


def _hz(mels: Array) -> Array:
    corner = _LINEAR_TO_HZ / _HZ_PER_MEL
    curved = _LINEAR_TO_HZ * np.exp(_LOG_STEP * (np.maximum(mels, corner) - corner))
    return np.where(mels < corner, mels * _HZ_PER_MEL, curved)


@lru_cache(maxsize=16)
def _cosines(size: int, count: int, dtype: str) -> Array:
    """The orthonormal DCT-II as a matrix (size, count)."""
    angles = np.pi / size * (np.arange(size)[:, None] + 0.5) * np.arange(count)[None]
    scale = np.sqrt(np.where(np.arange(count) == 0, 1, 2) / size)
    return np.ascontiguousarray(np.cos(angles) * scale, dtype)


@lru_cache(maxsize=2)
def _slopes(order: int) -> tuple[float, ...]:
    """The weights of nine frames that give the derivative of a fitted polynomial of degree ``order``."""
    half = SLOPE_FRAMES // 2
    powers = np.vander(np.arange(-half, half + 1), order + 1, increasing=True)
    return tuple(float(weight) for weight in (1, 1, 2)[order] * np.linalg.pinv(powers)[order])


def _bands(sample_rate_hz: int, size: int, window: int, hop: int, bands: int) -> MelBands:
    return MelBands(sample_rate_hz, Frames(size, window, hop), bands, 0.0, sample_rate_hz / 2)


def log_mel_step(
    sound: Array, trace: Trace, *, sample_rate_hz: int, size: int = 400, window: int = 400, hop: int = 160,
    bands: int = 80,
) -> Array:  # fmt: skip
    """The step ``log_mel`` of a manifest: see ``log_mel``."""
    del trace
    return log_mel(sound, _bands(sample_rate_hz, size, window, hop, bands))


def mfcc_step(
    sound: Array, trace: Trace, *, sample_rate_hz: int, size: int = 400, window: int = 400, hop: int = 160,
    bands: int = 40, coefficients: int = 13,
) -> Array:  # fmt: skip
    """The step ``mfcc`` of a manifest: cepstra with their slopes and curvatures (frames, 3 coefficients)."""
    del trace
    return with_deltas(mfcc(sound, _bands(sample_rate_hz, size, window, hop, bands), coefficients=coefficients))


def standardise_frames(features: Array, trace: Trace, *, mean: Array, deviation: Array, weight: float) -> Array:
    """The step of that name: see ``standardised``."""
    del trace
    if features.shape[1] != len(mean):
        raise UnusableInput(f"features of {features.shape[1]} values per frame", expected=f"{len(mean)}")
    return standardised(features, np.asarray(mean), np.asarray(deviation), weight)


def _check_statistics(mean: object, deviation: object, weight: object) -> str:
    lists = isinstance(mean, list) and isinstance(deviation, list) and 0 < len(mean) == len(deviation)
    if lists and is_number(weight, 1e-3, 1e9):
        values = [*mean, *deviation]  # type: ignore[misc]
        if all(is_number(value, -1e6, 1e6) for value in values) and min(deviation) > 0:  # type: ignore[call-overload]
            return ""
    return "mean and deviation as lists of equally many numbers, deviations above 0, and a weight above 0"


def _check_bands(
    sample_rate_hz: object = 16_000, size: object = 400, window: object = 400, hop: object = 160, bands: object = 40,
    coefficients: object = 1,
) -> str:  # fmt: skip
    fits = is_number(sample_rate_hz, 1000, 384_000) and is_count(size, 2, 1 << 14) and is_count(bands, 1, 512)
    fits = fits and is_count(window, 1, int(size)) and is_count(hop, 1, int(window))  # type: ignore[call-overload]
    fits = fits and is_count(coefficients, 1, int(bands))  # type: ignore[call-overload]
    return "" if fits else "size 2..16384, window 1..size, hop 1..window, bands 1..512, coefficients 1..bands"


OPERATIONS: Mapping[str, Operation] = {
    "log_mel": log_mel_step,
    "mfcc": mfcc_step,
    "standardise_frames": standardise_frames,
}
CHECKS: Mapping[str, Callable[..., str]] = {
    "log_mel": _check_bands,
    "mfcc": _check_bands,
    "standardise_frames": _check_statistics,
}
