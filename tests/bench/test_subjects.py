"""MODEL and --target in a bench: what is built, what is not, and how honest a row is about the device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from avsdk.bundle import open_bundle
from avsdk.errors import NotAvailable, UsageError
from avsdk_bench import plan, subjects
from avsdk_bench.bench import run_bench
from avsdk_bench.cli import app
from avsdk_bench.plan import absent_plan, plans_for
from avsdk_bench.rounds import Settings
from avsdk_bench.subjects import Request, Subject, measured_here, subjects_of
from avsdk_targets.build import ExportOptions
from avsdk_targets.target import resolve

pytest.importorskip("onnxruntime", reason="the cells need a runtime: pip install 'avsdk[onnxruntime]'")

SHORT = ["--budget-s", "1.5", "--threads", "1"]
SIZE = ["--axis", "height=16,width=20"]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments), *SHORT])


def text_of(result: Result) -> str:
    return " ".join(f"{result.output} {result.exception or ''}".split())


@pytest.fixture
def model(make_bundle) -> Path:  # type: ignore[no-untyped-def]
    """A bare ONNX file, which comes without a PyTorch program."""
    return Path(make_bundle("source")) / "model" / "net.onnx"


def test_a_model_is_built_for_each_target_and_one_that_fails_is_a_row(model: Path) -> None:
    result = bench(model, "--target", "torch:cpu,onnxruntime:cpu", *SIZE, "--json")
    assert result.exit_code == 0, text_of(result)
    rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    baseline = [row for row in rows if row["engine"] == "torch"]
    assert [row["settings"] for row in baseline] == [{"mode": "eager"}, {"mode": "compile"}]
    for row in baseline:
        assert (row["status"], row["target"], row["device"]) == ("unavailable", "torch:cpu", "cpu")
        assert "no PyTorch program" in row["reason"]
        assert row["p50_ms"] is None
    measured = [row for row in rows if row["engine"] == "onnxruntime"]
    assert {row["status"] for row in measured} == {"measured"}
    assert {row["bundle"] for row in rows} == {str(model)}
    assert "next: avsdk export" in result.stderr
    assert "--target onnxruntime:cpu" in result.stderr


def test_a_model_without_a_target_is_wrong_usage(model: Path) -> None:
    with pytest.raises(Exception, match="is a model") as caught:
        CliRunner().invoke(app, ["bench", str(model), *SHORT], catch_exceptions=False)
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]
    assert "--target openvino:cpu,torch:cpu" in str(caught.value)


def test_when_nothing_could_be_built_the_code_says_why(model: Path) -> None:
    result = bench(model, "--target", "torch:cpu", *SIZE)
    assert result.exit_code == 3
    assert "no PyTorch program" in text_of(result)


def test_a_row_that_could_not_be_built_names_the_precision_that_was_asked_for(model: Path) -> None:
    result = bench(model, "--target", "torch:cpu", "--precision", "int8", *SIZE, "--json")
    assert result.exit_code == 3
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["precision"], row["status"]) == ("int8", "unavailable")
    assert "not int8" in row["reason"]


def test_one_setting_of_the_baseline_is_one_row(model: Path) -> None:
    request = Request([str(model)], "torch:cpu", settings={"torch.mode": "eager"})
    (subject,) = subjects_of(request, lambda text: None)
    assert subject.settings == {"mode": "eager"}


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        ({}, [{"torch.mode": "eager"}, {"torch.mode": "compile"}]),
        ({"torch.mode": "compile"}, [{"torch.mode": "compile"}]),
        ({"other": "1"}, [{"torch.mode": "eager", "other": "1"}, {"torch.mode": "compile", "other": "1"}]),
    ],
)
def test_what_the_user_sets_stands_over_what_a_baseline_varies(
    settings: dict[str, str], ways: list[dict[str, str]]
) -> None:
    assert subjects._ways("torch", ({"mode": "eager"}, {"mode": "compile"}), settings) == ways


def test_a_bundle_that_is_already_for_the_target_is_one_subject(make_bundle) -> None:  # type: ignore[no-untyped-def]
    path = str(make_bundle("a"))
    found = subjects_of(Request([path], "onnxruntime:cpu"), lambda text: None)
    assert [subject.name for subject in found] == [path]
    named_twice = subjects_of(Request([path, path], "onnxruntime"), lambda text: None)
    assert len(named_twice) == 2


class Recorder:
    """Stands in for the exporter and builds nothing."""

    sizes: list[object] = []

    def __init__(self, model: str, options: ExportOptions, notice: object) -> None:
        Recorder.sizes.append(options.sizes)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def build(self, target: object) -> None:
        raise NotAvailable("nothing is built here")


def test_what_is_built_beside_a_bundle_has_its_sizes(make_bundle, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(subjects, "Exporter", Recorder)
    monkeypatch.setattr(Recorder, "sizes", [])
    built = {"batch": 1, "height": 16, "width": 20}
    path = str(make_bundle("a", engine="litert", shapes=built))
    own, other = subjects_of(Request([path], "onnxruntime:cpu"), lambda text: None)
    assert own.sizes == other.sizes == (built,)
    asked = subjects_of(Request([path], "onnxruntime:cpu", axes=[{"height": 32}]), lambda text: None)
    assert [subject.sizes for subject in asked] == [({"height": 32},)] * 2
    assert Recorder.sizes == [(built,), ({"height": 32},)]
    assert isinstance(other.absent, NotAvailable)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--target", "nosuch"], "unknown target"),
        (["--target", "torch:cpu", "--set", "torch.mod=eager"], "unknown setting of torch"),
        (["--target", "onnxruntime:cpu", "--axis", "hight=3"], "hight"),
        (["--target", "onnxruntime:cpu", "--precision", "fp99"], "unknown precision"),
    ],
)
def test_what_is_typed_wrong_is_no_row(model: Path, arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        CliRunner().invoke(app, ["bench", str(model), *arguments, *SHORT], catch_exceptions=False)
    assert caught.value.exit_code == 2


def test_a_device_that_no_engine_serves_is_predicted_and_the_reason_is_said(model: Path) -> None:
    result = bench(model, "--target", "nervana-nnp-t")
    assert result.exit_code == 0, text_of(result)
    assert "Intel ended Nervana" in text_of(result)
    assert ":nervana" not in result.output


def test_the_same_build_asked_for_twice_is_one_subject(model: Path) -> None:
    request = Request([str(model)], "onnxruntime:cpu,onnxruntime", axes=[{"height": 16, "width": 20}])
    found = subjects_of(request, lambda text: None)
    assert len({subject.bundle.path for subject in found if subject.bundle}) == len(found)


def test_what_runs_here_but_was_built_for_another_machine_says_so(make_bundle) -> None:  # type: ignore[no-untyped-def]
    result = bench(make_bundle("a", target="raspberry-pi-5"), "--json", *SIZE)
    assert result.exit_code == 0, text_of(result)
    for row in json.loads(result.stdout)["rows"]:
        assert (row["target"], row["device"], row["status"]) == ("raspberry-pi-5", "this-cpu", "measured")
        assert "no figure of that device" in row["reason"]


def test_the_table_marks_it_too(make_bundle) -> None:  # type: ignore[no-untyped-def]
    result = bench(make_bundle("a", target="raspberry-pi-5"), *SIZE)
    assert "not on raspberry-pi-5" in text_of(result) or "not on" in result.output
    assert "onnxruntime:this-cpu" in result.output.replace("\n", "")


def test_what_a_processor_ran_instead_of_the_device_is_no_row_of_that_device(make_bundle) -> None:  # type: ignore[no-untyped-def]
    """As PJRT's own client for processors runs what was built for a TPU, where the environment asks for it."""
    cells = plans_for(open_bundle(make_bundle("a")), [{"height": 16, "width": 20}], 1, pipeline=False)
    report, errors = run_bench([replace(cell, device="tpu") for cell in cells], Settings(budget_s=1.0), command="")
    assert not errors
    for row in report.rows:
        assert (row.device, row.status, row.placement) == ("this-cpu", "measured", {"cpu": 1.0})
        assert row.reason.startswith("built for tpu, measured on this machine, which is another")


@pytest.mark.parametrize("target", ["onnxruntime:cpu", "this-cpu", "somebody-elses-device"])
def test_the_device_itself_and_an_unknown_one_need_no_remark(target: str) -> None:
    assert measured_here(target, "onnxruntime") == ""


def test_a_cell_moves_into_the_python_of_its_engine(make_bundle, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from avsdk.engines.onnxruntime import OnnxRuntimeSession

    monkeypatch.setattr(OnnxRuntimeSession, "python", classmethod(lambda cls: ("/opt/there/python",)))
    (cell, *_) = plans_for(open_bundle(make_bundle("a")), [], 1)
    assert cell.python == ("/opt/there/python",)


def test_a_target_without_a_bundle_is_a_plan_that_raises_its_reason() -> None:
    error = NotAvailable("no such thing here", fix="get one")
    cell = absent_plan(Subject("zoo:a/b", target=resolve("torch:cpu"), absent=error), 2)
    assert (cell.engine, cell.device, cell.graph) == ("torch", "cpu", "pipeline")
    with pytest.raises(NotAvailable, match="no such thing here"):
        plan.Cell(cell).open()
