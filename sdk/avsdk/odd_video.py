"""Videos whose width or height is odd, which OpenCV would cut to even numbers: MPEG-4 by PyAV keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UsageError
from avsdk.files import typed_write_errors

_LARGEST_RATE = 65_535
"""What the codec's clock counts to."""
_BITS_PER_PIXEL = 4
_MOST_BITS_PER_S = 1_000_000_000


class OddVideo:
    """What ``cv2.VideoWriter`` is for even sizes; ``av`` is the package, the container follows the path's suffix."""

    def __init__(self, av: Any, path: Path, fps: float, height: int, width: int) -> None:
        self._frame, self._failures, self._path = av.VideoFrame, (av.FFmpegError, ValueError), path
        self._container: Any = None
        with self._typed():
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
        with self._typed():
            for packet in self._stream.encode(self._frame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")):
                self._container.mux(packet)

    def release(self) -> None:
        """Write what is left and end the file; twice is fine."""
        if self._container is None:
            return
        with self._typed():
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
        self._container = None

    def abandon(self) -> None:
        """Close the file, whatever became of what is in it."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(*self._failures):
                container.close()

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """A full disk and other failures of writing as the errors of this package."""
        with typed_write_errors(self._path):
            try:
                yield
            except self._failures as error:
                if isinstance(error, OSError) and error.errno:
                    raise OSError(error.errno, os.strerror(error.errno)) from error
                raise UsageError(f"{self._path.name} cannot be written as MPEG-4: {error}") from error
