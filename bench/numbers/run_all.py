"""Measure every figure of docs/benchmarks.md on this machine, and write that page with ``--out docs/benchmarks.md``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import baseline
import big_photo
import exports
import features
import kills
import latency
import startup
import training
import typer
import video
import video_memory
from figures import MODEL, Section, avsdk_command, run_timed

import avsdk
from avsdk import console, host
from avsdk.errors import AvsdkError, UnknownName
from avsdk.files import write_atomic

_PACKAGES = ("numpy", "onnxruntime", "openvino", "ai-edge-litert", "torch", "opencv-python-headless")


def main(
    out: Annotated[Path | None, typer.Option(help="The page to write; without it, standard output.")] = None,
    model: Annotated[str, typer.Option(help="The model that is exported.")] = MODEL,
    budget_s: Annotated[float, typer.Option(help="Seconds for the latency bench.")] = 120.0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="latency, baseline, start, video, pipeline, photo, export, features, training or kills; repeatable."
        ),
    ] = None,
) -> None:
    """Measure, and write the page."""
    with tempfile.TemporaryDirectory(prefix="avsdk-numbers-") as folder:
        work = Path(folder)
        parts: dict[str, Callable[[], Section]] = {
            "latency": lambda: latency.measured(model, work, budget_s),
            "baseline": lambda: baseline.measured(model, work, budget_s),
            "start": lambda: startup.measured(work),
            "video": lambda: video_memory.measured(_bundle(model, work), work),
            "pipeline": lambda: video.measured(_bundle(model, work), work),
            "photo": lambda: big_photo.measured(_bundle(model, work), work),
            "export": lambda: exports.measured(model, work),
            "features": features.measured,
            "training": lambda: training.measured(work / "training"),
            "kills": lambda: kills.measured(work / "kills"),
        }
        unknown = [name for name in only or () if name not in parts]
        if unknown:
            raise UnknownName.among("part", unknown[0], parts)
        sections = []
        for name in only or parts:
            console.notice(f"measuring: {name}")
            sections.append(parts[name]())
    page = page_from(sections)
    if out is None:
        sys.stdout.write(page)
    else:
        write_atomic(out, page)


def page_from(sections: list[Section]) -> str:
    """The page: the machine, the versions, and a table per section with its commands."""
    machine = host.probe()
    quota = "no quota" if machine.cgroup_cpus is None else f"a quota of {machine.cgroup_cpus:g} processors"
    lines = [
        "# Benchmarks",
        "",
        "Measured, not promised: what one machine showed on one day. `make bench` measures again and writes this page.",
        "How latency is measured: one process per cell, interleaved rounds of random order, a 95 % bootstrap interval",
        "of the median over rounds, and a calibration around each round that voids it when the machine drifted by more",
        "than 5 %.",
        "",
        f"- Date: {datetime.now(UTC).date().isoformat()}",
        f"- Machine: {machine.cpu}, {machine.cores} processors ({quota}), {machine.memory_mb} MB, {machine.system}",
        f"- Instruction sets: {', '.join(machine.isa) or 'none known'}",
        f"- Accelerators: {', '.join(machine.accelerators) or 'none'}",
        f"- Versions: avsdk {avsdk.__version__}, Python {machine.python}, {', '.join(_versions())}",
    ]
    return "\n".join(lines) + "\n" + "".join(map(page_section, sections))


def page_section(section: Section) -> str:
    """One section of the page: a table, the commands, and what disturbed them."""
    lines = ["", f"## {section.title}", "", section.method, "", "| what | measured | goal | |", "|---|---|---|---|"]
    lines += [f"| {item.what} | {item.value} | {item.goal} | {item.verdict} |" for item in section.figures]
    lines += ["", "```", *section.commands, "```"]
    if section.notes:
        lines += ["", "What disturbed it:", "", *(f"- {note}" for note in section.notes)]
    return "\n".join(lines) + "\n"


def _bundle(model: str, work: Path) -> Path:
    """The ONNX Runtime bundle, exported where the latency part has not done it."""
    folder = work / "bundles"
    words = ["export", model, "--target", "onnxruntime", "--out", str(folder)]
    run_timed([*avsdk_command(), *words], work / "export.log")
    return next(path.parent for path in sorted(folder.glob("*/manifest.json")) if "onnxruntime" in path.parent.name)


def _versions() -> list[str]:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    try:
        typer.run(main)
    except AvsdkError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
