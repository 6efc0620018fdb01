"""The command ``check``; heavy modules are imported inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk.console import JsonOption, next_step, notice, print_json, show

if TYPE_CHECKING:
    from avsdk_targets.operator_table import Finding
    from avsdk_targets.preflight import Checked

_VERDICTS = {
    "ok": "has a path",
    "rewrite": "has a path, with the model rewritten",
    "no_path": "no path",
    "unknown": "not known before a build",
}
_SHOWN = 8


def check(
    model: Annotated[
        str, typer.Argument(help="A run folder, zoo:NAME, FILE.onnx, a bundle, or package.module:function.")
    ],
    target: Annotated[str, typer.Option("--target", help="Comma-separated targets, or 'all'.")] = "all",
    precision: Annotated[str | None, typer.Option(help="As for export; fp32 where the device has it.")] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Sizes of dynamic axes, height=400,width=600.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say per target, before any build, what it lacks of MODEL, what we will rewrite, and where precision is at risk.

    Nothing is compiled and no toolchain is needed. Ends with 3 when a target that was named has no path.
    """
    from avsdk_targets.axis_option import asked_axes
    from avsdk_targets.preflight import check_model, checked_precision, opened
    from avsdk_targets.target import resolve_list

    named = [part.strip() for part in target.split(",") if part.strip() not in ("", "all")]
    targets = resolve_list(target)
    precision = checked_precision(precision)
    axes = asked_axes(axis or ())
    with opened(model, axes, notice) as found:
        checked = check_model(
            found, targets, precision, {name: size for item in axes.sizes for name, size in item.items()}
        )
    if as_json:
        print_json({"model": model, "targets": [_document(item) for item in checked]})
    else:
        _show(model, checked)
    wanted = [item for item in checked if item.target in named]
    if any(not item.has_path for item in wanted):
        raise typer.Exit(3)
    ready = next((item for item in checked if item.has_path), None)
    if ready is not None:
        asked = f" --precision {precision}" if precision else ""
        next_step(f"avsdk export {model} --target {ready.target}{asked}")


def _document(item: Checked) -> dict[str, Any]:
    from avsdk.schema import encode

    return {
        "target": item.target,
        "engine": item.engine,
        "precision": item.precision,
        "verdict": item.verdict,
        "basis": item.basis,
        "findings": encode(item.findings),
    }


def _show(model: str, checked: tuple[Checked, ...]) -> None:
    """One paragraph per target; targets about which the same is said share one."""
    groups: dict[tuple[Any, ...], list[Checked]] = {}
    for item in checked:
        groups.setdefault((item.engine, item.precision, item.verdict, item.findings), []).append(item)
    for same in groups.values():
        first = same[0]
        engine = f" ({first.engine}, {first.precision})" if first.engine else ""
        show(f"{', '.join(item.target for item in same)}{engine}: {_VERDICTS[first.verdict]}")
        for finding in sorted(first.findings, key=lambda item: not item.blocks)[:_SHOWN]:
            _show_finding(finding)
        if len(first.findings) > _SHOWN:
            show(f"  and {len(first.findings) - _SHOWN} more: --json lists them all")
        if first.basis:
            show(f"  judged by what is known of {first.basis}")
    paths = sum(item.has_path for item in checked)
    show(f"{model}: {paths} of {len(checked)} targets have a path")


def _show_finding(finding: Finding) -> None:
    mark = "x" if finding.blocks else "-"
    where = ", ".join(part for part in (finding.graph, finding.node) if part)
    show(f"  {mark} {finding.kind}: {finding.text}{f' ({where})' if where else ''}")
    if finding.fix:
        show(f"      {finding.fix}")
