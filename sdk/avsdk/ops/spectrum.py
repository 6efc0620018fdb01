"""Short-time spectra and back, by the conventions of librosa; time runs along the first axis.

A sound is (samples,), float32 or float64, and what comes of it has its precision. Frames are centred: frame t stands
around sample t * hop, zeros stand beyond both ends, and a sound of n samples has ``1 + n // hop`` frames. The window is
Hann's, periodic, in the middle of the transform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avsdk.errors import UsageError
from avsdk.ops import Array

_ROWS_AT_ONCE = 256
"""Frames per block: what a block needs stays in the processor's cache."""


@dataclass(frozen=True)
class Frames:
    """How a sound is cut: ``size`` samples are transformed, ``window`` of them seen, one frame every ``hop``."""

    size: int = 1024
    window: int = 400
    hop: int = 160

    def __post_init__(self) -> None:
        """Refuse what no transform can do."""
        if not 1 <= self.hop <= self.window <= self.size:
            raise UsageError(
                f"frames of {self.size} samples, a window of {self.window}, one every {self.hop}",
                expected="1 <= hop <= window <= size",
            )

    @property
    def bins(self) -> int:
        """Frequencies from 0 to half the sampling rate, both included."""
        return self.size // 2 + 1

    def count(self, samples: int) -> int:
        """How many frames a sound has."""
        return 1 + samples // self.hop


def stft(sound: Array, frames: Frames) -> Array:
    """The complex spectrum (frames, bins)."""
    kind = np.result_type(sound.dtype, np.complex64)
    spectrum = np.empty((frames.count(len(sound)), frames.bins), kind)
    for start, rows in _blocks(sound, frames):
        spectrum[start : start + len(rows)] = rfft_rows(rows)
    return spectrum


def magnitude(sound: Array, frames: Frames) -> Array:
    """The linear magnitude spectrogram (frames, bins)."""
    found = power(sound, frames)
    return np.asarray(np.sqrt(found, out=found))


def power(sound: Array, frames: Frames) -> Array:
    """The squared magnitude (frames, bins)."""
    found = np.empty((frames.count(len(sound)), frames.bins), sound.dtype)
    for start, rows in _blocks(sound, frames):
        block = found[start : start + len(rows)]
        first, second = _unpacked(_packed_fft(rows), frames.bins)
        _squares(first[0], first[1], block[0::2])
        _squares(second[0][: len(rows) // 2], second[1][: len(rows) // 2], block[1::2])
    return found


def istft(spectrum: Array, frames: Frames, samples: int | None = None) -> Array:
    """The sound whose spectrum is nearest by least squares (Griffin and Lim 1984, equation 6).

    ``samples`` is its length; without it that of the last frame's middle.
    """
    window = _window(frames.size, frames.window, str(spectrum.real.dtype))
    count = len(spectrum)
    rows = irfft_rows(spectrum, frames.size) * window
    length = (count - 1) * frames.hop if samples is None else samples
    total = _overlapped(rows, frames)
    weight = _overlapped(np.broadcast_to(np.square(window), rows.shape), frames)
    tiny = np.finfo(rows.dtype).tiny
    found = np.where(weight > tiny, total / np.maximum(weight, tiny), total)[frames.size // 2 :][:length]
    return np.pad(found, (0, length - len(found)))


def griffin_lim(
    magnitudes: Array,
    frames: Frames,
    *,
    iterations: int = 32,
    momentum: float = 0.99,
    seed: int = 0,
    phase: Array | None = None,
    samples: int | None = None,
) -> Array:
    """A sound with these magnitudes (frames, bins) by the fast Griffin-Lim algorithm (Perraudin et al. 2013).

    ``phase`` holds the angles to begin with; by default they are drawn evenly with ``seed``.
    """
    if magnitudes.ndim != 2 or magnitudes.shape[1] != frames.bins:
        raise UsageError(
            f"magnitudes of shape {list(magnitudes.shape)}", expected=f"(frames, {frames.bins}), as the frames have it"
        )
    if phase is None:
        phase = 2 * np.pi * np.random.default_rng(seed).random(magnitudes.shape)
    tiny = np.finfo(magnitudes.dtype).tiny
    estimate = (magnitudes * np.exp(1j * phase)).astype(np.result_type(magnitudes.dtype, np.complex64))
    share = np.asarray(momentum / (1 + momentum), magnitudes.dtype)
    before: Array | None = None
    for _ in range(iterations):
        consistent = _fitted(stft(istft(estimate, frames, samples), frames), len(magnitudes))
        estimate = consistent if before is None else consistent - before * share
        estimate = estimate * (magnitudes / (np.abs(estimate) + tiny))
        before = consistent
    return istft(estimate, frames, samples)


def rfft_rows(rows: Array) -> Array:
    """``np.fft.rfft`` of every row (rows, size), two rows per complex transform.

    numpy's own takes several times as long on float32 (``bench/numbers/features.py``).
    """
    count, size = rows.shape
    both = _packed_fft(rows)
    found = np.empty((2 * len(both), size // 2 + 1), both.dtype)
    for place, (real, imaginary) in enumerate(_unpacked(both, size // 2 + 1)):
        found.real[place::2], found.imag[place::2] = real, imaginary
    return found[:count]


def irfft_rows(spectrum: Array, size: int) -> Array:
    """``np.fft.irfft`` of every row (rows, bins) to ``size`` values, two rows per complex transform."""
    count = len(spectrum)
    even = _hermitian(spectrum[0::2], size)
    even[: count // 2] += np.asarray(1j, even.dtype) * _hermitian(spectrum[1::2], size)
    both = np.fft.ifft(even).astype(even.dtype, copy=False)
    found = np.empty((2 * len(both), size), both.real.dtype)
    found[0::2], found[1::2] = both.real, both.imag
    return found[:count]


def _packed_fft(rows: Array) -> Array:
    """The transform of even rows plus i times odd rows (pairs, size)."""
    count, size = rows.shape
    packed = np.zeros((-(-count // 2), size), np.result_type(rows.dtype, np.complex64))
    packed.real = rows[0::2]
    packed.imag[: count // 2] = rows[1::2]
    return np.fft.fft(packed).astype(packed.dtype, copy=False)  # numpy 1 answers in double precision


def _unpacked(both: Array, bins: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Real and imaginary parts of FFT(a) and of FFT(b) out of Z = FFT(a + ib).

    With z the value at the negative frequency: A = (Z + conj z) / 2 and B = (Z - conj z) / 2i.
    """
    half = np.asarray(0.5, both.real.dtype)
    real, imaginary = both.real * half, both.imag * half
    mirrored, turned = _mirrored(real, bins), _mirrored(imaginary, bins)
    real, imaginary = real[:, :bins], imaginary[:, :bins]
    return (real + mirrored, imaginary - turned), (imaginary + turned, mirrored - real)


def _mirrored(rows: Array, bins: int) -> Array:
    """The value at the negative frequency, for frequencies 0 to ``bins`` - 1."""
    found = np.empty((len(rows), bins), rows.dtype)
    found[:, 0] = rows[:, 0]
    found[:, 1:] = rows[:, : rows.shape[1] - bins : -1]
    return found


def _squares(real: Array, imaginary: Array, out: Array) -> None:
    np.multiply(real, real, out=out)
    out += imaginary * imaginary


def _hermitian(rows: Array, size: int) -> Array:
    """The spectrum at all ``size`` frequencies of a real signal; the imaginary parts at both ends do not count."""
    whole = np.empty((len(rows), size), rows.dtype)
    bins = size // 2 + 1
    whole[:, :bins] = rows
    whole[:, 0].imag = 0
    if size % 2 == 0:
        whole[:, bins - 1].imag = 0
    whole[:, bins:] = rows[:, 1 : size - bins + 1][:, ::-1].conj()
    return whole


def _blocks(sound: Array, frames: Frames) -> Iterator[tuple[int, Array]]:
    """Windowed frames, ``_ROWS_AT_ONCE`` at a time: the first one's index, and the rows."""
    count = frames.count(len(sound))
    left = frames.size // 2
    right = max(0, (count - 1) * frames.hop + frames.size - left - len(sound))
    padded = np.pad(sound, (left, right))
    window = _window(frames.size, frames.window, str(sound.dtype))
    views = np.lib.stride_tricks.sliding_window_view(padded, frames.size)[:: frames.hop]
    for start in range(0, count, _ROWS_AT_ONCE):
        yield start, views[start : min(start + _ROWS_AT_ONCE, count)] * window


@lru_cache(maxsize=16)
def _window(size: int, width: int, dtype: str) -> Array:
    """Hann's window of ``width`` samples in the middle of ``size``."""
    left = (size - width) // 2
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    return np.pad(hann, (left, size - width - left)).astype(dtype)


def _overlapped(rows: Array, frames: Frames) -> Array:
    """The sum of rows, each ``hop`` samples after the one before."""
    count, size = rows.shape
    pieces = -(-size // frames.hop)
    padded = np.zeros((count, pieces * frames.hop), rows.dtype)
    padded[:, :size] = rows
    total = np.zeros((count + pieces - 1, frames.hop), rows.dtype)
    for piece in range(pieces):
        total[piece : piece + count] += padded[:, piece * frames.hop : (piece + 1) * frames.hop]
    return total.reshape(-1)


def _fitted(spectrum: Array, count: int) -> Array:
    """Exactly ``count`` frames: cut, or silence appended."""
    return np.pad(spectrum[:count], ((0, max(0, count - len(spectrum))), (0, 0)))
