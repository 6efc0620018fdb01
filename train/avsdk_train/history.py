"""The losses so far: enough of them to tell an explosion from a bad batch, and the best stretch from the others.

Losses are compared only while they have the same parts: a warm-up on another loss says nothing about what follows.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

_WINDOW = 50
_LEAST = 10
_NOT_LOSSES = frozenset({"step", "learning_rate"})


class History:
    """The logged losses of at least the last ``kept_steps`` steps, primed from the log of a run that goes on."""

    def __init__(self, log: Iterable[Mapping[str, Any]], kept_steps: int) -> None:
        self._kept_steps = kept_steps
        self._lines: deque[tuple[int, dict[str, float]]] = deque()
        for line in log:
            self.add(line["step"], {name: value for name, value in line.items() if name not in _NOT_LOSSES})

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        """Note the losses of a step, whose parts restart the comparison where they are others than before."""
        if self._lines and self._lines[-1][1].keys() != losses.keys():
            self._lines.clear()
        self._lines.append((step, dict(losses)))
        while len(self._lines) > _WINDOW and self._lines[0][0] <= step - self._kept_steps:
            self._lines.popleft()

    def objection(self, losses: Mapping[str, float], factor: float) -> str:
        """What is wrong with these losses: not finite, or ``factor`` times the median of the last 50; else nothing."""
        loss = losses["loss"]
        if not math.isfinite(loss):
            return f"is {loss}"
        recent = [line["loss"] for _, line in self._lines if line.keys() == losses.keys()][-_WINDOW:]
        if factor and len(recent) >= _LEAST and loss > factor * statistics.median(recent):
            return (
                f"is {loss:.4g}, over {factor:g} times the median {statistics.median(recent):.4g} of the steps before"
            )
        return ""

    def mean(self, name: str, since: int) -> float | None:
        """The mean of one loss over the steps after ``since``; ``None`` where there is none of that name."""
        values = [line[name] for step, line in self._lines if step > since and name in line]
        return statistics.fmean(values) if values else None

    def parts(self) -> list[str]:
        """The names of the losses that are compared."""
        return sorted(self._lines[-1][1]) if self._lines else []
