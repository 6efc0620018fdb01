"""Golden samples of ONNX files: seeded inputs that the model takes, and what its fp32 reference makes of them.

ONNX Runtime with graph optimisation off is the reference of a bare ONNX file; it runs in a child process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.engines.onnxruntime import reference_outputs
from avsdk.errors import ModelRefused, UsageError
from avsdk.golden import PIPELINE, read_golden, write_golden
from avsdk.onnx_check import OnnxFacts
from avsdk.ops import Trace, image_pipelines, pipelines_for
from avsdk.spec import GraphSpec, ModelSpec
from avsdk.worker import call_in_child
from avsdk_targets.compilers.onnxruntime import OnnxRuntimeCompiler
from avsdk_targets.rewrite import rewritten_model

Array = NDArray[Any]
Sizes = Mapping[str, int]

REFERENCE = "ONNX Runtime fp32, graph optimisation off"
_READABLE = OnnxRuntimeCompiler.rewrites
_NO_GRAPH = GraphSpec("model", (), ())
"""A conversion to another opset looks at no tensor."""
_TIMEOUT_S = 900.0
_MEMORY_MB = 16_384
_MOST_VALUES = 1 << 28
"""Of all inputs of a sample: 1 GiB of fp32. The file says the sizes, and it may come from anybody."""
_SEED = 20_161_008
_PICTURE = (96, 132)
"""Height and width of a golden picture where the steps bring any picture to the size of the model."""


def reference_answers(onnx: Path, samples: Sequence[Mapping[str, Array]]) -> list[dict[str, Any]]:
    """What the reference makes of the samples; one that it cannot take is answered by ``{"failed": text}``.

    A model newer than the reference reads is converted for it first; raises ``NotAvailable`` where that cannot be done.
    """
    with TemporaryDirectory(prefix="avsdk-reference-") as folder:
        answers: list[dict[str, Any]] = call_in_child(
            reference_outputs,
            name="reference",
            timeout_s=_TIMEOUT_S,
            memory_mb=_MEMORY_MB,
            onnx=str(rewritten_model(onnx, Path(folder), _READABLE, _NO_GRAPH, None).onnx),
            samples=[dict(feeds) for feeds in samples],
        )
    return answers


def reference_name(facts: OnnxFacts) -> str:
    """What the reference is, with what was done to a model that it does not read as it is."""
    lowest, newest = _READABLE.opset or (0, 0)
    opset = min(max(facts.opset, lowest), newest)
    return REFERENCE if not facts.opset or opset == facts.opset else f"{REFERENCE}, at opset {opset}"


def sampled(
    onnx: Path, spec: ModelSpec, graph: GraphSpec, requested: Sequence[Sizes], *, promised: Sequence[str] = ()
) -> tuple[list[dict[str, Array]], list[Any]]:
    """Seeded inputs that the model takes, and its answers; every requested size must be among them.

    So must the least size of the axes ``promised``, whose ranges somebody vouches for. Raises ``UsageError`` for sizes
    that the model does not take, and ``ModelRefused`` where it answers with NaN.
    """
    random = np.random.default_rng(_SEED)
    asked = [spec.sizes_for(graph, sizes) for sizes in requested]
    default = graph.default_sizes()
    if promised:
        asked.append({**default, **{name: _least(graph, name) for name in promised}})
    uneven = {name: axis.multiple_of * (2 + place) + axis.min for place, (name, axis) in enumerate(graph.axes.items())}
    uneven = {name: size if graph.axes[name].admits(size) else default[name] for name, size in uneven.items()}
    for item in asked:
        _require_holdable(graph, item)
    sizes = asked + [item for item in (default, uneven) if item not in asked and _values(graph, item) <= _MOST_VALUES]
    if not sizes:
        _require_holdable(graph, default)
    feeds = [_feeds(spec, graph, item, random) for item in [*sizes, sizes[0]]]
    answers = reference_answers(onnx, feeds)
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
    return _without_nan(onnx, graph, [feeds[index] for index in kept], [answers[index] for index in kept])


def pipeline_samples(spec: ModelSpec, graph: GraphSpec, onnx: Path, requested: Sequence[Sizes]) -> list[Any]:
    """Samples of the whole way from media to answer, where the spec goes it and the answer is an array; else none."""
    if not spec.preprocess or not spec.postprocess or len(graph.inputs) != 1 or len(spec.graphs) != 1:
        return []
    found: list[Any] = []
    for media in _media(spec, graph, requested):
        before, after = pipelines_for(spec.predictor, spec.preprocess, spec.postprocess)
        trace = Trace()
        tensor = before(media, trace)
        sizes = _sizes_of(graph, {graph.inputs[0].name: tensor})
        if sizes is None:
            continue
        answer = after(_answer(onnx, {graph.inputs[0].name: tensor}, sizes)[graph.outputs[0].name], trace)
        if isinstance(answer, np.ndarray):
            found.append(({"media": media}, {"answer": answer}))
    return found


def with_true_outputs(graph: GraphSpec, feeds: Sequence[Mapping[str, Array]], answers: Sequence[Any]) -> GraphSpec:
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


def add_golden(
    spec: ModelSpec, graph: GraphSpec, onnx: Path, golden: Mapping[str, Path], sizes: dict[str, int]
) -> None:
    """Give a size without a golden sample one: the first sample's content, stretched, and the reference's answer.

    Samples of sizes that the axes no longer take are left out.
    """
    samples = read_golden(golden[graph.name])
    kept = [sample for sample in samples if _sizes_of(graph, sample[0]) is not None]
    if all(_sizes_of(graph, feeds) != sizes for feeds, _ in kept):
        _require_holdable(graph, sizes)
        feeds = {item.name: _stretched(samples[0][0][item.name], item.sized(sizes)) for item in graph.inputs}
        kept.append((feeds, _answer(onnx, feeds, sizes)))
    if len(kept) != len(samples) or kept[-1] is not samples[-1]:
        write_golden(golden[graph.name], kept)
    if PIPELINE in golden and spec.predictor != "audio" and {"height", "width"} <= set(sizes):
        pictures = read_golden(golden[PIPELINE])
        first = pictures[0][0]["media"]
        picture = _stretched(first, (*first.shape[:-3], sizes["height"], sizes["width"], 3))
        if all(picture.shape != feeds["media"].shape for feeds, _ in pictures):
            before, after = image_pipelines(spec.preprocess, spec.postprocess)
            trace = Trace()
            answer = _answer(onnx, {graph.inputs[0].name: before(picture, trace)}, sizes)
            made = {"answer": after(answer[graph.outputs[0].name], trace)}
            write_golden(golden[PIPELINE], [*pictures, ({"media": picture}, made)])


def _values(graph: GraphSpec, sizes: Sizes) -> int:
    return sum(math.prod(tensor.sized(sizes)) for tensor in graph.inputs)


def _require_holdable(graph: GraphSpec, sizes: Sizes) -> None:
    """Raise ``UsageError`` for inputs that are too large to be made here, whatever the file or the user says."""
    if _values(graph, sizes) > _MOST_VALUES:
        shapes = ", ".join(f"{tensor.name} {list(tensor.sized(sizes))}" for tensor in graph.inputs)
        raise UsageError(
            f"the inputs {shapes} hold {_values(graph, sizes)} values",
            expected=f"at most {_MOST_VALUES} in one sample",
            fix=f"give smaller sizes: --axis {','.join(f'{name}=SIZE' for name in graph.axes)}"
            if graph.axes
            else "export the model again with smaller sizes",
        )


def _feeds(spec: ModelSpec, graph: GraphSpec, sizes: Sizes, random: np.random.Generator) -> dict[str, Array]:
    """Pictures through the spec's own steps where it takes pictures and they fit these sizes; else seeded noise."""
    takes_pictures = bool(spec.preprocess) and spec.preprocess[0].op == "image_rgb"
    if takes_pictures and len(graph.inputs) == 1 and len(graph.inputs[0].shape) == 4:
        wanted = graph.inputs[0].sized(sizes)
        before, _ = image_pipelines(spec.preprocess, ())
        for height, width in (wanted[2:], wanted[1:3], _PICTURE):
            tensor = before(_pictures(wanted[0], height, width, random), Trace())
            if tensor.shape == wanted:
                return {graph.inputs[0].name: tensor.astype(graph.inputs[0].dtype)}
    return _noise(graph, sizes, random, pictures=takes_pictures)


def _pictures(count: int, height: int, width: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Frames of random pixels."""
    return random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def _media(spec: ModelSpec, graph: GraphSpec, requested: Sequence[Sizes]) -> list[Array]:
    """Seeded media that may fit the graph: pictures at its sizes, or sounds of its length."""
    random = np.random.default_rng(_SEED)
    shape = graph.inputs[0].shape
    wanted = [graph.inputs[0].sized(spec.sizes_for(graph, item)) for item in (*requested, {})]
    if spec.preprocess[0].op == "sound_mono":
        rate = int(spec.preprocess[0].params["sample_rate_hz"])
        lengths = dict.fromkeys([*(item[-1] for item in wanted), rate])
        return [(0.3 * random.standard_normal(length)).astype(np.float32).clip(-1, 1) for length in lengths]
    if spec.preprocess[0].op != "image_rgb" or len(shape) != 4:
        return []
    places = dict.fromkeys([*(item[2:] for item in wanted), *(item[1:3] for item in wanted), _PICTURE])
    return [_pictures(1, height, width, random)[0] for height, width in places if min(height, width) > 3]


def _noise(
    graph: GraphSpec, sizes: Sizes, random: np.random.Generator, *, pictures: bool, positive: bool = False
) -> dict[str, Array]:
    """Whole numbers 0..255 for pictures and bytes; else normal floats, and 0 or 1 for integers: indices or masks.

    With ``positive`` the floats lie in 0.1..1, for models that take logarithms or roots.
    """
    feeds = {}
    for tensor in graph.inputs:
        shape, kind = tensor.sized(sizes), np.dtype(tensor.dtype)
        if kind.kind == "f" and not pictures:
            floats = random.uniform(0.1, 1.0, shape) if positive else random.standard_normal(shape)
            feeds[tensor.name] = np.asarray(floats, kind)
        else:
            high = 255 if pictures or tensor.dtype == "uint8" else 1
            feeds[tensor.name] = np.asarray(random.integers(0, high, shape, endpoint=True), kind)
    return feeds


def _without_nan(
    onnx: Path, graph: GraphSpec, feeds: list[dict[str, Array]], answers: list[Any]
) -> tuple[list[dict[str, Array]], list[Any]]:
    """The samples, with positive inputs instead where an answer holds NaN; it must hold none then."""
    if not _nan_output(answers):
        return feeds, answers
    random = np.random.default_rng(_SEED)
    shapes = [{name: array.shape for name, array in item.items()} for item in feeds]
    feeds = [_noise(graph, graph.sizes_of(item), random, pictures=False, positive=True) for item in shapes]
    answers = reference_answers(onnx, feeds)
    name = _nan_output(answers)
    if name:
        raise ModelRefused(
            f"the model answers with NaN in the output {name!r}, for normal inputs and for inputs in 0.1..1",
            expected="finite numbers: nothing can be compared with NaN, so no artifact could be proven",
            fix="look for a division by zero, a logarithm of nothing or an overflow in the model",
        )
    return feeds, answers


def _nan_output(answers: Sequence[Mapping[str, Any]]) -> str:
    """The first output that holds NaN; empty where none does."""
    for answer in answers:
        for name, array in answer.items():
            if isinstance(array, np.ndarray) and array.dtype.kind == "f" and np.isnan(array).any():
                return str(name)
    return ""


def _sizes_of(graph: GraphSpec, feeds: Mapping[str, Array]) -> dict[str, int] | None:
    """The sizes of a sample; None where the axes do not take them."""
    try:
        return graph.sizes_of({name: array.shape for name, array in feeds.items()})
    except UsageError:
        return None


def _least(graph: GraphSpec, name: str) -> int:
    axis = graph.axes[name]
    return -(-axis.min // axis.multiple_of) * axis.multiple_of


def _answer(onnx: Path, feeds: Mapping[str, Array], sizes: Sizes) -> dict[str, Array]:
    (answer,) = reference_answers(onnx, [feeds])
    if "failed" in answer:
        raise UsageError(f"the model does not run at {dict(sizes)}: {answer['failed']}", fix="choose another --axis")
    return answer


def _stretched(array: Array, shape: tuple[int, ...]) -> Array:
    """The array's own values at another shape, each axis by its nearest neighbour."""
    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(size) * array.shape[axis] // size, axis)
    return np.ascontiguousarray(array)
