"""More operations on pictures, as models from elsewhere expect them: sizes, colours, mean and deviation, class maps.

Pictures, frames and tensors are those of ``avsdk.ops.image``; a tensor may also be (batch, height, width, channels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from avsdk.errors import UnusableInput
from avsdk.media import resized
from avsdk.ops import Array, Operation, Trace, is_count, is_number

_LARGEST_SIDE = 16_384
_MOST_PIXELS = 1 << 28
_MOST_COLOURS = 1024


def resize(image: Array, trace: Trace, *, height: int, width: int) -> Array:
    """Scale to that size whatever the aspect: averaged where it shrinks, bicubic where it grows.

    Raises ``UnusableInput`` where the result would be too large to hold: a thin picture grows long by its shorter side.
    """
    del trace
    count = image.shape[0] if image.ndim == 4 else 1
    if count * height * width > _MOST_PIXELS:
        raise UnusableInput(
            f"the picture of {image.shape[-2]}x{image.shape[-3]} pixels would be scaled to {width}x{height}",
            expected=f"at most {_MOST_PIXELS} pixels in all frames",
            fix="crop it first",
        )
    return image if image.shape[-3:-1] == (height, width) else resized(image, height, width)


def resize_shorter(image: Array, trace: Trace, *, size: int) -> Array:
    """Scale so that the shorter side has ``size`` pixels, keeping the aspect."""
    tall, wide = image.shape[-3:-1]
    scale = size / min(tall, wide)
    return resize(image, trace, height=max(size, round(tall * scale)), width=max(size, round(wide * scale)))


def center_crop(image: Array, trace: Trace, *, height: int, width: int) -> Array:
    """Cut that size out of the middle. Raises ``UnusableInput`` for a smaller picture."""
    del trace
    tall, wide = image.shape[-3:-1]
    if tall < height or wide < width:
        raise UnusableInput(f"the picture has {wide}x{tall} pixels here", expected=f"at least {width}x{height}")
    top, left = (tall - height) // 2, (wide - width) // 2
    return image[..., top : top + height, left : left + width, :]


def bgr(image: Array, trace: Trace) -> Array:
    """The colours in the order blue, green, red, or back."""
    del trace
    return image[..., ::-1]


def grey(image: Array, trace: Trace) -> Array:
    """One channel of brightness (BT.601 weights), rounded."""
    del trace
    return np.asarray(np.rint(image @ np.array([0.299, 0.587, 0.114])), np.uint8)[..., np.newaxis]


def to_nhwc_float(image: Array, trace: Trace, *, scale: float = 1.0) -> Array:
    """A float32 tensor (batch, height, width, channels) of the pixel values times ``scale``."""
    trace.channels = 3
    frames = image if image.ndim == 4 else image[np.newaxis]
    return np.ascontiguousarray(frames, dtype=np.float32) * np.float32(scale)


def from_nhwc_float(tensor: Array, trace: Trace, *, scale: float = 1.0) -> Array:
    """Frames, or one picture where one came in, of a tensor's values over ``scale``."""
    frames = tensor / np.float32(scale)
    return np.asarray(frames[0] if trace.single else frames)


def normalise(tensor: Array, trace: Trace, *, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(value - mean) / std per channel of the tensor."""
    return np.asarray((tensor - _per_channel(mean, tensor, trace)) / _per_channel(std, tensor, trace))


def denormalise(tensor: Array, trace: Trace, *, mean: Sequence[float], std: Sequence[float]) -> Array:
    """value * std + mean per channel of the tensor: what ``normalise`` did, undone."""
    return np.asarray(tensor * _per_channel(std, tensor, trace) + _per_channel(mean, tensor, trace))


def class_map(tensor: Array, trace: Trace) -> Array:
    """The class with the largest score at each place: (height, width), or (batch, height, width) for frames."""
    found = tensor.argmax(axis=trace.channels).astype(np.int32)
    return np.asarray(found[0] if trace.single else found)


def colours(classes: Array, trace: Trace, *, palette: Sequence[Sequence[int]]) -> Array:
    """A map of classes as a picture; the palette, red, green and blue in 0..255, is repeated where it is too short."""
    del trace
    return np.asarray(np.asarray(palette, np.uint8)[classes % len(palette)])


def resize_to_input(image: Array, trace: Trace, *, mode: str = "smooth") -> Array:
    """Scale an 8-bit answer to the size of the picture that came in; ``nearest`` keeps the colours of a class map."""
    if mode == "smooth":
        return resize(image, trace, height=trace.height, width=trace.width)
    tall, wide = image.shape[-3:-1]
    rows = np.arange(trace.height) * tall // trace.height
    columns = np.arange(trace.width) * wide // trace.width
    return np.asarray(np.take(np.take(image, rows, axis=image.ndim - 3), columns, axis=image.ndim - 2))


def _per_channel(values: Sequence[float], tensor: Array, trace: Trace) -> Array:
    shape = [1] * tensor.ndim
    shape[trace.channels] = len(values)
    return np.asarray(values, np.float32).reshape(shape)


def _check_size(height: object, width: object) -> str:
    fits = is_count(height, 1, _LARGEST_SIDE) and is_count(width, 1, _LARGEST_SIDE)
    return "" if fits else f"height and width 1..{_LARGEST_SIDE}"


def _check_shorter(size: object) -> str:
    return "" if is_count(size, 1, _LARGEST_SIDE) else f"size 1..{_LARGEST_SIDE}"


def _check_scale(scale: object = 1.0) -> str:
    return "" if is_number(scale, 1e-6, 1e6) else "a scale between 1e-6 and 1e6"


def _check_moments(mean: object, std: object) -> str:
    fits = _are_numbers(mean, -1e6) and _are_numbers(std, 1e-9) and len(mean) == len(std)  # type: ignore[arg-type]
    return "" if fits else "mean and std of 1 or 3 numbers each, std above 0, in the unit of the tensor's values"


def _are_numbers(values: object, least: float) -> bool:
    fits = isinstance(values, (list, tuple)) and len(values) in (1, 3)
    return fits and all(is_number(value, least, 1e6) for value in values)  # type: ignore[attr-defined]


def _check_palette(palette: object) -> str:
    fits = (
        isinstance(palette, (list, tuple))
        and 1 <= len(palette) <= _MOST_COLOURS
        and all(isinstance(item, (list, tuple)) and len(item) == 3 for item in palette)
        and all(is_count(value, 0, 255) for item in palette for value in item)
    )
    return "" if fits else f"palette: 1..{_MOST_COLOURS} colours [red, green, blue] in 0..255"


def _check_mode(mode: object = "smooth") -> str:
    return "" if mode in ("smooth", "nearest") else "mode 'smooth' or 'nearest'"


OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (
        resize, resize_shorter, center_crop, bgr, grey, to_nhwc_float, from_nhwc_float, normalise, denormalise,
        class_map, colours, resize_to_input,
    )
}  # fmt: skip
CHECKS: Mapping[str, Callable[..., str]] = {
    "resize": _check_size,
    "resize_shorter": _check_shorter,
    "center_crop": _check_size,
    "to_nhwc_float": _check_scale,
    "from_nhwc_float": _check_scale,
    "normalise": _check_moments,
    "denormalise": _check_moments,
    "colours": _check_palette,
    "resize_to_input": _check_mode,
}
"""For operations with parameters: what is expected of them where a value is out of range, else nothing."""
