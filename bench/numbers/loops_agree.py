"""Our own loop against MLPerf LoadGen: the same cell in each scenario, both in the same rounds, within 2 %.

``python bench/numbers/loops_agree.py BUNDLE --axis height=128,width=128 --budget-s 60`` prints a table.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from figures import Figure, Section, written
from latency import _closeness

from avsdk import console
from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError, NotAvailable
from avsdk_bench import loadgen, loops
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import plans_for, sizes_from_text
from avsdk_bench.report import Report
from avsdk_bench.rounds import ROUNDS
from avsdk_bench.scenario import MULTI_STREAM, OFFLINE, SERVER, SINGLE_STREAM, Load
from avsdk_bench.statistics import Interval

SCENARIOS = (SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER)


def measured(bundle: Path, sizes: list[dict[str, int]], threads: int, budget_s: float, seed: int) -> Section:
    """Two cells per scenario, own and LoadGen, in one bench each of ``budget_s``."""
    if not loops.loadgen_version():
        raise NotAvailable("MLPerf LoadGen is not here", fix=loadgen.FIX)
    plan = plans_for(open_bundle(bundle), sizes, threads, seed=seed, pipeline=False)[0]
    figures, notes, qps = [], [], None
    for scenario in SCENARIOS:
        # Both cells of a server get the same rate, half of what the single stream did.
        load = Load(scenario, samples=4, qps=qps)
        plans = [replace(plan, load=replace(load, loop=loop)) for loop in (loops.LOADGEN, "own")]
        report, errors = run_bench(plans, load.method(budget_s=budget_s, rounds=ROUNDS, seed=seed))
        if errors:
            raise next(iter(errors.values()))
        if scenario == SINGLE_STREAM:
            qps = round(500.0 / (report.rows[0].p50_ms or 1.0), 3)
        figures.append(_figure(scenario, report))
        notes += [f"{scenario}: {reason}" for reason in report.noise.reasons]
    text = f"{bundle.name}, {threads} threads, paired per round with 95 % intervals; not an MLPerf result."
    return Section("Our loop and LoadGen", text, (" ".join(["python", *sys.argv]),), tuple(figures), tuple(notes))


def _figure(scenario: str, report: Report) -> Figure:
    item, method = report.comparisons[0], report.method
    ratio = Interval(item.ratio, *item.ratio_ci)
    theirs, ours = report.rows
    what = (
        f"{scenario}: our loop's time over LoadGen's ({ours.p50_ms:.4g} and {theirs.p50_ms:.4g} ms; "
        f"{method.rounds} rounds, {method.void_rounds} void, {ours.n} samples)"
    )
    return Figure(what, written(ratio, ""), "within 2 % of 1", _closeness(ratio))


def main(
    bundle: Path,
    axis: Annotated[list[str] | None, typer.Option(help="AXIS=SIZE,...")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    budget_s: Annotated[float, typer.Option(help="Seconds for each scenario.")] = 60.0,
    seed: int = 0,
) -> None:
    """Measure, and print the table."""
    section = measured(bundle, [sizes_from_text(text) for text in axis or []], threads, budget_s, seed)
    for item in section.figures:
        sys.stdout.write(f"{item.what}: {item.value}: {item.verdict}\n")
    for note in section.notes:
        console.notice(note)


if __name__ == "__main__":
    try:
        typer.run(main)
    except AvsdkError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
