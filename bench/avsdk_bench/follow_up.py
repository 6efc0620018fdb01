"""What is done with a report beside measuring it: other figures, an older report, a page; checked before a long run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avsdk import host
from avsdk.errors import AvsdkError, UsageError
from avsdk_bench.baseline import (
    Limit,
    judge,
    limit_from_text,
    require_pairs,
    require_same_machine,
    with_replayed,
)
from avsdk_bench.chart import check_chart, draw_chart
from avsdk_bench.page import check_page, write_page
from avsdk_bench.plan import Cell, CellPlan
from avsdk_bench.reading import read_report
from avsdk_bench.remote_link import link_from
from avsdk_bench.report import Report, Row
from avsdk_bench.vendor import compare_vendors

_COLD_STARTS_FOR_A_LIMIT = 5


@dataclass(frozen=True)
class FollowUp:
    """What the options ask for: ``old`` is the report of ``--baseline``, ``starts`` how often each cell starts,
    ``on`` the machines to measure on."""

    out: Path | None = None
    chart: Path | None = None
    html: Path | None = None
    old: Report | None = None
    old_name: str = ""
    limits: tuple[Limit, ...] = ()
    starts: int = 1
    compare_vendor: bool = False
    on: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        out: Path | None = None,
        chart: Path | None = None,
        html: Path | None = None,
        baseline: Path | None = None,
        fail_if: Sequence[str] = (),
        starts: int = 1,
        compare_vendor: bool = False,
        on: Sequence[str] = (),
    ) -> FollowUp:
        """Read and parse; raises ``UsageError``, ``NotAvailable`` and ``Refused`` before anything runs."""
        if chart is not None:
            check_chart(chart)
        if html is not None:
            check_page(html)
        limits = tuple(limit_from_text(text) for text in fail_if)
        if limits and baseline is None:
            raise UsageError(
                f"--fail-if {limits[0].text} has nothing to compare with", expected="--baseline OLD.json beside it"
            )
        if any(limit.metric == "cold_start" for limit in limits):
            starts = max(starts, _COLD_STARTS_FOR_A_LIMIT)
        for address in on:
            link_from(address)
        if on and (compare_vendor or starts > 1):
            option = "--compare-vendor" if compare_vendor else "--starts"
            raise UsageError(f"{option} is of this machine, and --on of others", expected="one of the two")
        old = read_report(baseline) if baseline is not None else None
        name = baseline.name if baseline is not None else ""
        return cls(out, chart, html, old, name, limits, starts, compare_vendor, tuple(on))

    def words(self) -> list[str]:
        """The words of the command line that say where to measure."""
        return [word for address in self.on for word in ("--on", address)]

    def check(self, plans: Sequence[CellPlan]) -> None:
        """Refuse a comparison that could not be made: another machine, or no cell in common."""
        if self.old is not None and self.limits and not self.on:
            require_same_machine(self.old, host.probe())
            require_pairs(plans, self.old)

    def completed(self, report: Report, plans: Sequence[CellPlan]) -> Report:
        """The report with what was asked for beside it."""
        if self.starts > 1:
            report = replace(report, rows=_with_cold_starts(report.rows, plans, self.starts, report.method.seed))
        if self.compare_vendor:
            report = replace(report, vendors=compare_vendors(report, plans))
        if self.old is not None:
            report = replace(report, baseline=judge(report, self.old, self.limits))
            report = with_replayed(report, self.old, self.old_name)
        return report

    def write(self, report: Report) -> None:
        """Write the files that were asked for, each whole."""
        if self.out is not None:
            report.write(self.out)
        if self.chart is not None:
            draw_chart(report, self.chart)
        if self.html is not None:
            write_page(report, self.html)


def _with_cold_starts(rows: Sequence[Row], plans: Sequence[CellPlan], count: int, seed: int) -> tuple[Row, ...]:
    """Start every measured cell again until there are ``count`` starts of each, in rounds of random order."""
    alive = [place for place, row in enumerate(rows) if place < len(plans) and row.cold_start_ms is not None]
    found: Mapping[int, list[float]] = {place: [rows[place].cold_start_ms or 0.0] for place in alive}
    random = np.random.default_rng(seed)
    for _ in range(count - 1):
        for place in random.permutation(alive):
            with Cell(plans[int(place)]) as cell:
                try:
                    found[int(place)].append(round(cell.open().total_ms, 3))
                except AvsdkError:  # it did start before: what else is measured stands
                    continue
    return tuple(replace(row, starts_ms=tuple(found.get(place, ()))) for place, row in enumerate(rows))
