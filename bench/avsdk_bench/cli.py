"""The command ``bench``; everything heavy is imported inside it."""

from __future__ import annotations

import enum
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avsdk import console
from avsdk.console import JsonOption, SetOption
from avsdk.errors import UsageError
from avsdk_bench.tune_cli import tune

if TYPE_CHECKING:
    from avsdk.errors import AvsdkError
    from avsdk_bench.plan import CellPlan
    from avsdk_bench.report import Report, Row
    from avsdk_bench.rounds import Settings
    from avsdk_bench.scenario import Load
    from avsdk_bench.subjects import Request

    Errors = dict[int, AvsdkError]

app = typer.Typer(help="Measure bundles.")
app.command()(tune)


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
    list[str] | None,
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


_Chart = Annotated[Path | None, typer.Option("--chart", metavar="C.png", help="Draw a chart, PNG or SVG.")]
_Html = Annotated[Path | None, typer.Option("--html", metavar="R.html", help="Write one page that needs nothing else.")]
_Baseline = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="OLD.json", help="An older report: its rows not measured now are replayed."),
]
_FailIf = Annotated[
    list[str] | None,
    typer.Option("--fail-if", metavar="LIMIT", help="As 'p50>+5%' of the baseline: exit 4.", show_default=False),
]
_Starts = Annotated[
    int, typer.Option("--starts", min=1, help="How often each cell is started; 5 for --fail-if 'cold_start>+10%'.")
]

_On = Annotated[
    list[str] | None,
    typer.Option(
        "--on", metavar="ssh://USER@HOST", help="Measure there, or on adb://SERIAL. Repeatable.", show_default=False
    ),
]
_CompareVendor = Annotated[
    bool, typer.Option("--compare-vendor", help="Also run each engine's own benchmark, settings matched.")
]


@app.callback()
def _group() -> None:
    """Measure bundles."""


@app.command()
def bench(
    models: _Models = None,
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
    chart: _Chart = None,
    cold_start: _ColdStart = False,
    html: _Html = None,
    baseline: _Baseline = None,
    fail_if: _FailIf = None,
    starts: _Starts = 1,
    compare_vendor: _CompareVendor = False,
    on: _On = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, cold start, memory and size of bundles: one process per cell, in interleaved rounds.

    A MODEL is built for each --target first, and stays in the cache. For a device that is not here a row is predicted.
    """
    from avsdk_bench.follow_up import FollowUp
    from avsdk_bench.plan import sizes_from_text
    from avsdk_bench.scenario import load_from
    from avsdk_bench.subjects import Request

    load, others = load_from(scenario.value, loop.value, console.settings_from(settings))
    method = load.method(budget_s=budget_s, rounds=rounds, seed=seed)
    follow_up = FollowUp.of(
        out=out, chart=chart, html=html, baseline=baseline, fail_if=fail_if or (), starts=starts,
        compare_vendor=compare_vendor, on=on or (),
    )  # fmt: skip
    axes = [sizes_from_text(text) for text in axis or []]
    if not models and baseline is None:
        raise UsageError("bench got nothing to measure", expected="a BUNDLE or MODEL, or --baseline to show again")
    request = Request(models or [], target, precision, axes, others, here=not on)
    plans, predictions = _plans(request, load, threads, seed)
    follow_up.check(plans)
    more = follow_up.words() + ["--cold-start"] * cold_start
    command = _command(request, axis or [], plans[0].threads if plans else 1, method, load, more)
    report, errors = _with(predictions, *_measured(plans, method, command, follow_up.on, threads, cold=cold_start))
    report = follow_up.completed(report, plans)
    follow_up.write(report)
    _conclude(report, errors, as_json=as_json)


def _measured(
    plans: list[CellPlan], method: Settings, command: str, on: tuple[str, ...], threads: int | None, *, cold: bool
) -> tuple[Report, Errors]:
    """Measure here, or on the machines of --on."""
    from avsdk_bench.bench import run_bench
    from avsdk_bench.remote_bench import bench_elsewhere

    there = partial(bench_elsewhere, on, notice=console.notice, threads=threads)
    measure = partial(there if on else run_bench, cold=cold)
    with console.progress(f"measuring {len(plans)} cells", total=None) as advance:
        return measure(plans, method, command=command, progress=advance)


def _conclude(report: Report, errors: dict[int, AvsdkError], *, as_json: bool) -> None:
    """Print the report and what one must know to read it; leave with the code of what failed."""
    from avsdk.errors import NotMet
    from avsdk_bench.baseline import require_within
    from avsdk_bench.printing import explain, print_report

    if as_json:
        console.print_json(report.to_json())
    else:
        print_report(report)
    explain(report, errors)
    try:
        require_within(report)
    except NotMet as error:  # said here: with --json there is one document, which stands above already
        console.problem(str(error))
        raise typer.Exit(error.exit_code) from error
    if code := _exit_code(report, errors):
        raise typer.Exit(code)
    console.next_step(_next_step(report))


def _with(predictions: tuple[list[Row], Errors], report: Report, errors: Errors) -> tuple[Report, Errors]:
    """The predicted rows behind the measured ones, whose places stay."""
    rows, failed = predictions
    moved = {len(report.rows) + place: error for place, error in failed.items()}
    return replace(report, rows=(*report.rows, *rows)), {**errors, **moved}


def _plans(
    request: Request, load: Load, threads: int | None, seed: int
) -> tuple[list[CellPlan], tuple[list[Row], Errors]]:
    """What is to be measured, and the rows of devices that are not here, with the errors of those without a number."""
    from avsdk import host
    from avsdk_bench.plan import absent_plan, plans_for
    from avsdk_bench.predicted_rows import predicted_rows
    from avsdk_bench.subjects import subjects_of

    subjects = subjects_of(request, console.notice)
    count = threads or host.default_threads()
    plans: list[CellPlan] = []
    for subject in subjects:
        if subject.elsewhere is not None:
            continue
        if subject.bundle is None:
            plans.append(absent_plan(subject, count))
        else:
            plans += plans_for(
                subject.bundle, subject.sizes, count, seed=seed, name=subject.name, settings=subject.settings
            )
    predictions = predicted_rows([item for item in subjects if item.elsewhere], request, console.notice)
    return [replace(plan, load=load) for plan in plans], predictions


def _command(request: Request, axis: list[str], threads: int, method: Settings, load: Load, more: list[str]) -> str:
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
    return shlex.join([*words, "--seed", str(method.seed), *more])


def _exit_code(report: Report, errors: dict[int, AvsdkError]) -> int:
    """The first failure's code. A device that is merely not here is no failure as long as something was measured."""
    from avsdk.errors import NotAvailable

    measured = any(row.status in ("measured", "predicted") for row in report.rows)
    failures = [error for error in errors.values() if not (measured and type(error) is NotAvailable)]
    return failures[0].exit_code if failures else 0


def _next_step(report: Report) -> str:
    """Run the fastest bundle; a model whose build was measured becomes one by exporting it."""
    from avsdk.bundle import is_bundle

    measured = sorted((row for row in report.rows if row.status == "measured"), key=lambda row: row.p50_ms or 0.0)
    if not measured:
        return _step_after_predictions(report)
    shipped = next((row for row in measured if is_bundle(Path(row.bundle))), None)
    if shipped is not None:
        return shlex.join(["avsdk", "run", shipped.bundle]) + " INPUT --out OUTPUT"
    fastest = next((row.target for row in measured if not row.settings), "openvino:cpu")
    return shlex.join(["avsdk", "export", measured[0].bundle, "--target", fastest])


def _step_after_predictions(report: Report) -> str:
    """Build for the device that is predicted to be the fastest, of those that something can be built for."""
    from avsdk.bundle import is_bundle

    rows = [row for row in report.rows if row.status == "predicted" and row.engine]
    if not rows or is_bundle(Path(rows[0].bundle)):
        return "avsdk bench BUNDLE"
    fastest = min(rows, key=lambda row: row.p50_ms or 0.0)
    return shlex.join(["avsdk", "export", fastest.bundle, "--target", fastest.target])
