from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from avsdk.bundle import open_bundle
from avsdk.errors import UnknownName, UsageError
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk_bench import inputs, loops, scenario, trend
from avsdk_bench.cli import app
from avsdk_bench.plan import plans_for
from avsdk_bench.rounds import Round
from avsdk_bench.scenario import Load, load_from


def turn_of(latencies_ms: list[float], *, seed: int = 0, at_s: float = 0.0, rss_mb: float | None = None) -> Round:
    samples = {0: np.asarray(np.array(latencies_ms) * 1e6, dtype=np.int64)}
    return Round((0,), samples, (1.0, 1.0), False, seed, {0: at_s}, {0: rss_mb})


def test_settings_belong_to_their_scenario_and_the_others_go_on_to_the_engine() -> None:
    given = {"server.qps": "50", "server.latency_ms": "12.5", "openvino.cache": "yes"}
    load, others = load_from("server", "auto", given)
    assert (load, others) == (Load("server", "auto", qps=50.0, latency_ms=12.5), {"openvino.cache": "yes"})
    assert load.words() == ["--scenario", "server", "--set", "server.qps=50", "--set", "server.latency_ms=12.5"]
    assert load_from("multi-stream", "own", {"multi-stream.samples": "4"})[0].samples == 4


@pytest.mark.parametrize(
    ("name", "loop", "given", "error", "text"),
    [
        ("server", "own", {"soak.minutes": "3"}, UsageError, "--scenario soak"),
        ("server", "own", {"server.qsp": "3"}, UnknownName, "did you mean 'qps'"),
        ("server", "own", {"server.qps": "-1"}, UsageError, "above 0"),
        ("server", "own", {"server.qps": "many"}, UsageError, "above 0"),
        ("server", "own", {"server.qps": "nan"}, UsageError, "above 0"),
        ("multi-stream", "own", {"multi-stream.samples": "2.5"}, UsageError, "whole number"),
        ("real-time", "loadgen", {}, UsageError, "no scenario 'real-time'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    name: str, loop: str, given: dict[str, str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        load_from(name, loop, given)


def test_loadgen_serves_where_it_is_and_its_own_cost_is_small() -> None:
    def loop_of(load: Load, typical_s: float, version: str) -> Any:
        return load.in_use(1, typical_s, version, 40.0)["loop"]

    assert loop_of(Load("server", "auto"), 0.01, "6.0.17") == "loadgen"
    assert loop_of(Load("server", "auto"), 0.01, "") == "own"
    assert loop_of(Load("server", "auto"), 5e-5, "6.0.17") == "own"
    assert loop_of(Load("server", "own"), 0.01, "6.0.17") == "own"
    assert loop_of(Load("soak", "auto"), 0.01, "6.0.17") == "own"
    used = Load("server", "auto").in_use(1, 0.01, "6.0.17", None)
    assert used["note"] == "measured with LoadGen 6.0.17; not an MLPerf result"
    assert used["qps"] == 50.0
    assert Load("server").in_use(1, 0.01, "", None, slowest_s=0.04)["qps"] == 12.5


def test_a_turn_lasts_as_long_as_its_requests_take_to_come() -> None:
    def pace(load: Load, typical_s: float) -> float:
        return scenario.seconds_per_sample(load.in_use(2, typical_s, "", 40.0), typical_s)

    assert pace(Load("single-stream"), 0.01) == 0.01
    assert pace(Load("multi-stream"), 0.01) == pytest.approx(0.04)  # 8 samples in batches of 2
    assert pace(Load("server", qps=4.0), 0.01) == 0.25
    assert pace(Load("real-time"), 0.01) == 0.04
    assert pace(Load("real-time"), 0.5) == 0.5  # too slow: every item waits


def test_a_real_time_row_tells_misses_backlog_and_jitter() -> None:
    used = Load("real-time", deadline_ms=15.0).in_use(1, 0.005, "", 10.0)
    found = scenario.outcome(used, [turn_of([5.0, 5.0, 25.0, 16.0, 5.0]), turn_of([5.0] * 5)], 0)
    assert (found["items"], found["misses"], found["miss_rate"]) == (10, 2, 0.2)
    assert (found["backlog_max"], found["backlog_mean"], found["worst_ms"]) == (2, 0.3, 25.0)
    assert found["jitter_ms"] == pytest.approx(np.std([0, 20, -9, -11, 0, 0, 0, 0]))
    steady = scenario.outcome(used, [turn_of([5.0] * 5)], 0)
    assert (steady["miss_rate"], steady["backlog_max"], steady["jitter_ms"]) == (0.0, 0, 0.0)


def test_a_server_row_tells_whether_its_bound_was_kept() -> None:
    used = Load("server", qps=100.0, latency_ms=20.0).in_use(1, 0.005, "", None)
    quick = scenario.outcome(used, [turn_of([5.0] * 700)], 0)
    assert (quick["over_bound_share"], quick["p99_within_bound"]) == (0.0, True)
    slow = scenario.outcome(used, [turn_of([5.0] * 600 + [30.0] * 100)], 0)
    assert (slow["over_bound_share"], slow["p99_within_bound"]) == (pytest.approx(1 / 7, abs=1e-6), False)
    assert scenario.outcome(used, [turn_of([5.0] * 20)], 0)["p99_within_bound"] is None  # too few to say


def test_throughput_counts_what_was_answered_over_the_time_it_took() -> None:
    turns = [turn_of([10.0] * 20, seed=1), turn_of([10.0] * 20, seed=2)]

    def per_s(load: Load, items: int) -> float:
        return scenario.throughput_per_s(load.in_use(items, 0.01, "", 40.0), items, turns, 0)

    assert per_s(Load("single-stream"), 4) == pytest.approx(400)
    assert per_s(Load("multi-stream", samples=8), 4) == pytest.approx(800)
    assert per_s(Load("real-time"), 1) == pytest.approx(20 / (20 * 0.04 + 0.01))
    spans = [(loops.poisson_arrivals_ns(seed, 50.0, 20)[-1] + 10e6) / 1e9 for seed in (1, 2)]
    assert per_s(Load("server", qps=50.0), 1) == pytest.approx(40 / sum(spans), rel=1e-6)


def test_a_soak_row_tells_whether_memory_or_latency_grows() -> None:
    random = np.random.default_rng(0)

    def soaked(growth_mb_per_s: float) -> dict[str, Any]:
        turns = [
            turn_of([10.0 + random.normal(0, 0.1)], at_s=10.0 * i, rss_mb=200 + growth_mb_per_s * 10 * i)
            for i in range(40)
        ]
        return scenario.outcome(Load("soak").in_use(1, 0.01, "", None), turns, 0)

    leaking = soaked(0.01)
    assert leaking["rss_mb_per_h"] == pytest.approx(36)
    assert leaking["rss_verdict"] == "grows"
    still = soaked(0.0)
    assert (still["rss_mb_per_h"], still["rss_verdict"]) == (0.0, "no trend shown")
    assert still["latency_verdict"] == "no trend shown"
    low, high = still["latency_percent_per_h_ci"]
    assert low <= still["latency_percent_per_h"] <= high
    assert still["minutes"] == pytest.approx(6.5)


def test_a_slope_covers_the_truth_and_shrugs_off_wild_points() -> None:
    random = np.random.default_rng(1)
    times = np.arange(30.0)
    covered = []
    for _ in range(200):
        found = trend.slope(times.tolist(), (2.0 * times + random.standard_normal(30)).tolist())
        covered.append(found is not None and found.contains(2.0))
    assert np.mean(covered) >= 0.93
    values = 2.0 * times
    values[5] = 1e6
    wild = trend.slope(times.tolist(), values.tolist())
    assert wild is not None
    assert wild.value == pytest.approx(2.0)
    assert trend.slope([1.0, 2.0], [1.0, 2.0]) is None
    assert trend.slope([1.0] * 8, [1.0] * 8) is None


def _sound_spec(*steps: Step, shape: tuple[int | str, ...], axes: dict[str, AxisRange]) -> ModelSpec:
    tensors = (TensorSpec("sound", "float32", shape),)
    before = (Step("sound_mono", {"sample_rate_hz": 16000}), *steps, Step("batch"))
    graph = GraphSpec("net", tensors, (TensorSpec("out", "float32", (1, 2)),), axes)
    return ModelSpec(model="m", predictor="audio", graphs=(graph,), preprocess=before, postprocess=())


def test_a_live_source_gives_pictures_25_times_a_second_and_sounds_as_they_fill(make_bundle) -> None:  # type: ignore[no-untyped-def]
    picture = plans_for(open_bundle(make_bundle("a")), [], 1)[0]
    assert picture.natural_period_ms == 40.0
    samples = _sound_spec(shape=(1, "samples"), axes={"samples": AxisRange(160, 16000, 160, 1600)})
    assert scenario.natural_period_ms(samples, {}) == 100.0
    assert scenario.natural_period_ms(samples, {"samples": 160}) == 10.0
    framed = _sound_spec(
        Step("frames", {"length": 400, "hop": 160}), shape=(1, "frames", 400), axes={"frames": AxisRange(1, 99, 1, 8)}
    )
    assert inputs.sound_samples(framed, {}) == 7 * 160 + 400
    fitted = _sound_spec(Step("fit_samples", {"samples": 8000}), shape=(1, 8000), axes={})
    assert scenario.natural_period_ms(fitted, {}) == 500.0


def test_a_model_of_neither_needs_a_period() -> None:
    with pytest.raises(UsageError, match="how often"):
        Load("real-time").in_use(1, 0.01, "", None)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("multi-stream", ["multi-stream.samples=3"]),
        ("offline", []),
        ("server", ["server.latency_ms=50"]),
        ("real-time", ["real-time.period_ms=2"]),
        ("soak", ["soak.minutes=0.03"]),
    ],
)
def test_every_scenario_is_measured_from_end_to_end(make_bundle, name: str, settings: list[str]) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime", reason="the cells need a runtime: pip install 'avsdk[onnxruntime]'")
    words = ["bench", str(make_bundle("a")), "--scenario", name, "--budget-s", "1.2", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, [*words, *(word for pair in settings for word in ("--set", pair))])
    assert result.exit_code == 0, (result.output, result.exception)
    document = json.loads(result.stdout)
    for row in document["rows"]:
        assert (row["status"], row["scenario"], row["load"]["scenario"]) == ("measured", name, name)
        assert row["p50_ms"] > 0
        assert row["throughput_per_s"] > 0
    keys = {"server": "over_bound_share", "real-time": "miss_rate", "soak": "rss_mb_per_h"}
    assert keys.get(name) in (None, *document["rows"][0]["outcome"])
    assert f"--scenario {name}" in document["command"]
    assert all(pair in document["command"] for pair in settings)
