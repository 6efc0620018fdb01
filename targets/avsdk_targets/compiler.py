"""The host half of an engine: ONNX in, artifact out, built in a child process.

A compiler names the package it needs and the toolchain that holds it. ``compile`` runs the compiler's module-level
``build`` function in a child: in the SDK's own environment when a fitting version of the package is importable there,
else in the installed toolchain. A crash in there is a typed error here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from avsdk.errors import NotAvailable, UsageError
from avsdk.onnx_check import OnnxLimits, check_onnx, require_limits
from avsdk.schema import encode
from avsdk.session import Artifact
from avsdk.spec import GraphSpec
from avsdk.worker import call_in_child
from avsdk_targets.operator_table import Finding, NodeFact, load_table, table_findings
from avsdk_targets.rewrite import RewritePlan, rewritten_model
from avsdk_targets.toolchain import Environment, PackageNeed, environment_for

_BUILD_TIMEOUT_S = 900.0
_BUILD_MEMORY_MB = 16_384


@dataclass(frozen=True)
class Quantisation:
    """How a graph that carries no quantisation is to be quantised.

    ``samples``: the graph's own inputs on calibration data, a golden file. ``kept``: the ONNX names of the nodes that
    stay in fp32. ``isa``: the instruction sets of the processor that is built for, which decide what saturates.
    ``cache``: a folder for what does not depend on ``kept``, as the ranges that the samples reach.
    """

    samples: Path
    cache: Path
    kept: tuple[str, ...] = ()
    isa: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompileJob:
    """One graph to compile. ``sizes`` is one size per dynamic axis, or None to keep the axes dynamic.

    ``golden`` is the graph's .npz of reference samples. ``program`` is the ExportedProgram, where there is one.
    ``quantisation`` is asked for where the precision is int8 and the model carries none of its own.
    """

    onnx: Path
    graph: GraphSpec
    device: str
    arch: str
    precision: str
    out: Path
    program: Path | None = None
    golden: Path | None = None
    sizes: Mapping[str, int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    quantisation: Quantisation | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a compiler can do a job here; when not, why, and the exact line that would fix it.

    ``explains``: it cannot, and a try still refuses with what it found out about the model.
    """

    ok: bool
    reason: str = ""
    fix: str = ""
    explains: bool = False


@dataclass(frozen=True)
class Compiled:
    """An artifact and the packages that made it, by version."""

    artifact: Artifact
    built_with: Mapping[str, str]


class Compiler(ABC):
    """Subclasses set the class attributes and ``build``; ``refusal`` says what they cannot do, before any build.

    ``settings`` are what ``--set ENGINE.NAME=VALUE`` may say, each with its meaning; they reach ``build`` among the
    job's options, beside those of the device's profile. ``rewrites`` is how a model is made fit for this engine.
    ``devices`` are what ``--target ENGINE:DEVICE`` may say beside the names of the catalogue, each with its ``arch``:
    what this machine may have and no profile describes, as ``{"gpu": "host"}``. What stands after a second colon is the
    device's own, as in ``openvino:hetero:gpu+cpu``, and reaches the compiler as it was written.

    ``needs_ranges``: it keeps dynamic axes only within ranges that somebody gave, as an optimisation profile has them.
    ``quantises``: it makes int8 of a model that carries no quantisation, by calibration samples, and says in its
    answer's ``options["layers"]`` which layer computes in what, by ONNX name. ``takes_qdq``: it is given the model with
    symmetric Q/DQ instead, by ONNX Runtime's quantiser.
    ``judged_by``: what its own ``findings`` rest on, where no operator table does. ``needs_program``: it starts from
    the PyTorch program, so it cannot serve a bare ONNX file. ``baseline``: this engine makes no bundle that ships;
    ``avsdk bench`` measures it from the model itself, once with each of these settings.
    """

    engine: str
    package: PackageNeed
    toolchain: str | None = None
    onnx_limits: OnnxLimits
    dynamic_axes: bool = True
    needs_ranges: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    settings: Mapping[str, str] = {}
    devices: Mapping[str, str] = {}
    rewrites: RewritePlan = RewritePlan()
    judged_by: str = ""
    needs_program: bool = False
    quantises: bool = False
    takes_qdq: bool = False
    baseline: tuple[Mapping[str, str], ...] = ()

    @property
    @abstractmethod
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The module-level function that runs in the child; its request and answer are JSON documents."""

    def keeps_axes(self, device: str) -> bool:
        """Whether dynamic axes stay dynamic on this device; else each size is a build of its own."""
        del device
        return self.dynamic_axes

    def notices(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        """What is to be said of a build with these settings, as that they weaken a promise."""
        del settings
        return ()

    def tunables(self, device: str, *, many: bool = False) -> Mapping[str, tuple[str, ...]]:
        """The ``settings`` worth a search on that device, each with values to try, what stands by itself first.

        They are of those that take effect when the artifact is loaded, so that one build serves for all of them.
        ``many``: requests come many at a time, so that those count which make them execute side by side.
        """
        del device, many
        return {}

    def session_options(self, settings: Mapping[str, str], device: str) -> dict[str, Any]:
        """What an artifact records of the settings that take effect when it is loaded: its option ``session``.

        Raises ``UsageError`` for a value that is none.
        """
        del settings, device
        return {}

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """Why this compiler cannot build for that device at that precision; empty when it can."""
        del device, arch
        if precision not in self.precisions:
            return f"{self.engine} builds {', '.join(self.precisions)}, not {precision}"
        return ""

    def check(self, device: str, arch: str, precision: str) -> Verdict:
        """Whether a build can be tried here: the precision, the device, and the compiler's package."""
        reason = self.refusal(device, arch, precision)
        if reason:
            return Verdict(
                False, reason, f"--precision {self.precisions[0]}" if precision not in self.precisions else ""
            )
        try:
            self.environment()
        except NotAvailable as error:
            return Verdict(False, error.failed, error.fix)
        return Verdict(True)

    def environment(self, job: CompileJob | None = None) -> Environment:
        """The Python that builds ``job``, or any job; raises ``NotAvailable`` with the line that would install it."""
        del job
        return environment_for(self.package, self.toolchain)

    def route(self, *, program: bool) -> Compiler:
        """The compiler that really does it, for a graph with or without its PyTorch program."""
        del program
        return self

    def findings(
        self, model: Any, graph: str, nodes: Sequence[NodeFact], device: str, arch: str, precision: str
    ) -> Sequence[Finding]:
        """What is to be known of a model before a build, by the engine's operator table; nothing where it has none.

        ``model`` is the ONNX ModelProto as it would be compiled, rewrites done. A compiler may add what it knows.
        """
        del model
        table = None if self.judged_by else load_table(self.engine)
        return [] if table is None else list(table_findings(table, graph, nodes, device, arch, precision))

    def identity(self) -> Mapping[str, str]:
        """What decides the result beside the job: the environment's package versions; part of the build cache's key."""
        return self.environment().versions

    def settings_identity(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        """The settings as far as they decide the result, files that they name included; part of the cache's key."""
        return settings

    def compile(self, job: CompileJob) -> Compiled:
        """Build the artifact beneath ``job.out``. Raises ``NotAvailable`` for what cannot be built here."""
        reason = self.refusal(job.device, job.arch, job.precision)
        if reason:
            raise NotAvailable(
                f"{self.engine} cannot compile {job.graph.name!r}: {reason}", fix=f"avsdk doctor {self.engine}"
            )
        if not self.keeps_axes(job.device) and job.graph.axes and job.sizes is None:
            raise UsageError(
                f"{self.engine} is built at fixed sizes", expected="sizes", fix="--axis height=...,width=..."
            )
        if self.needs_program and job.program is None:
            raise NotAvailable(
                f"{self.engine} cannot compile {job.graph.name!r}: there is an ONNX file only, no PyTorch program",
                expected="a run, a zoo name or a module, which come with their program",
                fix="give the model's source instead of its ONNX file or bundle",
            )
        if job.quantisation is not None and not (self.quantises or self.takes_qdq):
            raise NotAvailable(
                f"{self.engine} has no quantiser here",
                expected="a model that carries its own quantisation, or an engine that makes it",
                fix="quantise the ONNX file first, or --precision fp16",
            )
        environment = self.environment(job)
        with TemporaryDirectory(prefix="avsdk-rewrite-") as folder:
            rewritten = rewritten_model(job.onnx, Path(folder), self.rewrites, job.graph, job.sizes)
            request = {**self._request(job), "onnx": str(rewritten.onnx), "rewritten": list(rewritten.applied)}
            layers: dict[str, str] = {}
            if self.takes_qdq and job.quantisation is not None:
                request["onnx"], layers = _with_qdq(request, Path(folder))
            require_limits(check_onnx(Path(request["onnx"])), self.onnx_limits, engine=self.engine)
            answer = call_in_child(
                self.build,
                name=f"compile-{self.engine}",
                python=environment.python,
                timeout_s=_BUILD_TIMEOUT_S,
                memory_mb=_BUILD_MEMORY_MB,
                request=request,
            )
        options = {**answer.get("options", {}), **({"layers": layers} if layers else {})}
        artifact = Artifact(
            graph=job.graph.name,
            engine=self.engine,
            device=job.device,
            precision=job.precision,
            files=tuple(answer["files"]),
            shapes=None if job.sizes is None else dict(job.sizes),
            options={**options, "rewritten": list(rewritten.applied)} if rewritten.applied else options,
        )
        return Compiled(artifact, dict(answer.get("built_with", {})))

    def _request(self, job: CompileJob) -> dict[str, Any]:
        return {
            "onnx": str(job.onnx),
            "program": None if job.program is None else str(job.program),
            "golden": None if job.golden is None else str(job.golden),
            "graph": encode(job.graph),
            "device": job.device,
            "arch": job.arch,
            "precision": job.precision,
            "sizes": None if job.sizes is None else dict(job.sizes),
            "options": dict(job.options),
            "out": str(job.out),
            "quantisation": _document(job.quantisation),
        }


def _document(quantisation: Quantisation | None) -> dict[str, Any] | None:
    """The request's part for the quantiser."""
    if quantisation is None:
        return None
    return {
        "samples": str(quantisation.samples),
        "cache": str(quantisation.cache),
        "kept": list(quantisation.kept),
        "isa": list(quantisation.isa),
    }


def _with_qdq(request: Mapping[str, Any], folder: Path) -> tuple[str, dict[str, str]]:
    """The model with symmetric Q/DQ, and which layer computes in what; made in the SDK's own environment."""
    out = folder / "qdq"
    out.mkdir()
    answer = call_in_child(
        "avsdk_targets.compilers.onnxruntime:quantise",
        name="quantise",
        timeout_s=_BUILD_TIMEOUT_S,
        memory_mb=_BUILD_MEMORY_MB,
        request={**request, "out": str(out)},
    )
    return str(out / answer["files"][0]), answer["layers"]
