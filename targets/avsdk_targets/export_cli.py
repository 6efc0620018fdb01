"""The command ``export``; heavy modules are imported inside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk.console import JsonOption, SetOption, next_step, notice, print_json, problem, settings_from, show

if TYPE_CHECKING:
    from avsdk.errors import AvsdkError
    from avsdk_targets.build import Exported


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
