"""Steadier styled videos: the frame before, moved along with the picture, is mixed in where that movement is reliable.

Frames are uint8 RGB, (height, width, 3); a flow is (height, width, 2) in pixels, across and down, and points from a
place in the frame at hand to where it was in the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk import media

Array = NDArray[Any]
_LEAST_SIDE = 32
_FAR = 25
"""Levels of 255 that the moved frame before may differ from this one where the movement is believed."""
_CUT_SHARE = 0.25
"""Where less than this share of a frame is known from the frame before, a new scene begins."""


@dataclass(frozen=True)
class Motion:
    """How a frame came from the one before: the flow, and where it is reliable, True or False per pixel."""

    flow: Array
    reliable: NDArray[np.bool_]

    def moved(self, before: Array) -> Array:
        """The frame before, uint8 or float32, as it would look now."""
        height, width = self.flow.shape[:2]
        cv2 = media.opencv()
        across = self.flow[..., 0] + np.arange(width, dtype=np.float32)
        down = self.flow[..., 1] + np.arange(height, dtype=np.float32)[:, np.newaxis]
        return np.asarray(cv2.remap(before, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def motion_between(before: Array, now: Array) -> Motion | None:
    """Dense flow both ways (DIS, Kroeger et al. 2016), checked against each other; None where a new scene begins.

    What was hidden before and the edges of what moves are not reliable: Ruder, Dosovitskiy and Brox (2016), "Artistic
    style transfer for videos", section 4.2, after Sundaram, Brox and Keutzer (2010). Frames too small for a flow, less
    than 32 pixels on a side, count as new scenes unless they are equal.
    """
    height, width = now.shape[:2]
    if (before == now).all():
        return Motion(np.zeros((height, width, 2), np.float32), np.ones((height, width), np.bool_))
    if min(height, width) < _LEAST_SIDE:
        return None
    cv2 = media.opencv()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, now)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back = np.asarray(search.calc(grey[1], grey[0], None), np.float32)
    forth = np.asarray(search.calc(grey[0], grey[1], None), np.float32)
    found = Motion(back, np.ones((height, width), np.bool_))
    seen = np.abs(found.moved(grey[0]).astype(np.int16) - grey[1]) <= _FAR
    reliable = _agrees(back, found.moved(forth)) & _inside(back) & ~_edges(back) & seen
    return Motion(back, reliable) if reliable.mean() >= _CUT_SHARE else None


def _agrees(back: Array, forth: Array) -> NDArray[np.bool_]:
    """Where going back and forth ends near the start: |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5 (their eq. 5)."""
    strayed, length = _squared(back + forth), _squared(back) + _squared(forth)
    return np.asarray(strayed <= 0.01 * length + 0.5)


def _edges(flow: Array) -> NDArray[np.bool_]:
    """Where the movement itself changes: |grad u|^2 + |grad v|^2 > 0.01 |w|^2 + 0.002 (their eq. 6)."""
    slopes = [slope for part in (0, 1) for slope in np.gradient(flow[..., part])]
    steepness = _squared(np.stack(slopes, axis=-1))
    return np.asarray(steepness > 0.01 * _squared(flow) + 0.002)


def _inside(flow: Array) -> NDArray[np.bool_]:
    height, width = flow.shape[:2]
    across = flow[..., 0] + np.arange(width)
    down = flow[..., 1] + np.arange(height)[:, np.newaxis]
    return np.asarray((across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1))


def _squared(vectors: Array) -> Array:
    return np.asarray((vectors * vectors).sum(axis=-1))


@dataclass
class Steadier:
    """Mixes each styled frame with the one before and measures by how much the result flickers.

    ``strength``: the share of the frame before, 0 to 1, where the movement is reliable; 0 only measures.
    """

    strength: float
    scene_cuts: int = 0
    _errors: dict[str, list[float]] = field(default_factory=lambda: {"with": [], "without": []})
    _source: Array | None = None
    _styled: Array | None = None
    _answer: Array | None = None

    def __call__(self, sources: Array, styled: Array) -> Array:
        """The styled frames (count, height, width, 3) of ``sources``, which follow those of the call before."""
        return np.stack([self._steadied(sources[place], styled[place]) for place in range(len(sources))])

    def _steadied(self, source: Array, styled: Array) -> Array:
        answer = styled.astype(np.float32)
        if self._source is not None and self._styled is not None and self._answer is not None:
            motion = motion_between(self._source, source)
            if motion is None:
                self.scene_cuts += 1
            else:
                moved = motion.moved(self._answer)
                share = self.strength * motion.reliable[..., np.newaxis].astype(np.float32)
                answer += share * (moved - answer)
                self._measure("with", answer, moved, motion)
                self._measure("without", styled.astype(np.float32), motion.moved(self._styled), motion)
        self._source, self._styled, self._answer = source, styled.astype(np.float32), answer
        return np.rint(answer).clip(0, 255).astype(np.uint8)

    def _measure(self, name: str, now: Array, moved: Array, motion: Motion) -> None:
        differences = (now - moved)[motion.reliable] / 255.0
        self._errors[name].append(float(np.mean(differences * differences)))

    def report(self) -> dict[str, Any]:
        """Strength, new scenes, and the warping error with and without; None where no two frames follow each other.

        The warping error is the mean squared difference, in 0-1, between a frame and the one before moved along with
        the source's flow, over what is not hidden, averaged over frames: Lai et al. (2018), "Learning blind video
        temporal consistency", eq. 8 and 9.
        """
        means = {name: float(np.mean(found)) if found else None for name, found in self._errors.items()}
        return {
            "strength": self.strength,
            "scene_cuts": self.scene_cuts,
            "warping_error": means["with"],
            "warping_error_without": means["without"],
        }
