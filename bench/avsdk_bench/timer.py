"""The timer of the entry-point group ``avsdk.timers``: bundles side by side, by the method of ``avsdk bench``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from avsdk.bundle import open_bundle
from avsdk.errors import NotAvailable
from avsdk.golden import PIPELINE
from avsdk.host import default_threads
from avsdk.timing import Timed
from avsdk_bench import rounds
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import plans_for


def timed(bundles: Sequence[Path], budget_s: float) -> tuple[Timed, ...]:
    """Time the bundles at their usual size: the pipeline where they have one, else their only or first graph.

    Raises ``NotAvailable`` where one cannot be measured.
    """
    plans = []
    for path in bundles:
        found = plans_for(open_bundle(path), (), default_threads())
        graphs = [plan for plan in found if plan.graph != PIPELINE]
        plans.append(graphs[0] if len(graphs) == 1 else found[-1])
    report, errors = run_bench(plans, rounds.Settings(budget_s=budget_s))
    if errors:
        place, error = next(iter(errors.items()))
        raise NotAvailable(f"{bundles[place].name} was not measured: {error.failed}", fix=error.fix) from error
    against = {item.row: item for item in report.comparisons}
    answers = []
    for place, row in enumerate(report.rows):
        if row.p50_ms is None or row.p50_ci_ms is None:
            raise NotAvailable(f"{bundles[place].name} was not measured: {row.reason}", fix=row.fix)
        one = Timed(row.p50_ms, row.p50_ci_ms, steady=row.steady)
        if place in against:
            item = against[place]
            one = replace(one, ratio=item.ratio, ratio_ci=item.ratio_ci, verdict=item.verdict)
        answers.append(one)
    return tuple(answers)
