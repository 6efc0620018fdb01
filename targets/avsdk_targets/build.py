"""MODEL + target -> bundle: materialise the source, compile each graph, verify on golden samples, publish whole."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import avsdk
from avsdk import __version__, nvidia, plugins
from avsdk.bundle import Artifact, Bundle, Manifest, open_bundle, write_manifest
from avsdk.errors import AvsdkError, NotAvailable, UsageError
from avsdk.files import sha256_file, typed_write_errors, write_atomic
from avsdk.host import probe
from avsdk.parity import Parity
from avsdk.precision import check_executed
from avsdk.schema import encode
from avsdk.session import session_class
from avsdk.source import ModelSource, SourceFiles
from avsdk.spec import GraphSpec
from avsdk.spec_request import AskedRange
from avsdk.stages import Stages
from avsdk.verify import verify_bundle
from avsdk_targets.bundle_files import (
    files_from_source,
    leave_onnx,
    make_out,
    place_files,
    place_models,
    publish,
    source_document,
)
from avsdk_targets.cache import FolderCache, cache_key, work_folder
from avsdk_targets.compiler import CompileJob
from avsdk_targets.export_settings import require_known, split_settings, unread
from avsdk_targets.placement import Placement, placed
from avsdk_targets.plan import Plan, plan_target
from avsdk_targets.prepared import Prepared
from avsdk_targets.proof import proof_for
from avsdk_targets.sources import GUESSED
from avsdk_targets.spec_file import SpecFile, read_spec_file, require_labels_fit
from avsdk_targets.stages import write_stages
from avsdk_targets.target import Target

Notice = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What ``avsdk export`` was asked for beside the model and its targets.

    ``sizes``: one mapping per ``--axis`` that gives sizes; ``ranges``: what axes may be; ``spec``: a spec file.
    """

    out: Path
    precision: str | None = None
    sizes: tuple[Mapping[str, int], ...] = ()
    ranges: Mapping[str, AskedRange] = field(default_factory=dict)
    spec: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """One finished bundle. ``notices``: what was decided without being asked for, as another precision than fp32."""

    bundle: Bundle
    seconds: float
    cached: bool
    passed_over: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


class Exporter:
    """Exports one model to any number of targets; the source is materialised once, and only if no cache answers."""

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

    def export(self, target: Target) -> Exported:
        """Build, verify and publish the bundle for one target, or take it from the build cache."""
        return self._exported(Placement(plan_target(target, self.options.precision)))

    def export_placed(self, targets: Mapping[str, Target]) -> Exported:
        """``export`` with a target for each graph."""
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

    def build(self, target: Target) -> Exported:
        """Build and verify, and leave the bundle in the build cache: for what is measured here and ships nowhere."""
        return self._built(Placement(plan_target(target, self.options.precision)))

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

    def _engine_settings(self, plan: Plan) -> Mapping[str, str]:
        return self._for_engines.get(plan.candidate.engine, {})

    def _build(self, placement: Placement) -> Path:
        """Make the bundle in the work folder; a build that fails parity raises and is not kept."""
        files, plan = self.materialise(), placement.whole
        placement.require_graphs([graph.name for graph in files.spec.graphs])
        folder = self._work / f"{plan.candidate.engine}-{plan.candidate.device}-{plan.precision}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = place_models(folder, files.onnx)
        golden = place_files(folder, "golden", files.golden, ".npz")
        place_files(folder, "assets", files.assets, "")
        artifacts: list[Artifact] = []
        built_with: dict[str, str] = {}
        for graph in files.spec.graphs:
            mine = placement.plan_for(graph.name)
            for sizes in self._sizes_to_build(mine, files, graph):
                job = _job(mine, files, graph, folder, sizes, len(artifacts), self._engine_settings(mine))
                compiled = mine.compiler.compile(job)
                names = compiled.artifact.files
                prefix = f"artifacts/{graph.name}/{len(artifacts)}/"
                listed = tuple(prefix + name for name in names) if names else (model[graph.name],)
                artifacts.append(replace(compiled.artifact, files=listed))
                built_with.update(compiled.built_with)
        draft = self._manifest(plan, files, artifacts, built_with, model, golden)
        return _verified(folder, replace(draft, stages=_stages(folder, files, artifacts)), plan)

    def _sizes_to_build(self, plan: Plan, files: SourceFiles, graph: GraphSpec) -> list[Mapping[str, int] | None]:
        """The fixed sizes to build, or one build with dynamic axes.

        Raises ``UsageError`` for an axis whose size or range the engine needs and nobody gave.
        """
        asked = [files.spec.sizes_for(graph, sizes) for sizes in self.options.sizes]
        keeps = plan.compiler.keeps_axes(plan.candidate.device)
        guessed = [name for name in files.origin.get(GUESSED, ()) if name in graph.axes]
        if keeps and plan.compiler.needs_ranges and guessed:
            raise _no_range(plan, guessed, "MIN:MAX")
        if keeps or not graph.axes:
            return [None]
        lacking = [name for name in guessed if not self._is_sized(graph, name)]
        if lacking:
            raise _no_range(plan, lacking, "SIZE")
        return list(asked) or [files.spec.sizes_for(graph, {})]

    def _is_sized(self, graph: GraphSpec, name: str) -> bool:
        """Whether every set of sizes gives the axis, or it leads all its tensors: a batch, run one at a time."""
        if all(tensor.shape[0] == name for tensor in graph.inputs if name in tensor.shape):
            return True
        given = [name in sizes or f"{graph.name}.{name}" in sizes for sizes in self.options.sizes]
        return bool(given) and all(given)

    def _manifest(
        self,
        plan: Plan,
        files: SourceFiles,
        artifacts: list[Artifact],
        built_with: Mapping[str, str],
        model: Mapping[str, str],
        golden: Mapping[str, str],
    ) -> Manifest:
        return Manifest(
            avsdk=__version__,
            spec=files.spec,
            target=plan.target.name,
            engine=plan.candidate.engine,
            device=plan.candidate.device,
            precision=plan.precision,
            effective_precision="unknown",
            source=dict(files.origin),
            artifacts=tuple(artifacts),
            golden=golden,
            built_with={"avsdk": __version__, **built_with},
            parity=Parity.not_run("not verified yet"),
            model=model,
        )

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


def _stages(folder: Path, files: SourceFiles, artifacts: Sequence[Artifact]) -> dict[str, Stages]:
    """The stages of the graphs that can run in bands: their engine opens ONNX, and each is made of what can be cut."""
    found: dict[str, Stages] = {}
    for item in artifacts:
        if item.shapes is None and session_class(item.engine).opens_onnx(item.device, item.precision):
            cut = write_stages(files.onnx[item.graph], files.spec.graph(item.graph), folder)
            found.update({item.graph: cut} if cut else {})
    return found


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


def _no_range(plan: Plan, names: Sequence[str], what: str) -> UsageError:
    axes = f"axis {names[0]!r}" if len(names) == 1 else f"axes {', '.join(names)}"
    return UsageError(
        f"{plan.candidate.engine} needs the sizes of the {axes}, and the model does not say them",
        expected="sizes to build, or ranges: the model names the axes and no more",
        fix=f"--axis {','.join(f'{name}={what}' for name in names)}",
    )


def _job(
    plan: Plan,
    files: SourceFiles,
    graph: GraphSpec,
    folder: Path,
    sizes: Mapping[str, int] | None,
    index: int,
    settings: Mapping[str, str],
) -> CompileJob:
    out = folder / "artifacts" / graph.name / str(index)
    out.mkdir(parents=True)
    return CompileJob(
        onnx=files.onnx[graph.name],
        program=files.programs.get(graph.name),
        golden=files.golden.get(graph.name),
        graph=graph,
        device=plan.candidate.device,
        arch=plan.candidate.arch,
        precision=plan.precision,
        sizes=sizes,
        out=out,
        options={**plan.candidate.profile.options, **settings},
    )


def _verified(folder: Path, draft: Manifest, plan: Plan) -> Path:
    """Write the manifest, run the golden samples, and write it again with the record. Raises when parity fails."""
    for empty in sorted(folder.rglob("*"), reverse=True):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
    write_manifest(folder, draft)
    proof = proof_for(plan.candidate)
    verified = verify_bundle(
        folder, executed_on=proof.executed_on, python=proof.python, env=proof.env, budget_s=proof.budget_s
    )
    where = f"the {plan.candidate.engine}:{plan.candidate.device} bundle"
    verified.parity.require(where=where)
    for graph, shares in verified.precision_shares.items():
        check_executed(plan.precision, shares, where=f"graph {graph!r} of {where}")
    effective = " | ".join(dict.fromkeys(verified.effective_precision.values()))
    measured = {
        "precision_shares": verified.precision_shares,
        "effective_precision": verified.effective_precision,
        **proof.record(),
    }
    complete = replace(
        draft,
        parity=verified.parity,
        effective_precision=effective or f"{plan.precision} (as built; not executed here)",
        measured=measured,
    )
    write_manifest(folder, complete)
    return folder


def _engines_of(plan: Plan) -> set[str]:
    return {candidate.engine for candidate in plan.target.candidates}


def _notices_of(bundle: Bundle, plan: Plan) -> tuple[str, ...]:
    """What the build decided without being asked, and why the proof is not a stronger one."""
    decided = [notice for item in bundle.manifest.artifacts for notice in item.options.get("notices", ())]
    notice = proof_for(plan.candidate).notice
    return (*dict.fromkeys(decided), *([notice] if notice else []))


def _code_version() -> str:
    """A hash of the code that decides a build and its record, so that an edited one never answers from an old cache."""
    folders = [Path(__file__).parent, Path(avsdk.__file__).parent]
    files = [file for folder in folders for file in sorted([*folder.glob("*.py"), *folder.glob("*/*.py")])]
    return cache_key({f"{file.parent.name}/{file.name}": file.read_text(encoding="utf-8") for file in files})
