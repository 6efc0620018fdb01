"""The command ``tune``; everything heavy is imported inside it."""

from __future__ import annotations

import enum
import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk import console
from avsdk.console import JsonOption, SetOption

if TYPE_CHECKING:
    from avsdk_bench.tune import Found, Request
    from avsdk_bench.tune_build import Builds
    from avsdk_bench.tune_choice import Tuned
    from avsdk_bench.tune_report import Words


class Scenario(enum.StrEnum):
    """How requests arrive while it is tuned."""

    SINGLE_STREAM = "single-stream"
    OFFLINE = "offline"


_Model = Annotated[str, typer.Argument(help="A run folder, zoo:NAME, FILE.onnx, a bundle, or package.module:function.")]
_Axes = Annotated[
    list[str] | None,
    typer.Option("--axis", metavar="AXIS=SIZE,...", help="Sizes to try; may be repeated.", show_default=False),
]
_Precision = Annotated[str, typer.Option("--precision", metavar="P[,P]", help="Try these [default: all there are]")]
_Calibration = Annotated[
    Path | None, typer.Option("--calibration", help="A folder of the model's own inputs, that int8 is fitted to.")
]
_Samples = Annotated[
    int | None, typer.Option("--calibration-samples", help="How many of its files calibrate [default: 64].")
]
_Data = Annotated[
    Path | None, typer.Option("--data", help="What accuracy is measured on [default: a tenth of --calibration].")
]
_MaxDrop = Annotated[
    str | None, typer.Option("--max-drop", metavar="1%", help="What the family's metric may lose of its fp32 value.")
]
_Scenario = Annotated[
    Scenario, typer.Option("--scenario", help="One request after the other, or offline: as many at a time as it takes.")
]
_Out = Annotated[Path, typer.Option("--out", help="The folder that takes what is measured, the picture, the bundle.")]


def tune(
    model: _Model,
    target: Annotated[str, typer.Option("--target", metavar="T[,T]", help="Search among these.")],
    axis: _Axes = None,
    precision: _Precision = "",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="No other number is tried.")] = None,
    calibration: _Calibration = None,
    calibration_samples: _Samples = None,
    data: _Data = None,
    max_latency_ms: Annotated[float | None, typer.Option("--max-latency-ms", help="The median of one pass.")] = None,
    max_drop: _MaxDrop = None,
    min_snr_db: Annotated[float | None, typer.Option("--min-snr-db", help="The least SNR against fp32, in dB.")] = None,
    max_size_mb: Annotated[float | None, typer.Option("--max-size-mb", help="Of what is loaded.")] = None,
    scenario: _Scenario = Scenario.SINGLE_STREAM,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Seconds for everything, builds included.")] = 600.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the search and of the order of cells.")] = 0,
    out: _Out = Path("tuned"),
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest configuration of MODEL that meets your limits: engine, precision, threads, settings, sizes.

    Ctrl-C keeps what was measured; the same command goes on from there.
    """
    from avsdk_bench.plan import sizes_from_text
    from avsdk_bench.tune import Request
    from avsdk_bench.tune_build import Asked
    from avsdk_bench.tune_choice import Limits
    from avsdk_bench.tune_report import Words
    from avsdk_bench.tune_space import space_of
    from avsdk_targets.build import find_source
    from avsdk_targets.calibration import calibration_asked
    from avsdk_targets.export_settings import require_read
    from avsdk_targets.limits import drop_from_text
    from avsdk_targets.target import resolve_list

    limits = Limits(max_latency_ms, None if max_drop is None else drop_from_text(max_drop), min_snr_db, max_size_mb)
    _require_packages()
    find_source(model)
    require_read(given := console.settings_from(settings), targets := resolve_list(target))
    asked = Asked(given, calibration_asked(calibration, data, calibration_samples), limits.of_accuracy())
    space = space_of(
        targets, precisions=[name.strip() for name in precision.split(",") if name.strip()],
        sizes=[sizes_from_text(text) for text in axis or ()], threads=threads, calibrated=calibration is not None,
        fixed=given, many=scenario is Scenario.OFFLINE,
    )  # fmt: skip
    request = Request(model, space, limits, out, budget_s, seed, scenario.value)
    words = Words(model, out, asked, scenario.value)
    _tuned(request, words, _command(words, target, axis or (), precision, threads, request), as_json=as_json)


def _tuned(request: Request, words: Words, command: str, *, as_json: bool) -> None:
    """Search, and say what was found."""
    from avsdk_bench.scenario import Load
    from avsdk_bench.tune import Search
    from avsdk_bench.tune_build import Builds
    from avsdk_bench.tune_ledger import Ledger, identity_of
    from avsdk_bench.tune_predicted import predicted
    from avsdk_targets.build import find_source

    for reason in request.space.left_out:
        console.notice(reason)
    load = Load(request.scenario)
    with Builds(request.model, request.space, words.asked, console.notice, request.seed, load) as builds:
        builds.require_measurable()
        fingerprint = find_source(request.model).fingerprint(request.model, {})
        asked = {**words.asked.identity(), "scenario": request.scenario}
        ledger = Ledger(request.out, identity_of(request.model, fingerprint, asked), console.notice)
        try:
            with console.progress(f"tuning {request.model}", total=None) as advance:
                found = Search(request, builds, ledger, console.notice, advance).run()
        except KeyboardInterrupt:
            console.notice(f"{len(ledger.entries)} configurations are kept: the same command goes on from there")
            raise
        left_s = request.budget_s - found.elapsed_s
        found.items += predicted(request.space, builds, words.asked, console.notice, left_s)
        _conclude(found, builds, request, words, command, as_json=as_json)


def _conclude(found: Found, builds: Builds, request: Request, words: Words, command: str, *, as_json: bool) -> None:
    """Choose, publish, draw, print. Raises ``NotMet`` where nothing meets the limits, after all else was written."""
    from avsdk.errors import NotMet
    from avsdk_bench import tune_report
    from avsdk_bench.tune_choice import best
    from avsdk_bench.tune_picture import draw_front

    items, limits, chosen, unmet = found.items, request.limits, None, None
    try:
        chosen = best(items, limits)
    except NotMet as error:
        unmet = error
    picture = words.out / "front.png"
    told = None if chosen is None else _best(found, items, chosen, builds, words)
    draw_front(items, limits, chosen, f"{words.model}: {' '.join(limits.words()) or 'no limits'}", picture)
    document = tune_report.document(
        found, items, limits, request.space, words, command=command, best=told, picture=picture
    )  # fmt: skip
    tune_report.write_document(document, words.out / "tuned.json")
    if as_json:
        console.print_json(document)
    else:
        tune_report.print_table(items, limits, chosen)
        _say_best(told)
    for reason in tune_report.reasons(items):
        console.notice(reason)
    console.notice(f"{found.stopped_by}; {len(items)} of {found.size} configurations in {found.elapsed_s:.0f} s")
    if unmet is not None:
        raise unmet
    if told is not None and told["status"] == "measured":
        console.next_step(f"avsdk run {told['path']} INPUT --out OUTPUT --threads {told['threads']}")


def _best(found: Found, items: Sequence[Tuned], place: int, builds: Builds, words: Words) -> dict[str, Any]:
    """Publish the bundle of the best; what is to be said of it."""
    from avsdk_bench import tune_report

    item = items[place]
    compared = tune_report.rivals(items, place, found.final)
    path = _published(item, builds, words.out)
    return {
        "path": path,
        "row": sum(len(other.rows) for other in items[:place]),
        "status": item.rows[0].status,
        "target": item.configuration.target,
        "precision": item.configuration.precision,
        "threads": item.configuration.threads,
        "settings": dict(item.configuration.settings),
        "latency_ms": item.latency_ms,
        "latency_ci_ms": item.latency_ci_ms,
        "drop": item.drop,
        "snr_db": item.snr_db,
        "command": words.build(item.configuration),
        "bench": None if path is None else words.measure(item.configuration, Path(path)),
        "claim": tune_report.claim(items, place, compared),
        "against": [
            {"command": words.build(items[rival.place].configuration), "ratio": rival.ratio.ratio.value,
             "ratio_ci": [rival.ratio.ratio.low, rival.ratio.ratio.high], "verdict": rival.ratio.verdict}
            for rival in compared
        ],
    }  # fmt: skip


def _published(item: Tuned, builds: Builds, out: Path) -> str | None:
    """Where the bundle lies now; None where it is predicted and cannot be built here, which is said."""
    from avsdk.errors import AvsdkError

    try:
        return str(builds.publish(item.configuration, out).path)
    except AvsdkError as error:
        if item.stage != "predicted":
            raise
        console.notice(f"{item.configuration.label} is predicted, and no bundle is built of it: {error.failed}")
        return None


def _say_best(told: Mapping[str, Any] | None) -> None:
    if told is None:
        return
    threads = f", with {told['threads']} threads" if told["threads"] else ""
    console.show(f"best: {told['path'] or told['target']}{threads}")
    console.show(f"  {told['claim']}")
    console.show(f"  again: {told['command']}")


def _require_packages() -> None:
    from avsdk.errors import NotAvailable

    for package in ("optuna", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise NotAvailable(f"tune needs the package {package}, which is absent", fix="pip install 'avsdk[bench]'")


def _command(
    words: Words, target: str, axis: Sequence[str], precision: str, threads: int | None, request: Request
) -> str:
    """The line that does the same again."""
    line = ["avsdk", "tune", words.model, "--target", target]
    line += [word for text in axis for word in ("--axis", text)]
    line += ["--precision", precision] if precision else []
    line += ["--threads", str(threads)] if threads else []
    line += [*request.limits.words(), *words.asked.source_words()]
    return shlex.join(
        [
            *line,
            *words.scenario_words(),
            "--budget-s",
            f"{request.budget_s:g}",
            "--seed",
            str(request.seed),
            "--out",
            str(words.out),
        ]
    )
