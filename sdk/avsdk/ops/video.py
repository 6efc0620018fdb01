"""How a video is cut into batches, so that memory stays flat in its length."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIXELS_PER_BATCH = 1_000_000
_MOST_FRAMES = 8


def frames_per_batch(height: int, width: int) -> int:
    """Frames that are decoded, inferred and encoded at once: about a million pixels, between 1 and 8 frames.

    A network of the style family keeps some 400 bytes per pixel while it runs, so a batch stays well under 1 GB.
    """
    return max(1, min(_MOST_FRAMES, _PIXELS_PER_BATCH // max(1, height * width)))


def repeated_to(frames: NDArray[Any], count: int) -> NDArray[Any]:
    """The frames with the last one repeated until there are ``count``, for an artifact with a fixed batch."""
    short = count - len(frames)
    return np.concatenate([frames, np.repeat(frames[-1:], short, axis=0)]) if short > 0 else frames
