"""Our rows beside the vendors' own benchmarks: the same work, settings matched, turn by turn, the difference itemised.

Ours and the tool's runs alternate, so that a slow moment slows both; the ratio is taken pair by pair.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError, NotAvailable
from avsdk.golden import PIPELINE
from avsdk.session import Session
from avsdk.spec import Sizes
from avsdk.worker import call_in_child
from avsdk_bench import statistics
from avsdk_bench.inputs import feeds_for
from avsdk_bench.plan import Cell, CellPlan
from avsdk_bench.records import VendorComparison
from avsdk_bench.report import Report, Row
from avsdk_bench.vendors import Job, Outcome

PAIRS = 5
SECONDS = 1.0
WITHIN = 0.05
_TOOL_TIMEOUT_S = 120.0
_REPEATS = 200
_MOST_OUTPUT = 1 << 20


def compare_vendors(
    report: Report, plans: Sequence[CellPlan], *, pairs: int = PAIRS, seconds: float = SECONDS
) -> tuple[VendorComparison, ...]:
    """Every measured row of one graph beside its engine's own tool; a tool that is not here is a line that says so."""
    found = []
    for place, (row, plan) in enumerate(zip(report.rows, plans, strict=False)):
        if row.status != "measured" or row.graph == PIPELINE:
            continue
        tool = _tool_of(plan.engine)
        if tool is None:
            found.append(_unavailable(place, plan.engine, "", f"no tool of {plan.engine} comes with its package"))
            continue
        try:
            found.append(_compared(place, row, plan, tool, pairs, seconds))
        except AvsdkError as error:
            found.append(_unavailable(place, tool.TOOL, "", error.failed))
    return tuple(found)


def itemised_ms(bundle: str, graph: str, sizes: Sizes, threads: int, seed: int) -> dict[str, float]:
    """What a session does beyond the runtime's run, in ms: its checks, and copies of what goes in and comes out.

    Runs in a process of its own. Copies are those of arrays of the same size; a runtime may make fewer.
    """
    opened = open_bundle(Path(bundle))
    loaded = opened.load_graphs(threads)[graph]
    feeds, _ = feeds_for(opened, loaded.graph, sizes, seed)
    with contextlib.closing(loaded):
        session: Session = loaded.session_for(sizes)
        outputs = session.run(feeds)
        checks = _median_ms(lambda: session.check(feeds, outputs))
        copies = _median_ms(lambda: [array.copy() for array in (*feeds.values(), *outputs.values())])
    return {"checks of shapes and types": round(checks, 6), "copies of inputs and outputs": round(copies, 6)}


def _compared(place: int, row: Row, plan: CellPlan, tool: ModuleType, pairs: int, seconds: float) -> VendorComparison:
    with tempfile.TemporaryDirectory(prefix="avsdk-vendor-") as folder, Cell(plan) as cell:
        job = _job(plan, row, Path(folder), seconds)
        command = tool.command(job)
        cell.open()
        runs = max(5, int(seconds * 1e3 / (row.p50_ms or 1.0)))
        cell.run(3)
        ours, theirs = [], []
        for _ in range(pairs):
            outcome: Outcome = _run_tool(tool, job, command)
            theirs.append(outcome.median_ms)
            ours.append(float(np.median(cell.run(runs, 2))) / 1e6)
        arguments = plan.arguments
        items = call_in_child(
            itemised_ms, name="vendor", timeout_s=_TOOL_TIMEOUT_S, bundle=arguments["bundle"], graph=plan.graph,
            sizes=dict(plan.sizes), threads=plan.threads, seed=arguments["seed"],
        )  # fmt: skip
    return _judged(place, plan, tool.TOOL, shlex.join(command), outcome, ours, theirs, items)


def _judged(
    place: int, plan: CellPlan, tool: str, command: str, outcome: Outcome, ours: Sequence[float],
    theirs: Sequence[float], items: Mapping[str, float],
) -> VendorComparison:  # fmt: skip
    """The verdict over pairs: within 5 % or different only where the whole interval says so."""
    paired = statistics.paired_ratio(ours, theirs)
    assert paired is not None
    low, high = paired.ratio.low, paired.ratio.high
    inside = low >= 1.0 - WITHIN and high <= 1.0 + WITHIN
    outside = high < 1.0 - WITHIN or low > 1.0 + WITHIN
    mine, other = float(np.median(ours)), float(np.median(theirs))
    parts = {name: round(value, 6) for name, value in items.items()}
    parts["not explained"] = round(mine - other - sum(parts.values()), 6)
    wanted = {"threads": str(plan.threads), "precision": plan.precision}
    unlike = [
        f"its {name} is {outcome.settings[name]}, ours {value}"
        for name, value in wanted.items()
        if outcome.settings.get(name, value) != value
    ]
    return VendorComparison(
        row=place,
        tool=tool,
        command=command,
        verdict="within 5 %" if inside else "differs" if outside else "not decided",
        ours_ms=round(mine, 6),
        tool_ms=round(other, 6),
        ratio=round(paired.ratio.value, 5),
        ratio_ci=(round(low, 5), round(high, 5)),
        pairs=len(ours),
        settings=dict(outcome.settings),
        items_ms=parts,
        remarks=(*unlike, *outcome.remarks),
    )


def _job(plan: CellPlan, row: Row, folder: Path, seconds: float) -> Job:
    bundle = open_bundle(Path(plan.arguments["bundle"]))
    graph = bundle.manifest.spec.graph(plan.graph)
    artifact = next(
        item
        for item in bundle.manifest.artifacts
        if item.graph == plan.graph and (item.shapes is None or dict(item.shapes) == dict(plan.sizes))
    )
    feeds, _ = feeds_for(bundle, graph, plan.sizes, plan.arguments["seed"])
    inputs = {}
    for number, (name, array) in enumerate(feeds.items()):
        inputs[name] = folder / f"{number}.npy"
        np.save(inputs[name], array, allow_pickle=False)
    runs = max(5, int(seconds * 1e3 / (row.p50_ms or 1.0)))
    file = bundle.file(artifact.files[0]).resolve()
    return Job(file, artifact, graph, plan.sizes, plan.threads, seconds, runs, folder, inputs)


def _run_tool(tool: ModuleType, job: Job, command: Sequence[str]) -> Outcome:
    """One run of the tool, as a program that may do what it likes but not take forever."""
    limits = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    env = {**os.environ, **limits, "ORT_DISABLE_TELEMETRY": "1"}
    for left in job.folder.glob("*.json"):
        left.unlink()  # of the run before: a tool that dies must not pass for one that measured
    try:
        done = subprocess.run(
            command, cwd=job.folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=_TOOL_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(f"{tool.TOOL} did not end within {_TOOL_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise NotAvailable(f"{tool.TOOL} could not be started: {error.strerror}") from error
    text = done.stdout[-_MOST_OUTPUT:].decode(errors="replace")
    if done.returncode:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
        raise NotAvailable(f"{tool.TOOL} ended with {done.returncode}: {last[:300]}")
    found: Outcome = tool.outcome(job, text)
    return replace(found, settings={name: value[:200] for name, value in found.settings.items()})


def _tool_of(engine: str) -> ModuleType | None:
    name = f"avsdk_bench.vendors.{engine}"
    return importlib.import_module(name) if engine.isidentifier() and importlib.util.find_spec(name) else None


def _unavailable(place: int, tool: str, command: str, reason: str) -> VendorComparison:
    return VendorComparison(place, tool, command, "unavailable", reason)


def _median_ms(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e6
