"""The operations on sound that a manifest may name, before and after inference.

A sound is float32, (samples,), one channel, in -1..1; tensors have a batch axis in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from avsdk.errors import UnusableInput
from avsdk.ops import Array, Operation, Trace, is_count, is_number

RATES_HZ = (1000, 384_000)
_LONGEST_FRAME = 1 << 20
_MOST_VALUES = 1 << 28


def sound_mono(sound: Array, trace: Trace, *, sample_rate_hz: int) -> Array:
    """Take one channel at that rate and note its length; whoever reads the file has brought it there.

    Raises ``UnusableInput`` for anything else than such a sound.
    """
    del sample_rate_hz
    if sound.ndim != 1 or sound.dtype.kind != "f" or sound.size == 0:
        raise UnusableInput(
            f"the sound is an array of shape {list(sound.shape)} and type {sound.dtype}",
            expected="floats in -1..1 of shape (samples,), at least one sample",
        )
    trace.samples = len(sound)
    return sound.astype(np.float32, copy=False)


def peak(sound: Array, trace: Trace, *, level: float = 1.0) -> Array:
    """Scale so that the largest sample is ``level``; silence stays silence."""
    del trace
    largest = float(np.abs(sound).max())
    return sound if largest == 0 else np.asarray(sound * np.float32(level / largest))


def standardise(sound: Array, trace: Trace) -> Array:
    """Mean 0 and variance 1 over the whole sound, as wav2vec-like models take it."""
    del trace
    return np.asarray((sound - sound.mean()) / np.sqrt(sound.var() + np.float32(1e-7)), dtype=np.float32)


def pad_samples(sound: Array, trace: Trace, *, multiple: int) -> Array:
    """Zeros at the end up to the next multiple."""
    del trace
    return np.pad(sound, (0, -len(sound) % multiple))


def fit_samples(sound: Array, trace: Trace, *, samples: int) -> Array:
    """Exactly that many samples: cut at the end, or zeros appended."""
    del trace
    return np.pad(sound[:samples], (0, max(0, samples - len(sound))))


def frames(sound: Array, trace: Trace, *, length: int, hop: int) -> Array:
    """Overlapping pieces (frames, length), one every ``hop`` samples; the last is filled with zeros.

    Raises ``UnusableInput`` where they would be too many to hold.
    """
    del trace
    count = max(1, -(-(len(sound) - length) // hop) + 1)
    if count * length > _MOST_VALUES:
        raise UnusableInput(
            f"the sound of {len(sound)} samples makes {count} pieces of {length}",
            expected=f"at most {_MOST_VALUES} values in all pieces",
            fix="cut the sound first",
        )
    padded = np.pad(sound, (0, (count - 1) * hop + length - len(sound)))
    return np.lib.stride_tricks.sliding_window_view(padded, length)[::hop].copy()


def overlap_add(pieces: Array, trace: Trace, *, hop: int) -> Array:
    """The sound of overlapping pieces (frames, length): their mean where they overlap, cut to the input's length."""
    count, length = pieces.shape[-2:]
    total, weight = np.zeros((count - 1) * hop + length), np.zeros((count - 1) * hop + length)
    for index, piece in enumerate(pieces.reshape(count, length)):
        total[index * hop : index * hop + length] += piece
        weight[index * hop : index * hop + length] += 1
    return np.asarray(total / np.maximum(weight, 1), dtype=np.float32)[: trace.samples or None]


def batch(value: Array, trace: Trace, *, axes: int = 1) -> Array:
    """That many axes of size 1 in front: (samples,) becomes (1, samples), or (1, 1, samples) with two."""
    del trace
    return np.ascontiguousarray(value.reshape((1,) * axes + value.shape))


def unbatch(value: Array, trace: Trace) -> Array:
    """Without the axes of size 1 in front."""
    del trace
    while value.ndim > 1 and value.shape[0] == 1:
        value = value[0]
    return value


def sound_out(value: Array, trace: Trace) -> Array:
    """A sound to be written: one channel, no longer than what came in, clipped to -1..1."""
    return np.clip(unbatch(value, trace).reshape(-1)[: trace.samples or None], -1.0, 1.0).astype(np.float32)


def _check_rate(sample_rate_hz: object) -> str:
    return "" if is_count(sample_rate_hz, *RATES_HZ) else f"sample_rate_hz {RATES_HZ[0]}..{RATES_HZ[1]}"


def _check_level(level: object = 1.0) -> str:
    return "" if is_number(level, 1e-3, 1.0) else "level between 0.001 and 1"


def _check_multiple(multiple: object) -> str:
    return "" if is_count(multiple, 1, _LONGEST_FRAME) else f"multiple 1..{_LONGEST_FRAME}"


def _check_samples(samples: object) -> str:
    return "" if is_count(samples, 1, 1 << 28) else f"samples 1..{1 << 28}"


def _check_frames(length: object, hop: object) -> str:
    fits = is_count(length, 1, _LONGEST_FRAME) and is_count(hop, 1, int(length))  # type: ignore[call-overload]
    return "" if fits else f"length 1..{_LONGEST_FRAME} and hop 1..length"


def _check_hop(hop: object) -> str:
    return "" if is_count(hop, 1, _LONGEST_FRAME) else f"hop 1..{_LONGEST_FRAME}"


def _check_axes(axes: object = 1) -> str:
    return "" if is_count(axes, 1, 4) else "axes 1..4"


OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (
        sound_mono, peak, standardise, pad_samples, fit_samples, frames, overlap_add, batch, unbatch, sound_out,
    )
}  # fmt: skip
CHECKS: Mapping[str, Callable[..., str]] = {
    "sound_mono": _check_rate,
    "peak": _check_level,
    "pad_samples": _check_multiple,
    "fit_samples": _check_samples,
    "frames": _check_frames,
    "overlap_add": _check_hop,
    "batch": _check_axes,
}
