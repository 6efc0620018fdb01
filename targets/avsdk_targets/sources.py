"""MODEL -> files for what needs no PyTorch: an ONNX file, and a bundle that is to be built again.

Both are checked by our own code first; ONNX Runtime, the reference of a bare ONNX, sees them in a child process.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

from avsdk import onnx_check, plugins, spec_request
from avsdk import spec as spec_types
from avsdk.bundle import MANIFEST, Bundle, is_bundle, open_bundle
from avsdk.errors import BundleRefused, ModelRefused, NotAvailable, Refused, UsageError
from avsdk.files import copy_file, safe_join, sha256_file
from avsdk.golden import PIPELINE, write_golden
from avsdk.onnx_check import OnnxFacts, ValueFact, check_onnx
from avsdk.schema import decode
from avsdk.source import ModelSource, SourceFiles
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec
from avsdk.spec_request import request_from, requested_spec
from avsdk_targets import samples, structure
from avsdk_targets.samples import add_golden, pipeline_samples, reference_name, sampled, with_true_outputs
from avsdk_targets.structure import require_structure

GUESSED = "guessed_axes"
"""The key of a source's origin with the axes whose ranges nobody gave."""
_LARGEST_AXIS = 4096
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}(/[A-Za-z0-9][A-Za-z0-9._-]{0,79})?")
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
"""numpy's names of ``TensorProto.DataType``."""


class OnnxSource:
    """A ``.onnx`` file, from avsdk (with its spec inside) or from anywhere."""

    def claims(self, model: str) -> bool:
        """Whether the name ends in ``.onnx``."""
        return model.lower().endswith(".onnx")

    def fingerprint(self, model: str, options: Mapping[str, str]) -> str:
        """A hash of the file, its external data, the options and this code."""
        path = Path(model)
        facts = check_onnx(path)
        files = {name: sha256_file(safe_join(path.parent, name, refused=ModelRefused)) for name in facts.external}
        return _fingerprint({"name": path.name, "sha256": sha256_file(path), "external": files}, options)

    def materialise(self, model: str, out: Path, options: Mapping[str, str]) -> SourceFiles:
        """Copy the model and run it on seeded inputs. Raises ``ModelRefused`` for a hostile or damaged file."""
        path = Path(model)
        facts = check_onnx(path)
        found, graph = spec_of(path, facts)
        require_structure(path, facts)
        request = request_from(options)
        guessed = frozenset() if "avsdk.spec" in facts.metadata else frozenset(graph.axes)
        spec = requested_spec(found, request, free=guessed)
        (graph,) = spec.graphs
        copied = _copied(path, facts, out / "onnx" / f"{graph.name}.onnx")
        requested = _requested_sizes(options)
        ranged = [name for name in graph.axes if {name, f"{graph.name}.{name}"} & set(request.axes)]
        feeds, answers = sampled(copied, spec, graph, requested, promised=ranged)
        graph = with_true_outputs(graph, feeds, answers)
        spec = replace(spec, graphs=(graph,))
        golden = {graph.name: out / f"{graph.name}.npz"}
        write_golden(golden[graph.name], list(zip(feeds, answers)))
        whole = pipeline_samples(spec, graph, copied, requested)
        if whole:
            golden[PIPELINE] = out / f"{PIPELINE}.npz"
            write_golden(golden[PIPELINE], whole)
        known = [*ranged, *found.graphs[0].axes] if not guessed else ranged
        origin = {"kind": "onnx", "name": path.name, "sha256": sha256_file(path), "reference": reference_name(facts)}
        return SourceFiles(
            spec=spec,
            onnx={graph.name: copied},
            golden=golden,
            origin={**origin, GUESSED: [name for name in graph.axes if name not in known]},
        )


class BundleSource:
    """A bundle, built again: from the zoo model it was made of, where that is at hand unchanged, else from its ONNX.

    The zoo's is preferred because some compilers start from the PyTorch program, which never ships. No other source is
    looked up: a manifest from a stranger must not choose code or files of this machine.
    """

    def claims(self, model: str) -> bool:
        """Whether the folder holds a manifest."""
        return is_bundle(Path(model))

    def fingerprint(self, model: str, options: Mapping[str, str]) -> str:
        """A hash of the manifest, which holds the hashes of all files, the options and this code."""
        original = _zoo_model(open_bundle(Path(model)))
        content = {"manifest": sha256_file(Path(model) / MANIFEST)}
        if original:
            content["zoo"] = _zoo_source().fingerprint(original, options)
        return _fingerprint(content, options)

    def materialise(self, model: str, out: Path, options: Mapping[str, str]) -> SourceFiles:
        """Check the bundle and copy what it was built from; sizes without a golden sample get one."""
        bundle = open_bundle(Path(model))
        original = _zoo_model(bundle)
        if original:
            files = _zoo_source().materialise(original, out / "zoo", options)
            if files.origin.get("sha256") == bundle.manifest.source.get("sha256"):
                return files
        listed = bundle.manifest.source.get(GUESSED, [])
        unknown = frozenset(decode(tuple[str, ...], listed, where=f"source.{GUESSED}", refused=BundleRefused))
        request = request_from(options)
        spec = requested_spec(bundle.manifest.spec, request, free=unknown)
        onnx = {graph.name: _model_of(bundle, graph, out) for graph in spec.graphs}
        golden = {name: out / "golden" / f"{name}.npz" for name in bundle.manifest.golden}
        (out / "golden").mkdir(parents=True, exist_ok=True)
        for name, file in golden.items():
            copy_file(bundle.file(bundle.manifest.golden[name]), file)
        for sizes in [*_requested_sizes(options), *([{}] if request.axes else [])]:
            for graph in spec.graphs:
                add_golden(spec, graph, onnx[graph.name], golden, spec.sizes_for(graph, sizes))
        assets = {name: out / "assets" / Path(file).name for name, file in spec.assets.items()}
        for name, file in assets.items():
            file.parent.mkdir(exist_ok=True)
            copy_file(bundle.file(spec.assets[name]), file)
        origin = dict(bundle.manifest.source)
        if unknown:
            origin[GUESSED] = sorted(unknown - set(request.axes))
        return SourceFiles(spec=spec, onnx=onnx, golden=golden, assets=assets, origin=origin)


def _zoo_source() -> ModelSource:
    source: ModelSource = plugins.load("sources", "trained")()
    return source


def _zoo_model(bundle: Bundle) -> str:
    """``zoo:NAME`` of the model that the bundle was made of, where it can be had here; else nothing."""
    source = bundle.manifest.source
    model = f"zoo:{source.get('name')}"
    if source.get("kind") != "zoo":
        return ""
    try:
        _zoo_source().fingerprint(model, {})
    except (NotAvailable, UsageError, Refused):
        return ""
    return model


def spec_of(path: Path, facts: OnnxFacts) -> tuple[ModelSpec, GraphSpec]:
    """The spec inside the file, cut down to this graph; where there is none, one read off the graph's inputs."""
    if "avsdk.spec" not in facts.metadata:
        graph = _derived_graph(facts)
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._-") or "model"
        return ModelSpec(model=name[:80], predictor="tensor", graphs=(graph,)), graph
    spec = _embedded_spec(path, facts)
    name = facts.metadata.get("avsdk.graph", spec.graphs[0].name)
    graphs = [graph for graph in spec.graphs if graph.name == name]
    if not graphs or not _describes(graphs[0], facts):
        raise ModelRefused(
            f"the avsdk.spec inside {path} does not describe its inputs and outputs",
            expected=f"{[item.name for item in facts.inputs]} -> {[item.name for item in facts.outputs]}",
            fix="export the model again, or remove the metadata avsdk.spec to have the spec read off the graph",
        )
    if len(spec.graphs) > 1:
        return ModelSpec(model=spec.model, predictor="tensor", graphs=(graphs[0],)), graphs[0]
    return replace(spec, assets={}), graphs[0]


def _embedded_spec(path: Path, facts: OnnxFacts) -> ModelSpec:
    where = f"the avsdk.spec inside {path}"
    try:
        document = json.loads(facts.metadata["avsdk.spec"])
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{where} is not JSON: {error}", expected="the spec as avsdk wrote it") from error
    spec = ModelSpec.from_json(document, where=where, refused=ModelRefused)
    names = [spec.model, *(graph.name for graph in spec.graphs)]
    strange = [name for name in names if not _MODEL_NAME.fullmatch(name)]
    if strange or not spec.graphs or any("/" in graph.name for graph in spec.graphs):
        raise ModelRefused(f"{where} has the names {names}", expected="graphs, and names of letters, digits, . _ -")
    for graph in spec.graphs:
        for name, axis in graph.axes.items():
            if not (1 <= axis.min <= axis.max and axis.multiple_of >= 1 and axis.admits(axis.default)):
                raise ModelRefused(f"{where} gives axis {name!r} the range {axis}, default {axis.default}")
    return spec


def _describes(graph: GraphSpec, facts: OnnxFacts) -> bool:
    """Whether names, types, ranks and fixed sizes of the spec are those of the file."""
    pairs = ((graph.inputs, facts.inputs), (graph.outputs, facts.outputs))
    named = all(isinstance(axis, int) or axis in graph.axes for tensor in graph.inputs for axis in tensor.shape)
    return named and all(
        len(tensors) == len(values) and all(_same(tensor, value) for tensor, value in zip(tensors, values))
        for tensors, values in pairs
    )


def _same(tensor: TensorSpec, value: ValueFact) -> bool:
    sizes = zip(tensor.shape, value.shape)
    return (
        tensor.name == value.name
        and tensor.dtype == _DTYPES.get(value.type)
        and len(tensor.shape) == len(value.shape)
        and all(isinstance(known, str) or not isinstance(size, int) or known == size for known, size in sizes)
    )


def _derived_graph(facts: OnnxFacts) -> GraphSpec:
    axes: dict[str, AxisRange] = {}
    inputs = []
    for value in facts.inputs:
        tensor = _tensor_spec(value)
        inputs.append(tensor)
        for place, axis in enumerate(tensor.shape):
            if isinstance(axis, str):
                axes.setdefault(axis, AxisRange(1, _LARGEST_AXIS, 1, _guessed_size(place, len(tensor.shape))))
    if not inputs:
        raise UsageError("the ONNX model has no inputs", expected="a network that takes tensors")
    return GraphSpec("model", tuple(inputs), tuple(_tensor_spec(value) for value in facts.outputs), axes)


def _guessed_size(place: int, rank: int) -> int:
    """The first axis is a batch nearly always, the last two of four a picture's sides; others are lengths."""
    if place == 0:
        return 1
    return 256 if rank == 4 and place > 1 else 64


def _tensor_spec(value: ValueFact) -> TensorSpec:
    if value.type not in _DTYPES:
        raise UsageError(
            f"the tensor {value.name!r} has ONNX type {value.type}", expected=f"one of: {', '.join(_DTYPES.values())}"
        )
    shape: list[Union[int, str]] = []  # noqa: UP007  (read at run time, on Python 3.9 too)
    for place, axis in enumerate(value.shape):
        known = re.sub(r"\W", "_", axis) if isinstance(axis, str) else axis
        shape.append(f"{re.sub(r'[^A-Za-z0-9]', '_', value.name)}_{place}" if known is None else known)
    return TensorSpec(value.name, _DTYPES[value.type], tuple(shape))


def _copied(path: Path, facts: OnnxFacts, copy: Path) -> Path:
    """The model, with its external data beside it under the names that it uses."""
    if copy.name in facts.external:
        raise ModelRefused(f"{path} keeps its weights in {copy.name!r}", expected="another name, as weights.data")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy_file(path, copy)
    for name in facts.external:
        (copy.parent / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(safe_join(path.parent, name, refused=ModelRefused), copy.parent / name)
    return copy


def _model_of(bundle: Bundle, graph: GraphSpec, out: Path) -> Path:
    if graph.name not in bundle.manifest.model:
        raise UsageError(
            f"{bundle.path} does not carry the ONNX of graph {graph.name!r}", expected="a bundle that can be rebuilt"
        )
    file = bundle.file(bundle.manifest.model[graph.name])
    facts = check_onnx(file)
    stray = [name for name in facts.external if f"model/{name}" not in bundle.manifest.files]
    if stray:
        raise ModelRefused(f"{file} refers to {stray[0]!r}", expected="only files that the manifest hashes")
    return _copied(file, facts, out / "onnx" / f"{graph.name}.onnx")


def _requested_sizes(options: Mapping[str, str]) -> list[dict[str, int]]:
    sizes: list[dict[str, int]] = json.loads(options.get("sizes", "[]"))
    return sizes


def _fingerprint(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    code = [
        sha256_file(Path(str(module.__file__)))
        for module in (sys.modules[__name__], samples, structure, onnx_check, spec_request, spec_types)
    ]
    document = {**content, "options": dict(options), "code": code}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
