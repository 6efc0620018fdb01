"""The command ``bench``; everything heavy is imported inside it."""

from __future__ import annotations

import enum
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avsdk import console
from avsdk.console import JsonOption, SetOption

if TYPE_CHECKING:
    from avsdk.errors import AvsdkError
    from avsdk_bench.plan import CellPlan
    from avsdk_bench.report import Report, Row
    from avsdk_bench.rounds import Settings
    from avsdk_bench.scenario import Load
    from avsdk_bench.subjects import Request

app = typer.Typer(help="Measure bundles.")


class Scenario(enum.StrEnum):
    """How requests arrive; ``avsdk_bench.scenario`` has what each takes and tells."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    OFFLINE = "offline"
    SERVER = "server"
    REAL_TIME = "real-time"
    SOAK = "soak"


class Loop(enum.StrEnum):
    """Who sends the requests: MLPerf LoadGen, our own loop, or LoadGen where it is and can."""

    AUTO = "auto"
    OWN = "own"
    LOADGEN = "loadgen"


_Models = Annotated[
    list[str],
    typer.Argument(metavar="BUNDLE|MODEL...", help="Bundles, one named twice is two cells; or models, with --target."),
]
_Target = Annotated[
    str, typer.Option("--target", metavar="T[,T]", help="Build each for these targets too; torch is the baseline.")
]
_Axes = Annotated[
    list[str] | None,
    typer.Option("--axis", metavar="AXIS=SIZE,...", help="Sizes to run at; may be repeated.", show_default=False),
]

_Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads per cell [default: the cores one may use]")
]
_Scenario = Annotated[
    Scenario, typer.Option("--scenario", help="How requests arrive; its settings by --set SCENARIO.NAME=VALUE.")
]
_Loop = Annotated[Loop, typer.Option("--loop", help="Who sends them; auto is MLPerf LoadGen where it is and can.")]
_Out = Annotated[Path | None, typer.Option("--out", metavar="R.json", help="Write the report, samples included.")]
_ColdStart = Annotated[
    bool, typer.Option("--cold-start", help="Start each cell twice more, with caches cold and then warm.")
]


@app.callback()
def _group() -> None:
    """Measure bundles."""


@app.command()
def bench(
    models: _Models,
    target: _Target = "",
    precision: Annotated[str | None, typer.Option(help="What is built for --target, as for export.")] = None,
    axis: _Axes = None,
    threads: _Threads = None,
    scenario: _Scenario = Scenario.SINGLE_STREAM,
    loop: _Loop = Loop.AUTO,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Seconds for the whole bench.")] = 60.0,
    rounds: Annotated[int, typer.Option("--rounds", help="The least number of interleaved rounds, 5 or more.")] = 6,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of cells and of made-up inputs.")] = 0,
    out: _Out = None,
    chart: Annotated[Path | None, typer.Option("--chart", metavar="C.png", help="Draw a chart, PNG or SVG.")] = None,
    cold_start: _ColdStart = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, cold start, memory and size of bundles: one process per cell, in interleaved rounds.

    A MODEL is built for each --target first; what is built stays in the cache.
    """
    from avsdk_bench.bench import run_bench
    from avsdk_bench.chart import check_chart, draw_chart
    from avsdk_bench.plan import sizes_from_text
    from avsdk_bench.scenario import load_from
    from avsdk_bench.subjects import Request

    load, others = load_from(scenario.value, loop.value, console.settings_from(settings))
    method = load.method(budget_s=budget_s, rounds=rounds, seed=seed)
    if chart is not None:
        check_chart(chart)
    axes = [sizes_from_text(text) for text in axis or []]
    request = Request(models, target, precision, axes, others)
    plans = [replace(plan, load=load) for plan in _plans(request, threads, seed)]
    command = _command(request, axis or [], plans[0].threads, method, load) + " --cold-start" * cold_start
    with console.progress(f"measuring {len(plans)} cells", total=None) as advance:
        report, errors = run_bench(plans, method, command=command, cold=cold_start, progress=advance)
    if out is not None:
        report.write(out)
    if chart is not None:
        draw_chart(report, chart)
    if as_json:
        console.print_json(report.to_json())
    else:
        _print(report)
    _explain(report, errors)
    if code := _exit_code(report, errors):
        raise typer.Exit(code)
    console.next_step(_next_step(report))


def _plans(request: Request, threads: int | None, seed: int) -> list[CellPlan]:
    from avsdk import host
    from avsdk_bench.plan import absent_plan, plans_for
    from avsdk_bench.subjects import subjects_of

    count = threads or host.default_threads()
    plans: list[CellPlan] = []
    for subject in subjects_of(request, console.notice):
        if subject.bundle is None:
            plans.append(absent_plan(subject, count))
        else:
            plans += plans_for(
                subject.bundle, subject.sizes, count, seed=seed, name=subject.name, settings=subject.settings
            )
    return plans


def _command(request: Request, axis: list[str], threads: int, method: Settings, load: Load) -> str:
    """The line that does the same again."""
    words = ["avsdk", "bench", *request.models]
    words += ["--target", request.target] if request.target else []
    words += ["--precision", request.precision] if request.precision else []
    words += load.words()
    for name, value in request.settings.items():
        words += ["--set", f"{name}={value}"]
    for text in axis:
        words += ["--axis", text]
    words += ["--threads", str(threads), "--budget-s", f"{method.budget_s:g}", "--rounds", str(method.rounds)]
    return shlex.join([*words, "--seed", str(method.seed)])


def _print(report: Report) -> None:
    columns = (
        "bundle", "graph", "size", "engine:device", "precision", "p50 ms", "95 % interval", "p90", "p99", "per s",
        "cold ms", "peak MB", "size MB", "",
    )  # fmt: skip
    console.table(f"Latency, {report.rows[0].scenario}", columns, [_cells(row) for row in report.rows])
    for row in report.rows:
        if row.outcome:
            facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.outcome.items())
            console.show(f"{row.label}: {facts}")
    for item in report.comparisons:
        row, reference = report.rows[item.row], report.rows[item.reference]
        low, high = item.ratio_ci
        console.show(
            f"{row.label} takes {item.ratio:.3f} x the time of {reference.label} "
            f"[{low:.3f}, {high:.3f}]: {item.verdict}{'' if item.steady else ' in disturbed rounds, measure again'}"
        )


def _cells(row: Row) -> list[object]:
    from avsdk_bench.plan import sizes_text

    ci = "{:.4g} .. {:.4g}".format(*row.p50_ci_ms) if row.p50_ci_ms else None
    return [
        Path(row.bundle).name, row.graph, sizes_text(row.shapes),
        row.place,
        row.effective_precision or row.precision, _short(row.p50_ms), ci, _short(row.p90_ms), _short(row.p99_ms),
        _short(row.throughput_per_s), _short(row.cold_start_ms), _short(row.peak_rss_mb), _short(row.size_mb),
        _state(row),
    ]  # fmt: skip


def _state(row: Row) -> str:
    if row.status != "measured":
        return row.status
    return ", ".join(
        text for text in ("" if row.steady else "not steady", f"not on {row.target}" if row.reason else "") if text
    )


def _short(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _explain(report: Report, errors: dict[int, AvsdkError]) -> None:
    """Say what one must know to read the numbers: what failed, why it stopped, what disturbed it."""
    for place, error in errors.items():
        console.notice(f"{report.rows[place].label}: {error}")
    for note in dict.fromkeys(str(row.load["note"]) for row in report.rows if row.load.get("note")):
        console.notice(note)
    method = report.method
    if method.rounds:
        reasons = {
            "precision": "every 95 % interval is at most 1 % wide",
            "budget": f"the budget of {method.budget_s:g} s is used",
        }
        why = reasons.get(method.stopped_by, f"{method.rounds} rounds are the most")
        console.notice(f"stopped after {method.rounds} rounds, {method.elapsed_s:.1f} s: {why}")
    if method.void_rounds_used:
        console.notice("too few rounds were undisturbed, so the numbers hold the void ones: measure again in quiet")
    for reason in report.noise.reasons:
        console.notice(f"noise: {reason}")
    if any(row.status == "measured" and not row.steady for row in report.rows):
        console.notice("not steady: the budget ended before the medians of three windows agreed; raise --budget-s")


def _exit_code(report: Report, errors: dict[int, AvsdkError]) -> int:
    """The first failure's code. A device that is merely not here is no failure as long as something was measured."""
    from avsdk.errors import NotAvailable

    measured = any(row.status == "measured" for row in report.rows)
    failures = [error for error in errors.values() if not (measured and type(error) is NotAvailable)]
    return failures[0].exit_code if failures else 0


def _next_step(report: Report) -> str:
    """Run the fastest bundle; a model whose build was measured becomes one by exporting it."""
    from avsdk.bundle import is_bundle

    measured = sorted((row for row in report.rows if row.p50_ms is not None), key=lambda row: row.p50_ms or 0.0)
    shipped = next((row for row in measured if is_bundle(Path(row.bundle))), None)
    if shipped is not None:
        return shlex.join(["avsdk", "run", shipped.bundle]) + " INPUT --out OUTPUT"
    fastest = next((row.target for row in measured if not row.settings), "openvino:cpu")
    return shlex.join(["avsdk", "export", measured[0].bundle, "--target", fastest])
