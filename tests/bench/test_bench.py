"""Real cells from end to end, on a network of one convolution; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from avsdk.bundle import open_bundle
from avsdk.errors import ToolchainCrashed
from avsdk_bench import cell, inputs
from avsdk_bench.bench import run_bench
from avsdk_bench.cli import app
from avsdk_bench.plan import Cell, plans_for
from avsdk_bench.reading import read_report
from avsdk_bench.rounds import Settings

pytest.importorskip("onnxruntime", reason="the cells need a runtime: pip install 'avsdk[onnxruntime]'")

ROW_KEYS = """bundle graph target engine device precision effective_precision precision_shares placement scenario
threads shapes status p50_ms p50_ci_ms p90_ms p99_ms throughput_per_s n rounds cold_start_ms peak_rss_mb size_mb
steady""".split()
PHASES = {"spawn_ms", "import_ms", "verify_ms", "load_ms", "compile_ms", "first_output_ms"}
SHORT = ["--budget-s", "1.5", "--threads", "1"]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments), *SHORT])


def document_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_bundle_is_measured_per_graph_and_as_a_pipeline(make_bundle, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out, chart = tmp_path / "new" / "r.json", tmp_path / "new" / "c.svg"
    result = bench(make_bundle("a"), "--axis", "height=16,width=20", "--json", "--out", out, "--chart", chart)
    document = document_of(result)
    assert document == json.loads(out.read_text())
    assert chart.read_text().startswith("<?xml")
    assert document["host"]["cores"] >= 1
    assert [row["graph"] for row in document["rows"]] == ["net", "pipeline"]
    for row in document["rows"]:
        assert set(ROW_KEYS) <= set(row)
        assert row["status"] == "measured"
        assert row["scenario"] == "single-stream"
        assert row["shapes"] == {"batch": 1, "height": 16, "width": 20}
        assert row["effective_precision"] == "fp32"
        assert row["precision_shares"] == {"fp32": 1.0}
        assert row["placement"] == {"cpu": 1.0}
        assert row["threads"] == 1
        assert row["input"] == "golden sample 0" + (", as PNG" if row["graph"] == "pipeline" else "")
        assert row["rounds"] >= 5
        assert row["n"] == sum(map(len, row["samples_ms"]))
        assert row["min_ms"] <= row["p50_ci_ms"][0] <= row["p50_ms"] <= row["p50_ci_ms"][1]
        assert (row["p99_ms"] is None) == (row["n"] < 662)
        assert row["peak_rss_mb"] >= row["memory"]["load"]["rss_mb"] > 0
        assert row["memory"]["steady"]["file_mb"] > 0
        assert row["stopped_by"] in ("precision", "budget")
        assert (row["energy"].get("joules_per_item") or 1) > 0
        assert "joules_per_item" in row["energy"] or row["energy"]["unavailable"]
        assert row["cold_start_ms"] == pytest.approx(sum(row["cold_start"].values()), abs=0.1)
        assert row["iqr_ms"][0] <= row["p50_ms"] <= row["iqr_ms"][1]
        assert row["graphs"][0]["operators"] == {"Conv": 1}
        assert (row["graphs"][0]["opset"], row["graphs"][0]["ir"]) == (18, 9)
        assert row["graphs"][0]["sha256"] == row["model"]["model/net.onnx"]
        assert (row["parity"]["verdict"], row["parity"]["reason"]) == ("not_run", "made by hand")
        assert row["runtime"]["version"][0].isdecimal()
        assert "build type" in row["runtime"]["build"]
        assert row["runtime"]["environment"]["OMP_NUM_THREADS"] == "1"
        assert set(row["cold_start"]) == PHASES
        assert row["cold_starts"] is None
    assert set(document["rows"][1]["stages_ms"]) == {"decode", "preprocess", "infer", "postprocess"}
    assert all(value > 0 for value in document["rows"][1]["stages_ms"].values())
    assert document["rows"][0]["stages_ms"] is None
    assert [row["includes"] for row in document["rows"]] == [["infer"], list(document["rows"][1]["stages_ms"])]
    assert read_report(out).to_json() == document
    assert document["machine"]["kernel"].startswith(document["host"]["system"].split()[0])
    assert len(document["method"]["order"]) == document["method"]["rounds"]
    assert document["command"].startswith("avsdk bench ")


def test_the_same_bundle_twice_is_two_cells_and_a_comparison(make_bundle) -> None:  # type: ignore[no-untyped-def]
    bundle = make_bundle("a")
    document = document_of(bench(bundle, bundle, "--json"))
    assert [row["graph"] for row in document["rows"]] == ["net", "pipeline"] * 2
    assert [(item["row"], item["reference"]) for item in document["comparisons"]] == [(2, 0), (3, 1)]
    for item in document["comparisons"]:
        low, high = item["ratio_ci"]
        assert low <= item["ratio"] <= high
        assert (item["verdict"] == "no difference shown") == (low <= 1 <= high)


def test_made_up_inputs_are_seeded_and_named(make_bundle) -> None:  # type: ignore[no-untyped-def]
    bundle = open_bundle(make_bundle("a"))
    graph = bundle.manifest.spec.graphs[0]
    sizes = {"batch": 2, "height": 16, "width": 20}
    (first, text), (again, _), (other, _) = (inputs.feeds_for(bundle, graph, sizes, seed) for seed in (3, 3, 4))
    assert text == "random 0..255, seed 3"
    assert first["image"].shape == (2, 3, 16, 20)
    assert first["image"].dtype == np.float32
    assert 0 <= first["image"].min() < first["image"].max() <= 255
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])
    picture, text = inputs.media_for(bundle, {"height": 24, "width": 28}, 3)
    assert (picture.shape, picture.dtype, text) == ((24, 28, 3), np.uint8, "random 0..255, seed 3")


def test_an_engine_that_is_not_here_is_a_row_and_the_others_go_on(make_bundle) -> None:  # type: ignore[no-untyped-def]
    here, absent = make_bundle("here"), make_bundle("absent", device="cuda")
    result = bench(absent, here, "--json")
    rows = document_of(result)["rows"]
    assert [(Path(row["bundle"]).name, row["status"]) for row in rows] == [
        ("absent", "unavailable"), ("absent", "unavailable"), ("here", "measured"), ("here", "measured"),
    ]  # fmt: skip
    assert "cuda" in rows[0]["reason"].lower()
    assert rows[0]["fix"]
    assert rows[0]["p50_ms"] is None
    assert "absent" in result.stderr


def test_when_nothing_can_be_measured_the_code_says_why(make_bundle) -> None:  # type: ignore[no-untyped-def]
    result = bench(make_bundle("absent", device="cuda"), "--json")
    assert result.exit_code == 3
    assert {row["status"] for row in json.loads(result.stdout)["rows"]} == {"unavailable"}


def test_another_precision_than_was_asked_for_is_no_row_of_numbers(make_bundle) -> None:  # type: ignore[no-untyped-def]
    liar, honest = make_bundle("liar", precision="bf16"), make_bundle("honest")
    result = bench(liar, honest, "--json")
    assert result.exit_code == 4
    rows = json.loads(result.stdout)["rows"]
    assert rows[0]["status"] == "unavailable"
    assert "bf16 and executed fp32" in rows[0]["reason"]
    assert rows[2]["status"] == "measured"


def test_a_size_that_was_not_built_is_named_with_the_line_that_would_build_it(make_bundle) -> None:  # type: ignore[no-untyped-def]
    fixed = make_bundle("fixed", shapes={"batch": 1, "height": 16, "width": 16})
    result = bench(fixed, "--axis", "height=32", "--axis", "height=16", "--json")
    assert result.exit_code == 2
    rows = json.loads(result.stdout)["rows"]
    assert [row["status"] for row in rows] == ["unavailable", "measured"] * 2
    assert "--axis" in rows[0]["fix"]


def test_the_table_the_interval_and_the_next_command_are_printed(make_bundle) -> None:  # type: ignore[no-untyped-def]
    bundle = make_bundle("a")
    result = bench(bundle, bundle)
    assert result.exit_code == 0
    assert "95 % interval" in result.stdout
    assert "16x16" in result.stdout
    assert "x the time of a · net · 16x16 · onnxruntime:cpu [" in result.stdout
    assert f"next: avsdk run {bundle}" in result.stderr
    assert "stopped after" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--axis", "hieght=16"], "did you mean 'height'?"),
        (["--axis", "16x16"], "AXIS=SIZE"),
        (["--rounds", "1"], "5 to 100"),
        (["--chart", "c.pdf"], ".png, .svg"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(make_bundle, arguments, text) -> None:  # type: ignore[no-untyped-def]
    result = bench(make_bundle("a"), *arguments)
    assert getattr(result.exception, "exit_code", None) == 2
    assert text in str(result.exception)


def test_a_scenario_that_does_not_exist_is_refused(make_bundle) -> None:  # type: ignore[no-untyped-def]
    result = bench(make_bundle("a"), "--scenario", "sever")
    assert result.exit_code == 2
    assert "single-stream" in result.output


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    result = bench(tmp_path)
    assert getattr(result.exception, "exit_code", None) == 2


def test_a_damaged_bundle_is_refused(make_bundle) -> None:  # type: ignore[no-untyped-def]
    bundle = make_bundle("a")
    (bundle / "model" / "net.onnx").write_bytes(b"other")
    assert getattr(bench(bundle).exception, "exit_code", None) == 5


def test_each_cell_has_a_process_of_its_own(make_bundle) -> None:  # type: ignore[no-untyped-def]
    plan = plans_for(open_bundle(make_bundle("a")), [], 1)[0]
    with Cell(plan) as first, Cell(plan) as second:
        facts = first.open()
        second.open()
        pids = {first._ask("pids")[0], second._ask("pids")[0], os.getpid()}
        assert len(pids) == 3
        samples = first.run(7, lead_in=2)
        assert (len(samples), samples.dtype) == (7, np.int64)
        assert (samples > 0).all()
        assert first.execution()["net"]["effective_precision"] == "fp32"
        assert facts.phases["import_ms"] > 0


def open_dying(spawned_ns: int, **arguments: object) -> object:
    """A cell that loads, runs once, and dies in its first turn."""

    def run() -> None:
        calls.append(1)
        if len(calls) > 1:
            os.abort()

    calls: list[int] = []
    del arguments
    return cell.CellWorker(spawned_ns, lambda cold: cell.Prepared(run, dict, lambda: None, "nothing"))


def test_a_cell_that_dies_becomes_a_row_with_the_reason(make_bundle) -> None:  # type: ignore[no-untyped-def]
    plans = plans_for(open_bundle(make_bundle("a")), [], 1, pipeline=False)
    report, errors = run_bench([replace(plans[0], factory=open_dying), *plans], Settings(budget_s=1.5))
    assert [row.status for row in report.rows] == ["unavailable", "measured"]
    assert isinstance(errors[0], ToolchainCrashed)
    assert "SIGABRT" in report.rows[0].reason
