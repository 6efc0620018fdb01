"""Which layers stay in fp32 so that a budget of accuracy holds: as few as will do, the most sensitive first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_BAR = 40


@dataclass(frozen=True)
class Ranked:
    """One layer and what it alone costs: the SNR of the model with only this layer in int8."""

    graph: str
    layer: str
    operator: str
    snr_db: float


def fewest_kept(count: int, build: Callable[[int], T], holds: Callable[[T], bool]) -> tuple[T | None, T]:
    """The build with the fewest layers kept that holds, and the last that was tried.

    ``build(n)`` keeps the ``n`` worst of ``count`` layers; more kept cost less. The number is doubled until the budget
    holds and halved back, so that few builds are made. With all layers kept nothing would be quantised, so that is not
    tried: None then.
    """
    low, high = 0, 1
    last = build(0)
    if holds(last):
        return last, last
    best: T | None = None
    while high < count:
        last = build(high)
        if holds(last):
            best = last
            break
        low, high = high, min(2 * high, count - 1) if high < count - 1 else count
    if best is None:
        return None, last
    found = high
    while found - low > 1:
        middle = (low + found) // 2
        last = build(middle)
        if holds(last):
            best, found = last, middle
        else:
            low = middle
    return best, last


def chart(ranking: Sequence[Ranked]) -> str:
    """The ranking as bars of the error that each layer brings, the worst first."""
    errors = [10.0 ** (-item.snr_db / 10.0) for item in ranking]
    most, total = max(errors, default=1.0), sum(errors) or 1.0
    several = len({item.graph for item in ranking}) > 1
    names = [f"{item.graph}/{item.layer}" if several else item.layer for item in ranking]
    width = max((len(name) for name in names), default=0)
    lines = [f"{'layer'.ljust(width)}  alone in int8   share of the error"]
    for name, item, error in zip(names, ranking, errors):
        bar = "#" * max(1, round(_BAR * error / most))
        lines.append(f"{name.ljust(width)}  {item.snr_db:8.1f} dB  {100 * error / total:6.1f} %  {bar}")
    return "\n".join(lines)
