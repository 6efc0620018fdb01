"""MODEL + target -> bundle: materialise the source, compile each graph, verify on golden samples, publish whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import avsdk
from avsdk import __version__, nvidia, plugins
from avsdk.bundle import Bundle, open_bundle
from avsdk.errors import AvsdkError, NotAvailable, UsageError
from avsdk.files import sha256_file, typed_write_errors, write_atomic
from avsdk.host import probe
from avsdk.schema import encode
from avsdk.session import session_class
from avsdk.source import ModelSource, SourceFiles
from avsdk.spec_request import AskedRange
from avsdk_targets.accurate import Budget, build_within
from avsdk_targets.assembly import Assembly, proven
from avsdk_targets.auto import AUTO, fastest
from avsdk_targets.bundle_files import (
    files_from_source,
    leave_onnx,
    make_out,
    publish,
    source_document,
)
from avsdk_targets.cache import FolderCache, cache_key, work_folder
from avsdk_targets.calibration import Calibration, fingerprint
from avsdk_targets.export_settings import require_known, split_settings, unread
from avsdk_targets.limits import Limits
from avsdk_targets.placement import Placement, placed
from avsdk_targets.plan import Plan, plan_target
from avsdk_targets.prepared import Prepared
from avsdk_targets.proof import proof_for
from avsdk_targets.spec_file import SpecFile, read_spec_file, require_labels_fit
from avsdk_targets.speed import accuracy_notices
from avsdk_targets.target import Target

Notice = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What ``avsdk export`` was asked for beside the model and its targets.

    ``sizes``: one mapping per ``--axis`` that gives sizes; ``ranges``: what axes may be; ``spec``: a spec file.
    ``calibration``: real inputs that quantisers and measures of accuracy see; ``limits``: what accuracy may be lost.
    ``compare_speed``: measure an int8 bundle beside its fp32 sibling, where the machine can; a tuner does that itself.
    """

    out: Path
    precision: str | None = None
    sizes: tuple[Mapping[str, int], ...] = ()
    ranges: Mapping[str, AskedRange] = field(default_factory=dict)
    spec: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    limits: Limits = Limits()
    compare_speed: bool = True

    def __post_init__(self) -> None:
        if self.limits and self.calibration is None:
            raise UsageError(
                f"{self.limits} cannot be measured: there is nothing to measure on",
                expected="the model's own inputs",
                fix="--calibration DIR, of which a tenth is held back for that, or --data DIR",
            )


@dataclass(frozen=True)
class Exported:
    """One finished bundle. ``notices``: what was decided without being asked for, as another precision than fp32."""

    bundle: Bundle
    seconds: float
    cached: bool
    passed_over: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def snr_db(self) -> float | None:
        """The worst SNR against fp32 on held-back inputs; None where there were none to measure on."""
        return self._accuracy().get("snr_db")

    @property
    def drop(self) -> float | None:
        """The share of its fp32 value that the family's metric lost; None where the model has no metric."""
        return self._accuracy().get("drop")

    def _accuracy(self) -> Mapping[str, float]:
        found: Mapping[str, float] = self.bundle.manifest.measured.get("accuracy", {})
        return found


class Exporter:
    """Exports one model to any number of targets; the source is materialised once, and only if no cache answers.

    ``build(target, precision)`` is what a tuner calls: the ``Exported`` has the bundle (``bundle.path``), the precision
    that executed (``bundle.manifest.effective_precision``), ``drop`` and ``snr_db``; it raises ``BudgetNotMet`` where
    no choice of layers meets the options' limits. Axes, calibration and limits are those of the options.
    """

    def __init__(self, model: str, options: ExportOptions, notice: Notice) -> None:
        self.model = model
        self.options = options
        self.notice = notice
        self.source = find_source(model)
        self._for_engines, for_source = split_settings(options.settings)
        require_known(for_source, getattr(self.source, "settings", ()), model)
        said = SpecFile() if options.spec is None else read_spec_file(options.spec)
        request = replace(said.request, axes={**said.request.axes, **options.ranges})
        self._assets = dict(said.assets)
        self._source_options = {
            **for_source,
            "sizes": json.dumps([dict(sorted(sizes.items())) for sizes in options.sizes]),
            **request.to_option(),
        }
        self._fingerprint = self.source.fingerprint(model, self._source_options)
        make_out(options.out)
        self._held = ExitStack()
        self._work = self._held.enter_context(work_folder())
        self._files: SourceFiles | None = None
        self._failure: AvsdkError | None = None
        self._cache = FolderCache("bundles", notice)

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def export(self, target: Target, precision: str | None = None) -> Exported:
        """Build, verify and publish the bundle for one target, or take it from the build cache.

        ``precision`` stands before that of the options.
        """
        asked = precision or self.options.precision
        if asked == AUTO:
            built = fastest(target, self.build, self.notice)
            return replace(built, bundle=publish(built.bundle.path, self.options.out))
        return self._exported(Placement(plan_target(target, asked)))

    def export_placed(self, targets: Mapping[str, Target]) -> Exported:
        """``export`` with a target for each graph."""
        if self.options.precision == AUTO:
            raise UsageError(
                "--precision auto chooses for one target, not for graphs on several",
                expected="a precision that all of them have",
                fix="--precision P",
            )
        return self._exported(placed(targets, self.options.precision))

    def _exported(self, placement: Placement) -> Exported:
        for plan in placement.plans():
            if plan.compiler.baseline:
                raise NotAvailable(
                    f"{plan.compiler.engine} makes no bundle: it is the baseline that others are measured against",
                    expected="a target whose artifact ships: avsdk doctor",
                    fix=f"avsdk bench {self.model} --target {plan.target.name}",
                )
        built = self._built(placement)
        return replace(built, bundle=publish(built.bundle.path, self.options.out))

    def with_onnx_left(self, target: Target, error: AvsdkError) -> AvsdkError:
        """The error of an export; where nothing here can compile for the device, the ONNX is left in ``out`` and named.

        That is so for a withdrawn device, and where the compiler raised ``Prepared``.
        """
        if not isinstance(error, NotAvailable) or not (target.withdrawn or isinstance(error, Prepared)):
            return error
        return leave_onnx(self.materialise(), target.name, self.options.out, error)

    def build(self, target: Target, precision: str | None = None) -> Exported:
        """Build and verify, and leave the bundle in the build cache: for what is measured here and ships nowhere."""
        return self._built(Placement(plan_target(target, precision or self.options.precision)))

    def _built(self, placement: Placement) -> Exported:
        started = time.monotonic()
        plan = placement.whole
        key = cache_key({"": self._key(plan), **{name: self._key(item) for name, item in placement.graphs.items()}})
        cached = self._cache.get(key)
        with typed_write_errors(self._work):
            bundle = open_bundle(cached or self._cache.put(key, self._build(placement)))
        settings = self._engine_settings(plan)
        taken = [item.candidate.engine for item in placement.plans()]
        kept = {name: said for name, said in self._for_engines.items() if name in _engines_of(plan)}
        notices = (*plan.notices, *plan.compiler.notices(settings), *unread(kept, taken), *_notices_of(bundle, plan))
        return Exported(bundle, time.monotonic() - started, cached is not None, plan.passed_over, notices)

    def _key(self, plan: Plan) -> str:
        host = probe()
        engine = session_class(plan.candidate.engine)
        return cache_key(
            {
                "avsdk": __version__,
                "source": self._fingerprint,
                "target": plan.target.name,
                "engine": plan.candidate.engine,
                "device": plan.candidate.device,
                "arch": plan.candidate.arch,
                "precision": plan.precision,
                "options": dict(plan.candidate.profile.options),
                "sizes": [dict(sizes) for sizes in self.options.sizes],
                "accuracy": self._accuracy_key(),
                "assets": {name: sha256_file(file) for name, file in self._assets.items()},
                "driver": nvidia.driver_version(),
                "compiler": plan.compiler.identity(),
                "settings": dict(plan.compiler.settings_identity(self._engine_settings(plan))),
                "proof": encode(proof_for(plan.candidate)),
                "verified_here": engine.availability(plan.candidate.device).ok,
                "code": _code_version(),
                "host": [host.cpu, host.isa],
            }
        )

    def _accuracy_key(self) -> Mapping[str, Any]:
        """What the calibration and the limits decide of a build."""
        asked = self.options.calibration
        if asked is None:
            return {}
        return {
            "limits": encode(self.options.limits),
            "samples": asked.samples,
            "files": [fingerprint(asked.folder), fingerprint(asked.data)],
            "compare_speed": self.options.compare_speed,
        }

    def _engine_settings(self, plan: Plan) -> Mapping[str, str]:
        return self._for_engines.get(plan.candidate.engine, {})

    def _build(self, placement: Placement) -> Path:
        """Make the bundle in the work folder; a build that fails parity or its budget raises and is not kept."""
        assembly = Assembly(placement, self.materialise(), self._work, self.options.sizes, self._for_engines)
        if self.options.calibration is not None:
            budget = Budget(self.options.calibration, self.options.limits, self.options.compare_speed)
            return build_within(assembly, budget, self.notice)
        return proven(*assembly.draft(), placement.whole)

    def materialise(self) -> SourceFiles:
        """The source's files, cached or made now; a model that cannot be exported is tried for one target only."""
        if self._failure is not None:
            raise self._failure
        if self._files is None:
            cache = FolderCache("sources", self.notice)
            try:
                with typed_write_errors(self._work):
                    folder = cache.get(self._fingerprint) or cache.put(self._fingerprint, self._made())
            except AvsdkError as error:
                self._failure = error
                raise
            self._files = self._with_assets(files_from_source(json.loads((folder / "source.json").read_text()), folder))
        return self._files

    def _with_assets(self, files: SourceFiles) -> SourceFiles:
        """The source's files and those of the spec file."""
        if not self._assets:
            return files
        require_labels_fit(files.spec, self._assets)
        spec = replace(files.spec, assets={**files.spec.assets, **{name: f"assets/{name}" for name in self._assets}})
        return replace(files, spec=spec, assets={**files.assets, **self._assets})

    def _made(self) -> Path:
        self.notice(f"making ONNX from {self.model}")
        made = self._work / "source"
        made.mkdir()
        files = self.source.materialise(self.model, made, self._source_options)
        write_atomic(made / "source.json", json.dumps(source_document(files, made)))
        return made


def find_source(model: str) -> ModelSource:
    """The source that claims the model. Raises ``UsageError`` naming what MODEL may be."""
    for name in plugins.list_names("sources"):
        source: ModelSource = plugins.load("sources", name)()
        if source.claims(model):
            return source
    raise UsageError(
        f"no model {model!r}",
        expected="a run folder, zoo:NAME, a .onnx file, a bundle, or package.module:function",
        fix="avsdk zoo list shows the models that come with avsdk",
    )


def _engines_of(plan: Plan) -> set[str]:
    return {candidate.engine for candidate in plan.target.candidates}


def _notices_of(bundle: Bundle, plan: Plan) -> tuple[str, ...]:
    """What the build decided without being asked, and why the proof is not a stronger one."""
    decided = [notice for item in bundle.manifest.artifacts for notice in item.options.get("notices", ())]
    decided += accuracy_notices(bundle.manifest)
    notice = proof_for(plan.candidate).notice
    return (*dict.fromkeys(decided), *([notice] if notice else []))


def _code_version() -> str:
    """A hash of the code that decides a build and its record, so that an edited one never answers from an old cache."""
    folders = [Path(__file__).parent, Path(avsdk.__file__).parent]
    files = [file for folder in folders for file in sorted([*folder.glob("*.py"), *folder.glob("*/*.py")])]
    return cache_key({f"{file.parent.name}/{file.name}": file.read_text(encoding="utf-8") for file in files})
