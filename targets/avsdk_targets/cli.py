"""The commands ``devices``, ``doctor``, ``export`` and ``toolchain``; heavy modules are imported inside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk.console import JsonOption, SetOption, next_step, notice, print_json, problem, settings_from, show, table
from avsdk_targets.toolchain_cli import app as toolchain_app

if TYPE_CHECKING:
    from avsdk.errors import AvsdkError
    from avsdk_targets.build import Exported
    from avsdk_targets.device import Device

app = typer.Typer()
app.add_typer(toolchain_app, name="toolchain", help="Isolated environments that hold the compilers.")


@app.command()
def devices(
    name: Annotated[str | None, typer.Argument(help="A device's name or alias.")] = None, as_json: JsonOption = False
) -> None:
    """This machine, and the catalogue of devices; with NAME one device and what can be done for it from here."""
    from avsdk.host import probe
    from avsdk.schema import encode
    from avsdk_targets.device import list_devices, load_device
    from avsdk_targets.doctor import diagnose

    if name is not None:
        device = load_device(name)
        diagnosis = diagnose(device.name)
        if as_json:
            print_json({"device": encode(device), "targets": encode(diagnosis)})
            return
        _show_device(device)
        _show_diagnosis(diagnosis)
        next_step(f"avsdk export zoo:style_transfer/wave --target {device.name}")
        return
    host = probe()
    if as_json:
        print_json({"host": encode(host), "devices": [encode(device) for device in list_devices()]})
        return
    show(f"This machine: {host.cpu}, {host.cores} cores, {host.memory_mb} MB, {host.system}")
    show(f"  instruction sets: {', '.join(host.isa) or 'none known'}")
    show(f"  accelerators: {', '.join(host.accelerators) or 'none'}")
    show(f"  runtimes: {', '.join(f'{key} {version}' for key, version in host.libraries.items()) or 'none'}")
    table(
        "Devices",
        ("name", "what", "engines", "precisions", "aliases"),
        [
            (item.name, item.description, ", ".join(item.engines), ", ".join(item.precisions), ", ".join(item.aliases))
            for item in list_devices()
        ],
    )
    next_step("avsdk doctor")


@app.command()
def doctor(
    target: Annotated[str | None, typer.Argument(help="A target, as for export --target.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Per target: can it be compiled for here, can it run here, why not, and the line that would fix it."""
    from avsdk.schema import encode
    from avsdk_targets.doctor import diagnose

    found = diagnose(None if target == "all" else target)
    if as_json:
        print_json({"targets": encode(found)})
        return
    _show_diagnosis(found)
    ready = next((item.target for item in found if item.can_compile and item.can_run), None)
    next_step(f"avsdk export zoo:style_transfer/wave --target {ready}" if ready else found[0].fix or "avsdk devices")


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A run folder, zoo:NAME, FILE.onnx, a bundle, or package.module:function.")
    ],
    target: Annotated[str, typer.Option("--target", help="Comma-separated targets, or 'all'.")],
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16, fp16w.")] = None,
    axis: Annotated[
        list[str] | None, typer.Option(help="One set of sizes, height=400,width=600; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder that takes the bundles.")] = Path("bundles"),
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL for each target into a verified bundle; goes on past a target that fails."""
    from avsdk.errors import AvsdkError, NotAvailable
    from avsdk_targets.build import Exporter, ExportOptions
    from avsdk_targets.export_document import export_document
    from avsdk_targets.target import resolve_list

    takes_all = "all" in target.split(",")
    targets = resolve_list(target)
    options = ExportOptions(out, precision, tuple(_sizes(item) for item in axis or ()), settings_from(settings))
    done: list[Exported] = []
    failed: list[tuple[str, AvsdkError]] = []
    skipped: list[tuple[str, AvsdkError]] = []
    with Exporter(model, options, notice) as exporter:
        for item in targets:
            try:
                done.append(exporter.export(item))
            except AvsdkError as error:
                if takes_all and type(error) is NotAvailable:
                    skipped.append((item.name, error))
                else:
                    failed.append((item.name, error))
            if not as_json:
                _report_target(item.name, done, failed, skipped)
    if as_json:
        print_json(export_document(done, failed, skipped))
    if failed:
        raise typer.Exit(failed[0][1].exit_code)
    if done:
        next_step(_after_export(done))


def _after_export(done: list[Exported]) -> str:
    """Run the first bundle that has run here; where none can, look at the first."""
    ran = [item for item in done if item.bundle.manifest.parity.verdict == "pass"]
    return f"avsdk run {ran[0].bundle.path} PHOTO --out OUT.png" if ran else f"avsdk bundle show {done[0].bundle.path}"


def _sizes(text: str) -> dict[str, int]:
    from avsdk.errors import UsageError

    sizes = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,9}", value.strip()):
            raise UsageError(f"--axis {text!r} is no set of sizes", expected="NAME=SIZE, as height=400,width=600")
        if name.strip() in sizes:
            raise UsageError(
                f"--axis {text!r} gives {name.strip()} twice",
                expected="each axis once",
                fix="repeat --axis for a second set of sizes",
            )
        sizes[name.strip()] = int(value)
    return sizes


def _report_target(name: str, done: list[Any], failed: list[Any], skipped: list[Any]) -> None:
    """One paragraph per target as soon as it is decided."""
    if failed and failed[-1][0] == name:
        problem(f"{name}: {failed[-1][1]}")
        return
    if skipped and skipped[-1][0] == name:
        notice(f"{name}: skipped, {skipped[-1][1].failed}")
        return
    item = done[-1]
    manifest = item.bundle.manifest
    origin = "from the build cache" if item.cached else "built"
    show(f"{name}: {item.bundle.path}")
    show(f"  {manifest.engine}:{manifest.device}, asked for {manifest.precision}, got {manifest.effective_precision}")
    for text in item.notices:
        show(f"  {text}")
    for passed in item.passed_over:
        show(f"  passed over {passed}")
    parity = manifest.parity
    show(f"  parity {parity.verdict} on {parity.executed_on}, {parity.samples} samples {parity.reason}".rstrip())
    for output in parity.outputs:
        show(
            f"    {output.graph}/{output.name}: SNR {output.snr_db:.1f} dB, cosine {output.cosine:.7f}, "
            f"largest error {output.max_abs:.2g}"
        )
    show(f"  {origin} in {item.seconds:.1f} s")


def _show_device(device: Device) -> None:
    show(f"{device.name}: {device.description}")
    show(
        f"  engines: {', '.join(device.engines)}; architecture {device.arch}; precisions {', '.join(device.precisions)}"
    )
    if device.memory_mb:
        show(f"  memory: {device.memory_mb} MB")
    figures = [(f"peak {name}", figure, "T(FL)OP/s") for name, figure in device.peaks.items()]
    figures += [("bandwidth", device.bandwidth_gb_s, "GB/s")] if device.bandwidth_gb_s else []
    figures += [("power", device.power_w, "W")] if device.power_w else []
    for label, figure, unit in figures:
        show(f"  {label}: {figure.value:g} {unit} ({figure.mark}: {figure.source})")


def _show_diagnosis(found: Any) -> None:
    table(
        "Targets",
        ("target", "engine", "precisions", "compile", "run", "verified"),
        [
            (
                item.target,
                item.engine,
                ", ".join(item.precisions),
                "yes" if item.can_compile else "no",
                "yes" if item.can_run else "no",
                item.verified,
            )
            for item in found
        ],
    )
    for reason, fix in dict.fromkeys((item.reason, item.fix) for item in found if item.reason):
        targets = ", ".join(dict.fromkeys(item.target for item in found if item.reason == reason))
        show(f"{targets}: {reason}")
        show(f"  fix: {fix}")
