"""The operations on pictures that a manifest may name, before and after inference.

Pictures are uint8 RGB, (height, width, 3) or, for frames of a video, (batch, height, width, 3); tensors are float32,
(batch, 3, height, width). The operations after inference undo those before it with what these left in the ``Trace``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from avsdk.errors import UnusableInput
from avsdk.ops import Array, Operation, Trace

_LARGEST_MULTIPLE = 4096


def image_rgb(image: Array, trace: Trace) -> Array:
    """Take an 8-bit picture or frames and note their size. Raises ``UnusableInput`` for anything else."""
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3 or image.size == 0:
        raise UnusableInput(
            f"the picture is an array of shape {list(image.shape)} and type {image.dtype}",
            expected="uint8 RGB, (height, width, 3) or (frames, height, width, 3)",
        )
    trace.single = image.ndim == 3
    trace.height, trace.width = image.shape[-3], image.shape[-2]
    return image


def pad_to_multiple(image: Array, trace: Trace, *, multiple: int, mode: str = "reflect") -> Array:
    """Grow the bottom and right to the next multiple; a side too short to reflect repeats its edge."""
    del trace
    height, width = image.shape[-3], image.shape[-2]
    grow = (-height % multiple, -width % multiple)
    if grow == (0, 0):
        return image
    for axis, (size, extra) in zip((image.ndim - 3, image.ndim - 2), zip((height, width), grow)):
        if extra:
            borders = [(0, 0)] * image.ndim
            borders[axis] = (0, extra)
            image = np.pad(image, borders, mode="edge" if mode == "edge" or extra >= size else "reflect")
    return image


def to_nchw_float(image: Array, trace: Trace, *, scale: float = 1.0) -> Array:
    """A float32 tensor (batch, 3, height, width) of the pixel values times ``scale``."""
    del trace
    frames = image if image.ndim == 4 else image[np.newaxis]
    tensor = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), dtype=np.float32)
    if scale != 1.0:
        tensor *= np.float32(scale)
    return tensor


def from_nchw_float(tensor: Array, trace: Trace, *, scale: float = 1.0) -> Array:
    """Frames (batch, height, width, 3), or one picture where one came in, of a tensor's values over ``scale``."""
    frames = tensor.transpose(0, 2, 3, 1)
    if scale != 1.0:
        frames = frames / np.float32(scale)
    return frames[0] if trace.single else frames


def crop_to_input(image: Array, trace: Trace) -> Array:
    """Cut off what padding added."""
    return image[..., : trace.height, : trace.width, :]


def clip_uint8(image: Array, trace: Trace) -> Array:
    """Round to the nearest 8-bit value; what lies outside 0..255 is clipped."""
    del trace
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _check_multiple(multiple: object, mode: object = "reflect") -> str:
    fits = isinstance(multiple, int) and not isinstance(multiple, bool) and 1 <= multiple <= _LARGEST_MULTIPLE
    if fits and mode in ("reflect", "edge"):
        return ""
    return f"multiple 1..{_LARGEST_MULTIPLE} and mode 'reflect' or 'edge'"


def _check_scale(scale: object = 1.0) -> str:
    fits = isinstance(scale, (int, float)) and not isinstance(scale, bool) and 1e-6 <= scale <= 1e6
    return "" if fits else "a scale between 1e-6 and 1e6"


OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (image_rgb, pad_to_multiple, to_nchw_float, from_nchw_float, crop_to_input, clip_uint8)
}
CHECKS: Mapping[str, Callable[..., str]] = {
    "pad_to_multiple": _check_multiple,
    "to_nchw_float": _check_scale,
    "from_nchw_float": _check_scale,
}
"""For operations with parameters: what is expected of them where a value is out of range, else nothing."""
