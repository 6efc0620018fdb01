"""The command ``export``; heavy modules are imported inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk.console import JsonOption, SetOption, next_step, notice, print_json, problem, settings_from, show

if TYPE_CHECKING:
    from avsdk.errors import AvsdkError
    from avsdk_targets.build import Exported, Exporter, ExportOptions
    from avsdk_targets.target import Target

_AXIS = (
    "One set of sizes to build, height=400,width=600; may be repeated. Or the range of a dynamic axis, frames=50:2000, "
    "with a step frames=64:2048:64. GRAPH.NAME speaks of one graph of several."
)
_SPEC = "A TOML file with what MODEL takes and gives: axes, pre- and post-processing, predictor."
_FILES = {"tensor": ("IN.npz", "OUT.npz"), "audio": ("SOUND.wav", "OUT_FOLDER/"), "image": ("PHOTO", "OUT_FOLDER/"),
          "unit_discovery": ("SPEECH.wav", "UNITS.txt")}  # fmt: skip
"""What a predictor is given and gives, where that is no photograph and a picture."""


_Model = Annotated[str, typer.Argument(help="A run folder, zoo:NAME, FILE.onnx, a bundle, or package.module:function.")]
_Targets = Annotated[
    str, typer.Option("--target", help="Comma-separated targets, or 'all'; or GRAPH=TARGET for each graph.")
]
_Precision = Annotated[str | None, typer.Option("--precision", help="fp32, bf16, fp16, fp16w, int8, fp11; or auto.")]
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
_MinSnr = Annotated[float | None, typer.Option("--min-snr-db", help="The least SNR against fp32, in dB.")]


def export(
    model: _Model,
    target: _Targets,
    precision: _Precision = None,
    axis: Annotated[list[str] | None, typer.Option(help=_AXIS)] = None,
    spec: Annotated[Path | None, typer.Option(help=_SPEC)] = None,
    calibration: _Calibration = None,
    calibration_samples: _Samples = None,
    data: _Data = None,
    max_drop: _MaxDrop = None,
    min_snr_db: _MinSnr = None,
    out: Annotated[Path, typer.Option(help="The folder that takes the bundles.")] = Path("bundles"),
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL for each target into a verified bundle; goes on past a target that fails."""
    from avsdk_targets.axis_option import asked_axes
    from avsdk_targets.build import ExportOptions
    from avsdk_targets.calibration import calibration_asked
    from avsdk_targets.export_settings import require_read
    from avsdk_targets.limits import Limits, drop_from_text
    from avsdk_targets.placement import targets_by_graph
    from avsdk_targets.target import resolve_list

    by_graph = targets_by_graph(target)
    targets = (replace(next(iter(by_graph.values())), name=target),) if by_graph else resolve_list(target)
    axes = asked_axes(axis or ())
    options = ExportOptions(
        out,
        precision,
        axes.sizes,
        axes.ranges,
        spec,
        settings_from(settings),
        calibration=calibration_asked(calibration, data, calibration_samples),
        limits=Limits(None if max_drop is None else drop_from_text(max_drop), min_snr_db),
    )
    require_read(options.settings, [*by_graph.values()] or targets)
    _export_all(model, options, targets, by_graph, takes_all="all" in target.split(","), as_json=as_json)


def _export_all(
    model: str,
    options: ExportOptions,
    targets: Sequence[Target],
    by_graph: Mapping[str, Target],
    *,
    takes_all: bool,
    as_json: bool,
) -> None:
    """Export for each target, print what became of it, and leave with the code of the first failure."""
    from avsdk.errors import AvsdkError, NotAvailable
    from avsdk_targets.build import Exporter
    from avsdk_targets.export_document import export_document
    from avsdk_targets.prepared import Prepared

    done: list[Exported] = []
    failed: list[tuple[str, AvsdkError]] = []
    skipped: list[tuple[str, AvsdkError]] = []
    with Exporter(model, options, notice) as exporter:
        for item in targets:
            outcome = _exported(exporter, item, by_graph)
            if not isinstance(outcome, AvsdkError):
                done.append(outcome)
            elif takes_all and type(outcome) in (NotAvailable, Prepared):
                skipped.append((item.name, outcome))
            else:
                failed.append((item.name, _with_onnx_left(exporter, item, outcome)))
            if not as_json:
                _report_target(item.name, done, failed, skipped)
    if as_json:
        print_json(export_document(done, failed, skipped))
    if failed:
        raise typer.Exit(failed[0][1].exit_code)
    if done:
        next_step(_after_export(done))


def _exported(exporter: Exporter, target: Target, by_graph: Mapping[str, Target]) -> Exported | AvsdkError:
    """The bundle, or why there is none."""
    from avsdk.errors import AvsdkError

    try:
        return exporter.export_placed(by_graph) if by_graph else exporter.export(target)
    except AvsdkError as error:
        return error


def _with_onnx_left(exporter: Exporter, target: Target, error: AvsdkError) -> AvsdkError:
    """The error, with the place of the exported ONNX where that is all that could be made; or why not even that."""
    from avsdk.errors import AvsdkError

    try:
        return exporter.with_onnx_left(target, error)
    except AvsdkError as other:
        return other


def _after_export(done: list[Exported]) -> str:
    """Run the first bundle that can run here; where none can, look at the first."""
    ran = [item for item in done if item.bundle.manifest.parity.verdict == "pass" and _runs_here(item)]
    if not ran:
        return f"avsdk bundle show {done[0].bundle.path}"
    given, out = _FILES.get(ran[0].bundle.manifest.spec.predictor, ("PHOTO", "OUT.png"))
    return f"avsdk run {ran[0].bundle.path} {given} --out {out}"


def _runs_here(item: Exported) -> bool:
    """Whether a plain run opens it here: what a stand-in or an emulator proved may still need its own device."""
    from avsdk.session import session_class

    return all(session_class(each.engine).availability(each.device).ok for each in item.bundle.manifest.artifacts)


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
    reason = f"; {parity.reason}" if parity.reason else ""
    show(f"  parity {parity.verdict} on {parity.executed_on}, {parity.samples} samples{reason}")
    for output in parity.outputs:
        show(
            f"    {output.graph}/{output.name}: SNR {output.snr_db:.1f} dB, cosine {output.cosine:.7f}, "
            f"largest error {output.max_abs:.2g}"
        )
    show(f"  {origin} in {item.seconds:.1f} s")
