"""Whether a model has a path to a target, before any build and without the toolchain: operators, shapes, precision.

The models' nodes are read in a child process, where the rewrites that a build would apply are applied first. What is
found comes from the engines' operator tables, from what the compilers say, and from the devices' profiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from avsdk import plugins
from avsdk.errors import ToolchainCrashed, UnknownName
from avsdk.onnx_check import check_onnx
from avsdk.precision import PRECISIONS
from avsdk.schema import decode
from avsdk.spec import GraphSpec
from avsdk.spec_request import SpecRequest, requested_spec
from avsdk.worker import call_in_child
from avsdk_targets.axis_option import AskedAxes
from avsdk_targets.build import find_source
from avsdk_targets.compiler import Compiler
from avsdk_targets.operator_table import Finding, load_table
from avsdk_targets.sources import OnnxSource, spec_of
from avsdk_targets.target import Candidate, Target

Verdict = Literal["ok", "rewrite", "no_path", "unknown"]

_TIMEOUT_S = 600.0
_MEMORY_MB = 16_384


@dataclass(frozen=True)
class Model:
    """What is judged: the graphs, their ONNX files, and which of them come with their PyTorch program."""

    name: str
    graphs: tuple[GraphSpec, ...]
    onnx: Mapping[str, Path]
    programs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Checked:
    """The verdict on one target: by which engine, at which precision, what it rests on, and every finding.

    ``basis`` names the toolchain that the engine's table holds for; empty where there is no table.
    """

    target: str
    engine: str
    precision: str
    verdict: Verdict
    basis: str
    findings: tuple[Finding, ...] = ()

    @property
    def has_path(self) -> bool:
        """Whether a build can be tried."""
        return self.verdict != "no_path"


@dataclass(frozen=True)
class _Build:
    """One candidate of a target: what is known without its nodes."""

    target: Target
    candidate: Candidate
    precision: str
    program: bool
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def request(self, model: Model, graph: GraphSpec, sizes: Mapping[str, int]) -> dict[str, Any]:
        """What the child is asked for."""
        known = all(isinstance(axis, int) or axis in graph.axes for item in graph.inputs for axis in item.shape)
        complete = {**graph.default_sizes(), **{name: size for name, size in sizes.items() if name in graph.axes}}
        return {
            "engine": self.candidate.engine,
            "device": self.candidate.device,
            "arch": self.candidate.arch,
            "precision": self.precision,
            "program": graph.name in model.programs,
            "shapes": {item.name: list(item.sized(complete)) for item in graph.inputs} if known else None,
        }


def check_model(
    model: Model, targets: Sequence[Target], precision: str | None, sizes: Mapping[str, int]
) -> tuple[Checked, ...]:
    """One verdict per target, in order: of the first of its engines with a path, else of its first."""
    builds = [
        _build(model, target, candidate, precision, sizes) for target in targets for candidate in target.candidates
    ]
    asked = {_key(build): build for build in builds}
    answers = _examined(model, list(asked.values()), sizes)
    found = dict(zip(asked, answers, strict=True))
    return tuple(_checked(target, precision, builds, found) for target in targets)


def verdict_of(findings: Iterable[Finding], *, known: bool = True) -> Verdict:
    """``no_path`` where one blocks, ``unknown`` where no table speaks, ``rewrite`` where we change the model."""
    listed = list(findings)
    if any(item.blocks for item in listed):
        return "no_path"
    if not known:
        return "unknown"
    return "rewrite" if any(item.kind == "rewrite" for item in listed) else "ok"


def findings_of(answer: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The findings of one answer of ``examine``; each thing said once for an operator, with one node's name."""
    rewrites = [Finding(answer.get("graph", ""), "", "", "rewrite", text) for text in answer["applied"]]
    listed = [*rewrites, *(decode(Finding, item, where="finding") for item in answer["findings"])]
    once: dict[tuple[str, str, str, str], list[Finding]] = {}
    for item in listed:
        once.setdefault((item.graph, item.op, item.kind, item.text), []).append(item)
    return tuple(_gathered(same) for same in once.values())


def _gathered(same: Sequence[Finding]) -> Finding:
    first = same[0]
    if len(same) == 1 or not first.node:
        return first
    return Finding(
        first.graph, f"{first.node} and {len(same) - 1} more", first.op, first.kind, first.text, first.fix, first.blocks
    )


def _key(build: _Build) -> tuple[str, ...]:
    return (build.candidate.engine, build.candidate.device, build.candidate.arch, build.precision)


def _build(model: Model, target: Target, candidate: Candidate, asked: str | None, sizes: Mapping[str, int]) -> _Build:
    """What the compiler and the profile say without a look at the nodes."""
    compiler: Compiler = plugins.load("compilers", candidate.engine)()
    precision = target.precision(asked)
    findings: list[Finding] = []
    if target.precisions and precision not in target.precisions:
        text = f"{target.name} has no {precision}"
        findings.append(_whole("precision", text, f"--precision {target.precisions[0]}", blocks=True))
    else:
        reason = compiler.refusal(candidate.device, candidate.arch, precision)
        if reason:
            others = [
                item
                for item in (target.precisions or compiler.precisions)
                if not compiler.refusal(candidate.device, candidate.arch, item)
            ]
            findings.append(_whole("device", reason, f"--precision {others[0]}" if others else "", blocks=True))
        elif asked is None and precision != "fp32":
            why = "it also has" if "fp32" in target.precisions else "it has no fp32, but"
            rest = ", ".join(item for item in target.precisions if item != precision)
            text = f"{precision} will be built, the first precision of {target.name}"
            findings.append(_whole("precision", f"{text}; {why} {rest}" if rest else text))
    served = candidate.profile.served.get(candidate.engine)
    if served is not None and served.last:
        text = f"{served.product} {served.last} was the last release to serve {target.name} ({served.mark})"
        findings.append(_whole("version", text))
    for graph in model.graphs:
        if compiler.needs_program and graph.name not in model.programs:
            text = f"{candidate.engine} starts from the PyTorch program, and there is an ONNX file only"
            findings.append(_whole("operator", text, "give a run, a zoo name or a module", graph.name, blocks=True))
        if graph.axes and not compiler.keeps_axes(candidate.device):
            given = {**graph.default_sizes(), **{name: size for name, size in sizes.items() if name in graph.axes}}
            shown = ",".join(f"{name}={size}" for name, size in given.items())
            text = f"{candidate.engine} is built at fixed sizes: {shown}"
            findings.append(_whole("shape", text, f"--axis {shown} with other sizes", graph.name))
    programs = all(graph.name in model.programs for graph in model.graphs)
    return _Build(target, candidate, precision, programs, tuple(findings))


def _whole(kind: Any, text: str, fix: str = "", graph: str = "", *, blocks: bool = False) -> Finding:
    return Finding(graph, "", "", kind, text, fix, blocks)


def _examined(model: Model, builds: Sequence[_Build], sizes: Mapping[str, int]) -> list[tuple[Finding, ...]]:
    """The findings on all graphs, per build. A model that kills its reader is one whose verdict is unknown."""
    gathered: list[tuple[Finding, ...]] = [() for _ in builds]
    for graph in model.graphs:
        request = {
            "onnx": str(model.onnx[graph.name]),
            "graph": graph.name,
            "builds": [build.request(model, graph, sizes) for build in builds],
        }
        try:
            answers = call_in_child(
                "avsdk_targets.examine:examine",
                name="check",
                timeout_s=_TIMEOUT_S,
                memory_mb=_MEMORY_MB,
                request=request,
            )
        except ToolchainCrashed as error:
            told = Finding(graph.name, "", "", "operator", f"the model could not be read: {error.failed}", blocks=True)
            answers = [{"applied": [], "findings": [vars(told)]} for _ in builds]
        for index, answer in enumerate(answers):
            gathered[index] += findings_of({**answer, "graph": graph.name})
    return gathered


def _checked(
    target: Target, asked: str | None, builds: Sequence[_Build], found: Mapping[tuple[str, ...], tuple[Finding, ...]]
) -> Checked:
    if target.withdrawn or not target.candidates:
        text = target.withdrawn or f"no engine of avsdk serves {target.name}"
        told = _whole("device", text, "avsdk devices lists the others", blocks=True)
        return Checked(target.name, "", target.precision(asked), "no_path", "", (told,))
    verdicts = []
    for build in builds:
        if build.target is target:
            basis = _basis(build.candidate.engine, program=build.program)
            findings = (*build.findings, *found[_key(build)])
            verdict = verdict_of(findings, known=bool(basis))
            verdicts.append(Checked(target.name, build.candidate.engine, build.precision, verdict, basis, findings))
    return next((item for item in verdicts if item.has_path), verdicts[0])


def _basis(engine: str, *, program: bool) -> str:
    """What the verdicts on an engine rest on: what its compiler names, or its table's toolchain; empty for neither."""
    compiler: Compiler = plugins.load("compilers", engine)().route(program=program)
    table = load_table(engine)
    return compiler.judged_by or ("" if table is None else table.toolchain)


@contextmanager
def opened(name: str, axes: AskedAxes, notice: Callable[[str], None]) -> Iterator[Model]:
    """The model of that name, its files made in a temporary folder. A bare ONNX file is looked through and not run."""
    source = find_source(name)
    if isinstance(source, OnnxSource):
        yield _bare(Path(name), axes)
        return
    with TemporaryDirectory(prefix="avsdk-check-") as folder:
        notice(f"making ONNX from {name}")
        options = {"sizes": json.dumps([dict(sorted(sizes.items())) for sizes in axes.sizes])}
        files = source.materialise(name, Path(folder), options)
        yield Model(name, files.spec.graphs, files.onnx, frozenset(files.programs))


def checked_precision(precision: str | None) -> str | None:
    """The precision as asked for. Raises ``UnknownName`` for a misspelt one."""
    if precision is not None and precision not in PRECISIONS:
        raise UnknownName.among("precision", precision, PRECISIONS)
    return precision


def _bare(path: Path, axes: AskedAxes) -> Model:
    spec, graph = spec_of(path, check_onnx(path))
    asked = requested_spec(spec, SpecRequest(axes=axes.ranges), free=frozenset(graph.axes))
    for sizes in axes.sizes:
        asked.graphs[0].complete_sizes(sizes)
    return Model(path.name, asked.graphs, {asked.graphs[0].name: path})
