"""Whether the bench can be trusted: what it says of identical cells, of one that is 5 % slower, and what it costs.

``python bench/numbers/self_test.py --trials 100 --cell-s 10`` is the full test, about 70 minutes; fewer trials and
shorter cells show less. The work is a hundred products of small matrices; the slower cell does 105 of them. Without a
machine of one's own the noise is the machine's: the last line says how often it was loud.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
import work
from figures import Figure, Section, verdict

from avsdk import console
from avsdk.errors import AvsdkError
from avsdk_bench import loops
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import CellPlan
from avsdk_bench.report import Report
from avsdk_bench.rounds import Settings

SAME_GOAL, FOUND_GOAL = 0.90, 0.85
SPREAD_GOAL = 0.015
OVERHEAD_GOAL_US = 5.0
_QUERIES = 20_000


@dataclass(frozen=True)
class Trials:
    """How many comparisons were made, how many said what they should, and in how many the machine was loud."""

    made: int
    right: int
    loud: int
    widths: tuple[float, ...]
    medians_ms: tuple[float, ...] = ()

    @property
    def spread(self) -> float:
        """How far the medians of the first cell lie apart over all comparisons, as a share of their median."""
        return float(np.ptp(self.medians_ms) / np.median(self.medians_ms))

    @property
    def share(self) -> float:
        """The share that was right."""
        return self.right / self.made


def compared(
    count: int, cell_s: float, slower: float, expected: str, advance: Callable[[int], None], seed: int
) -> Trials:
    """Compare two cells ``count`` times; the second takes ``1 + slower`` times as long."""
    right = loud = 0
    widths, medians = [], []
    for trial in range(count):
        report = _pair(cell_s, slower, seed + trial)
        item = report.comparisons[0]
        right += item.verdict == expected
        loud += not report.noise.quiet
        widths.append(item.ratio_ci[1] - item.ratio_ci[0])
        medians.append(report.rows[0].p50_ms or 0.0)
        advance(1)
    return Trials(count, right, loud, tuple(widths), tuple(medians))


def _pair(cell_s: float, slower: float, seed: int) -> Report:
    plans = [_plan(name, {"products": products}) for name, products in (("a", 100), ("b", round(100 * (1 + slower))))]
    report, errors = run_bench(plans, Settings(budget_s=2.0 * cell_s, seed=seed))
    if errors:
        raise next(iter(errors.values()))
    return report


def _plan(name: str, arguments: Mapping[str, object]) -> CellPlan:
    return CellPlan(
        bundle=name, graph="work", target="", engine="", device="cpu", precision="", threads=1, sizes={}, size_mb=None,
        factory=work.open_work, arguments={"threads": 1, **arguments},
    )  # fmt: skip


def overhead_us(loop: str, queries: int = _QUERIES) -> dict[str, float]:
    """What a loop adds to a query that does nothing: its p50 and p99 in us, in this process."""
    load = {"scenario": "single-stream", "loop": loop}
    loops.turn(load, _nothing, queries // 10, 0)
    samples = loops.turn(load, _nothing, queries, 0) / 1e3
    return {"p50": float(np.quantile(samples, 0.5)), "p99": float(np.quantile(samples, 0.99))}


def _nothing() -> None:
    """The query that does nothing."""


def measured(count: int, cell_s: float, seed: int) -> Section:
    """All of it."""
    with console.progress("comparing cells", total=2 * count) as advance:
        same = compared(count, cell_s, 0.0, "no difference shown", advance, seed)
        found = compared(count, cell_s, 0.05, "slower", advance, seed + count)
    figures = [
        _share("two identical cells: no difference shown", same, SAME_GOAL),
        _share("a cell that is 5 % slower: found", found, FOUND_GOAL),
        Figure(
            "single-thread medians of one cell over all comparisons: largest less smallest",
            f"{same.spread:.2%}".replace("%", " %"),
            "at most 1.5 %",
            verdict(same.spread <= SPREAD_GOAL),
        ),
    ]
    for loop in ("own", *([loops.LOADGEN] if loops.loadgen_version() else [])):
        cost = overhead_us(loop)
        figures.append(
            Figure(
                f"overhead per query, loop {loop}",
                f"p50 {cost['p50']:.2f} us, p99 {cost['p99']:.2f} us",
                f"p99 at most {OVERHEAD_GOAL_US:g} us",
                verdict(cost["p99"] <= OVERHEAD_GOAL_US),
            )
        )
    text = f"{count} comparisons of each kind, {cell_s:g} s per cell; median width of an interval "
    text += f"{np.median(same.widths):.2%} and {np.median(found.widths):.2%}".replace("%", " %")
    loud = (f"the machine was disturbed in {same.loud + found.loud} of {2 * count} comparisons",)
    return Section("Self-test of the bench", text, (" ".join(["python", *sys.argv]),), tuple(figures), loud)


def _share(what: str, found: Trials, goal: float) -> Figure:
    return Figure(what, f"{found.right} of {found.made}", f"at least {goal:.0%}".replace("%", " %"),
                  verdict(found.share >= goal))  # fmt: skip


def main(
    trials: Annotated[int, typer.Option("--trials", min=1, help="Comparisons of each kind.")] = 100,
    cell_s: Annotated[float, typer.Option(help="Seconds per cell.")] = 10.0,
    seed: int = 0,
) -> None:
    """Test the bench on itself, and print the table."""
    section = measured(trials, cell_s, seed)
    sys.stdout.write(f"{section.method}\n")
    for item in section.figures:
        sys.stdout.write(f"{item.what}: {item.value} ({item.goal}): {item.verdict}\n")
    for note in section.notes:
        sys.stdout.write(f"{note}\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except AvsdkError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
