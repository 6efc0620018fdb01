"""A loss curve as a picture, drawn with OpenCV, which training needs anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 800, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 40, 40
_COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40))
_POINTS = 300

Series = Sequence[tuple[float, float]]


def curve_from_series(series: Mapping[str, Series], unit: str = "steps") -> NDArray[np.uint8]:
    """Lines of (step, value) on a logarithmic scale, RGB; each is averaged over some 1/300 of the steps.

    ``unit`` says what is counted along the horizontal axis.
    """
    smooth = {name: _averaged(points) for name, points in series.items()}
    smooth = {name: points for name, points in smooth.items() if points}
    picture: NDArray[np.uint8] = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    if not smooth:
        return picture
    logs = [math.log10(value) for points in smooth.values() for _, value in points]
    low, high = math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1)
    last = max(step for points in smooth.values() for step, _ in points)
    _draw_axes(picture, low, high, last, unit)
    for i, (name, points) in enumerate(smooth.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        line = np.array([(_x(step, last), _y(math.log10(value), low, high)) for step, value in points], np.int32)
        cv2.polylines(picture, [line], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)
        _write(picture, name, (_LEFT + 10 + 180 * i, 25), colour)
    return picture


def _averaged(points: Series) -> list[tuple[float, float]]:
    kept = [(step, value) for step, value in points if value > 0]
    size = max(1, len(kept) // _POINTS)
    groups = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _x(step: float, last: float) -> int:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last)


def _y(log: float, low: float, high: float) -> int:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (log - low) / (high - low))


def _draw_axes(picture: NDArray[np.uint8], low: int, high: int, last: float, unit: str) -> None:
    for power in range(low, high + 1):
        y = _y(power, low, high)
        cv2.line(picture, (_LEFT, y), (_WIDTH - _RIGHT, y), (220, 220, 220), 1)
        _write(picture, f"1e{power}", (20, y + 5), (90, 90, 90))
    for part in range(5):
        step = last * part / 4
        text = f"{step:.0f}" + (f" {unit}" if part == 4 else "")
        width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]
        x = min(_x(step, last) - width // 2, _WIDTH - width - 5)
        _write(picture, text, (x, _HEIGHT - 12), (90, 90, 90))


def _write(picture: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
