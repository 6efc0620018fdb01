"""``avsdk tune`` from end to end on a network of one convolution: real engines, real cells, small budgets."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.bench.conftest import _network
from typer.testing import CliRunner, Result

from avsdk.bundle import open_bundle
from avsdk_bench.cli import app
from avsdk_targets.cli import app as targets_app

pytest.importorskip("optuna", reason="pip install 'avsdk[bench]'")
pytest.importorskip("onnxruntime", reason="the cells need a runtime: pip install 'avsdk[onnxruntime]'")

SIZES = "height=16,width=20"
FEW = ["--threads", 1, "--set", "onnxruntime.optimisation=all", "--set", "onnxruntime.arena=yes", "--json"]
BENCH_KEYS = """bundle graph target engine device precision effective_precision precision_shares placement scenario
threads shapes status p50_ms p50_ci_ms p90_ms p99_ms throughput_per_s n rounds cold_start_ms peak_rss_mb size_mb
steady""".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(_network(), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _short_benches() -> Iterator[None]:
    """Each cell gets its least number of rounds, and the budget is never what ends a search: no test rests on time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avsdk_bench.tune._SCREEN_S", 0.2)
        patch.setattr("avsdk_bench.tune._FINAL_S", 0.2)
        yield


def tune(model: Path, out: Path, *arguments: object, target: str = "onnxruntime", budget_s: float = 900.0) -> Result:
    given = [str(model), "--target", target, "--axis", SIZES, "--out", str(out), "--budget-s", str(budget_s)]
    return CliRunner().invoke(app, ["tune", *given, *map(str, arguments)])


def document_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("tuned")
    return document_of(tune(model, out, "--threads", 1, "--min-snr-db", 60, "--json")), out


def test_the_rows_are_those_of_the_bench_with_accuracy_and_command(tuned: tuple[dict[str, Any], Path]) -> None:
    document, out = tuned
    assert document == json.loads((out / "tuned.json").read_text())
    assert document["rows"]
    for row in document["rows"]:
        assert set(BENCH_KEYS) <= set(row)
        assert (row["status"], row["graph"], row["threads"]) == ("measured", "model", 1)
        assert row["p50_ci_ms"][0] <= row["p50_ms"] <= row["p50_ci_ms"][1]
        assert row["snr_db"] > 60
        assert row["drop"] is None
        assert row["misses"] == []
        assert row["command"].startswith("avsdk export ")
        assert row["rounds"] >= 5
        assert sum(map(len, row["samples_ms"])) == row["n"]
    assert any(row["front"] for row in document["rows"])
    assert document["search"]["configurations"] == 8
    assert (document["search"]["tried"], document["search"]["stopped_by"]) == (8, "space")
    assert {row["stage"] for row in document["rows"]} >= {"final"}
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    assert document["command"].startswith("avsdk tune ")


def test_the_best_is_the_fastest_row_of_the_paired_rounds_and_a_bundle(tuned: tuple[dict[str, Any], Path]) -> None:
    document, out = tuned
    told = document["best"]
    row = document["rows"][told["row"]]
    assert row["command"] == told["command"]
    assert row["latency_ms"] == min(item["latency_ms"] for item in document["rows"] if item["stage"] == "final")
    assert [item["verdict"] for item in told["against"]]
    bundle = open_bundle(Path(told["path"]))
    assert bundle.path.parent == out
    assert bundle.manifest.parity.verdict == "pass"
    assert told["claim"]
    recorded = bundle.manifest.artifacts[0].options.get("session", {})
    assert {f"onnxruntime.{name}": value for name, value in recorded.items()} == told["settings"]


def test_the_command_of_a_row_builds_what_was_measured(
    tuned: tuple[dict[str, Any], Path], model: Path, tmp_path: Path
) -> None:
    """With settings: what the tuner measured without compiling again is what an export with them makes."""
    from avsdk_bench.tune_build import Asked, Builds
    from avsdk_bench.tune_report import Words
    from avsdk_bench.tune_space import Configuration, space_of
    from avsdk_targets.target import resolve_list

    settings = {"onnxruntime.optimisation": "extended", "onnxruntime.arena": "no"}
    item = Configuration("onnxruntime", "fp32", 1, {"height": 16, "width": 20}, settings)
    space = space_of(resolve_list("onnxruntime"), sizes=[item.sizes])
    builds = Builds(str(model), space, Asked(), lambda text: None)
    (cell,) = builds.cells(item)
    assert cell.arguments["session_settings"] == {"optimisation": "extended", "arena": "no"}
    assert cell.settings == {"optimisation": "extended", "arena": "no"}
    published = builds.publish(item, tmp_path / "tuned")
    words = shlex.split(Words(str(model), tmp_path / "again").build(item))
    done = CliRunner().invoke(targets_app, words[1:])
    assert done.exit_code == 0, done.output
    exported = open_bundle(tmp_path / "again" / published.path.name)
    assert exported.manifest.artifacts == open_bundle(published.path).manifest.artifacts
    assert exported.manifest.parity.verdict == "pass"


def test_the_same_command_goes_on_with_what_is_known(tuned: tuple[dict[str, Any], Path], model: Path) -> None:
    document, out = tuned
    result = tune(model, out, "--threads", 1, "--min-snr-db", 60, "--json")
    again = document_of(result)
    known = {row["command"] for row in document["rows"]}
    assert known <= {row["command"] for row in again["rows"]}
    assert f"{len(document['rows'])} configurations are known" in result.stderr


_INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start what it puts in the background without it
from avsdk import cli
from avsdk_bench import tune
whole, count = tune.run_bench, [0]
def pressed(*arguments, **named):
    count[0] += 1
    if count[0] == 2:
        signal.raise_signal(signal.SIGINT)
    return whole(*arguments, **named)
tune.run_bench, tune._SCREEN_S = pressed, 0.4
cli.main(sys.argv[1:])
"""


def test_ctrl_c_keeps_what_was_measured(model: Path, tmp_path: Path) -> None:
    words = ["tune", str(model), "--target", "onnxruntime", "--axis", SIZES, "--threads", "1", "--budget-s", "900"]
    words += ["--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, *words], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "4 configurations are kept: the same command goes on from there" in done.stderr
    (kept,) = tmp_path.glob("measured-*.json")
    entries = json.loads(kept.read_text())["entries"]
    assert [entry["stage"] for entry in entries] == ["screened"] * 4
    result = tune(model, tmp_path, "--threads", 1, "--json", budget_s=0.1)
    rows = document_of(result)["rows"]
    assert {entry["rows"][0]["p50_ms"] for entry in entries} <= {row["p50_ms"] for row in rows}


def test_where_nothing_meets_the_limits_all_is_shown_and_the_nearest_named(model: Path, tmp_path: Path) -> None:
    result = tune(model, tmp_path, "--threads", 1, "--max-size-mb", 1e-6, "--json")
    assert result.exception is not None
    assert getattr(result.exception, "exit_code", None) == 4
    assert "could be measured" in str(result.exception)  # all were rejected before they were measured
    document = json.loads(result.stdout)
    assert document["best"] is None
    assert "size" in document["rejected"][0]["reason"]


def test_what_is_measured_and_misses_a_limit_is_nearest(model: Path, tmp_path: Path) -> None:
    result = tune(model, tmp_path, *FEW, "--max-latency-ms", 1e-3)
    assert getattr(result.exception, "exit_code", None) == 4
    rows, rejected = json.loads(result.stdout)["rows"], json.loads(result.stdout)["rejected"]
    assert rows or "by the roofline" in rejected[0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--budget-s", "0"], 2, "a budget of 0 s"),
        (["--budget-s", "inf"], 2, "a budget of inf s"),
        (["--target", "openvimo"], 2, "did you mean 'openvino'"),
        (["--max-latency-ms", "0"], 2, "--max-latency-ms 0"),
        (["--precision", "int8"], 2, "--calibration DIR"),
        (["--max-drop", "1%"], 2, "has no metric that could drop"),
        (["--max-drop", "1"], 2, "--max-drop 1%"),
        (["--max-drop", "0%"], 2, "--max-drop 0%"),
        (["--min-snr-db", "500"], 2, "--min-snr-db 500"),
        (["--calibration", "absent"], 2, "--calibration absent is no folder"),
        (["--precision", "fp33"], 2, "unknown precision"),
        (["--axis", "height"], 2, "is no axis"),
        (["--axis", "depth=8"], 2, "depth"),
        (["--set", "onnxruntime.colour=red"], 2, "unknown setting of onnxruntime"),
        (["--target", "torch:cpu"], 3, "makes no bundle"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    arguments: list[str], code: int, text: str, model: Path, tmp_path: Path
) -> None:
    result = tune(model, tmp_path, *arguments)
    assert getattr(result.exception, "exit_code", None) == code, (result.output, result.exception)
    assert text in str(result.exception)
    assert not list(tmp_path.glob("*/manifest.json"))


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = tune(tmp_path / "absent.onnx", tmp_path)
    assert getattr(result.exception, "exit_code", None) == 2


def test_offline_varies_streams_and_counts_what_runs_side_by_side(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="pip install 'avsdk[openvino]'")
    given = ["--scenario", "offline", "--threads", 2, "--precision", "fp32", "--set", "openvino.pinning=no", "--json"]
    document = document_of(tune(model, tmp_path, *given, target="openvino"))
    callers = {row["settings"].get("streams", "1"): row["load"]["callers"] for row in document["rows"]}
    assert callers["1"] == 1
    assert callers["2"] == 2
    assert {row["scenario"] for row in document["rows"]} == {"offline"}
    assert "pinning" not in str([row["settings"] for row in document["rows"]])
    refused = [item["reason"] for item in document["rejected"]]  # a stream has one thread at least
    assert all("NUM_STREAMS=4" in reason for reason in refused)
    assert "--scenario offline" in document["command"]


def test_what_is_not_here_is_predicted_and_marked(model: Path, tmp_path: Path) -> None:
    result = tune(model, tmp_path, *FEW, target="onnxruntime,quadro-rtx-6000")
    rows = document_of(result)["rows"]
    predicted = [row for row in rows if row["target"] == "quadro-rtx-6000"]
    assert {row["status"] for row in predicted} == {row["stage"] for row in predicted} == {"predicted"}
    assert {"fp32", "fp16"} <= {row["precision"] for row in predicted}
    for row in predicted:
        assert row["p50_ci_ms"][0] < row["p50_ms"] < row["p50_ci_ms"][1]
        assert (row["n"], row["samples_ms"]) == (0, [])
    best = document_of(result)["best"]
    assert (best["status"], best["target"]) == ("measured", "onnxruntime")  # whatever the prediction says
    assert any(row["front"] for row in predicted)


def test_where_all_is_predicted_so_is_the_best(model: Path, tmp_path: Path) -> None:
    result = tune(model, tmp_path, "--json", target="quadro-rtx-6000")
    best = document_of(result)["best"]
    assert (best["status"], best["threads"]) == ("predicted", 0)
    assert best["claim"].startswith("predicted")
    assert best["path"] is None or Path(best["path"]).is_dir()
