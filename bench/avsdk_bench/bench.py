"""One bench from plans to report: open the cells, check what executes, measure in rounds, gather what they tell."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from avsdk import host
from avsdk.errors import AvsdkError, NotAvailable
from avsdk_bench import noise, rounds
from avsdk_bench.calibration import Calibration
from avsdk_bench.cold_start import cold_starts
from avsdk_bench.energy import Meters, counts_gpu, unavailable
from avsdk_bench.facts import machine
from avsdk_bench.plan import Cell, CellPlan
from avsdk_bench.predicted_rows import with_rooflines
from avsdk_bench.report import Observed, Report, comparisons_from, method_from, row_from


def run_bench(
    plans: Sequence[CellPlan],
    settings: rounds.Settings,
    *,
    command: str = "",
    cold: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Report, dict[int, AvsdkError]]:
    """Measure the plans and return the report with the errors of the cells that failed, by place.

    A cell that cannot run becomes a row ``unavailable``; the others go on. This process only schedules. ``cold``: start
    each cell twice more beforehand, with caches cold and warm.
    """
    started = time.monotonic()
    observed = [Observed(starts=cold_starts_of(plan) if cold else None) for plan in plans]
    before = noise.snapshot()
    with contextlib.ExitStack() as stack:
        cells = {}
        for place, plan in enumerate(plans):
            cell = stack.enter_context(Cell(plan))
            if _opened(cell, observed[place]):
                cells[place] = cell
        meters = stack.enter_context(contextlib.closing(Meters()))
        for place, cell in cells.items():
            _metered(cell, observed[place], meters)
        threads = max((plan.threads for plan in plans), default=1)
        calibration = stack.enter_context(contextlib.closing(Calibration(threads)))
        switches = {place: cell.involuntary_switches() for place, cell in cells.items()}
        rates = calibration.rates() if cells else None
        began = time.monotonic()
        measurement = rounds.measure(cells, settings, calibration, started=started, progress=progress)
        measured_s = time.monotonic() - began
        for place, cell in cells.items():
            if place not in measurement.failures:
                _finish(cell, observed[place], switches[place])
    errors = {place: item.failure for place, item in enumerate(observed) if item.failure is not None}
    errors |= measurement.failures
    rows = tuple(row_from(plan, observed[place], measurement, place) for place, plan in enumerate(plans))
    report = Report(
        host=host.probe(),
        machine=machine(),
        rows=with_rooflines(rows, plans, rates) if rates is not None else rows,
        comparisons=comparisons_from(plans, measurement),
        noise=_noise(before, measurement, observed, measured_s),
        method=method_from(measurement, settings.budget_s),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return report, dict(sorted(errors.items()))


def _noise(
    before: noise.Snapshot, measurement: rounds.Measurement, observed: Sequence[Observed], measured_s: float
) -> noise.Noise:
    taken = [item.switches for item in observed if item.switches is not None]
    return noise.judge(
        before,
        noise.snapshot(),
        rounds=len(measurement.rounds),
        void_rounds=measurement.void_rounds,
        switches_per_s=round(sum(taken) / measured_s, 2) if taken and measured_s else None,
    )


def cold_starts_of(plan: CellPlan) -> Mapping[str, Mapping[str, float]] | None:
    """Two starts of a cell, with caches cold and then warm; None where there is nothing to start."""
    if plan.absent is not None:
        return None

    def start(env: Mapping[str, str]) -> Mapping[str, float]:
        with Cell(plan, env=env) as cell:
            found = cell.open()
        return {"total_ms": found.total_ms, **found.phases}

    return cold_starts(Path(str(plan.arguments["bundle"])), start)


def _opened(cell: Cell, observed: Observed) -> bool:
    """Open a cell and read back what executes; on an error close it, note the error and say False."""
    try:
        observed.cold = cell.open()
        observed.execution = cell.execution()
    except AvsdkError as error:
        observed.failure = error
        cell.close()
        return False
    return True


def _metered(cell: Cell, observed: Observed, meters: Meters) -> None:
    """Charge the cell's turns to the meter of what runs it, or note why there is none."""
    devices = {str(facts["device"]) for facts in (observed.execution or {}).values()}
    try:
        cell.account = meters.account(gpu=counts_gpu(devices))
    except NotAvailable as error:
        observed.energy = unavailable(error.failed)


def _finish(cell: Cell, observed: Observed, switches_before: int | None) -> None:
    try:
        observed.load = cell.load
        if cell.account is not None:
            observed.energy = cell.account.facts()
        observed.memory = cell.memory()
        observed.runtime = cell.runtime()  # after it, for asking takes memory
        observed.stages = cell.stages()
        after = cell.involuntary_switches()
    except AvsdkError as error:
        observed.failure = error
        return
    if after is not None and switches_before is not None:
        observed.switches = after - switches_before
