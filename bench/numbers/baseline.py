"""PyTorch, eager and compiled, beside the engines on the same model and processor; all in one bench."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from figures import Figure, Section, avsdk_command, run_timed, written

from avsdk_bench.statistics import Interval

TARGETS = "torch,openvino,onnxruntime,litert"
AXES = "height=256,width=256"


def measured(model: str, work: Path, budget_s: float) -> Section:
    """One ``avsdk bench`` of the model itself; rows of the graph, ratios to PyTorch run eagerly."""
    words = ["bench", model, "--target", TARGETS, "--axis", AXES, "--budget-s", f"{budget_s:g}", "--json"]
    report = json.loads(run_timed([*avsdk_command(), *words], work / "baseline.log").output)
    rows = report["rows"]
    figures = []
    for index, row in enumerate(rows):
        if row["graph"] == "pipeline":
            continue
        low, high = row["p50_ci_ms"] or (0.0, 0.0)
        label = " ".join([f"{row['engine']}:{row['device']}", *row["settings"].values(), row["effective_precision"]])
        figures.append(Figure(f"p50, {label}", f"{row['p50_ms']:.4g} ms [{low:.4g}, {high:.4g}]"))
        figures += [
            Figure(f"{label}: its time over {rows[item['reference']]['engine']}'s, eager", _ratio(item))
            for item in report["comparisons"]
            if item["row"] == index
        ]
    method = report["method"]
    rounds = f"{method['rounds']} interleaved rounds ({method['void_rounds']} void), stopped by {method['stopped_by']}"
    return Section(
        "PyTorch as the baseline",
        f"256x256, one process per row, {rounds}; ratios are paired per round, with 95 % intervals.",
        (shlex.join(["avsdk", *words[:-1]]),),
        tuple(figures),
        tuple(report["noise"]["reasons"]),
    )


def _ratio(item: dict[str, Any]) -> str:
    low, high = item["ratio_ci"]
    return written(Interval(item["ratio"], low, high), "")
