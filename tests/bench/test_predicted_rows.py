"""Rows for devices that are not here: by the command line, in the report, on the page; never among measured ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.bench.made_up import made_up_report, made_up_row
from typer.testing import CliRunner, Result

from avsdk.errors import NotAvailable
from avsdk_bench import subjects
from avsdk_bench.baseline import judge, limit_from_text, pairs_of, with_replayed
from avsdk_bench.chart import draw_chart
from avsdk_bench.cli import app
from avsdk_bench.page import page_from
from avsdk_bench.plots import _scatter, pareto, roofline
from avsdk_bench.reading import report_from_json
from avsdk_bench.report import Row
from avsdk_bench.subjects import Request, absent_device, subjects_of
from avsdk_targets.target import resolve

SHORT = ["--budget-s", "1.5", "--threads", "1"]
SIZE = ["--axis", "height=16,width=20"]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments), *SHORT])


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    document = json.loads(result.stdout)
    report_from_json(document, where="printed")
    found: list[dict[str, Any]] = document["rows"]
    return found


@pytest.fixture
def bundle(make_bundle) -> Path:  # type: ignore[no-untyped-def]
    return Path(make_bundle("a"))


@pytest.fixture
def predicted_row() -> Row:
    return replace(
        made_up_row("wave", engine="tensorrt", device="quadro-rtx-6000", target="quadro-rtx-6000", precision="fp16"),
        status="predicted", threads=0, p50_ms=2.0, p50_ci_ms=(1.0, 4.0), samples_ms=(), n=0, rounds=0, steady=False,
        reason="predicted, not measured", effective_precision=None, parity=None,
        prediction={"level": 0.9, "p50_ms": 2.0, "interval_ms": [1.0, 4.0], "bound_by": "memory"},
        roofline={"bound_ms": 0.5, "bound_by": "memory"},
    )  # fmt: skip


def test_a_bundle_is_measured_here_and_predicted_for_the_devices_that_are_not(bundle: Path) -> None:
    rows = rows_of(bench(bundle, "--target", "quadro-rtx-6000,nervana-nnp-i", *SIZE, "--json"))
    measured = [row for row in rows if row["status"] == "measured"]
    assert {row["device"] for row in measured} == {"cpu"}
    card, withdrawn = (row for row in rows if row["status"] == "predicted")
    assert (card["device"], card["target"], card["engine"]) == ("quadro-rtx-6000", "quadro-rtx-6000", "tensorrt")
    assert (card["precision"], withdrawn["precision"], withdrawn["engine"]) == ("fp16", "int8", "")
    assert "fp16 is taken, the first of its profile" in card["reason"]
    assert "Intel ended Nervana" in withdrawn["reason"]
    for row in (card, withdrawn):
        low, high = row["p50_ci_ms"]
        assert 0 < low < row["p50_ms"] < high
        assert row["prediction"]["level"] == 0.9
        assert row["roofline"]["bound_ms"] < row["p50_ms"]
        assert row["roofline"]["flops"] == 2 * 320 * 3 * 27
        assert (row["graph"], row["shapes"], row["threads"]) == ("net", {"batch": 1, "height": 16, "width": 20}, 0)
        assert (row["n"], row["steady"], row["p90_ms"], row["throughput_per_s"]) == (0, False, None, None)
        assert row["graphs"][0]["operators"] == {"Conv": 1}


def test_measured_rows_know_their_bound_and_the_error_of_the_prediction(bundle: Path) -> None:
    (graph,) = [row for row in rows_of(bench(bundle, *SIZE, "--json")) if row["graph"] == "net"]
    facts = graph["roofline"]
    assert facts["flops"] == 2 * 320 * 3 * 27
    assert facts["bytes"] == 4 * (2 * 3 * 320 + 81)
    assert facts["reached"] == pytest.approx(facts["bound_ms"] / graph["p50_ms"], abs=1e-3)
    assert facts["bound_by"] in ("compute", "memory")
    found = graph["prediction"]
    assert found["error"] == pytest.approx(found["p50_ms"] / graph["p50_ms"] - 1, abs=1e-3)


def test_the_table_marks_a_prediction_and_its_interval(bundle: Path) -> None:
    onnx = bundle / "model" / "net.onnx"
    result = bench(onnx, "--target", "quadro-rtx-6000", *SIZE)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "predicted" in text
    assert "(90" in text
    assert "bound by overhead; predicted, not measured: quadro-rtx-6000 is not here" in text
    assert f"next: avsdk export {onnx} --target quadro-rtx-6000" in text


def test_nothing_is_built_for_a_device_that_is_not_here(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "Exporter", lambda *arguments: pytest.fail("something was built"))
    onnx = str(bundle / "model" / "net.onnx")
    (found,) = subjects_of(Request([onnx], "xeon-8480"), lambda text: None)
    assert found.elsewhere is not None
    assert (found.elsewhere.name, found.precision) == ("xeon-8480", "fp32")


def test_the_precision_asked_for_is_taken(bundle: Path) -> None:
    def row(*words: str) -> dict[str, Any]:
        return rows_of(bench(bundle, "--target", *words, *SIZE, "--json"))[-1]

    assert row("quadro-rtx-6000", "--precision", "fp32")["precision"] == "fp32"
    first = row("tpu-v5e")
    assert first["precision"] == "bf16", "fp32 has no peak in its profile"
    assert "bf16 is taken" in first["reason"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["android-arm64"], "gives no peak rate"),
        (["quadro-rtx-6000", "--precision", "bf16"], "has no bf16"),
        (["tpu-v5e", "--precision", "fp32"], "no peak rate for fp32"),
    ],
)
def test_what_cannot_be_predicted_is_unavailable_with_the_reason(bundle: Path, words: list[str], text: str) -> None:
    onnx = bundle / "model" / "net.onnx"
    result = bench(onnx, "--target", *words, *SIZE, "--json")
    assert result.exit_code == 3
    (row,) = json.loads(result.stdout)["rows"]
    assert row["status"] == "unavailable"
    assert text in row["reason"]


def test_an_axis_that_the_model_lacks_is_refused(bundle: Path) -> None:
    result = bench(bundle / "model" / "net.onnx", "--target", "nervana-nnp-i", "--axis", "hight=3")
    assert result.exit_code != 0
    assert "hight" in str(result.exception)


@pytest.mark.parametrize(
    ("target", "absent"),
    [
        ("onnxruntime:cpu", False), ("this-cpu", False), ("torch:cpu", False), ("xeon-8480", True),
        ("raspberry-pi-5", True), ("coral-edge-tpu", True), ("myriad-x", True), ("nervana-nnp-t", True),
        ("openvino:npu-3720", True),
    ],
)  # fmt: skip
def test_which_devices_are_not_here(target: str, absent: bool) -> None:
    assert (absent_device(resolve(target)) is not None) is absent


def test_a_device_whose_engine_can_run_here_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stick that no name of this machine shows; only its engine finds it."""
    monkeypatch.setattr(
        subjects, "_can_run", lambda engine, device: (engine, device) == ("openvino_myriad", "myriad-x")
    )
    assert absent_device(resolve("myriad-x")) is None


def test_on_another_machine_nothing_is_predicted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Builds:
        def __init__(self, *arguments: object) -> None:
            message = "built for the other machine"
            raise NotAvailable(message)

    monkeypatch.setattr(subjects, "Exporter", Builds)
    onnx = str(bundle / "model" / "net.onnx")
    (found,) = subjects_of(Request([onnx], "xeon-8480", here=False), lambda text: None)
    assert (found.elsewhere, str(found.absent)) != (None, "")


# -- never mixed -------------------------------------------------------------------------------------------------------


def test_a_prediction_is_no_measurement_of_a_baseline(predicted_row: Row) -> None:
    measured = replace(predicted_row, status="measured", threads=0, samples_ms=made_up_row().samples_ms)
    old, new = made_up_report(measured), made_up_report(predicted_row)
    assert pairs_of(new.rows, old) == {}
    assert judge(new, old, [limit_from_text("p50>+5%")]) == ()
    assert pairs_of(old.rows, new) == {}


def test_an_old_prediction_is_kept_as_one_and_not_beside_a_new_one(predicted_row: Row) -> None:
    old = made_up_report(made_up_row(), predicted_row)
    kept = with_replayed(made_up_report(made_up_row("other", device="npu")), old, "old.json")
    assert [row.status for row in kept.rows] == ["measured", "replayed", "predicted"]
    again = with_replayed(made_up_report(made_up_row(), predicted_row), old, "old.json")
    assert [row.status for row in again.rows] == ["measured", "predicted"]


def test_the_page_marks_it_everywhere(predicted_row: Row) -> None:
    slow = made_up_row("wave", p50_ms=30.0)
    report = replace(made_up_report(slow, predicted_row), comparisons=())
    page = page_from(report)
    assert "1 .. 4 (90 %)" in page
    assert 'value="predicted"' in page
    assert "tensorrt:quadro-rtx-6000, predicted, 2.00 ms" in page
    assert "has the lowest median" not in page, "it was compared with a measured row"
    assert "--threads 0" not in page
    figure = roofline([(1, slow), (2, predicted_row)])
    assert figure is not None
    assert "25% predicted, bound by memory" in figure.svg


def test_the_front_of_the_trade_off_is_of_measured_rows(predicted_row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[int] = []
    original = _scatter.__globals__["_front"]
    monkeypatch.setitem(_scatter.__globals__, "_front", lambda points: lines.append(len(points)) or original(points))
    rows = [made_up_row("a", p50_ms=9.0), made_up_row("b", p50_ms=7.0), predicted_row]
    assert pareto(list(enumerate(rows, 1)), "net") is not None
    assert set(lines) == {2}


def test_the_chart_has_measured_rows_only(predicted_row: Row, tmp_path: Path) -> None:
    draw_chart(made_up_report(predicted_row), tmp_path / "c.svg")
    assert not (tmp_path / "c.svg").exists()
