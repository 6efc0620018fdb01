"""The command ``tune``; everything heavy is imported inside it."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk import console
from avsdk.console import JsonOption, SetOption

if TYPE_CHECKING:
    from avsdk_bench.tune import Found
    from avsdk_bench.tune_build import Builds
    from avsdk_bench.tune_choice import Limits, Tuned
    from avsdk_bench.tune_report import Words
    from avsdk_bench.tune_space import Space

_Axes = Annotated[
    list[str] | None,
    typer.Option("--axis", metavar="AXIS=SIZE,...", help="Sizes to try; may be repeated.", show_default=False),
]
_Precision = Annotated[str, typer.Option("--precision", metavar="P[,P]", help="Try these [default: all there are]")]
_Out = Annotated[Path, typer.Option("--out", help="The folder that takes what is measured, the picture, the bundle.")]


def tune(
    model: Annotated[
        str, typer.Argument(help="A run folder, zoo:NAME, FILE.onnx, a bundle, or package.module:function.")
    ],
    target: Annotated[str, typer.Option("--target", metavar="T[,T]", help="Search among these.")],
    axis: _Axes = None,
    precision: _Precision = "",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="No other number is tried.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option("--max-latency-ms", help="The median of one pass.")] = None,
    min_snr_db: Annotated[float | None, typer.Option("--min-snr-db", help="Against fp32.")] = None,
    max_size_mb: Annotated[float | None, typer.Option("--max-size-mb", help="Of what is loaded.")] = None,
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
    from avsdk_bench.tune import Request, Search
    from avsdk_bench.tune_build import Builds
    from avsdk_bench.tune_choice import Limits
    from avsdk_bench.tune_ledger import Ledger, identity_of
    from avsdk_bench.tune_report import Words
    from avsdk_bench.tune_space import space_of
    from avsdk_targets.build import find_source
    from avsdk_targets.export_settings import require_read
    from avsdk_targets.target import resolve_list

    limits = Limits(max_latency_ms, None, min_snr_db, max_size_mb)
    _require_packages()
    source, targets = find_source(model), resolve_list(target)
    given = console.settings_from(settings)
    require_read(given, targets)
    space = space_of(
        targets, precisions=[name.strip() for name in precision.split(",") if name.strip()],
        sizes=[sizes_from_text(text) for text in axis or ()], threads=threads,
    )  # fmt: skip
    request = Request(model, space, limits, out, budget_s, seed)
    for reason in space.left_out:
        console.notice(reason)
    builds = Builds(model, space, given, console.notice, seed)
    ledger = Ledger(out, identity_of(model, source.fingerprint(model, {}), {"settings": given}), console.notice)
    try:
        with console.progress(f"tuning {model}", total=None) as advance:
            found = Search(request, builds, ledger, console.notice, advance).run()
    except KeyboardInterrupt:
        console.notice(f"{len(ledger.entries)} configurations are kept: the same command goes on from there")
        raise
    words = Words(model, out, tuple(word for name, value in given.items() for word in ("--set", f"{name}={value}")))
    command = _command(words, target, axis or (), precision, threads, limits, budget_s, seed)
    _conclude(found, builds, space, limits, words, command, as_json=as_json)


def _conclude(
    found: Found, builds: Builds, space: Space, limits: Limits, words: Words, command: str, *, as_json: bool
) -> None:
    """Choose, publish, draw, print. Raises ``NotMet`` where nothing meets the limits, after all else was written."""
    from avsdk.errors import NotMet
    from avsdk_bench import tune_report
    from avsdk_bench.tune_choice import best
    from avsdk_bench.tune_picture import draw_front

    items, chosen, unmet = found.items, None, None
    try:
        chosen = best(items, limits)
    except NotMet as error:
        unmet = error
    picture = words.out / "front.png"
    told = None if chosen is None else _best(found, items, chosen, builds, words)
    draw_front(items, limits, chosen, f"{words.model}: {' '.join(limits.words()) or 'no limits'}", picture)
    document = tune_report.document(
        found, items, limits, space, words, command=command, best=told, picture=picture
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
    if told is not None:
        console.next_step(f"avsdk run {told['path']} INPUT --out OUTPUT --threads {told['threads']}")


def _best(found: Found, items: Sequence[Tuned], place: int, builds: Builds, words: Words) -> dict[str, Any]:
    """Publish the bundle of the best; what is to be said of it."""
    from avsdk_bench import tune_report

    item = items[place]
    compared = tune_report.rivals(items, place, found.final)
    published = builds.publish(item.configuration, words.out)
    return {
        "path": str(published.path),
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
        "claim": tune_report.claim(items, place, compared),
    }


def _say_best(told: Mapping[str, Any] | None) -> None:
    if told is None:
        return
    console.show(f"best: {told['path']}, with {told['threads']} threads")
    console.show(f"  {told['claim']}")
    console.show(f"  again: {told['command']}")


def _require_packages() -> None:
    from avsdk.errors import NotAvailable

    for package in ("optuna", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise NotAvailable(f"tune needs the package {package}, which is absent", fix="pip install 'avsdk[bench]'")


def _command(
    words: Words, target: str, axis: Sequence[str], precision: str, threads: int | None, limits: Limits,
    budget_s: float, seed: int,
) -> str:  # fmt: skip
    """The line that does the same again."""
    line = ["avsdk", "tune", words.model, "--target", target]
    line += [word for text in axis for word in ("--axis", text)]
    line += ["--precision", precision] if precision else []
    line += ["--threads", str(threads)] if threads else []
    line += [*limits.words(), *words.export, "--budget-s", f"{budget_s:g}", "--seed", str(seed)]
    return shlex.join([*line, "--out", str(words.out)])
