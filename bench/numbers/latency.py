"""OpenVINO bf16 against ONNX Runtime fp32, and each session against its runtime called directly; all in one bench."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import direct
import numpy as np
from figures import Figure, Section, avsdk_command, run_timed, verdict, written

from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import CellPlan, plans_for
from avsdk_bench.report import Comparison, Report
from avsdk_bench.rounds import Settings
from avsdk_bench.statistics import Interval, paired_ratio

SIZES = {"height": 256, "width": 256}
THREADS = 2
SPEED_UP = 1.9
WITHIN = 0.02
_EXPORTS = (("onnxruntime", "fp32", direct.open_onnxruntime), ("openvino", "bf16", direct.open_openvino))


def measured(model: str, work: Path, budget_s: float) -> Section:
    """Export both bundles and measure four cells, paired in the same rounds."""
    commands, plans = [], []
    for target, precision, factory in _EXPORTS:
        words = ["export", model, "--target", target, "--precision", precision, "--out", str(work / "bundles")]
        run_timed([*avsdk_command(), *words], work / f"export-{target}.log")
        commands.append(shlex.join(["avsdk", *words[:-1], "bundles"]))
        plan = _plan(work / "bundles", target, precision)
        plans += [plan, replace(plan, bundle=f"{target} called directly", factory=factory)]
    report, errors = run_bench(plans, Settings(budget_s=budget_s))
    if errors:
        raise next(iter(errors.values()))
    report.write(work / "latency.json")
    return _section(report, (*commands, "python bench/numbers/run_all.py --only latency"))


def _plan(folder: Path, target: str, precision: str) -> CellPlan:
    for path in sorted(folder.glob("*/manifest.json")):
        bundle = open_bundle(path.parent)
        if (bundle.manifest.engine, bundle.manifest.precision) == (target, precision):
            return plans_for(bundle, [SIZES], THREADS, name=path.parent.name, pipeline=False)[0]
    raise AvsdkError(f"no bundle for {target} at {precision} in {folder}", expected="one that the export wrote")


def _section(report: Report, commands: tuple[str, ...]) -> Section:
    ratios = {(item.row, item.reference): item for item in report.comparisons}
    across = _inverse(ratios[2, 0])
    figures = [
        Figure(
            "OpenVINO bf16 is faster than ONNX Runtime fp32 by a factor of",
            written(across, ""),
            f"at least {SPEED_UP}",
            verdict(across.value >= SPEED_UP),
        )
    ]
    for name, session, directly in (("ONNX Runtime", 0, 1), ("OpenVINO", 2, 3)):
        overhead = _overhead(report, session, directly)
        figures.append(
            Figure(
                f"{name}: the session takes, of the time of the runtime called directly",
                written(overhead, ""),
                f"within {WITHIN:.0%}".replace("%", " %") + " of 1",
                _closeness(overhead),
            )
        )
    for row in report.rows:
        low, high = row.p50_ci_ms or (0.0, 0.0)
        precision = row.effective_precision or row.precision
        figures.append(Figure(f"p50, {row.bundle} ({precision})", f"{row.p50_ms:.4g} ms [{low:.4g}, {high:.4g}]"))
    method = report.method
    text = (
        f"256x256, {THREADS} threads, one process per cell, {method.rounds} interleaved rounds "
        f"({method.void_rounds} void), stopped by {method.stopped_by}; ratios are paired per round, "
        "with 95 % intervals."
    )
    notes = report.noise.reasons + (
        ("too few rounds were valid: the void ones are included",) * method.void_rounds_used
    )
    return Section("Latency", text, commands, tuple(figures), notes)


def _inverse(item: Comparison) -> Interval:
    low, high = item.ratio_ci
    return Interval(1.0 / item.ratio, 1.0 / high, 1.0 / low)


def _closeness(ratio: Interval) -> str:
    """Met, missed, or how far this run decides it: an interval wider than the goal proves nothing."""
    if max(abs(ratio.low - 1.0), abs(ratio.high - 1.0)) <= WITHIN:
        return verdict(True)
    if abs(ratio.value - 1.0) <= WITHIN:
        return "met by the median; the interval is wider than the goal"
    return "not decided: the interval holds 1" if ratio.contains(1.0) else verdict(False)


def _overhead(report: Report, session: int, directly: int) -> Interval:
    """The session over its runtime, round by round."""
    medians = [[float(np.median(part)) for part in report.rows[row].samples_ms] for row in (session, directly)]
    paired = paired_ratio(*medians)
    if paired is None:
        raise AvsdkError("the bench made fewer than two rounds", expected="at least 5")
    return paired.ratio
