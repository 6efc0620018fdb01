"""What a cell is fed: golden samples where they fit, else seeded numbers; and media as files, to be decoded each time.

Needs numpy and ``avsdk`` only, and Python 3.9, as a cell does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.bundle import Bundle
from avsdk.errors import NotAvailable, UsageError
from avsdk.golden import read_golden
from avsdk.session import Array
from avsdk.spec import GraphSpec, ModelSpec, Sizes

_PICTURE_OP, _SOUND_OP = "image_rgb", "sound_mono"
_LOUDNESS = 0.5


@dataclass(frozen=True)
class Media:
    """What a pipeline takes: ``array`` in memory; ``decode`` reads the same from a file, None without a decoder."""

    array: Array
    source: str
    decode: Callable[[], Array] | None


def feeds_for(bundle: Bundle, graph: GraphSpec, sizes: Sizes, seed: int) -> tuple[dict[str, Array], str]:
    """The first golden sample of exactly these sizes, else seeded numbers within 0..255; and which of the two it is."""
    for index, feeds in enumerate(_golden_inputs(bundle, graph)):
        if all(feeds[tensor.name].shape == tensor.sized(sizes) for tensor in graph.inputs):
            return feeds, f"golden sample {index}"
    random = np.random.default_rng(seed)
    made = {
        tensor.name: random.uniform(0.0, 255.0, tensor.sized(sizes)).astype(tensor.dtype) for tensor in graph.inputs
    }
    return made, f"random 0..255, seed {seed}"


def can_make_media(spec: ModelSpec) -> bool:
    """Whether the pipeline starts with a picture, or with a sound for one graph: the media that a bench can make."""
    first = spec.preprocess[0].op if spec.preprocess else ""
    return first == _PICTURE_OP or (first == _SOUND_OP and len(spec.graphs) == 1)


def media_for(bundle: Bundle, sizes: Sizes, seed: int) -> tuple[Array, str]:
    """An RGB picture (height, width, 3) uint8, or a sound (samples,) float32, of the sizes asked for; and its origin.

    A picture is a golden one where one fits. Raises ``UsageError`` for a pipeline that starts with neither.
    """
    spec = bundle.manifest.spec
    if (samples := sound_samples(spec, sizes)) is not None:
        heard = np.random.default_rng(seed).uniform(-_LOUDNESS, _LOUDNESS, samples).astype(np.float32)
        return heard, f"random -{_LOUDNESS}..{_LOUDNESS}, seed {seed}"
    if not can_make_media(spec) or not {"height", "width"} <= set(sizes):
        raise UsageError(
            f"the pipeline of {bundle.path} starts with no picture of a given size",
            expected=f"a first step {_PICTURE_OP} or {_SOUND_OP}",
        )
    return _picture_for(bundle, sizes["height"], sizes["width"], seed)


def media_file_for(predictor: Any, spec: ModelSpec, made: tuple[Array, str], folder: Path) -> Media:
    """The media written to ``folder``, and how the predictor's decoder reads it; in memory where it has no codec."""
    array, source = made
    try:
        if array.ndim == 1:
            from avsdk.sound import write_sound

            rate, path = int(spec.preprocess[0].params["sample_rate_hz"]), folder / "sound.wav"
            write_sound(path, array, rate)
            return Media(array, f"{source}, as WAV", lambda: predictor.decoder.sound(path, rate))
        from avsdk.media import write_image

        path = folder / "picture.png"
        write_image(path, array)
        return Media(array, f"{source}, as PNG", lambda: predictor.decoder.image(path))
    except NotAvailable as error:
        return Media(array, f"{source}, in memory: {error.failed}", None)


def sound_samples(spec: ModelSpec, sizes: Sizes) -> int | None:
    """How many samples of sound fill the first graph's input at these sizes; None for a model that takes no sound."""
    if not spec.preprocess or spec.preprocess[0].op != _SOUND_OP:
        return None
    params = {step.op: step.params for step in spec.preprocess}
    shape = spec.graphs[0].inputs[0].sized(spec.graphs[0].complete_sizes(sizes))
    if "fit_samples" in params:
        return int(params["fit_samples"]["samples"])
    if "frames" in params:
        return (shape[-2] - 1) * int(params["frames"]["hop"]) + int(params["frames"]["length"])
    return int(shape[-1])


def _picture_for(bundle: Bundle, height: int, width: int, seed: int) -> tuple[Array, str]:
    graph = bundle.manifest.spec.graphs[0]
    for index, feeds in enumerate(_golden_inputs(bundle, graph)):
        array = feeds[graph.inputs[0].name]
        if array.shape[1:] == (3, height, width):
            picture = np.clip(np.rint(array[0].transpose(1, 2, 0)), 0, 255).astype(np.uint8)
            return np.ascontiguousarray(picture), f"golden sample {index}"
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8), f"random 0..255, seed {seed}"


def _golden_inputs(bundle: Bundle, graph: GraphSpec) -> list[dict[str, Array]]:
    """The inputs of the golden samples, in order."""
    if graph.name not in bundle.manifest.golden:
        return []
    return [feeds for feeds, _ in read_golden(bundle.file(bundle.manifest.golden[graph.name]))]
