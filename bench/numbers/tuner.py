"""The tuner against an exhaustive grid of the same space: how long it takes, and how near to the best it comes.

``python bench/numbers/tuner.py --calibration PHOTOS`` tunes, then measures every configuration of the space in one
bench, interleaved, so that the tuner's choice and the grid's best stand in the same rounds.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from figures import MODEL, Figure, Section, at_most, avsdk_command, run_timed, verdict, written
from run_all import page_from

from avsdk import console
from avsdk.errors import AvsdkError
from avsdk_bench.bench import run_bench
from avsdk_bench.report import Report
from avsdk_bench.rounds import Settings
from avsdk_bench.statistics import Interval
from avsdk_bench.tune_build import Asked, Builds
from avsdk_bench.tune_choice import Limits, Tuned
from avsdk_bench.tune_report import paired
from avsdk_bench.tune_space import Configuration, Space, space_of
from avsdk_targets.calibration import Calibration
from avsdk_targets.target import resolve_list

WITHIN = 1.05
MOST_S = 600.0
SPEED_UP = 3.5


@dataclass(frozen=True)
class Work:
    """What is tuned."""

    model: str
    targets: str
    sizes: Mapping[str, int]
    calibration: Path
    samples: int
    min_snr_db: float


def measured(work: Work, folder: Path, budget_s: float, grid_s: float) -> Section:
    """Tune, measure the grid, and compare."""
    words = _command(work, budget_s, folder / "tuned")
    tuned = run_timed([*avsdk_command(), *words[1:]], folder / "tune.log", home=None)
    (folder / "tune.json").write_text(tuned.output)
    document = json.loads(tuned.output)
    limits = Limits(min_snr_db=work.min_snr_db).of_accuracy()
    asked = Asked({}, Calibration(work.calibration, None, work.samples), limits)
    space = space_of(resolve_list(work.targets), sizes=[work.sizes], calibrated=True)
    with Builds(work.model, space, asked, console.notice) as builds:
        items, report, left_out = grid_of(space, builds, work.min_snr_db, grid_s)
    report.write(folder / "grid.json")
    shown = shlex.join(_command(replace(work, calibration=Path("PHOTOS")), budget_s, Path("tuned")))
    return section(work, document, tuned.seconds, items, report, left_out, shown)


def grid_of(space: Space, builds: Builds, min_snr_db: float, budget_s: float) -> tuple[list[Tuned], Report, int]:
    """Every configuration that can be built within the limit, measured in one bench; and how many cannot."""
    every = list(space.configurations())
    fit = [item for item in every if (builds.get(item).snr_db or 0.0) >= min_snr_db]
    cells = [(item, cell) for item in fit for cell in builds.cells(item)]
    report, errors = run_bench([cell for _, cell in cells], Settings(budget_s=budget_s))
    items = [
        Tuned(item, "final", (row,), builds.get(item).snr_db)
        for place, ((item, _), row) in enumerate(zip(cells, report.rows, strict=True))
        if place not in errors
    ]
    return items, report, len(every) - len(items)


def section(
    work: Work, document: Mapping[str, Any], seconds: float, items: list[Tuned], report: Report, left_out: int,
    command: str,
) -> Section:  # fmt: skip
    """The figures."""
    fastest = min(items, key=lambda item: item.latency_ms)
    chosen = _chosen(document["best"], work, items)
    away = _ratio(chosen, fastest)
    figures = [
        at_most("the whole search, builds included", f"{seconds:.0f} s", seconds, MOST_S, "s"),
        Figure("configurations tried", f"{document['search']['tried']} of {document['search']['configurations']}"),
        Figure("its choice", f"{chosen.configuration.label}: {_time(chosen)}"),
        Figure("the grid's best", f"{fastest.configuration.label}: {_time(fastest)}"),
        Figure("its choice takes, of the time of the grid's best, in the same rounds", written(away, ""),
               f"at most {WITHIN}", _within(away)),
        Figure("its SNR against fp32 on held-back photographs", f"{chosen.snr_db:.1f} dB",
               f"at least {work.min_snr_db:g} dB", verdict((chosen.snr_db or 0.0) >= work.min_snr_db)),
    ]  # fmt: skip
    default = next((item for item in items if _is_default(item.configuration, document)), None)
    if default is not None:
        faster = _ratio(default, chosen)
        figures += [
            Figure("ONNX Runtime fp32 as it is", f"{default.configuration.label}: {_time(default)}"),
            Figure("its choice is faster than that by a factor of", written(faster, ""),
                   f"at least {SPEED_UP} (with VNNI)", verdict(faster.value >= SPEED_UP)),
        ]  # fmt: skip
    method = report.method
    text = (
        f"{work.model} at {'x'.join(map(str, work.sizes.values()))} over {work.targets}; the grid is all {len(items)} "
        f"configurations within the limit ({left_out} are not) in one bench of {method.rounds} interleaved rounds "
        f"({method.void_rounds} void), {method.elapsed_s:.0f} s."
    )
    return Section("Tuner", text, (command, "python bench/numbers/tuner.py --calibration PHOTOS"), tuple(figures),
                   report.noise.reasons)  # fmt: skip


def _chosen(best: Mapping[str, Any], work: Work, items: list[Tuned]) -> Tuned:
    """The tuner's choice among the grid's configurations."""
    wanted = Configuration(best["target"], best["precision"], best["threads"], work.sizes, best["settings"])
    for item in items:
        if item.configuration.key == wanted.key:
            return item
    raise AvsdkError(f"the grid has no {wanted.label}", expected="the same space")


def _ratio(first: Tuned, second: Tuned) -> Interval:
    found = paired(first, second)
    if found is None:
        raise AvsdkError("the grid made fewer than two rounds", expected="at least 5", fix="--grid-s with more seconds")
    return found.ratio


def _is_default(item: Configuration, document: Mapping[str, Any]) -> bool:
    most = max(row["threads"] for row in document["rows"])
    return (item.target, item.precision, item.threads, dict(item.settings)) == ("onnxruntime", "fp32", most, {})


def _within(ratio: Interval) -> str:
    if ratio.high <= WITHIN:
        return verdict(True)
    return "met by the median; the interval is wider than the goal" if ratio.value <= WITHIN else verdict(False)


def _time(item: Tuned) -> str:
    low, high = item.latency_ci_ms or (0.0, 0.0)
    return f"{item.latency_ms:.4g} ms [{low:.4g}, {high:.4g}]"


def _command(work: Work, budget_s: float, out: Path) -> list[str]:
    sizes = ",".join(f"{name}={size}" for name, size in work.sizes.items())
    return [
        "avsdk", "tune", work.model, "--target", work.targets, "--axis", sizes, "--calibration", str(work.calibration),
        "--calibration-samples", str(work.samples), "--min-snr-db", f"{work.min_snr_db:g}",
        "--budget-s", f"{budget_s:g}", "--out", str(out), "--json",
    ]  # fmt: skip


def main(
    calibration: Annotated[Path, typer.Option(help="Photographs to calibrate on.")],
    model: Annotated[str, typer.Option(help="What is tuned.")] = MODEL,
    target: Annotated[str, typer.Option(help="Among which targets.")] = "onnxruntime,openvino,litert",
    side: Annotated[int, typer.Option(help="Height and width.")] = 256,
    samples: Annotated[int, typer.Option(help="How many photographs calibrate.")] = 16,
    min_snr_db: Annotated[float, typer.Option(help="The limit of accuracy.")] = 20.0,
    budget_s: Annotated[float, typer.Option(help="Seconds for the tuner.")] = 600.0,
    grid_s: Annotated[float, typer.Option(help="Seconds for the grid.")] = 900.0,
    keep: Annotated[Path | None, typer.Option(help="Keep the reports in this folder.")] = None,
) -> None:
    """Measure, and print the section."""
    work = Work(model, target, {"height": side, "width": side}, calibration, samples, min_snr_db)
    with tempfile.TemporaryDirectory(prefix="avsdk-tuner-") as folder:
        place = keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(page_from([measured(work, place, budget_s, grid_s)]))


if __name__ == "__main__":
    try:
        typer.run(main)
    except AvsdkError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
