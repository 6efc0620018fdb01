from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avsdk_bench import loadgen, statistics


def test_the_interval_of_five_rounds_is_their_range() -> None:
    interval = statistics.median_interval([3.0, 1.0, 2.0, 5.0, 4.0])
    assert interval is not None
    assert (interval.value, interval.low, interval.high) == (3.0, 1.0, 5.0)
    assert interval.relative_width == pytest.approx(4 / 3)


def test_one_round_shows_no_spread() -> None:
    assert statistics.median_interval([1.0]) is None
    assert statistics.median_interval([]) is None


def test_the_interval_is_seeded() -> None:
    values = np.random.default_rng(3).normal(10, 1, 12)
    assert statistics.median_interval(values, seed=1) == statistics.median_interval(values, seed=1)


@pytest.mark.parametrize(("rounds", "least"), [(5, 0.90), (7, 0.95), (10, 0.93), (20, 0.93)])
def test_the_interval_covers_the_true_median_as_often_as_it_says(rounds: int, least: float) -> None:
    random = np.random.default_rng(0)
    intervals = [statistics.median_interval(random.lognormal(0, 0.2, rounds), seed=trial) for trial in range(400)]
    covered = np.mean([interval is not None and interval.contains(1.0) for interval in intervals])
    assert covered >= least


@pytest.mark.parametrize(("n", "t"), [(6, 2.570582), (8, 2.364624), (11, 2.228139), (31, 2.042272)])
def test_the_tail_is_expanded_by_students_quantile(n: int, t: float) -> None:
    wanted = 0.5 * math.erfc(t * math.sqrt(n / (n - 1)) / math.sqrt(2))
    assert statistics.expanded_tail(n) == pytest.approx(wanted, rel=0.01)
    assert statistics.expanded_tail(100_000) == pytest.approx(0.025, rel=1e-3)


@given(st.lists(st.floats(0.1, 1e3), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_median_lies_within_its_interval_and_the_interval_within_the_values(values: list[float]) -> None:
    interval = statistics.median_interval(values)
    assert interval is not None
    assert min(values) <= interval.low <= interval.value <= interval.high <= max(values)


def test_a_pair_is_compared_round_by_round() -> None:
    machine = np.array([1.0, 2.0, 1.5, 3.0, 1.2, 2.2])  # a machine that changes threefold hides nothing from a pair
    paired = statistics.paired_ratio(2.0 * machine, 4.0 * machine)
    assert paired is not None
    assert paired.ratio.value == pytest.approx(0.5)
    assert (paired.verdict, paired.rounds) == ("faster", 6)


def test_what_two_processes_of_one_program_differ_by_is_no_difference() -> None:
    alike = statistics.paired_ratio([1.002] * 10, [1.0] * 10)
    assert alike is not None
    assert (alike.ratio.value, alike.verdict) == (pytest.approx(1.002), "no difference shown")
    slower = statistics.paired_ratio([1.004] * 10, [1.0] * 10)
    assert slower is not None
    assert slower.verdict == "slower"


def test_a_ratio_whose_interval_holds_one_shows_no_difference() -> None:
    paired = statistics.paired_ratio([1.0, 1.1, 0.9, 1.05, 0.95], [1.0] * 5)
    assert paired is not None
    assert paired.verdict == "no difference shown"
    slower = statistics.paired_ratio([1.2, 1.1, 1.3, 1.15, 1.25], [1.0] * 5)
    assert slower is not None
    assert slower.verdict == "slower"


@pytest.mark.parametrize(("percentile", "samples"), [(0.9, 64), (0.95, 130), (0.97, 219), (0.99, 662), (0.999, 6636)])
def test_percentiles_need_as_many_samples_as_in_loadgen(percentile: float, samples: int) -> None:
    assert statistics.minimum_samples(percentile) == samples
    assert statistics.percentile_bound(np.arange(samples - 1), percentile) is None
    assert statistics.percentile_bound(np.arange(samples), percentile) == samples - 1


@given(st.integers(1, 900), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_allowed_over_is_the_largest_count_that_the_binomial_tail_permits(n: int, percentile: float) -> None:
    def tail(t: int) -> float:
        return math.fsum(math.comb(n, k) * (1 - percentile) ** k * percentile ** (n - k) for k in range(t + 1))

    t = statistics.allowed_over(n, percentile)
    assert t == -1 or tail(t) <= 0.01 + 1e-9
    assert tail(t + 1) > 0.01 - 1e-9


def test_the_bound_holds_with_the_confidence_it_claims() -> None:
    random = np.random.default_rng(5)
    true_p90 = -math.log(0.1)
    bounds = [statistics.percentile_bound(random.exponential(1.0, 200), 0.9) for _ in range(500)]
    assert np.mean([bound is not None and bound >= true_p90 for bound in bounds]) >= 0.985


@given(st.integers(2, 2500), st.sampled_from([("SingleStream", 0.9, "ss"), ("MultiStream", 0.99, "ms")]))
@example(63, ("SingleStream", 0.9, "ss"))
@example(64, ("SingleStream", 0.9, "ss"))
@example(661, ("MultiStream", 0.99, "ms"))
@example(662, ("MultiStream", 0.99, "ms"))
@settings(max_examples=12, deadline=None)
def test_the_bound_of_a_percentile_is_mlperf_loadgens_to_the_nanosecond(
    queries: int, scenario: tuple[str, float, str]
) -> None:
    lg = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel here")
    name, percentile, key = scenario
    with tempfile.TemporaryDirectory() as folder:
        found, latencies = _loadgen_says(lg, name, queries, Path(folder), f"early_stopping_latency_{key}")
    assert len(latencies) == queries
    ours = statistics.percentile_bound(latencies, percentile)
    if queries < statistics.minimum_samples(percentile):
        assert ours is None
        assert not found
    else:
        assert ours == found


def _loadgen_says(lg: Any, scenario: str, queries: int, folder: Path, key: str) -> tuple[int, np.ndarray]:
    """LoadGen's own figure after so many queries that do nothing (0 for none), and their latencies by its trace."""
    test = lg.TestSettings()
    test.scenario, test.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
    test.single_stream_expected_latency_ns = test.multi_stream_expected_latency_ns = 1000
    test.multi_stream_samples_per_query = 1
    test.min_query_count = test.max_query_count = queries
    test.min_duration_ms = 0
    log = lg.LogSettings()
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    log.log_output, log.enable_trace = output, True

    def issue(samples: list[Any]) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(system, library, test, log, "")
    lg.DestroyQSL(library)
    lg.DestroySUT(system)
    said = re.search(rf'"key": "{key}", "value": (\d+)', (folder / "mlperf_log_detail.txt").read_text())
    return int(said.group(1)) if said else 0, loadgen._latencies(folder / "mlperf_log_trace.json")


def test_outliers_are_marked_by_their_place() -> None:
    assert statistics.outliers([1.0, 1.1, 0.9, 1.05, 40.0, 0.95]) == [4]
    assert statistics.outliers([1.0, 1.0, 1.0]) == []
    assert statistics.outliers([]) == []


def _series(*parts: tuple[float, int], jitter: float = 0.002) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([level * (1 + jitter * random.standard_normal(count)) for level, count in parts])


def test_windows_hold_enough_runs_and_enough_time() -> None:
    assert statistics.window_ends([0.1] * 60, runs=25, seconds=0.5) == [25, 50]
    assert statistics.window_ends([0.001] * 1200, runs=25, seconds=0.5) == pytest.approx([500, 1000], abs=2)


def test_warm_up_ends_at_the_change_point() -> None:
    found = statistics.warm_up(_series((0.060, 50), (0.030, 200)))
    assert found.steady
    assert 50 <= found.dropped <= 75


def test_the_longest_prefix_is_dropped_even_where_the_first_window_is_like_the_steady_ones() -> None:
    found = statistics.warm_up(_series((0.030, 25), (0.060, 25), (0.030, 200)))
    assert found == statistics.WarmUp(dropped=50, steady=True)


def test_a_series_that_was_steady_from_the_start_loses_nothing() -> None:
    assert statistics.warm_up(_series((0.030, 100))) == statistics.WarmUp(dropped=0, steady=True)


@pytest.mark.parametrize(
    "series",
    [_series((0.03, 74)), np.linspace(0.03, 0.09, 200), _series((0.03, 25), (0.06, 25), (0.03, 25), (0.06, 25))],
    ids=["too short", "drifting", "switching"],
)
def test_what_never_settles_is_not_steady(series: np.ndarray) -> None:
    assert not statistics.warm_up(series).steady
