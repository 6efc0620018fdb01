"""The rules of measuring, on invented machines with an invented clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
import pytest
from numpy.typing import NDArray

from avsdk.errors import ToolchainCrashed, UsageError
from avsdk_bench import rounds
from avsdk_bench.calibration import drifted
from avsdk_bench.rounds import Settings, measure


class Machine:
    """A clock that only moves when a cell runs, and a record of who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []

    def clock(self) -> float:
        return self.now


class FakeCell:
    """Of the group of its name's length.

    Takes ``level(place)`` seconds for its run number ``place``, with a jitter; may die after so many turns.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        level: Callable[[int], float],
        jitter: float = 0.001,
        dies_after: int | None = None,
    ) -> None:
        self._machine, self._name, self._level, self._jitter = machine, name, level, jitter
        self._runs, self._turns, self._dies_after = 0, 0, dies_after
        self._random = np.random.default_rng(len(name))
        self.group = len(name)

    def run(self, n: int, lead_in: int = 0) -> NDArray[np.int64]:
        self._turns += 1
        if self._dies_after is not None and self._turns > self._dies_after:
            raise ToolchainCrashed(f"{self._name} died by SIGSEGV")
        self._machine.turns.append(self._name)
        levels = np.array([self._level(self._runs + place) for place in range(lead_in + n)])
        durations = levels * (1 + self._jitter * self._random.standard_normal(lead_in + n))
        self._runs += lead_in + n
        self._machine.now += float(durations.sum())
        return np.asarray(durations[lead_in:] * 1e9, dtype=np.int64)

    def settle(self, typical_s: float, slowest_s: float) -> float:
        self.slowest_s = slowest_s
        return typical_s

    def turn(self, n: int, lead_in: int, seed: int) -> NDArray[np.int64]:
        return self.run(n, lead_in)

    def resident_mb(self) -> float | None:
        return 100.0 + self._machine.now


def always(level: float) -> Callable[[int], float]:
    return lambda place: level


def steady_kernel() -> float:
    return 1.0


def drifting_kernel(times: Iterator[float]) -> Callable[[], float]:
    return lambda: next(times)


def test_every_cell_runs_once_per_round_in_a_seeded_random_order() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        machine = Machine()
        cells = {key: FakeCell(machine, f"c{key}", always(0.02), jitter=0.05) for key in range(4)}
        found = measure(cells, Settings(budget_s=60, seed=seed), steady_kernel, clock=machine.clock)
        assert machine.turns[-4 * len(found.rounds) :] == [f"c{key}" for item in found.rounds for key in item.order]
        return [item.order for item in found.rounds]

    assert orders(1)[:5] == orders(1)[:5]
    assert orders(1)[:5] != orders(2)[:5]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders(1))
    assert len(set(orders(1))) > 1


def test_it_stops_when_every_interval_is_narrow() -> None:
    machine = Machine()
    cells = {key: FakeCell(machine, "abc"[key], always(0.01 * (key + 1))) for key in range(2)}
    found = measure(cells, Settings(budget_s=600), steady_kernel, clock=machine.clock)
    assert found.stopped_by == "precision"
    assert len(found.rounds) == rounds.SURE_ROUNDS
    assert machine.now < 600
    for key in cells:
        interval = found.interval_ms(key)
        assert interval is not None
        assert interval.relative_width <= rounds.PRECISION
        assert interval.value == pytest.approx(10 * (key + 1), rel=0.01)


def test_it_stops_when_the_budget_is_used_and_says_so() -> None:
    machine = Machine()
    rising = iter(1 + np.arange(1_000_000) / 500)  # no two rounds agree
    cells = {0: FakeCell(machine, "a", lambda place: 0.01 * next(rising)), 1: FakeCell(machine, "b", always(0.03))}
    found = measure(cells, Settings(budget_s=30), steady_kernel, clock=machine.clock)
    assert found.stopped_by == "budget"
    assert len(found.rounds) >= rounds.LEAST_ROUNDS
    assert machine.now <= 31
    assert found.elapsed_s == pytest.approx(machine.now)
    assert (found.row_stopped_by(0), found.row_stopped_by(1)) == ("budget", "precision")


def test_rounds_are_many_and_short_where_runs_are_short_and_at_least_five_where_they_are_long() -> None:
    def made(level: float) -> list[int]:
        machine = Machine()
        cells = {key: FakeCell(machine, name, always(level), jitter=0.5) for key, name in enumerate("ab")}
        found = measure(cells, Settings(budget_s=60), steady_kernel, clock=machine.clock)
        return [len(item.samples[0]) for item in found.rounds]

    assert len(made(0.002)) >= 30
    assert min(made(0.03)) >= 20  # a turn is about a window of runs long
    assert 5 <= len(made(2.0)) <= 12


def test_turns_are_as_long_as_asked_where_the_rounds_leave_time_for_it() -> None:
    def longest(turn_s: float) -> float:
        machine = Machine()
        cells = {0: FakeCell(machine, "a", always(0.002), jitter=0.5)}
        settings = Settings(budget_s=60, most_runs=10**6, turn_s=turn_s)
        found = measure(cells, settings, steady_kernel, clock=machine.clock)
        return max(len(item.samples[0]) * 0.002 for item in found.rounds)

    assert longest(3.0) == pytest.approx(3.0, rel=0.1)
    assert 3.5 < longest(30.0) < 6.0  # as long as twice six rounds can be


def test_a_disturbed_machine_gets_shorter_turns_not_fewer_rounds() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", lambda place: 0.002 if place % 10 else 0.06, jitter=0.3)}
    found = measure(cells, Settings(budget_s=20), steady_kernel, clock=machine.clock)
    assert len(found.rounds) >= 30
    assert found.elapsed_s <= 20.5


def test_six_unlike_cells_end_within_their_budget() -> None:
    machine = Machine()
    machine.now = 12.0  # opening them took so long
    levels = (0.0004, 0.003, 0.02, 0.05, 0.2, 0.7)
    cells = {key: FakeCell(machine, f"c{key}", always(level), jitter=0.3) for key, level in enumerate(levels)}
    found = measure(cells, Settings(budget_s=60), steady_kernel, clock=machine.clock, started=0.0)
    assert len(found.rounds) >= rounds.LEAST_ROUNDS
    assert found.elapsed_s <= 60


def test_a_budget_that_is_too_short_still_gives_the_least_rounds_of_one_run_and_is_not_steady() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", always(2.0), jitter=0.05)}
    found = measure(cells, Settings(budget_s=5), steady_kernel, clock=machine.clock)
    assert [len(item.samples[0]) for item in found.rounds] == [1] * rounds.ROUNDS
    assert not found.warm_ups[0].steady


def test_opening_the_cells_counts_against_the_budget() -> None:
    machine = Machine()
    machine.now = 50.0
    cells = {0: FakeCell(machine, "a", always(0.02), jitter=0.2)}
    found = measure(cells, Settings(budget_s=60), steady_kernel, clock=machine.clock, started=0.0)
    assert found.elapsed_s <= 61


def test_warm_up_goes_on_until_the_medians_settle() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", lambda place: 0.06 if place < 50 else 0.03)}
    found = measure(cells, Settings(budget_s=120), steady_kernel, clock=machine.clock)
    warm = found.warm_ups[0]
    assert warm.steady
    assert warm.dropped >= 50
    assert warm.typical_s == pytest.approx(0.03, rel=0.01)
    assert found.medians_ms(0) == pytest.approx([30] * len(found.rounds), rel=0.01)


@pytest.mark.parametrize(("before", "after", "is_drift"), [(1.0, 1.04, False), (1.0, 1.06, True), (1.06, 1.0, True)])
def test_drift_is_more_than_five_percent_either_way(before: float, after: float, is_drift: bool) -> None:
    assert drifted(before, after) is is_drift


def test_a_round_across_which_the_calibration_drifts_is_void_and_repeated() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", always(0.01))}
    times = iter([1.0, 1.0, 1.2, 1.2, *repeat(1.2, 100)])
    found = measure(cells, Settings(budget_s=600), drifting_kernel(times), clock=machine.clock)
    assert [item.void for item in found.rounds] == [False, True] + [False] * 7
    assert found.rounds[1].calibration_ms == (1.0, 1.2)
    assert (found.void_rounds, len(found.used), found.stopped_by) == (1, 8, "precision")


def test_void_rounds_are_used_only_when_the_budget_leaves_too_few_others() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", always(0.01))}
    times = iter([1.0, 2.0] * 1000)
    found = measure(cells, Settings(budget_s=20), drifting_kernel(times), clock=machine.clock)
    assert found.stopped_by == "budget"
    assert found.void_rounds == len(found.rounds) == len(found.used)
    assert not found.enough_valid


def test_a_cell_that_dies_is_left_out_and_the_others_go_on() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", always(0.01), dies_after=6), 1: FakeCell(machine, "bb", always(0.02))}
    found = measure(cells, Settings(budget_s=600), steady_kernel, clock=machine.clock)
    assert list(found.failures) == [0]
    assert "SIGSEGV" in str(found.failures[0])
    assert len(found.medians_ms(1)) >= 5
    assert found.rounds[-1].order == (1,)


def test_nothing_to_measure_ends_at_once() -> None:
    found = measure({}, Settings(), steady_kernel)
    assert (found.rounds, found.stopped_by) == ([], "")


def test_a_pair_on_a_machine_that_slows_down_is_compared_rightly() -> None:
    machine = Machine()

    def slowing(base: float) -> Callable[[int], float]:
        return lambda place: base * (1 + machine.now / 20)

    cells = {0: FakeCell(machine, "a", slowing(0.010)), 1: FakeCell(machine, "bb", slowing(0.020))}
    found = measure(cells, Settings(budget_s=30), steady_kernel, clock=machine.clock)
    paired = found.ratio(0, 1)
    assert paired is not None
    assert paired.ratio.value == pytest.approx(0.5, rel=0.1)
    assert paired.verdict == "faster"


def test_cells_of_the_same_work_learn_how_slow_the_slowest_of_them_is() -> None:
    machine = Machine()
    cells = {
        key: FakeCell(machine, name, always(s))
        for key, (name, s) in enumerate([("a", 0.01), ("b", 0.03), ("cc", 0.09)])
    }
    measure(cells, Settings(budget_s=60), steady_kernel, clock=machine.clock)
    assert [cell.slowest_s for cell in cells.values()] == pytest.approx([0.03, 0.03, 0.09], rel=0.01)


def test_a_soak_goes_on_to_its_end_and_tells_when_each_turn_ended_and_what_was_held() -> None:
    machine = Machine()
    cells = {0: FakeCell(machine, "a", always(0.01))}
    settings = Settings(budget_s=600, rounds=20, most_runs=10**6, to_the_end=True)
    found = measure(cells, settings, steady_kernel, clock=machine.clock)
    assert found.stopped_by == "budget"
    assert machine.now == pytest.approx(600, rel=0.05)
    assert len(found.rounds) > 20
    assert all(item.rss_mb[0] == 100.0 + item.at_s[0] for item in found.rounds)
    assert len({item.seed for item in found.rounds}) == len(found.rounds)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"budget_s": 0}, "more than 0 s"), ({"budget_s": float("nan")}, "more than 0 s"), ({"rounds": 4}, "5 to 100")],
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Settings(**arguments)  # type: ignore[arg-type]
