"""An older report beside the new one: limits decided on intervals, unlike machines and cells refused, rows replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bench.made_up import made_up_report, made_up_row
from typer.testing import CliRunner

from avsdk.errors import NotMet, Refused, UsageError
from avsdk_bench import baseline, statistics
from avsdk_bench.cli import app
from avsdk_bench.plan import plans_for
from avsdk_bench.reading import read_report
from avsdk_bench.report import Report, Row
from avsdk_bench.scenario import Load


def judged(old: Row, new: Row, *limits: str) -> list[Any]:
    parsed = [baseline.limit_from_text(text) for text in limits]
    return list(baseline.judge(made_up_report(new), made_up_report(old), parsed))


@pytest.mark.parametrize(
    ("now_ms", "spread", "limit", "verdict"),
    [
        (10.0, 0.002, "p50>+5%", "within"),
        (11.0, 0.002, "p50>+5%", "beyond"),
        (10.5, 0.02, "p50>+5%", "not shown"),
        (11.0, 0.002, "p90 > +5 %", "beyond"),
        (11.0, 0.002, "throughput<-5%", "beyond"),
        (10.0, 0.002, "throughput<-5%", "within"),
        (9.0, 0.002, "p50>-5%", "within"),
        (9.8, 0.002, "p50>-5%", "beyond"),
    ],
)
def test_a_limit_is_decided_by_the_interval(now_ms: float, spread: float, limit: str, verdict: str) -> None:
    old, new = made_up_row(spread=spread), made_up_row(p50_ms=now_ms, spread=spread, seed=5)
    (item,) = judged(old, new, limit)
    assert item.verdict == verdict, item
    assert item.change_ci[0] <= item.change <= item.change_ci[1]
    assert ("reaches across" in item.reason) == (verdict == "not shown")


def test_a_slow_down_is_an_error_with_its_interval_and_sameness_is_none() -> None:
    same = made_up_report(made_up_row(seed=2), baseline=tuple(judged(made_up_row(), made_up_row(seed=2), "p50>+5%")))
    baseline.require_within(same)
    slower = made_up_row(p50_ms=11.0, seed=2)
    report = made_up_report(slower, baseline=tuple(judged(made_up_row(), slower, "p50>+5%")))
    with pytest.raises(NotMet, match=r"p50 changed by \+\d+\.\d+ % \[\+\d.*\]: p50>\+5% is passed") as caught:
        baseline.require_within(report)
    assert caught.value.exit_code == 4


def test_noise_passes_for_a_change_as_seldom_as_the_interval_says() -> None:
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        old, new = (10.0 * (1.0 + 0.02 * random.standard_normal(8)) for _ in range(2))
        found = baseline._change_of([old, new], np.median, 2)
        assert not isinstance(found, str)
        alarms += found.low > 0.0 or found.high < 0.0
    assert alarms <= 14, "5 % of 200, and what chance may add"


def test_a_percentile_needs_its_samples_and_a_cold_start_its_repeats() -> None:
    few = replace(made_up_row(), samples_ms=tuple(item[:10] for item in made_up_row().samples_ms))
    tail, cold = judged(few, few, "p99>+5%", "cold_start>+5%")
    assert (tail.verdict, tail.change) == ("not shown", None)
    assert "p99 needs 662" in tail.reason
    assert "0 and 0 values" in cold.reason
    often = made_up_row(starts_ms=(400.0, 402.0, 404.0, 401.0, 403.0))
    slow = made_up_row(starts_ms=(500.0, 502.0, 504.0, 501.0, 503.0))
    assert [item.verdict for item in judged(often, slow, "cold_start>+5%")] == ["beyond"]


def test_size_and_memory_are_compared_as_they_are() -> None:
    items = judged(made_up_row(), made_up_row(size_mb=7.0, peak_rss_mb=None), "size>+5%", "peak_rss>+5%")
    assert [item.verdict for item in items] == ["beyond", "not shown"]


def test_a_machine_that_changed_itself_shows_nothing() -> None:
    old = made_up_report(made_up_row())
    slow = replace(old.method, calibration_ms=((1.2, 1.2),) * 8)
    new = made_up_report(made_up_row(p50_ms=12.0), method=slow)
    times, size = baseline.judge(new, old, [baseline.limit_from_text(text) for text in ("p50>+5%", "size>+5%")])
    assert (times.verdict, size.verdict) == ("not shown", "within")
    assert "took +20% of time" in times.reason


@pytest.mark.parametrize("text", ["", "p50", "p50>5", "p95>+5%", "p50>5%", "p50>=+5%", "p50>+5%; rm", "p50>+x%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no limit"):
        baseline.limit_from_text(text)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"cpu": "Other"}, "cpu was Other, is Test CPU"),
        ({"cores": 4}, "cores was 4"),
        ({"memory_mb": 99}, "memory was 99"),
    ],
)
def test_another_machine_is_no_baseline(facts: dict[str, Any], text: str) -> None:
    report = made_up_report()
    other = replace(report, host=replace(report.host, **facts))
    with pytest.raises(UsageError, match=text):
        baseline.require_same_machine(other, report.host)
    baseline.require_same_machine(report, report.host)


def test_unlike_cells_are_refused_with_what_differs(make_bundle) -> None:  # type: ignore[no-untyped-def]
    from avsdk.bundle import open_bundle

    plans = plans_for(open_bundle(make_bundle("a", engine="onnxruntime")), [{"height": 16, "width": 20}], 2)
    like = made_up_row(engine="onnxruntime", threads=1)
    with pytest.raises(UsageError, match="threads was 1, is 2"):
        baseline.require_pairs(plans[:1], made_up_report(like))
    baseline.require_pairs(plans[:1], made_up_report(replace(like, threads=2)))


def test_a_cell_of_another_scenario_is_another_cell(make_bundle) -> None:  # type: ignore[no-untyped-def]
    from avsdk.bundle import open_bundle

    plan = plans_for(open_bundle(make_bundle("a", engine="onnxruntime")), [{"height": 16, "width": 20}], 1)[0]
    offline = replace(plan, load=Load("offline"))
    single = made_up_report(made_up_row(engine="onnxruntime", threads=1))
    with pytest.raises(UsageError, match="scenario was single-stream, is offline"):
        baseline.require_pairs([offline], single)
    baseline.require_pairs([offline], made_up_report(replace(single.rows[0], scenario="offline")))


def test_two_runs_are_never_held_to_be_more_alike_than_two_processes_are() -> None:
    """Rounds without any spread: what is left is what processes of one program differ by."""
    still = [np.full(8, 10.0), np.full(8, 10.0)]
    found = baseline._change_of(still, np.median, 2)
    assert not isinstance(found, str)
    assert (found.low, found.high) == pytest.approx((-statistics.PLACEMENT, statistics.PLACEMENT))


def test_what_was_not_measured_now_is_replayed_and_never_called_measured() -> None:
    old = made_up_report()
    measured_now = made_up_report(made_up_row(seed=3))
    found = baseline.with_replayed(measured_now, old, "old.json")
    assert [(row.status, row.engine, row.machine) for row in found.rows] == [
        ("measured", "openvino", ""), ("replayed", "onnxruntime", "old.json"),
    ]  # fmt: skip
    assert found.elsewhere["old.json"].host == old.host
    other_machine = replace(old, host=replace(old.host, cpu="Other"))
    found = baseline.with_replayed(measured_now, other_machine, "old.json")
    assert [row.status for row in found.rows] == ["measured", "replayed", "replayed"]
    assert [(item.row, item.reference) for item in found.comparisons] == [(2, 1)]


def test_rows_of_other_machines_are_compared_with_rows_of_the_same_ones() -> None:
    def on(name: str, cpu: str, row: Row) -> Report:
        report = made_up_report(replace(row, machine=name))
        there = baseline.elsewhere_of(replace(report, host=replace(report.host, cpu=cpu)))
        return replace(report, elsewhere={name: there})

    limits = [baseline.limit_from_text("size>+5%")]
    old, heavier = on("ssh://pi", "A76", made_up_row()), made_up_row(size_mb=9.0)
    (same,) = baseline.judge(on("ssh://pi", "A76", heavier), old, limits)
    (swapped,) = baseline.judge(on("ssh://pi", "A72", heavier), old, limits)
    assert (same.verdict, swapped.verdict) == ("beyond", "not shown")
    assert "cpu was A76, is A72" in swapped.reason
    assert baseline.judge(on("ssh://other", "A76", heavier), old, limits) == ()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def test_an_old_report_is_shown_again_without_measuring(tmp_path: Path, report: Report) -> None:
    report.write(tmp_path / "old.json")
    result = run("--baseline", tmp_path / "old.json", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["status"] for row in document["rows"]] == ["replayed", "replayed"]
    assert document["elsewhere"]["old.json"]["host"]["cpu"] == "Test CPU"


def test_a_gate_from_end_to_end(make_bundle, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    bundle, old = make_bundle("a"), tmp_path / "old.json"
    short = ["--budget-s", "1.5", "--threads", "1"]
    assert run(bundle, *short, "--out", old).exit_code == 0
    result = run(bundle, *short, "--baseline", old, "--fail-if", "size>+5%", "--fail-if", "size<-0%", "--json")
    assert result.exit_code == 0, result.output
    assert [item["verdict"] for item in json.loads(result.stdout)["baseline"]] == ["within"] * 4
    lighter = json.loads(old.read_text())
    for row in lighter["rows"]:
        row["size_mb"] /= 2
    old.write_text(json.dumps(lighter))
    result = run(bundle, *short, "--baseline", old, "--fail-if", "size>+5%", "--json")
    assert result.exit_code == 4
    assert {item["verdict"] for item in json.loads(result.stdout)["baseline"]} == {"beyond"}
    assert "size changed by +100.00 %" in result.stderr
    assert read_report(old).rows[0].status == "measured"


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ([], UsageError, "nothing to measure"),
        (["--fail-if", "p50>+5%"], UsageError, "nothing to compare with"),
        (["--baseline", "absent.json"], UsageError, "cannot be read"),
        (["--on", "ssh://a", "--compare-vendor"], UsageError, "--compare-vendor is of this machine"),
        (["--on", "ssh://a/b"], UsageError, "is no address"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(make_bundle, arguments, kind, text) -> None:  # type: ignore[no-untyped-def]
    result = run(*([make_bundle("a")] if arguments else []), *arguments)
    assert isinstance(result.exception, kind)
    assert text in str(result.exception)


def test_a_hostile_baseline_is_refused(tmp_path: Path, make_bundle) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "r.json").write_text('{"schema": 1, "rows": "<script>"}')
    assert isinstance(run(make_bundle("a"), "--baseline", tmp_path / "r.json").exception, Refused)
