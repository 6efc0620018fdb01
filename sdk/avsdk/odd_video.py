"""Videos whose width or height is odd, which OpenCV would cut to even numbers: MPEG-4 by PyAV keeps them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_RATE = 65_535
"""What the codec's clock counts to."""
_BITS_PER_PIXEL = 4
_MOST_BITS_PER_S = 1_000_000_000


class OddVideo:
    """What ``cv2.VideoWriter`` is for even sizes; ``av`` is the package, the container follows the path's suffix."""

    def __init__(self, av: Any, path: Path, fps: float, height: int, width: int) -> None:
        self._frame = av.VideoFrame
        self._container = av.open(str(path), "w")
        rate = Fraction(fps).limit_denominator(max(1, min(1001, int(_LARGEST_RATE / fps))))
        self._stream = self._container.add_stream("mpeg4", rate=rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.bit_rate = int(min(_BITS_PER_PIXEL * fps * height * width + 100_000, _MOST_BITS_PER_S))

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        """It is, or the constructor raised."""
        return True

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame, blue, green, red."""
        for packet in self._stream.encode(self._frame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")):
            self._container.mux(packet)

    def release(self) -> None:
        """Write what is left and end the file; twice is fine."""
        if self._container is None:
            return
        container, self._container = self._container, None
        for packet in self._stream.encode():
            container.mux(packet)
        container.close()
