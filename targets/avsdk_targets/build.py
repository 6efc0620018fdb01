"""MODEL + target -> bundle: materialise the source, compile each graph, verify on golden samples, publish whole."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import avsdk
from avsdk import __version__, plugins
from avsdk.bundle import Artifact, Bundle, Manifest, is_bundle, open_bundle, write_manifest
from avsdk.errors import AvsdkError, ModelRefused, UnknownName, UsageError
from avsdk.files import atomic_folder, safe_join, typed_write_errors, write_atomic
from avsdk.host import probe
from avsdk.onnx_check import check_onnx
from avsdk.parity import Parity
from avsdk.precision import check_executed
from avsdk.schema import encode
from avsdk.session import session_class
from avsdk.source import ModelSource, SourceFiles
from avsdk.spec import GraphSpec, ModelSpec
from avsdk.verify import verify_bundle
from avsdk_targets.cache import FolderCache, cache_key, copy_content
from avsdk_targets.compiler import CompileJob
from avsdk_targets.plan import Plan, plan_target
from avsdk_targets.proof import proof_for
from avsdk_targets.target import Target

Notice = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What ``avsdk export`` was asked for beside the model and its targets. ``sizes``: one mapping per ``--axis``."""

    out: Path
    precision: str | None = None
    sizes: tuple[Mapping[str, int], ...] = ()
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
        _require_known(for_source, getattr(self.source, "settings", ()), model)
        self._source_options = {
            **for_source,
            "sizes": json.dumps([dict(sorted(sizes.items())) for sizes in options.sizes]),
        }
        self._fingerprint = self.source.fingerprint(model, self._source_options)
        _make_out(options.out)
        self._work = TemporaryDirectory(prefix="avsdk-export-")
        self._files: SourceFiles | None = None
        self._failure: AvsdkError | None = None
        self._cache = FolderCache("bundles")

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._work.cleanup()

    def export(self, target: Target) -> Exported:
        """Build, verify and publish the bundle for one target, or take it from the build cache."""
        started = time.monotonic()
        plan = plan_target(target, self.options.precision)
        key = self._key(plan)
        cached = self._cache.get(key)
        folder = cached or self._cache.put(key, self._build(plan))
        bundle = self._publish(folder)
        return Exported(bundle, time.monotonic() - started, cached is not None, plan.passed_over, plan.notices)

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
                "sizes": [dict(sizes) for sizes in self.options.sizes],
                "compiler": plan.compiler.identity(),
                "settings": dict(self._engine_settings(plan)),
                "proof": encode(proof_for(plan.candidate)),
                "verified_here": engine.availability(plan.candidate.device).ok,
                "code": _code_version(),
                "host": [host.cpu, host.isa],
            }
        )

    def _engine_settings(self, plan: Plan) -> Mapping[str, str]:
        return self._for_engines.get(plan.candidate.engine, {})

    def _build(self, plan: Plan) -> Path:
        """Make the bundle in the work folder; a build that fails parity raises and is not kept."""
        files = self._materialise()
        folder = Path(self._work.name) / f"{plan.candidate.engine}-{plan.candidate.device}-{plan.precision}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = _place_models(folder, files.onnx)
        golden = _place(folder, "golden", files.golden, ".npz")
        _place(folder, "assets", files.assets, "")
        artifacts: list[Artifact] = []
        built_with: dict[str, str] = {}
        for graph in files.spec.graphs:
            for sizes in self._sizes_to_build(plan, graph):
                job = _job(plan, files, graph, folder, sizes, len(artifacts), self._engine_settings(plan))
                compiled = plan.compiler.compile(job)
                names = compiled.artifact.files
                prefix = f"artifacts/{graph.name}/{len(artifacts)}/"
                listed = tuple(prefix + name for name in names) if names else (model[graph.name],)
                artifacts.append(replace(compiled.artifact, files=listed))
                built_with.update(compiled.built_with)
        draft = self._manifest(plan, files, artifacts, built_with, model, golden)
        return _verified(folder, draft, plan)

    def _sizes_to_build(self, plan: Plan, graph: GraphSpec) -> list[Mapping[str, int] | None]:
        """The fixed sizes to build, or one build with dynamic axes."""
        for sizes in self.options.sizes:
            graph.complete_sizes(sizes)
        if plan.compiler.dynamic_axes or not graph.axes:
            return [None]
        return [graph.complete_sizes(sizes) for sizes in self.options.sizes or ({},)]

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

    def _materialise(self) -> SourceFiles:
        """The source's files, cached or made now; a model that cannot be exported is tried for one target only."""
        if self._failure is not None:
            raise self._failure
        if self._files is None:
            cache = FolderCache("sources")
            try:
                folder = cache.get(self._fingerprint) or cache.put(self._fingerprint, self._made())
            except AvsdkError as error:
                self._failure = error
                raise
            self._files = _absolute(json.loads((folder / "source.json").read_text()), folder)
        return self._files

    def _made(self) -> Path:
        self.notice(f"making ONNX from {self.model}")
        made = Path(self._work.name) / "source"
        made.mkdir()
        files = self.source.materialise(self.model, made, self._source_options)
        write_atomic(made / "source.json", json.dumps(_relative(files, made)))
        return made

    def _publish(self, folder: Path) -> Bundle:
        """Copy the verified bundle to its place in ``out``; replaces only what avsdk made."""
        manifest = open_bundle(folder).manifest
        place = self.options.out / bundle_name(manifest)
        if place.exists() and not is_bundle(place):
            raise UsageError(
                f"{place} exists and is no bundle",
                expected="a free name, or a bundle to replace",
                fix="--out another folder",
            )
        with atomic_folder(place) as fresh:
            copy_content(folder, fresh)
        return Bundle(place, manifest)


def _make_out(out: Path) -> None:
    """Make the folder before the work, so that a wrong ``--out`` does not cost a build."""
    with typed_write_errors(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(
                f"--out {out} cannot be a folder: {error.strerror}",
                expected="a folder, or a path where one can be made",
                fix="--out another folder",
            ) from error


def split_settings(settings: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """``ENGINE.NAME=VALUE`` by engine, and the settings that are the source's.

    Raises ``UnknownName`` for a misspelt one.
    """
    engines: dict[str, dict[str, str]] = {}
    others: dict[str, str] = {}
    for name, value in settings.items():
        engine, dot, setting = name.partition(".")
        if not dot or engine not in plugins.list_names("compilers"):
            others[name] = value
            continue
        known: Mapping[str, str] = plugins.load("compilers", engine).settings
        if setting not in known:
            raise UnknownName.among(f"setting of {engine}", setting, known)
        engines.setdefault(engine, {})[setting] = value
    return engines, others


def _require_known(settings: Mapping[str, str], known: Sequence[str], model: str) -> None:
    """A misspelt setting must not pass unnoticed. A source names those that it reads in its attribute ``settings``."""
    for name in settings:
        if not known:
            raise UsageError(f"{model} is exported without settings, not with {name!r}", fix=f"leave out --set {name}")
        if name not in known:
            raise UnknownName.among("setting", name, known)


def bundle_name(manifest: Manifest) -> str:
    """``<model>-<target>-<precision>`` with the separators of names and targets as dashes."""
    model = manifest.spec.model.replace("/", "-")
    return f"{model}-{manifest.target.replace(':', '-')}-{manifest.precision}"


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
    verified = verify_bundle(folder, executed_on=proof.executed_on, python=proof.python, env=proof.env)
    where = f"the {plan.candidate.engine}:{plan.candidate.device} bundle"
    verified.parity.require(where=where)
    for graph, shares in verified.precision_shares.items():
        check_executed(plan.precision, shares, where=f"graph {graph!r} of {where}")
    effective = " | ".join(dict.fromkeys(verified.effective_precision.values()))
    measured = {"precision_shares": verified.precision_shares, "effective_precision": verified.effective_precision}
    complete = replace(
        draft,
        parity=verified.parity,
        effective_precision=effective or f"{plan.precision} (as built; not executed here)",
        measured=measured,
    )
    write_manifest(folder, complete)
    return folder


def _place(folder: Path, room: str, files: Mapping[str, Path], suffix: str) -> dict[str, str]:
    """Copy the files into a room of the bundle and return their names in it."""
    placed = {}
    for name, file in files.items():
        relative = f"{room}/{name}{suffix}"
        (folder / room).mkdir(exist_ok=True)
        shutil.copyfile(file, folder / relative)
        placed[name] = relative
    return placed


def _place_models(folder: Path, onnx: Mapping[str, Path]) -> dict[str, str]:
    """Copy the ONNX files, with the external data that they name, once our own code has looked through them."""
    for file in onnx.values():
        for name in check_onnx(file).external:
            place = folder / "model" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(safe_join(file.parent, name, refused=ModelRefused), place)
    return _place(folder, "model", onnx, ".onnx")


def _relative(files: SourceFiles, root: Path) -> dict[str, Any]:
    rooms = {"onnx": files.onnx, "golden": files.golden, "programs": files.programs, "assets": files.assets}
    return {
        "spec": files.spec.to_json(),
        "origin": dict(files.origin),
        **{
            room: {name: file.relative_to(root).as_posix() for name, file in held.items()}
            for room, held in rooms.items()
        },
    }


def _absolute(document: Mapping[str, Any], root: Path) -> SourceFiles:
    def held(room: str) -> dict[str, Path]:
        return {name: root / relative for name, relative in document[room].items()}

    return SourceFiles(
        spec=ModelSpec.from_json(document["spec"], where="source.json"),
        onnx=held("onnx"),
        golden=held("golden"),
        programs=held("programs"),
        assets=held("assets"),
        origin=document["origin"],
    )


def _code_version() -> str:
    """A hash of the code that decides a build and its record, so that an edited one never answers from an old cache."""
    folders = [Path(__file__).parent, Path(avsdk.__file__).parent]
    files = [file for folder in folders for file in sorted([*folder.glob("*.py"), *folder.glob("*/*.py")])]
    return cache_key({f"{file.parent.name}/{file.name}": file.read_text(encoding="utf-8") for file in files})
