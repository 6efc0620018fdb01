"""The Gram matrices of the painting: computed once, kept with the run, so that evaluation needs no painting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from avsdk.errors import CheckpointRefused, UsageError
from avsdk.files import sha256_file
from avsdk.media import read_image
from avsdk_train.data import resized_short_side
from avsdk_train.families.style_transfer.data import tensor_from_image
from avsdk_train.families.style_transfer.features import FeatureLayers, FeatureNetwork, load_features
from avsdk_train.families.style_transfer.losses import gram
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.weights import write_weights

FILE = "targets.safetensors"
_FEATURES_HOW = (
    "where FILE is a safetensors file with the weights of torchvision's VGG-16, VGG-19 or AlexNet "
    "(keys features.N.weight), or of the normalised VGG-19 of Gatys et al. (keys conv1_1.weight...)"
)


def required_features(path: str, option: str = "--set features=FILE") -> FeatureNetwork:
    """The feature network that the user gave; without one, say how: by ``option``."""
    if not path:
        raise UsageError(
            "style transfer needs a feature network, and none was given",
            expected="the weights of a trained VGG or AlexNet (avsdk ships none)",
            fix=f"{option}, {_FEATURES_HOW}",
        )
    return load_features(Path(path))


def layers_of(network: FeatureNetwork, settings: StyleSettings) -> FeatureLayers:
    """The layers that the losses read: the settings' own, else the network's."""
    layers = FeatureLayers(
        settings.content_layer or network.layers.content, settings.style_layers or network.layers.style
    )
    known = network(torch.zeros(1, 3, 64, 64))
    for layer in (layers.content, *layers.style):
        if layer not in known:
            raise UsageError(f"the feature network has no layer {layer!r}", expected=f"one of: {', '.join(known)}")
    return layers


def write_targets(settings: StyleSettings, folder: Path) -> None:
    """Compute the painting's Gram matrices and write them, with the hash of the feature network, to ``folder``."""
    network = required_features(settings.features)
    if not settings.style:
        raise UsageError("no painting was given", expected="a picture whose style is learned", fix="--set style=FILE")
    painting = Path(settings.style)
    if not painting.is_file():
        raise UsageError(f"the painting {settings.style!r} is not a file", expected="a picture", fix="--set style=FILE")
    layers = layers_of(network, settings)
    image = tensor_from_image(resized_short_side(read_image(painting), settings.style_px)) / 255
    with torch.no_grad():
        maps = network(image)
        grams = {layer: gram(maps[layer])[0].contiguous() for layer in layers.style}
    metadata = {
        "features_sha256": sha256_file(Path(settings.features)),
        "content_layer": layers.content,
        "style_layers": ",".join(layers.style),
        "style_scale": settings.style_scale,
        "style_sha256": sha256_file(painting),
    }
    write_weights(folder / FILE, grams, metadata)


class Targets:
    """What ``write_targets`` wrote: ``grams[layer]`` of shape (C, C), the layers, and the scale of the style loss."""

    def __init__(self, file: Path) -> None:
        try:
            self.grams: Mapping[str, Tensor] = load_file(file)
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
            self.layers = FeatureLayers(metadata["content_layer"], tuple(metadata["style_layers"].split(",")))
            self.style_scale = metadata["style_scale"]
            self._features_sha256 = metadata["features_sha256"]
        except (SafetensorError, KeyError, FileNotFoundError) as error:
            raise CheckpointRefused(
                f"{file} holds no style targets: {error}",
                expected="the file as avsdk train wrote it",
                fix="train again",
            ) from error
        if set(self.layers.style) != set(self.grams):
            raise CheckpointRefused(f"{file} holds targets for {sorted(self.grams)}", expected=f"{self.layers.style}")

    def load_features(self, path: str) -> FeatureNetwork:
        """The feature network, which must be the one that the targets were made with."""
        network = required_features(path)
        found = sha256_file(Path(path))
        if found != self._features_sha256:
            raise UsageError(
                f"the feature network {path} is not the one that the style targets were made with",
                expected=f"the file with SHA-256 {self._features_sha256[:16]}..., not {found[:16]}...",
                fix="--set features=FILE with the same weights as in training",
            )
        return network
