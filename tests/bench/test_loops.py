"""The loops that send requests, ours and LoadGen's; nothing here depends on how long anything takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from avsdk.errors import NotAvailable
from avsdk_bench import loadgen, loops

SCENARIOS = {"single-stream": 30, "multi-stream": 30, "offline": 1, "server": 30}
LOOPS = ("own", "loadgen")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], None]]:
    """A clock of our own: ``clock(5)`` is a run of 5 ns; sleeping moves the clock."""
    now = [1000]

    def taking(ns: int) -> Callable[[], None]:
        def run() -> None:
            now[0] += ns

        return run

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9)

    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    return taking


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_turn_runs_as_often_as_it_says(scenario: str, loop: str) -> None:
    if loop == "loadgen":
        pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel here")
    calls = []
    load = {"scenario": scenario, "loop": loop, "runs_per_query": 4, "qps": 20_000}
    samples = loops.turn(load, lambda: calls.append(1), 30, seed=3)
    assert (samples.dtype, len(samples)) == (np.int64, SCENARIOS[scenario])
    assert (samples > 0).all()
    assert len(calls) == (120 if scenario == "multi-stream" else 30)


@pytest.mark.parametrize("n", [1, 2, 150])
def test_our_arrivals_are_loadgens_to_the_nanosecond(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel here")
    starts: list[float] = []

    def remember(trace):  # type: ignore[no-untyped-def]
        starts.extend(
            float(line.partition('"ts":')[2].partition(",")[0])
            for line in trace.read_text().splitlines()
            if '"ph":"b"' in line
        )
        return kept(trace)

    kept = loadgen._latencies
    monkeypatch.setattr(loadgen, "_latencies", remember)
    loops.turn({"scenario": "server", "loop": "loadgen", "qps": 3000.0}, lambda: None, n, seed=n)
    ours = loops.poisson_arrivals_ns(n, 3000.0, n)
    assert len(ours) == n
    assert np.rint((np.sort(starts) - min(starts)) * 1000) == pytest.approx(ours)


def test_arrivals_are_seeded_and_as_frequent_as_asked() -> None:
    arrivals = loops.poisson_arrivals_ns(5, 200.0, 20_000)
    assert np.array_equal(arrivals, loops.poisson_arrivals_ns(5, 200.0, 20_000))
    assert not np.array_equal(arrivals, loops.poisson_arrivals_ns(6, 200.0, 20_000))
    gaps = np.diff(arrivals) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)  # an exponential's deviation is its mean
    assert len(loops.poisson_arrivals_ns(5, 200.0, 0)) == 0


def test_a_late_answer_delays_those_behind_it_from_their_scheduled_arrival(clock) -> None:  # type: ignore[no-untyped-def]
    arrivals = np.array([0, 10, 20, 500])
    assert loops.served(clock(40), arrivals).tolist() == [40, 70, 100, 40]


def test_hops_are_paced_and_count_from_their_last_sample(clock) -> None:  # type: ignore[no-untyped-def]
    load = {"scenario": "real-time", "loop": "own", "period_ms": 1e-4}  # 100 ns
    assert loops.turn(load, clock(30), 4, 0).tolist() == [30] * 4
    assert loops.turn(load, clock(150), 4, 0).tolist() == [150, 200, 250, 300]


def test_a_query_of_several_samples_ends_with_its_last(clock) -> None:  # type: ignore[no-untyped-def]
    assert loops.queries(clock(7), 3, 4).tolist() == [28] * 3
    assert loops.turn({"scenario": "offline", "loop": "own"}, clock(7), 50, 0).tolist() == [7]


def test_an_error_of_the_run_comes_out_of_loadgen_whole() -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel here")
    calls = []

    def fails() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise NotAvailable("out of memory")

    with pytest.raises(NotAvailable, match="out of memory"):
        loops.turn({"scenario": "single-stream", "loop": "loadgen"}, fails, 20, 0)
    assert len(calls) == 3


def test_without_its_wheel_loadgen_is_refused_with_the_line_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    with pytest.raises(NotAvailable) as caught:
        loops.turn({"scenario": "single-stream", "loop": "loadgen"}, lambda: None, 5, 0)
    assert "pip install mlcommons-loadgen" in caught.value.fix


def test_offline_runs_are_taken_side_by_side_where_the_runtime_has_streams() -> None:
    together = threading.Barrier(3, timeout=30)  # passes only where three runs are under way at once
    load = {"scenario": "offline", "loop": "own", "callers": 3}
    (per_run,) = loops.turn(load, together.wait, 6, seed=0)
    assert per_run > 0

    def broken() -> None:
        raise NotAvailable("no memory")

    with pytest.raises(NotAvailable, match="no memory"):
        loops.turn(load, broken, 6, seed=0)
