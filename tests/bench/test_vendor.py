"""Vendors' own benchmarks beside ours: they run with our settings, and what they tell is not trusted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from tests.bench.made_up import made_up_report, made_up_row

from avsdk.bundle import open_bundle
from avsdk.errors import NotAvailable
from avsdk_bench import vendor
from avsdk_bench.plan import CellPlan, plans_for
from avsdk_bench.printing import vendor_sentence
from avsdk_bench.vendors import Job, Outcome, litert, onnxruntime, openvino, positive_ms


def planned(bundle: Path) -> CellPlan:
    return plans_for(open_bundle(bundle), [{"height": 16, "width": 20}], 1, pipeline=False)[0]


@pytest.mark.parametrize(("engine", "tool"), [("onnxruntime", "own loop"), ("openvino", "benchmark_app")])
def test_the_tool_runs_with_our_settings(make_bundle, engine: str, tool: str) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip(engine)
    plan = planned(make_bundle("a", engine=engine))
    report = made_up_report(made_up_row(engine=engine))
    (found,) = vendor.compare_vendors(report, [plan], pairs=2, seconds=0.05)
    assert found.verdict in ("within 5 %", "differs", "not decided"), found.reason
    assert tool in found.tool
    assert found.settings is not None
    assert found.settings["threads"] == "1"
    if engine == "openvino":
        assert (found.settings["precision"], found.settings["streams"]) == ("fp32", "1")
    assert found.ours_ms is not None and found.tool_ms is not None
    assert found.items_ms is not None
    assert sum(found.items_ms.values()) == pytest.approx(found.ours_ms - found.tool_ms, abs=1e-4)
    assert list(found.items_ms)[-1] == "not explained"
    assert found.pairs == 2
    assert "not explained" in vendor_sentence(found)


def job_in(folder: Path, bundle: Path) -> Job:
    opened = open_bundle(bundle)
    manifest = opened.manifest
    sizes = {"batch": 1, "height": 16, "width": 20}
    inputs = {"image": folder / "0.npy"}
    return Job(folder / "m", manifest.artifacts[0], manifest.spec.graphs[0], sizes, 2, 0.1, 9, folder, inputs)


def test_the_commands_carry_threads_precision_shape_and_input(make_bundle, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job = job_in(tmp_path, make_bundle("a"))
    words = openvino.command(job)
    pairs = dict(zip(words, words[1:], strict=False))
    assert (pairs["-nthreads"], pairs["-infer_precision"], pairs["-api"], pairs["-nstreams"]) == (
        "2",
        "f32",
        "sync",
        "1",
    )
    assert (pairs["-shape"], pairs["-iop"]) == ("image[1,3,16,20]", "image:f32")
    assert pairs["-i"] == f"image:{tmp_path / '0.npy'}"
    words = litert.command(job)
    assert dict(zip(words, words[1:], strict=False))["--num_threads"] == "2"
    for tool in (openvino, litert, onnxruntime):
        with pytest.raises(NotAvailable, match="cpu"):
            tool.command(replace(job, artifact=replace(job.artifact, device="gpu")))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"execution_results": 3}', '{"latency": 3}', '{"threads": []}', "null"]
)
@pytest.mark.parametrize("tool", [openvino, litert, onnxruntime])
def test_what_a_tool_writes_is_not_trusted(make_bundle, tmp_path: Path, tool: ModuleType, text: str) -> None:  # type: ignore[no-untyped-def]
    job = job_in(tmp_path, make_bundle("a"))
    for name in ("benchmark_report.json", "result.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(NotAvailable):
        tool.outcome(job, "some output")


@pytest.mark.parametrize("value", [None, "", "fast", "0", -1, "nan", "inf", [], {}])
def test_a_time_is_a_positive_number(value: object) -> None:
    with pytest.raises(NotAvailable, match="as its median"):
        positive_ms(value, "tool")


def test_a_coarse_median_gives_way_to_the_mean(make_bundle, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job = job_in(tmp_path, make_bundle("a"))
    results = {"latency (ms)": "0.01", "total number of iterations": "2000", "total execution time (ms)": "30"}
    (tmp_path / "benchmark_report.json").write_text(json.dumps({"execution_results": results}))
    found = openvino.outcome(job, "[ INFO ]   INFERENCE_PRECISION_HINT: <Type: 'bfloat16'>\n")
    assert (found.median_ms, found.settings) == (0.015, {"precision": "bf16"})
    assert "its mean is taken" in found.remarks[-1]


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [((10.0, 10.1, 9.9), "within 5 %"), ((8.0, 8.1, 7.9), "differs"), ((9.0, 10.0, 11.0), "not decided")],
)
def test_the_verdict_is_the_intervals_and_unlike_settings_are_named(make_bundle, theirs, verdict) -> None:  # type: ignore[no-untyped-def]
    plan = planned(make_bundle("a"))
    outcome = Outcome(theirs[-1], {"threads": "8", "precision": "bf16"})
    found = vendor._judged(0, plan, "tool", "tool -x", outcome, (10.0, 10.0, 10.0), theirs, {"copies": 0.5})
    assert found.verdict == verdict
    assert found.remarks == ("its threads is 8, ours 1", "its precision is bf16, ours fp32")
    assert found.items_ms is not None
    assert found.items_ms["not explained"] == pytest.approx(9.5 - sorted(theirs)[1])


class Dying(ModuleType):
    TOOL = "dying tool"

    @staticmethod
    def command(job: Job) -> list[str]:
        del job
        return [sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"]


def test_a_tool_that_dies_or_is_absent_is_a_line_not_a_failure(make_bundle, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    plan = planned(make_bundle("a"))
    report = made_up_report(made_up_row(engine="onnxruntime"), made_up_row(engine="torch"))
    monkeypatch.setattr(vendor, "_tool_of", lambda engine: Dying("dying") if engine == "onnxruntime" else None)
    dead, absent = vendor.compare_vendors(report, [plan, replace(plan, engine="torch")], pairs=2, seconds=0.05)
    assert (dead.verdict, dead.reason) == ("unavailable", "dying tool ended with 3: no such model")
    assert absent.reason == "no tool of torch comes with its package"
