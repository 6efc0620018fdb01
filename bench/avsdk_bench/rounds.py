"""Warm the cells up, then measure them in interleaved rounds of random order until the medians are sure or time is up.

Everything that touches the world comes in as an argument (cells, calibration, clock), so that the rules can be tested
on invented machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import AvsdkError, UsageError
from avsdk_bench import statistics
from avsdk_bench.calibration import drifted
from avsdk_bench.statistics import Interval, PairedRatio

Samples = NDArray[np.int64]

LEAST_ROUNDS = 5
ROUNDS = 6  # the interval of five covers 93.75 %, that of six 95 %
MOST_ROUNDS = 100
MOST_RUNS_PER_TURN = 500
PRECISION = 0.01
_WARM_UP_SHARE = 0.35
SURE_ROUNDS = 8  # more than that, for the interval is looked at after every round
_SPARE = 2  # a budget is cut into at least twice the least number of rounds, so that void ones can be repeated
_MANY_ROUNDS = 40  # many short rounds tell two cells apart better than few long ones: what disturbs them changes less
SHORTEST_TURN_S = 0.1
_LEAD_IN = 2
_FIRST_LOOK = 3


class Runnable(Protocol):
    """What the rules ask of a cell."""

    def run(self, n: int, lead_in: int = 0) -> Samples:
        """``n`` durations in ns, after ``lead_in`` runs that are not recorded; the warm-up is made of these."""

    @property
    def group(self) -> Hashable:
        """What cells that do the same work have in common."""

    def settle(self, typical_s: float, slowest_s: float) -> float:
        """Learn how long a run takes after the warm-up, here and in the slowest cell of the group.

        Tell how many seconds a turn takes per sample.
        """

    def turn(self, n: int, lead_in: int, seed: int) -> Samples:
        """One round's ``n`` samples in ns, after ``lead_in`` runs that are not recorded."""

    def resident_mb(self) -> float | None:
        """The memory that the cell holds now."""


@dataclass(frozen=True)
class Settings:
    """``rounds`` is the least number of rounds; they are made even when that takes longer than ``budget_s``.

    ``turn_s`` is how long a turn is to be at least, where as many rounds leave the time for it. ``to_the_end``: measure
    until the budget is used, however sure the medians are by then.
    """

    budget_s: float = 60.0
    rounds: int = ROUNDS
    seed: int = 0
    window_runs: int = statistics.WINDOW_RUNS
    window_s: float = statistics.WINDOW_S
    most_runs: int = MOST_RUNS_PER_TURN
    turn_s: float = SHORTEST_TURN_S
    to_the_end: bool = False

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise UsageError(f"a budget of {self.budget_s:g} s", expected="more than 0 s")
        if not LEAST_ROUNDS <= self.rounds <= MOST_ROUNDS:
            raise UsageError(f"{self.rounds} rounds", expected=f"{LEAST_ROUNDS} to {MOST_ROUNDS}")


@dataclass(frozen=True)
class WarmedUp:
    """The warm-up of a cell: all its durations in ns, where the steady part began, whether one was seen."""

    samples: Samples
    dropped: int
    steady: bool

    @property
    def typical_s(self) -> float:
        """The median of the steady part, in s."""
        return float(np.median(self.samples[self.dropped :])) / 1e9

    @property
    def delayed(self) -> float:
        """How much longer the steady part took than its median says: more than 1 where others disturb the machine."""
        steady = self.samples[self.dropped :]
        return max(1.0, float(np.mean(steady) / max(1.0, float(np.median(steady)))))


@dataclass(frozen=True)
class Round:
    """One round: cells in the order they ran, their durations in ns, the calibration before and after it in ms.

    ``seed`` is that of its arrivals; ``at_s`` and ``rss_mb`` tell when each cell's turn ended and what it held then.
    """

    order: tuple[int, ...]
    samples: Mapping[int, Samples]
    calibration_ms: tuple[float, float]
    void: bool
    seed: int = 0
    at_s: Mapping[int, float] = field(default_factory=dict)
    rss_mb: Mapping[int, float | None] = field(default_factory=dict)


@dataclass
class Measurement:
    """Everything that was measured. ``stopped_by``: ``precision``, ``budget`` or ``rounds`` (the most there are)."""

    least_rounds: int
    seed: int
    rounds: list[Round] = field(default_factory=list)
    warm_ups: dict[int, WarmedUp] = field(default_factory=dict)
    failures: dict[int, AvsdkError] = field(default_factory=dict)
    stopped_by: str = ""
    elapsed_s: float = 0.0

    @property
    def void_rounds(self) -> int:
        """Rounds across which the calibration drifted."""
        return sum(item.void for item in self.rounds)

    @property
    def enough_valid(self) -> bool:
        """Whether the valid rounds suffice by themselves."""
        return len(self.rounds) - self.void_rounds >= self.least_rounds

    @property
    def used(self) -> list[Round]:
        """The valid rounds; all of them where too few are valid, which no row then calls steady."""
        return [item for item in self.rounds if not item.void] if self.enough_valid else self.rounds

    def turns(self, cell: int) -> list[Round]:
        """The used rounds in which the cell ran."""
        return [item for item in self.used if cell in item.samples]

    def medians_ms(self, cell: int) -> list[float]:
        """The median of each used round of a cell, in ms."""
        return [float(np.median(item.samples[cell])) / 1e6 for item in self.turns(cell)]

    def interval_ms(self, cell: int) -> Interval | None:
        """The median over rounds of a cell with its 95 % interval, in ms."""
        return statistics.median_interval(self.medians_ms(cell), seed=self.seed)

    def row_stopped_by(self, cell: int) -> str:
        """Why no more of this cell was needed: ``precision``, where its own interval is narrow, else ``stopped_by``."""
        return "precision" if self.sure(cell) else self.stopped_by

    def sure(self, cell: int) -> bool:
        """Whether the cell's median is known to 1 % from enough valid rounds."""
        interval = self.interval_ms(cell)
        if interval is None or not self.enough_valid or len(self.used) < SURE_ROUNDS:
            return False
        return interval.relative_width <= PRECISION

    def ratio(self, first: int, second: int) -> PairedRatio | None:
        """The paired ratio of two cells over the used rounds in which both ran; below 1 the first is faster."""
        both = [item.samples for item in self.used if first in item.samples and second in item.samples]
        if len(both) < 2:
            return None
        medians = [(np.median(item[first]), np.median(item[second])) for item in both]
        return statistics.paired_ratio([a for a, _ in medians], [b for _, b in medians], seed=self.seed)


def measure(
    cells: Mapping[int, Runnable],
    settings: Settings,
    calibrate: Callable[[], float],
    *,
    clock: Callable[[], float] = time.monotonic,
    started: float | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Measurement:
    """Measure opened cells. A cell that fails is left out of what follows; its error stands under ``failures``.

    The budget counts from ``started``, so that opening the cells is part of it. ``progress`` gets 1 after each round.
    """
    began = clock() if started is None else started
    deadline = began + settings.budget_s
    result = Measurement(least_rounds=settings.rounds, seed=settings.seed)
    random = np.random.default_rng(settings.seed)
    warm_until = clock() + _WARM_UP_SHARE * max(0.0, deadline - clock())
    for place, (key, cell) in enumerate(cells.items()):
        share = max(0.0, warm_until - clock()) / (len(cells) - place)
        _guarded(result, key, partial(_warm, result, key, cell, settings, clock, share))
    pace = _settled(result, cells)
    alive = {key: cell for key, cell in cells.items() if key not in result.failures}
    turns = _turn_sizes(pace, alive, settings, deadline - clock())
    before = calibrate() if alive else 0.0
    while alive and not result.stopped_by:
        start = clock()
        order = tuple(int(key) for key in random.permutation(list(alive)))
        seed = (settings.seed << 10) + len(result.rounds)
        made = _one_round(result, alive, order, turns, seed, clock)
        after = calibrate()
        result.rounds.append(replace(made, calibration_ms=(before, after), void=drifted(before, after)))
        before = after
        alive = {key: cell for key, cell in alive.items() if key not in result.failures}
        progress(1)
        result.stopped_by = _stop_reason(result, alive, settings, over=clock() + (clock() - start) > deadline)
    result.elapsed_s = clock() - began
    return result


def _warm(
    result: Measurement, key: int, cell: Runnable, settings: Settings, clock: Callable[[], float], share_s: float
) -> None:
    """Run windows until the change-point rule sees a steady part or the cell's share of the warm-up time is used."""
    until = clock() + share_s
    series = cell.run(_FIRST_LOOK)
    found = statistics.WarmUp(dropped=0, steady=False)
    while not found.steady and clock() < until:
        typical_s = max(1e-7, float(np.median(series[-settings.window_runs :])) / 1e9)
        wanted = max(settings.window_runs, int(settings.window_s / typical_s) + 1)
        affordable = max(1, int((until - clock()) / typical_s))
        series = np.concatenate([series, cell.run(min(wanted, affordable))])
        found = statistics.warm_up(series / 1e9, settings.window_runs, settings.window_s)
    result.warm_ups[key] = WarmedUp(series, found.dropped, found.steady)


def _settled(result: Measurement, cells: Mapping[int, Runnable]) -> dict[int, float]:
    """Seconds per sample of each cell that is warm."""
    pace: dict[int, float] = {}
    warm = {key: result.warm_ups[key].typical_s for key in cells if key not in result.failures}

    def settle(key: int) -> None:
        slowest_s = max(warm[other] for other in warm if cells[other].group == cells[key].group)
        pace[key] = cells[key].settle(warm[key], slowest_s) * result.warm_ups[key].delayed

    for key in warm:
        _guarded(result, key, partial(settle, key))
    return pace


def _turn_sizes(
    pace_s: Mapping[int, float], alive: Mapping[int, Runnable], settings: Settings, left_s: float
) -> dict[int, tuple[int, int]]:
    """Samples and lead-in per turn of each cell, such that a slow one does not starve the others.

    A turn takes its part of the time in many rounds, or as long as a window of runs takes; at most its part in few.
    """
    share_s = max(0.0, left_s) / max(1, len(alive))
    sizes = {}
    for key in alive:
        enough_s = max(share_s / _MANY_ROUNDS, settings.turn_s, settings.window_runs * pace_s[key])
        slot_s = min(enough_s, share_s / (_SPARE * settings.rounds))
        samples = min(settings.most_runs + _LEAD_IN, int(slot_s / max(1e-7, pace_s[key])))
        lead_in = _LEAD_IN if samples > 2 * _LEAD_IN else 0
        sizes[key] = (max(1, samples - lead_in), lead_in)
    return sizes


def _one_round(
    result: Measurement,
    cells: Mapping[int, Runnable],
    order: tuple[int, ...],
    turns: Mapping[int, tuple[int, int]],
    seed: int,
    clock: Callable[[], float],
) -> Round:
    """A turn of each cell; the calibration is the caller's."""
    samples: dict[int, Samples] = {}
    at_s: dict[int, float] = {}
    rss_mb: dict[int, float | None] = {}

    def turn(key: int) -> None:
        found = cells[key].turn(*turns[key], seed)
        samples[key], at_s[key], rss_mb[key] = found, clock(), cells[key].resident_mb()

    for key in order:
        _guarded(result, key, partial(turn, key))
    return Round(order, samples, (0.0, 0.0), void=False, seed=seed, at_s=at_s, rss_mb=rss_mb)


def _stop_reason(result: Measurement, alive: Mapping[int, Runnable], settings: Settings, *, over: bool) -> str:
    if alive and not settings.to_the_end and all(result.sure(key) for key in alive):
        return "precision"
    if over and len(result.rounds) >= settings.rounds:
        return "budget"
    return "rounds" if len(result.rounds) >= MOST_ROUNDS and not settings.to_the_end else ""


def _guarded(result: Measurement, key: int, work: Callable[[], None]) -> None:
    try:
        work()
    except AvsdkError as error:
        result.failures[key] = error
