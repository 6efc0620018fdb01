"""Golden samples: inputs, and the outputs of the fp32 PyTorch network, that every artifact is compared with.

Inputs are real (the photographs that scikit-learn ships, through the model's own preprocessing), seeded random, and at
the edges of the axes' ranges. A golden file holds ``in.<i>.<tensor>`` and ``out.<i>.<tensor>`` per sample; the one of
the whole pipeline holds pictures and answers, ``in.<i>.media`` and ``out.<i>.answer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from avsdk.errors import NotAvailable, UsageError
from avsdk.media import read_image, resized
from avsdk.ops import Trace, image_pipelines
from avsdk.spec import GraphSpec, ModelSpec, TensorSpec
from avsdk_export.program import nearest_size, tracing_sizes

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Sizes = Mapping[str, int]

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_SEED = 20_161_008


class Reference:
    """The fp32 network of one graph, run by PyTorch on the CPU."""

    def __init__(self, network: nn.Module, graph: GraphSpec) -> None:
        self.network = network.eval()
        self.graph = graph

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The outputs by name. Raises ``UsageError`` where their shapes are not those of the spec."""
        with torch.no_grad():
            answer = self.network(*(torch.from_numpy(feeds[tensor.name]) for tensor in self.graph.inputs))
        values = list(answer.values()) if isinstance(answer, Mapping) else answer
        listed = [values] if isinstance(values, torch.Tensor) else list(values)
        sizes = self.graph.sizes_of({name: array.shape for name, array in feeds.items()})
        outputs = {
            tensor.name: np.ascontiguousarray(value.numpy())
            for tensor, value in zip(self.graph.outputs, listed, strict=True)
        }
        for tensor in self.graph.outputs:
            _check_shape(tensor, outputs[tensor.name], sizes)
        return outputs


def golden_samples(
    spec: ModelSpec,
    graph: GraphSpec,
    sizes: Sequence[Sizes] = (),
    examples: Feeds | None = None,
    made: Callable[[GraphSpec, Sizes], Feeds] | None = None,
) -> list[dict[str, Array]]:
    """Inputs for one graph; ``sizes`` are fixed sizes that will be built, each of which gets a real sample.

    ``made`` gives the family's own inputs at some sizes. The default sizes come first, since an engine with fixed sizes
    is built at them when it is asked for no others.
    """
    random = np.random.default_rng(_SEED)
    least = {name: nearest_size(axis, axis.min) for name, axis in graph.axes.items()}
    uneven = tracing_sizes(graph)
    if examples is not None and not graph.axes:
        given = {tensor.name: examples[tensor.name] for tensor in graph.inputs}
        return [given, *(_like(given, random) for _ in range(2))]
    if not takes_pictures(spec, graph):
        wanted = [graph.default_sizes(), least, uneven, *(graph.complete_sizes(item) for item in sizes)]
        return [dict((made and made(graph, item)) or _noise(graph, item, random)) for item in _distinct(wanted)]
    small = {name: nearest_size(graph.axes[name], {"height": 128, "width": 192}.get(name, 1)) for name in graph.axes}
    real = _distinct([graph.default_sizes(), small, least, *(graph.complete_sizes(item) for item in sizes)])
    photographs = [
        _pictures(spec, graph, item, PHOTOGRAPHS[index % len(PHOTOGRAPHS)]) for index, item in enumerate(real)
    ]
    return [*photographs, _noise(graph, uneven, random, low=0, high=255), _noise(graph, least, random, low=0, high=255)]


def golden_pictures(graph: GraphSpec, sizes: Sequence[Sizes] = ()) -> list[NDArray[np.uint8]]:
    """Photographs for the whole pipeline: one whose sides need padding, the default size, and each of ``sizes``."""
    wanted = _distinct([graph.default_sizes(), *(graph.complete_sizes(item) for item in sizes)])
    odd = {name: nearest_size(graph.axes[name], 96) - 1 for name in ("height", "width") if name in graph.axes}
    shapes = [(item["height"], item["width"]) for item in (_with_fixed(graph, one) for one in wanted)]
    if len(odd) == 2 and all(graph.axes[name].multiple_of > 1 for name in odd):
        shapes.append((odd["height"], odd["width"] + 2 * graph.axes["width"].multiple_of))
    return [photograph_at(height, width) for height, width in dict.fromkeys(shapes)]


def golden_answers(spec: ModelSpec, reference: Reference, pictures: Sequence[Array]) -> list[dict[str, Array]]:
    """What the reference makes of pictures through the spec's own pre- and post-processing."""
    answers = []
    for picture in pictures:
        before, after = image_pipelines(spec.preprocess, spec.postprocess)
        trace = Trace()
        outputs = reference({reference.graph.inputs[0].name: before(picture, trace)})
        answers.append({"answer": after(outputs[reference.graph.outputs[0].name], trace)})
    return answers


def takes_pictures(spec: ModelSpec, graph: GraphSpec) -> bool:
    """Whether the model is one graph from one picture tensor, which the spec's preprocessing makes, to another."""
    first = spec.preprocess[0].op if spec.preprocess else ""
    one = len(spec.graphs) == len(graph.inputs) == 1
    return first == "image_rgb" and one and {"height", "width"} <= set(_with_fixed(graph, graph.default_sizes()))


def photograph_at(height: int, width: int, name: str = PHOTOGRAPHS[0]) -> NDArray[np.uint8]:
    """A photograph that scikit-learn ships, scaled to cover height x width and cropped at the centre."""
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "images" / name if package and package.origin else Path(name)
    if not file.is_file():
        raise NotAvailable(
            f"the photograph {name} is not here",
            expected="scikit-learn, which ships it: exports are verified on real pictures",
            fix="pip install 'avsdk[export]'",
        )
    photo = read_image(file)
    scale = max(height / photo.shape[0], width / photo.shape[1])
    photo = resized(photo, max(height, round(photo.shape[0] * scale)), max(width, round(photo.shape[1] * scale)))
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _pictures(spec: ModelSpec, graph: GraphSpec, sizes: Sizes, name: str) -> dict[str, Array]:
    """A batch of one photograph and its mirror image, through the model's own preprocessing."""
    known = _with_fixed(graph, sizes)
    photo = photograph_at(known["height"], known["width"], name)
    frames = np.stack([photo if index % 2 == 0 else photo[:, ::-1] for index in range(known.get("batch", 1))])
    before, _ = image_pipelines(spec.preprocess, spec.postprocess)
    return {graph.inputs[0].name: before(frames, Trace())}


def _with_fixed(graph: GraphSpec, sizes: Sizes) -> dict[str, int]:
    """The sizes, with height and width of a fixed (batch, channels, height, width) input where they are no axes."""
    shape = graph.inputs[0].shape
    fixed = {
        name: size
        for name, size in zip(("batch", "channels", "height", "width"), shape, strict=False)
        if isinstance(size, int) and len(shape) == 4
    }
    return {**fixed, **sizes}


def _noise(
    graph: GraphSpec, sizes: Sizes, random: np.random.Generator, low: int = 0, high: int = 0
) -> dict[str, Array]:
    return {tensor.name: _random(tensor.dtype, tensor.sized(sizes), random, low, high) for tensor in graph.inputs}


def _random(dtype: str, shape: tuple[int, ...], random: np.random.Generator, low: int, high: int) -> Array:
    """Whole numbers low..high of the type; where the range is unknown, normal floats, and 0 or 1 for integers."""
    kind = np.dtype(dtype)
    if kind.kind == "f" and high <= low:
        return random.standard_normal(shape).astype(kind)
    return random.integers(low, max(high, low + 1), shape, endpoint=True).astype(kind)


def _like(examples: Feeds, random: np.random.Generator) -> dict[str, Array]:
    """Random inputs with the examples' types and range: floats of the same mean and deviation, integers between their
    least and largest."""
    made = {}
    for name, array in examples.items():
        if array.dtype.kind == "f":
            spread = float(array.std()) or 1.0
            made[name] = random.normal(float(array.mean()), spread, array.shape).astype(array.dtype)
        else:
            made[name] = _random(str(array.dtype), array.shape, random, int(array.min()), int(array.max()))
    return made


def _distinct(sizes: Sequence[Sizes]) -> list[dict[str, int]]:
    return [dict(item) for item in dict.fromkeys(tuple(sorted(one.items())) for one in sizes)]


def _check_shape(tensor: TensorSpec, found: Array, sizes: Sizes) -> None:
    wanted = [sizes.get(axis) if isinstance(axis, str) else axis for axis in tensor.shape]
    fits = found.ndim == len(wanted) and all(w in (None, size) for w, size in zip(wanted, found.shape, strict=True))
    if not fits:
        raise UsageError(
            f"output {tensor.name!r} has shape {list(found.shape)} at {dict(sizes)}",
            expected=f"{list(tensor.shape)}, as its spec says",
            fix="correct the ModelSpec",
        )
