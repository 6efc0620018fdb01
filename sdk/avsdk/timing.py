"""What the entry-point group ``avsdk.timers`` gives: bundles timed side by side, by the method of the bench package.

An entry stands for a function ``(bundles, budget_s) -> tuple of Timed``, one for each bundle in the order given. All
run the same graphs at the same sizes; the first is what the others are compared with, round by round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsdk import plugins
from avsdk.errors import NotAvailable


@dataclass(frozen=True)
class Timed:
    """Median latency of one bundle. ``ratio`` below 1 means faster than the first; ``verdict`` says it in words."""

    p50_ms: float
    p50_ci_ms: tuple[float, float]
    ratio: float = 1.0
    ratio_ci: tuple[float, float] = (1.0, 1.0)
    verdict: str = ""
    steady: bool = False


Timer = Callable[[Sequence[Path], float], Sequence[Timed]]


def load_timer() -> Timer:
    """The first timer that an installed package offers. Raises ``NotAvailable`` where none does."""
    for name in plugins.list_names("timers"):
        timer: Timer = plugins.load("timers", name)
        return timer
    raise NotAvailable(
        "no installed package times bundles", expected="the bench package", fix="pip install 'avsdk[bench]'"
    )
