"""The scripts of bench/numbers: what they write, and that a direct cell does the same work as a session's."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.bench.made_up import made_up_report, made_up_row

from avsdk.bundle import open_bundle, write_manifest
from avsdk.errors import AvsdkError
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import plans_for
from avsdk_bench.rounds import Settings
from avsdk_bench.statistics import Interval


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Any:
    """``script("latency")`` imports bench/numbers/latency.py as running it would."""
    monkeypatch.syspath_prepend(project_root / "bench" / "numbers")

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_the_page_names_machine_versions_figures_and_commands(script: Any) -> None:
    figures = script("figures")
    section = figures.Section(
        "Start", "How.", ("avsdk --help",), (figures.at_most("help", "200 ms", 200.0, 300.0, "ms"),), ("load was high",)
    )
    page = script("run_all").page_from([section])
    assert "| help | 200 ms | at most 300 ms | met |" in page
    assert "- Machine: " in page
    assert "numpy " in page
    assert "```\navsdk --help\n```" in page
    assert "- load was high" in page


def test_the_baseline_takes_its_figures_from_the_report(script: Any, tmp_path: Path, monkeypatch: Any) -> None:
    baseline = script("baseline")
    row = {"graph": "transform", "device": "cpu", "effective_precision": "fp32", "p50_ms": 20.0, "p50_ci_ms": [19, 21]}
    rows = [{**row, "engine": "torch", "settings": {"mode": "eager"}}, {**row, "engine": "openvino", "settings": {}}]
    compared = {"row": 1, "reference": 0, "ratio": 0.5, "ratio_ci": [0.4, 0.6]}
    report = {
        "rows": [*rows, {**rows[1], "graph": "pipeline"}], "comparisons": [compared], "noise": {"reasons": ["loud"]},
        "method": {"rounds": 7, "void_rounds": 2, "stopped_by": "budget"},
    }  # fmt: skip
    done = script("figures").Finished(1.0, 1.0, json.dumps(report))
    monkeypatch.setattr(baseline, "run_timed", lambda command, log: done)
    section = baseline.measured("zoo:x", tmp_path, 5.0)
    assert [(item.what, item.value) for item in section.figures] == [
        ("p50, torch:cpu eager fp32", "20 ms [19, 21]"), ("p50, openvino:cpu fp32", "20 ms [19, 21]"),
        ("openvino:cpu fp32: its time over torch's, eager", "0.5 [0.4, 0.6]"),
    ]  # fmt: skip
    assert "7 interleaved rounds (2 void), stopped by budget" in section.method
    assert section.notes == ("loud",)


def test_a_missed_goal_is_said(script: Any) -> None:
    assert script("figures").at_most("help", "400 ms", 400.0, 300.0, "ms").verdict == "**missed**"


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        (Interval(1.01, 0.99, 1.015), "met"),
        (Interval(1.01, 0.9, 1.2), "wider than the goal"),
        (Interval(1.1, 0.9, 1.2), "not decided"),
        (Interval(1.1, 1.05, 1.2), "missed"),
    ],
)
def test_a_ratio_within_the_noise_is_neither_met_nor_missed(script: Any, ratio: Interval, word: str) -> None:
    assert word in script("latency")._closeness(ratio)


def test_a_command_is_timed_from_outside_and_its_failure_shows_its_last_lines(script: Any, tmp_path: Path) -> None:
    figures = script("figures")
    done = figures.run_timed([sys.executable, "-c", "print('answer')"], tmp_path / "log")
    assert (done.output, done.seconds > 0, done.peak_rss_mb > 1) == ("answer\n", True, True)
    with pytest.raises(AvsdkError, match="exit code 3"):
        figures.run_timed([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")


@pytest.mark.parametrize(("engine", "factory"), [("onnxruntime", "open_onnxruntime"), ("openvino", "open_openvino")])
def test_a_direct_cell_is_measured_beside_the_session(  # type: ignore[no-untyped-def]
    script: Any, make_bundle, engine: str, factory: str
) -> None:
    pytest.importorskip(engine, reason=f"pip install 'avsdk[{engine}]'")
    plan = plans_for(open_bundle(make_bundle("a", engine=engine)), [], 1, pipeline=False)[0]
    directly = replace(plan, bundle="direct", factory=getattr(script("direct"), factory))
    report, errors = run_bench([plan, directly], Settings(budget_s=1.5))
    assert not errors
    assert [row.status for row in report.rows] == ["measured", "measured"]
    assert report.rows[0].input == report.rows[1].input
    assert [(item.row, item.reference) for item in report.comparisons] == [(1, 0)]


def test_a_training_is_timed_beside_the_bare_step(script: Any, tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    threads = torch.get_num_threads()
    section = script("training").measured(tmp_path, small=True)
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)
    assert [item.what for item in section.figures][:2] == ["a step by the loop", "a bare PyTorch step"]
    assert section.figures[2].goal == "at least 0.9"


@pytest.mark.parametrize(
    ("share", "word"),
    [(Interval(0.95, 0.91, 0.99), "met"), (Interval(0.92, 0.85, 0.99), "not decided"), (None, "missed")],
)
def test_a_share_is_judged_by_its_whole_interval(script: Any, share: Interval | None, word: str) -> None:
    assert word in script("training")._judged(share)


def test_ten_kills_lose_nothing(project_root: Path, tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # flushing hundreds of files to a disk is what takes the time, and no kill needs it
    place = str(memory if os.access(memory, os.W_OK) else tmp_path)
    done = subprocess.run(
        [sys.executable, str(project_root / "bench" / "numbers" / "kills.py"), "--kills", "10", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": place},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    assert (tally["kills"], tally["damaged"], tally["different"]) == (10, 0, 0)
    assert tally["finished"] >= 1


def test_a_video_is_compared_with_its_session_alone(  # type: ignore[no-untyped-def]
    script: Any, make_bundle, tmp_path: Path, monkeypatch: Any
) -> None:
    video = script("video")
    monkeypatch.setattr(video, "SIZES", ((16, 20),))
    section = video.measured(_with_pictures(make_bundle("a")), tmp_path, rounds=2, frames=4)
    named = [item.what for item in section.figures]
    assert named[:2] == ["20x16: session alone", "20x16: whole run"]
    assert "encode" in section.figures[3].value


def test_a_large_photograph_is_compared_with_the_run_without_a_limit(
    script: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    photo, figures = script("big_photo"), script("figures")
    memory = {"way": "bands", "rows": [8, 16], "expected_mb": 90}
    graph = {"engine": "onnxruntime", "effective_precision": "fp32"}
    output = json.dumps({"files": [{"memory": memory}], "graphs": [graph]})

    def runs(command: list[str], log: Path) -> Any:
        limited = "--max-memory-mb" in command
        picture = photo.read_image(tmp_path / "photo.png")
        picture[0, 0, 0] ^= 1 if limited else 0
        photo.write_image(Path(command[command.index("--out") + 1]), picture)
        return figures.Finished(1.0, 80.0 if limited else 200.0, output)

    monkeypatch.setattr(photo, "run_timed", runs)
    section = photo.measured(tmp_path / "bundle", tmp_path, 32, 40, 100)
    found = {item.what: (item.value, item.verdict) for item in section.figures}
    assert found["peak memory with the limit"] == ("80 MB", "met")
    assert found["largest difference"] == ("1 of 255", "met")
    assert found["values that differ"] == ("0.0260 %", "**missed**")
    assert "Done as: bands, 8 to 16 rows." in section.method


def _with_pictures(bundle: Path) -> Path:
    """The bundle as one of the family's predictor, which takes videos."""
    manifest = open_bundle(bundle).manifest
    write_manifest(bundle, replace(manifest, spec=replace(manifest.spec, predictor="style_transfer")))
    return bundle


def test_the_self_test_compares_real_cells_and_counts_what_was_right(script: Any) -> None:
    self_test = script("self_test")
    found = self_test.compared(1, 0.4, 0.05, "slower", lambda done: None, seed=0)
    assert (found.made, found.right in (0, 1), len(found.widths)) == (1, True, 1)
    assert found.widths[0] > 0


def test_the_self_test_judges_by_its_goals(script: Any) -> None:
    self_test = script("self_test")
    figure = self_test._share("same", self_test.Trials(100, 90, 3, (0.01,)), 0.90)
    assert (figure.value, figure.goal, figure.verdict) == ("90 of 100", "at least 90 %", "met")
    assert self_test._share("same", self_test.Trials(100, 89, 3, (0.01,)), 0.90).verdict == "**missed**"
    cost = self_test.overhead_us("own", queries=200)
    assert 0 < cost["p50"] <= cost["p99"]


def test_both_loops_are_measured_in_one_bench_per_scenario(script: Any, make_bundle) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel here")
    pytest.importorskip("onnxruntime", reason="pip install 'avsdk[onnxruntime]'")
    section = script("loops_agree").measured(make_bundle("a"), [], 1, 0.8, seed=0)
    names = [item.what.partition(":")[0] for item in section.figures]
    assert names == ["single-stream", "multi-stream", "offline", "server"]
    assert all("[" in item.value and item.goal == "within 2 % of 1" for item in section.figures)


def test_the_tuner_is_judged_by_the_grid_that_holds_its_choice(script: Any) -> None:
    from avsdk_bench.tune_choice import Tuned
    from avsdk_bench.tune_space import Configuration

    tuner, sizes = script("tuner"), {"height": 256, "width": 256}

    def found(p50_ms: float, seed: int, **chosen: Any) -> Tuned:
        asked = Configuration(**{"target": "openvino", "precision": "int8", "threads": 2, "sizes": sizes, **chosen})
        return Tuned(asked, "final", (made_up_row(p50_ms=p50_ms, seed=seed),), 24.0)

    items = [
        found(10.0, 0),
        found(10.2, 1, settings={"openvino.pinning": "no"}),
        found(40.0, 2, target="onnxruntime", precision="fp32"),
    ]
    best = {"target": "openvino", "precision": "int8", "threads": 2, "settings": {"openvino.pinning": "no"}}
    document = {"best": best, "rows": [{"threads": 2}], "search": {"tried": 9, "configurations": 12}}
    work = tuner.Work("zoo:x", "onnxruntime,openvino", sizes, Path("photos"), 16, 20.0)
    section = tuner.section(work, document, 500.0, items, made_up_report(), 3, "avsdk tune zoo:x")
    said = {item.what: (item.value, item.verdict) for item in section.figures}
    assert said["the whole search, builds included"] == ("500 s", "met")
    assert said["configurations tried"] == ("9 of 12", "")
    assert said["its choice takes, of the time of the grid's best, in the same rounds"][0].startswith("1.02")
    assert said["its choice is faster than that by a factor of"][0].startswith("3.9")
    assert said["its choice is faster than that by a factor of"][1] == "met"
    assert tuner._within(Interval(1.2, 1.1, 1.3)) == "**missed**"
    with pytest.raises(AvsdkError, match="the grid has no openvino int8 4 threads"):
        tuner._chosen({**best, "threads": 4}, work, items)
