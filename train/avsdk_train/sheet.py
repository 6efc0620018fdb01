"""Pictures side by side with a label above each: to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_LABEL_PX, _GAP_PX = 24, 4


def labelled_sheet(pictures: Sequence[tuple[str, NDArray[np.uint8]]], columns: int = 4) -> NDArray[np.uint8]:
    """One RGB picture of all of them, ``columns`` in a row; the tiles are as large as the largest picture."""
    height = max(picture.shape[0] for _, picture in pictures) + _LABEL_PX + _GAP_PX
    width = max(picture.shape[1] for _, picture in pictures) + _GAP_PX
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet: NDArray[np.uint8] = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, (label, picture) in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        _write(sheet[top : top + _LABEL_PX, left : left + width - _GAP_PX], label)
        place = sheet[top + _LABEL_PX :, left:]
        place[: picture.shape[0], : picture.shape[1]] = picture
    return sheet


def _write(strip: NDArray[np.uint8], label: str) -> None:
    """The label in a strip of its own, made smaller where it is too long."""
    scale = 0.5
    width = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    scale = min(scale, scale * (strip.shape[1] - 4) / max(width, 1))
    drawn = np.ascontiguousarray(strip)
    cv2.putText(drawn, label, (2, _LABEL_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    strip[:] = drawn
