"""MODEL -> files for what needs no PyTorch: an ONNX file, and a bundle that is to be built again.

Both are checked by our own code first; ONNX Runtime, the reference of a bare ONNX, sees them in a child process.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from avsdk import onnx_check, plugins
from avsdk.bundle import MANIFEST, Bundle, is_bundle, open_bundle
from avsdk.engines.onnxruntime import reference_outputs
from avsdk.errors import ModelRefused, NotAvailable, Refused, UsageError
from avsdk.files import safe_join, sha256_file
from avsdk.golden import PIPELINE, read_golden, write_golden
from avsdk.onnx_check import OnnxFacts, ValueFact, check_onnx
from avsdk.ops import Trace, image_pipelines
from avsdk.source import ModelSource, SourceFiles
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec
from avsdk.worker import call_in_child

Array = NDArray[Any]
Sizes = Mapping[str, int]

REFERENCE = "ONNX Runtime fp32, graph optimisation off"
_TIMEOUT_S = 900.0
_MEMORY_MB = 16_384
_SEED = 20_161_008
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
        spec, graph = _spec_of(path, facts)
        copied = _copied(path, facts, out / "onnx" / f"{graph.name}.onnx")
        requested = _requested_sizes(options)
        pictures = bool(spec.preprocess) and spec.preprocess[0].op == "image_rgb"
        feeds, answers = _sampled(copied, graph, requested, pictures=pictures)
        graph = _with_true_outputs(graph, feeds, answers)
        golden = out / f"{graph.name}.npz"
        write_golden(golden, list(zip(feeds, answers)))
        return SourceFiles(
            spec=replace(spec, graphs=(graph,)),
            onnx={graph.name: copied},
            golden={graph.name: golden},
            origin={"kind": "onnx", "name": path.name, "sha256": sha256_file(path), "reference": REFERENCE},
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
        spec = bundle.manifest.spec
        onnx = {graph.name: _model_of(bundle, graph, out) for graph in spec.graphs}
        golden = {name: out / "golden" / f"{name}.npz" for name in bundle.manifest.golden}
        (out / "golden").mkdir(parents=True, exist_ok=True)
        for name, file in golden.items():
            shutil.copyfile(bundle.file(bundle.manifest.golden[name]), file)
        for sizes in _requested_sizes(options):
            for graph in spec.graphs:
                _add_golden(spec, graph, onnx[graph.name], golden, graph.complete_sizes(sizes))
        assets = {name: out / "assets" / Path(file).name for name, file in spec.assets.items()}
        for name, file in assets.items():
            file.parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.file(spec.assets[name]), file)
        return SourceFiles(spec=spec, onnx=onnx, golden=golden, assets=assets, origin=dict(bundle.manifest.source))


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


def _reference(onnx: Path, samples: Sequence[Mapping[str, Array]]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = call_in_child(
        reference_outputs,
        name="reference",
        timeout_s=_TIMEOUT_S,
        memory_mb=_MEMORY_MB,
        onnx=str(onnx),
        samples=[dict(feeds) for feeds in samples],
    )
    return answers


def _spec_of(path: Path, facts: OnnxFacts) -> tuple[ModelSpec, GraphSpec]:
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
    shutil.copyfile(path, copy)
    for name in facts.external:
        (copy.parent / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(safe_join(path.parent, name, refused=ModelRefused), copy.parent / name)
    return copy


def _sampled(
    onnx: Path, graph: GraphSpec, requested: Sequence[Sizes], *, pictures: bool
) -> tuple[list[dict[str, Array]], list[Any]]:
    """Seeded inputs that the model takes, and its answers; every requested size must be among them."""
    random = np.random.default_rng(_SEED)
    asked = [graph.complete_sizes(sizes) for sizes in requested]
    default = graph.default_sizes()
    uneven = {name: axis.multiple_of * (2 + place) + axis.min for place, (name, axis) in enumerate(graph.axes.items())}
    uneven = {name: size if graph.axes[name].admits(size) else default[name] for name, size in uneven.items()}
    sizes = asked + [item for item in (default, uneven) if item not in asked]
    feeds = [_noise(graph, item, random, pictures=pictures) for item in [*sizes, sizes[0]]]
    answers = _reference(onnx, feeds)
    for item, answer in zip(asked, answers):
        if "failed" in answer:
            raise UsageError(f"the model does not run at {item}: {answer['failed']}", fix="give other sizes by --axis")
    kept = [index for index, answer in enumerate(answers) if "failed" not in answer]
    if not kept:
        raise UsageError(
            f"the model does not run at {default}: {answers[0]['failed']}",
            expected="inputs of these sizes: the file names the axes, not their ranges",
            fix=f"give sizes that fit: --axis {','.join(f'{name}=SIZE' for name in default) or 'NAME=SIZE'}",
        )
    return [feeds[index] for index in kept], [answers[index] for index in kept]


def _noise(graph: GraphSpec, sizes: Sizes, random: np.random.Generator, *, pictures: bool) -> dict[str, Array]:
    """Whole numbers 0..255 for pictures and bytes; else normal floats, and 0 or 1 for integers: indices or masks."""
    feeds = {}
    for tensor in graph.inputs:
        shape, kind = tensor.sized(sizes), np.dtype(tensor.dtype)
        if kind.kind == "f" and not pictures:
            feeds[tensor.name] = random.standard_normal(shape).astype(kind)
        else:
            high = 255 if pictures or tensor.dtype == "uint8" else 1
            feeds[tensor.name] = random.integers(0, high, shape, endpoint=True).astype(kind)
    return feeds


def _with_true_outputs(graph: GraphSpec, feeds: Sequence[Mapping[str, Array]], answers: Sequence[Any]) -> GraphSpec:
    """A file may name an output's axis wrongly: one whose size is not the input's gets a name of its own."""
    known = [graph.sizes_of({name: array.shape for name, array in item.items()}) for item in feeds]
    outputs = []
    for tensor in graph.outputs:
        shapes = [answer[tensor.name].shape for answer in answers]
        if len(tensor.shape) != len(shapes[0]):
            tensor = replace(tensor, shape=tuple(f"{tensor.name}_{place}" for place in range(len(shapes[0]))))
        axes = [
            axis
            if all(shape[place] == (sizes.get(axis, shape[place]) if isinstance(axis, str) else axis)
                   for shape, sizes in zip(shapes, known))
            else f"{tensor.name}_{place}"
            for place, axis in enumerate(tensor.shape)
        ]  # fmt: skip
        outputs.append(replace(tensor, shape=tuple(axes)))
    return replace(graph, outputs=tuple(outputs))


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


def _add_golden(
    spec: ModelSpec, graph: GraphSpec, onnx: Path, golden: Mapping[str, Path], sizes: dict[str, int]
) -> None:
    """Give a size without a golden sample one: the first sample's content, stretched, and the reference's answer."""
    samples = read_golden(golden[graph.name])
    shapes = [{name: array.shape for name, array in feeds.items()} for feeds, _ in samples]
    if all(graph.sizes_of(item) != sizes for item in shapes):
        feeds = {item.name: _stretched(samples[0][0][item.name], item.sized(sizes)) for item in graph.inputs}
        write_golden(golden[graph.name], [*samples, (feeds, _answer(onnx, feeds, sizes))])
    if PIPELINE in golden and {"height", "width"} <= set(sizes):
        pictures = read_golden(golden[PIPELINE])
        first = pictures[0][0]["media"]
        picture = _stretched(first, (*first.shape[:-3], sizes["height"], sizes["width"], 3))
        if all(picture.shape != feeds["media"].shape for feeds, _ in pictures):
            before, after = image_pipelines(spec.preprocess, spec.postprocess)
            trace = Trace()
            answer = _answer(onnx, {graph.inputs[0].name: before(picture, trace)}, sizes)
            made = {"answer": after(answer[graph.outputs[0].name], trace)}
            write_golden(golden[PIPELINE], [*pictures, ({"media": picture}, made)])


def _answer(onnx: Path, feeds: Mapping[str, Array], sizes: Sizes) -> dict[str, Array]:
    (answer,) = _reference(onnx, [feeds])
    if "failed" in answer:
        raise UsageError(f"the model does not run at {dict(sizes)}: {answer['failed']}", fix="choose another --axis")
    return answer


def _stretched(array: Array, shape: tuple[int, ...]) -> Array:
    """The array's own values at another shape, each axis by its nearest neighbour."""
    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(size) * array.shape[axis] // size, axis)
    return np.ascontiguousarray(array)


def _requested_sizes(options: Mapping[str, str]) -> list[dict[str, int]]:
    sizes: list[dict[str, int]] = json.loads(options.get("sizes", "[]"))
    return sizes


def _fingerprint(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    code = [sha256_file(Path(str(module.__file__))) for module in (sys.modules[__name__], onnx_check)]
    document = {**content, "options": dict(options), "code": code}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
