"""What int8 costs and gains: every style of the zoo on each CPU engine, within a budget of SNR on real photographs.

Stands apart from ``run_all.py``, since it needs a folder of photographs to calibrate on and one to measure on:
``python bench/numbers/precision.py --calibration PHOTOS --data OTHERS``. Prints the section of docs/benchmarks.md, and
with ``--pictures`` leaves each answer beside that of fp32.
"""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from figures import Figure, Section, verdict

from avsdk import host, load
from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError
from avsdk.media import read_image, resized, write_image
from avsdk_targets.build import Exported, Exporter, ExportOptions
from avsdk_targets.calibration import Calibration
from avsdk_targets.limits import Limits
from avsdk_targets.speed import layers_of
from avsdk_targets.target import resolve

MODELS = ("wave", "starry-night", "composition-vii", "the-scream", "wheat-field")
ENGINES = ("onnxruntime", "openvino", "litert")
MIN_SNR_DB = 20.0
SIDE = 256


def main(
    calibration: Annotated[Path, typer.Option(help="A folder of photographs to calibrate on.")],
    data: Annotated[Path, typer.Option(help="Other photographs, to measure on.")],
    model: Annotated[list[str] | None, typer.Option(help="A style of the zoo; may be repeated.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="An engine; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(help="How many photographs calibrate.")] = 16,
    pictures: Annotated[Path | None, typer.Option(help="A folder for one photograph in fp32 and int8.")] = None,
    speed: Annotated[bool, typer.Option(help="Measure each beside fp32 too.")] = True,
) -> None:
    """Measure, and print the section."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="avsdk-precision-") as work:
        for name in model or MODELS:
            options = ExportOptions(
                Path(work),
                "int8",
                ({"height": SIDE, "width": SIDE},),
                calibration=Calibration(calibration, data, samples),
                limits=Limits(min_snr_db=MIN_SNR_DB),
                compare_speed=speed,
            )
            with Exporter(f"zoo:style_transfer/{name}", options, lambda text: typer.echo(text, err=True)) as exporter:
                for one in engine or ENGINES:
                    found.append(_figure(exporter, name, one, pictures, data))
                    typer.echo(f"{found[-1].what}: {found[-1].value}", err=True)
    typer.echo(_page(_section(found)))


def _figure(exporter: Exporter, name: str, engine: str, pictures: Path | None, data: Path) -> Figure:
    goal = f"at least {MIN_SNR_DB:g} dB"
    try:
        done = exporter.build(resolve(engine))
    except AvsdkError as error:
        return Figure(f"{name}, {engine}", error.failed, goal, verdict(met=False))
    if pictures is not None:
        _draw(exporter, done, name, engine, pictures, data)
    return Figure(f"{name}, {engine}", _value(done), goal, verdict((done.snr_db or 0.0) >= MIN_SNR_DB))


def _value(done: Exported) -> str:
    manifest = done.bundle.manifest
    layers = [kind for found in layers_of(manifest).values() for kind in found.values()]
    text = (
        f"{done.snr_db:.1f} dB, {manifest.effective_precision}, {layers.count('int8')} of {len(layers)} layers in int8"
    )
    timed: dict[str, Any] | None = manifest.measured.get("speed")
    if timed is None:
        return text
    low, high = timed["ratio_ci"]
    steady = "" if timed["steady"] else ", not steady"
    return f"{text}; {timed['ratio']:.2f} [{low:.2f}, {high:.2f}] of the latency of fp32{steady}"


def _draw(exporter: Exporter, done: Exported, name: str, engine: str, out: Path, data: Path) -> None:
    """One photograph through the bundle and through its fp32 sibling."""
    out.mkdir(parents=True, exist_ok=True)
    photograph = resized(read_image(sorted(data.iterdir())[0]), SIDE, SIDE)
    for bundle in (open_bundle(done.bundle.path), exporter.build(resolve(engine), "fp32").bundle):
        with load(bundle.path) as predictor:
            write_image(out / f"{name}-{engine}-{bundle.manifest.precision}.png", predictor(photograph))


def _section(found: list[Figure]) -> Section:
    here = host.probe()
    isa = ", ".join(here.isa)
    return Section(
        "Precision",
        f"SNR against fp32 at {SIDE} x {SIDE} on photographs that the quantiser has not seen, the worst of them; "
        f"latency paired with fp32 in interleaved rounds, as by avsdk bench. {here.cpu}, {here.cores} cores, {isa}.",
        (
            shlex.join(
                ["avsdk", "export", "zoo:style_transfer/wave", "--target", "openvino", "--precision", "int8"]
                + ["--calibration", "PHOTOS", "--data", "OTHERS", "--min-snr-db", f"{MIN_SNR_DB:g}"]
            ),
        ),
        tuple(found),
    )


def _page(section: Section) -> str:
    rows = [f"| {item.what} | {item.value} | {item.goal} | {item.verdict} |" for item in section.figures]
    commands = ["```sh", *section.commands, "```"]
    table = ["| what | measured | goal | |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {section.title}", "", section.method, "", *commands, "", *table])


if __name__ == "__main__":
    typer.run(main)
