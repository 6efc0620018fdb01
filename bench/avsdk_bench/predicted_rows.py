"""Rows for devices that are not here, and what the roofline says of rows that were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avsdk import host
from avsdk.bundle import Bundle, open_bundle
from avsdk.errors import AvsdkError, NotAvailable, ToolchainCrashed, UnusableInput
from avsdk.files import cache_home, sha256_file
from avsdk.golden import PIPELINE
from avsdk.spec import GraphSpec, ModelSpec, Sizes
from avsdk_bench.calibration import Rates
from avsdk_bench.facts import GraphFacts, facts_of_graph
from avsdk_bench.plan import CellPlan, check_axes
from avsdk_bench.predict import Prediction, predict, predicted
from avsdk_bench.report import Row
from avsdk_bench.roofline import Roof, roof_here, roofline_facts
from avsdk_bench.subjects import Notice, Request, Subject
from avsdk_bench.work import Work, graph_work
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.device import Device, load_device


@dataclass(frozen=True)
class _Model:
    """The ONNX graphs of a model and its spec."""

    spec: ModelSpec
    onnx: Mapping[str, Path]


def predicted_rows(
    subjects: Sequence[Subject], request: Request, notice: Notice
) -> tuple[list[Row], dict[int, AvsdkError]]:
    """A row per graph and size for each subject on a device that is not here, and the errors of those without a number.

    Errors are by place among these rows. Raises ``UsageError`` for axes that the model does not have.
    """
    rows: list[Row] = []
    errors: dict[int, AvsdkError] = {}
    with ExitStack() as stack:
        models: dict[str, _Model] = {}
        for subject in subjects:
            assert subject.elsewhere is not None
            if subject.name not in models:
                models[subject.name] = _model_of(subject, request, notice, stack)
            for row, error in _rows_of(subject, models[subject.name], subject.elsewhere):
                if error is not None:
                    errors[len(rows)] = error
                rows.append(row)
    return rows, errors


def _model_of(subject: Subject, request: Request, notice: Notice, stack: ExitStack) -> _Model:
    """A bundle's own ONNX, or what the source of a model makes, from its cache where that has it."""
    if subject.bundle is not None:
        manifest = subject.bundle.manifest
        files = {name: subject.bundle.file(file) for name, file in manifest.model.items()}
        return _Model(manifest.spec, files)
    options = ExportOptions(cache_home() / "bundles", sizes=subject.sizes, settings=request.settings)
    made = stack.enter_context(Exporter(subject.name, options, notice)).materialise()
    return _Model(made.spec, made.onnx)


def _rows_of(subject: Subject, model: _Model, device: Device) -> Iterator[tuple[Row, AvsdkError | None]]:
    check_axes(model.spec.graphs, subject.sizes)
    for graph in model.spec.graphs:
        wanted = [model.spec.sizes_for(graph, sizes) for sizes in subject.sizes or ({},)]
        for sizes in [item for place, item in enumerate(wanted) if item not in wanted[:place]]:
            row = _bare_row(subject, graph, sizes, device, model.onnx[graph.name])
            try:
                found = predict(
                    model.onnx[graph.name], sizes, device, subject.precision, engine=row.engine, graph=graph
                )
                yield _filled(row, found, subject), None
            except (NotAvailable, UnusableInput, ToolchainCrashed) as error:
                yield replace(row, status="unavailable", reason=error.failed, fix=error.fix), error


def _bare_row(subject: Subject, graph: GraphSpec, sizes: Sizes, device: Device, onnx: Path) -> Row:
    """``threads`` is 0: what is predicted is the whole device."""
    assert subject.target is not None
    candidates = subject.target.candidates
    return Row(
        bundle=subject.name, graph=graph.name, target=subject.target.name,
        engine=candidates[0].engine if candidates else "", device=device.name, precision=subject.precision, threads=0,
        shapes=dict(sizes), size_mb=None, status="predicted", graphs=(_facts(graph.name, onnx),),
    )  # fmt: skip


def _facts(name: str, onnx: Path) -> GraphFacts:
    return facts_of_graph(name, onnx, sha256_file(onnx))


def _filled(row: Row, found: Prediction, subject: Subject) -> Row:
    low, high = found.interval_ms
    said = [
        f"predicted, not measured: {row.device} is not here",
        subject.remark,
        found.basis,
        subject.target.withdrawn if subject.target else "",
    ]
    return replace(
        row,
        reason="; ".join(text for text in said if text),
        p50_ms=round(found.p50_ms, 6),
        p50_ci_ms=(round(low, 6), round(high, 6)),
        includes=("infer",),
        prediction=prediction_facts(found),
        roofline={
            "bound_ms": round(found.bound_ms, 6),
            "bound_by": found.bound_by,
            "flops": found.work.flops,
            "bytes": found.work.moved_bytes(found.precision),
            "flops_by_kind": found.work.flops_by_kind(),
        },
    )


def prediction_facts(found: Prediction) -> dict[str, Any]:
    """What a row says of its prediction; ``level`` is what the interval is to hold."""
    return {
        "p50_ms": round(found.p50_ms, 6),
        "interval_ms": [round(end, 6) for end in found.interval_ms],
        "level": found.level,
        "bound_by": found.bound_by,
        "parts_ms": dict(found.parts_ms),
        "basis": found.basis,
    }


# -- beside what was measured ----------------------------------------------------------------------------------------


def with_rooflines(rows: Sequence[Row], plans: Sequence[CellPlan], rates: Rates) -> tuple[Row, ...]:
    """Each measured row of one graph on this processor with its bound, and what would have been predicted of it."""
    roof = roof_here(rates, host.probe().isa)
    return tuple(_beside(row, plan, roof) for row, plan in zip(rows, plans, strict=True))


def _beside(row: Row, plan: CellPlan, roof: Roof) -> Row:
    if row.status != "measured" or row.graph == PIPELINE or plan.device not in ("cpu", "this-cpu"):
        return row
    if "bundle" not in plan.arguments:  # a cell that is no model's
        return row
    try:
        opened: Bundle = open_bundle(Path(str(plan.arguments["bundle"])))
        manifest = opened.manifest
        work = graph_work(opened.file(manifest.model[row.graph]), manifest.spec.graph(row.graph), plan.sizes)
        facts = roofline_facts(work, roof, row.precision, row.p50_ms)
    except AvsdkError as error:  # the measurement stands without its bound
        return replace(row, roofline={"reason": error.failed})
    return replace(row, roofline=facts, prediction=_error_of(row, work, roof))


def _error_of(row: Row, work: Work, roof: Roof) -> dict[str, Any] | None:
    """What the fit of this engine says of the cell, and how far it is off: a share of what was measured."""
    try:
        found = predicted(work, load_device("this-cpu"), row.precision, roof, row.engine)
    except NotAvailable:
        return None
    facts = prediction_facts(found)
    return {**facts, "error": round(found.p50_ms / row.p50_ms - 1.0, 4)} if row.p50_ms else facts
