"""The folder that ships: a manifest, the ONNX model, compiled artifacts, golden samples, assets; every file hashed.

    NAME/manifest.json               written last
         model/<graph>.onnx          what the artifacts were compiled from
         artifacts/<graph>/...       what the engine loads (an engine that loads ONNX points at model/)
         stages/<graph>/...          the same graph cut at its instance norms, for pictures of any size
         golden/<graph>.npz          in.<i>.<tensor>, out.<i>.<tensor>: inputs and the fp32 reference's outputs
         assets/...                  what the predictor needs beside the graphs

A bundle is untrusted until ``open_bundle`` has parsed its manifest strictly and checked every file's hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from avsdk.errors import BundleRefused, UsageError
from avsdk.files import safe_join, sha256_file, write_atomic
from avsdk.parity import Parity
from avsdk.precision import MIXED, PRECISIONS
from avsdk.schema import SCHEMA, check_schema, decode, encode
from avsdk.session import Artifact, LoadedGraph
from avsdk.spec import NAME, ModelSpec
from avsdk.stages import Stages

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 8 << 20
_MAX_FILES = 10_000

__all__ = ["MANIFEST", "Artifact", "Bundle", "Manifest", "is_bundle", "open_bundle", "with_session", "write_manifest"]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself."""

    avsdk: str
    spec: ModelSpec
    target: str
    engine: str
    device: str
    precision: str
    effective_precision: str
    source: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    golden: Mapping[str, str]
    built_with: Mapping[str, str]
    parity: Parity
    model: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Stages] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    def load_graphs(self, threads: int) -> dict[str, LoadedGraph]:
        """One ``LoadedGraph`` per graph of the spec; nothing is opened yet."""
        return {
            graph.name: LoadedGraph(
                self.path,
                graph,
                [item for item in self.manifest.artifacts if item.graph == graph.name],
                threads,
                self.manifest.stages.get(graph.name),
            )
            for graph in self.manifest.spec.graphs
        }

    def file(self, relative: str) -> Path:
        """A file of the bundle by its name in the manifest."""
        if relative not in self.manifest.files:
            raise BundleRefused(f"{self.path} does not list {relative!r}", expected="a file that the manifest hashes")
        return safe_join(self.path, relative, refused=BundleRefused)

    def size_bytes(self, *, artifacts_only: bool = False) -> int:
        """Bytes of the files that the manifest lists; with ``artifacts_only`` what an engine loads, no more."""
        loaded = {name for item in self.manifest.artifacts for name in item.files}
        names = loaded if artifacts_only else set(self.manifest.files)
        return sum(self.file(name).stat().st_size for name in names)


def is_bundle(path: Path) -> bool:
    """Whether the folder has a manifest; nothing is checked."""
    return (path / MANIFEST).is_file()


def open_bundle(path: Path) -> Bundle:
    """Parse the manifest, check every hash, and make sure no artifact names a file that is not hashed.

    Raises ``UsageError`` where there is no bundle, ``BundleRefused`` where it is damaged, hostile or newer than this.
    """
    if not is_bundle(path):
        raise UsageError(
            f"{path} is no bundle", expected="a folder with manifest.json", fix="avsdk export MODEL --target T"
        )
    manifest = _read_manifest(path)
    for name, digest in manifest.files.items():
        file = safe_join(path, name, refused=BundleRefused)
        found = sha256_file(file)
        if found != digest:
            raise BundleRefused(
                f"{name} of {path} has SHA-256 {found[:12]}...",
                expected=f"{digest[:12]}..., as the manifest says",
                fix="get a whole copy of the bundle, or export it again",
            )
    _check_references(path, manifest)
    _check_external_data(path, manifest)
    _check_content(path, manifest)
    return Bundle(path, manifest)


def with_session(bundle: Bundle, settings: Mapping[str, Any]) -> Bundle:
    """The bundle as if its artifacts had recorded these settings of their sessions; nothing is written."""
    recorded = {"session": dict(settings)} if settings else {}
    artifacts = []
    for item in bundle.manifest.artifacts:
        others = {name: value for name, value in item.options.items() if name != "session"}
        artifacts.append(replace(item, options={**others, **recorded}))
    return Bundle(bundle.path, replace(bundle.manifest, artifacts=tuple(artifacts)))


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of ``folder``, write ``manifest.json`` with the hashes, and return the completed manifest."""
    files = {
        file.relative_to(folder).as_posix(): sha256_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    complete = Manifest(**{**vars(manifest), "files": files})
    document = {"schema": SCHEMA, **encode(complete)}
    write_atomic(folder / MANIFEST, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return complete


def _read_manifest(path: Path) -> Manifest:
    file = safe_join(path, MANIFEST, refused=BundleRefused)
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleRefused(f"{file} has {file.stat().st_size} bytes", expected=f"at most {_MAX_MANIFEST_BYTES}")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleRefused(
            f"{file} is not JSON: {error}", expected="a manifest", fix="export the bundle again"
        ) from error
    content = check_schema(document, where=str(file), refused=BundleRefused)
    manifest = decode(Manifest, content, where=MANIFEST, refused=BundleRefused)
    if len(manifest.files) > _MAX_FILES:
        raise BundleRefused(f"{file} lists {len(manifest.files)} files", expected=f"at most {_MAX_FILES}")
    return manifest


def _check_content(path: Path, manifest: Manifest) -> None:
    """Refuse what parses and means nothing, so that no engine meets it."""
    found = [f"graph {graph.name!r}: {graph.problem()}" for graph in manifest.spec.graphs if graph.problem()]
    found += [f"artifact {item.files or item.graph!r}: {_problem(item, manifest)}" for item in manifest.artifacts
              if _problem(item, manifest)]  # fmt: skip
    for name, cut in manifest.stages.items():
        graph = next((item for item in manifest.spec.graphs if item.name == name), None)
        problem = cut.problem(graph) if graph is not None else "there is no such graph"
        found += [f"the stages of graph {name!r}: {problem}"] if problem else []
    if manifest.precision not in (*PRECISIONS, MIXED):
        found.append(f"the precision is {manifest.precision!r}")
    names = [graph.name for graph in manifest.spec.graphs]
    if not names or len(set(names)) < len(names):
        found.append(f"the graphs are {names}")
    for room, held in (("golden", manifest.golden), ("model", manifest.model), ("assets", manifest.spec.assets)):
        found += [f"{room} has the name {name!r}" for name in held if not NAME.fullmatch(name)]
    if not manifest.spec.model.isprintable():
        found.append(f"the model is called {manifest.spec.model!r}")
    if found:
        raise BundleRefused(
            f"the manifest of {path} makes no sense: {found[0]}",
            expected="a manifest as avsdk writes it",
            fix="get a whole copy of the bundle, export it again, or use the avsdk version that wrote it",
        )


def _problem(artifact: Artifact, manifest: Manifest) -> str:
    if not artifact.files:
        return "it has no file"
    if artifact.precision not in (*PRECISIONS, MIXED):
        return f"its precision is {artifact.precision!r}"
    axes = manifest.spec.graph(artifact.graph).axes
    shapes = artifact.shapes
    if shapes is not None and (set(shapes) != set(axes) or not all(axes[name].admits(shapes[name]) for name in axes)):
        return f"its sizes {dict(shapes)} are not ones of {', '.join(f'{name} {axis}' for name, axis in axes.items())}"
    return ""


def _check_external_data(path: Path, manifest: Manifest) -> None:
    """Weights that an ONNX file keeps elsewhere must lie beneath it and be hashed as well."""
    from avsdk.onnx_check import check_onnx  # a tenth of what `import avsdk` may take, and needed only here

    for name in manifest.model.values():
        folder = PurePosixPath(name).parent
        for external in check_onnx(path / name).external:
            if (folder / external).as_posix() not in manifest.files:
                raise BundleRefused(
                    f"{name} of {path} keeps weights in {external!r}", expected="only files that the manifest hashes"
                )


def _check_references(path: Path, manifest: Manifest) -> None:
    graphs = {graph.name for graph in manifest.spec.graphs}
    named = {name for item in manifest.artifacts for name in item.files}
    named |= set(manifest.golden.values()) | set(manifest.model.values()) | set(manifest.spec.assets.values())
    named |= {name for cut in manifest.stages.values() for name in cut.files()}
    missing = sorted(named - set(manifest.files))
    if missing:
        raise BundleRefused(
            f"the manifest of {path} uses {missing[0]!r}", expected="only files that it lists with a hash"
        )
    strays = sorted({item.graph for item in manifest.artifacts} - graphs)
    lacking = sorted(graphs - {item.graph for item in manifest.artifacts})
    if strays or lacking:
        raise BundleRefused(
            f"the manifest of {path} has artifacts for {sorted({item.graph for item in manifest.artifacts})}",
            expected=f"at least one for each of its graphs, {sorted(graphs)}",
        )
