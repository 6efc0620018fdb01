"""Feature networks of the perceptual loss: VGG-16, VGG-19, AlexNet in torchvision's key layout, and the normalised
VGG-19 of Gatys et al. (2016) with average pooling, in its published layout and with its preprocessing as a layer.

Layer indices: Simonyan and Zisserman (2015), table 1, columns D and E; Krizhevsky (2014) for AlexNet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from avsdk.errors import CheckpointRefused, UnknownName, UsageError

Pooling = Literal["average", "max"]
Backbone = Literal["vgg16", "vgg19", "alexnet"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_GATYS_MEAN_BGR = (103.939, 116.779, 123.68)

_VGG_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_TAPS = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    "vgg19": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1"),
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
}
_CONVOLUTION = re.compile(r"conv[1-5]_[1-4]")


@dataclass(frozen=True)
class FeatureLayers:
    """Which of a network's maps the losses read."""

    content: str
    style: tuple[str, ...]


class FeatureNetwork(nn.Module):
    """A frozen network that returns named maps of an RGB image in 0-1, shape ``(batch, 3, height, width)``.

    ``chain`` names its layers in order: ``conv1_1``, ``relu1_1``, ... ``pool1``, ...; ``layers`` are what training
    reads by default, ``taps`` the maps that ``maps`` returns.
    """

    kind: str
    layers: FeatureLayers
    taps: tuple[str, ...]

    def chain(self) -> Sequence[tuple[str, nn.Module]]:
        """The layers and their names, first to last."""
        raise NotImplementedError

    def prepared(self, image: Tensor) -> Tensor:
        """What the first layer takes."""
        raise NotImplementedError

    def maps_of(self, image: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """The maps of these layers, in the network's order; nothing deeper than the deepest is computed."""
        self.check_layers(wanted)
        found: dict[str, Tensor] = {}
        x = self.prepared(image)
        for name, layer in self.chain():
            if len(found) == len(set(wanted)):
                break
            x = layer(x)
            if name in wanted:
                found[name] = x
        return found

    def check_layers(self, wanted: Collection[str]) -> None:
        """Raise ``UnknownName`` for a layer that the network lacks."""
        names = {name for name, _ in self.chain()}
        for name in wanted:
            if name not in names:
                raise UnknownName.among("layer of the feature network:", name, names)

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """The maps of ``taps``."""
        return self.maps_of(image, self.taps)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See ``maps``."""
        return self.maps(image)

    def freeze(self) -> FeatureNetwork:
        """No gradients, eval mode."""
        return self.requires_grad_(False).eval()

    def smallest_px(self, wanted: Collection[str]) -> int:
        """The least side of a picture that gets as far as these layers."""
        return next(side for side in count(1) if self._reaches(side, wanted))

    def _reaches(self, px: int, wanted: Collection[str]) -> bool:
        left = set(wanted)
        for name, layer in self.chain():
            px = _px_after(layer, px)
            left.discard(name)
            if px < 1 or not left:
                break
        return px >= 1


class TorchvisionFeatures(FeatureNetwork):
    """VGG-16, VGG-19 or AlexNet: the ``features`` part with torchvision's keys (``features.N.weight``)."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, average_pooling: bool = False) -> None:
        super().__init__()
        named = _alexnet() if name == "alexnet" else _vgg(_VGG_DEPTHS[name])
        self._names = tuple(named)
        self.features = nn.Sequential(*named.values())
        self.kind = name
        self.taps = _TAPS[name]
        style = tuple(tap for tap in self.taps if tap != "relu4_2")
        content = {"vgg16": "relu2_2", "vgg19": "relu4_2", "alexnet": "relu3"}[name]
        self.layers = FeatureLayers(content, style)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        set_pooling(self, "average" if average_pooling else "max")

    def chain(self) -> Sequence[tuple[str, nn.Module]]:
        """See the class."""
        return list(zip(self._names, self.features, strict=True))

    def prepared(self, image: Tensor) -> Tensor:
        """ImageNet's mean and deviation, as torchvision's networks were trained with."""
        return (image - self.mean) / self.std


class NormalisedVgg19(FeatureNetwork):
    """The VGG-19 whose filters are scaled to mean activation 1 (Gatys et al. 2016, section 2), as deep as its weights.

    ``preprocess`` is a 1x1 convolution from RGB in 0-1 to BGR minus the ImageNet mean in 0-255. Average pooling.
    State-dict keys: ``preprocess.*``, ``conv1_1.*``, ``conv1_2.*``, ...; the published file has no ``preprocess``, and
    pads with zeros where ours pads by reflection.
    """

    def __init__(self, depth: Sequence[str], padding_mode: Literal["reflect", "zeros"] = "reflect") -> None:
        super().__init__()
        self.kind = "vgg19 (normalised)"
        self.depth = tuple(depth)
        self.preprocess = nn.Conv2d(3, 3, 1)
        channels = 3
        for name in self.depth:
            width = _VGG_WIDTHS[int(name[4]) - 1]
            self.add_module(name, nn.Conv2d(channels, width, 3, padding=1, padding_mode=padding_mode))
            channels = width
        for stage in {name[4] for name in self.depth}:
            self.add_module(f"pool{stage}", nn.AvgPool2d(2))
        self.relu = nn.ReLU()
        ends = {name[4]: name for name in self.depth}  # the last convolution of each stage
        style = tuple(f"relu{name[4:]}" for name in self.depth if name in ends.values())
        self.layers = FeatureLayers(content=f"relu{self.depth[-1][4:]}", style=style)
        self.taps = style

    def chain(self) -> Sequence[tuple[str, nn.Module]]:
        """See the class."""
        found: list[tuple[str, nn.Module]] = []
        stage = "1"
        for name in self.depth:
            if name[4] != stage:
                found.append((f"pool{stage}", self.get_submodule(f"pool{stage}")))
                stage = name[4]
            found += [(name, self.get_submodule(name)), (f"relu{name[4:]}", self.relu)]
        return found

    def prepared(self, image: Tensor) -> Tensor:
        """See ``preprocess``."""
        x: Tensor = self.preprocess(image)
        return x


def set_pooling(network: FeatureNetwork, pooling: Pooling) -> None:
    """Average or maximum in every pooling layer, with the windows as they are."""
    kind = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}[pooling]
    for parent in network.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d)):
                parent.add_module(name, kind(layer.kernel_size, layer.stride))


def random_features(name: Backbone, seed: int) -> TorchvisionFeatures:
    """A network at full depth with random weights (He et al. 2015): for timing, since it sees nothing in a picture."""
    network = TorchvisionFeatures(name)
    random = torch.Generator().manual_seed(seed)
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            deviation = (2 / layer.weight[0].numel()) ** 0.5
            with torch.no_grad():
                layer.weight.normal_(0, deviation, generator=random)
                assert layer.bias is not None
                layer.bias.zero_()
    network.freeze()
    return network


def _px_after(layer: nn.Module, px: int) -> int:
    """The side of a layer's map of a square of this side; 0 where it takes none so small."""
    if isinstance(layer, nn.Conv2d):
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        if layer.padding_mode == "reflect" and px <= padding:
            return 0
        return max(0, (px + 2 * padding - kernel) // stride + 1)
    if isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d)):
        kernel, stride = (size if isinstance(size, int) else size[0] for size in (layer.kernel_size, layer.stride))
        return max(0, (px - kernel) // stride + 1)
    return px


def _vgg(depths: Sequence[int]) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    channels = 3
    for stage, (depth, width) in enumerate(zip(depths, _VGG_WIDTHS, strict=True), 1):
        for i in range(1, depth + 1):
            layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{stage}_{i}"] = nn.ReLU()
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    return layers


def _alexnet() -> dict[str, nn.Module]:
    return {
        "conv1": nn.Conv2d(3, 64, 11, stride=4, padding=2), "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(3, 2),
        "conv2": nn.Conv2d(64, 192, 5, padding=2), "relu2": nn.ReLU(), "pool2": nn.MaxPool2d(3, 2),
        "conv3": nn.Conv2d(192, 384, 3, padding=1), "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(384, 256, 3, padding=1), "relu4": nn.ReLU(),
        "conv5": nn.Conv2d(256, 256, 3, padding=1), "relu5": nn.ReLU(), "pool5": nn.MaxPool2d(3, 2),
    }  # fmt: skip


def features_from_state(state: Mapping[str, Tensor], *, where: str) -> FeatureNetwork:
    """Recognise the network by its keys and load it, frozen. ``classifier.*`` and other extra layers are dropped."""
    if "preprocess.weight" in state:
        return _normalised_from_state(state, where=where).freeze()
    if "conv1_1.weight" in state:
        return _published_from_state(state, where=where).freeze()
    kept = {key: value for key, value in state.items() if key.startswith("features.")}
    for name in get_args(Backbone):
        candidate = TorchvisionFeatures(name)
        shapes = {key: value.shape for key, value in candidate.state_dict().items()}
        if shapes == {key: value.shape for key, value in kept.items()}:
            candidate.load_state_dict(kept, strict=True)
            return candidate.freeze()
    raise CheckpointRefused(
        f"{where} holds no feature network that is known (first keys: {', '.join(sorted(state)[:3])})",
        expected="torchvision's vgg16, vgg19 or alexnet keys (features.N.weight), or the normalised VGG-19's "
        "(conv1_1.weight)",
        fix="convert the checkpoint to safetensors with those keys",
    )


def _normalised_from_state(
    state: Mapping[str, Tensor], *, where: str, padding_mode: Literal["reflect", "zeros"] = "reflect"
) -> NormalisedVgg19:
    convolutions = sorted({key.split(".")[0] for key in state} - {"preprocess"})
    expected = "preprocess.*, conv1_1.*, conv1_2.*, ... of the normalised VGG-19, as deep as one likes"
    strange = [name for name in convolutions if not _CONVOLUTION.fullmatch(name)]
    if strange or not convolutions:
        raise CheckpointRefused(f"{where} holds {strange[:3] or 'no convolution'} beside preprocess", expected=expected)
    network = NormalisedVgg19(convolutions, padding_mode)
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise CheckpointRefused(
            f"{where} does not fit: {str(error).splitlines()[-1].strip()}", expected=expected
        ) from error
    return network


def _published_from_state(state: Mapping[str, Tensor], *, where: str) -> NormalisedVgg19:
    """The layout of Gatys et al.'s own file (vgg_conv): the input is BGR in 0-255 minus the mean, padded with zeros."""
    flipped = torch.eye(3).flip(0) * 255
    preprocess = {
        "preprocess.weight": flipped.view(3, 3, 1, 1),
        "preprocess.bias": -torch.tensor(_GATYS_MEAN_BGR),
    }
    return _normalised_from_state({**state, **preprocess}, where=where, padding_mode="zeros")


def load_features(path: Path) -> FeatureNetwork:
    """Read a feature network from a safetensors file."""
    if not path.is_file():
        raise UsageError(
            f"the feature network {str(path)!r} is not a file",
            expected="a safetensors file with VGG-16, VGG-19 or AlexNet weights",
            fix="--set features=FILE",
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CheckpointRefused(f"{path} is no safetensors file: {error}", expected="safetensors weights") from error
    return features_from_state(state, where=str(path))
