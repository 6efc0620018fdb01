"""Feature networks of the perceptual loss: VGG-16, VGG-19, AlexNet in torchvision's key layout, and the normalised
VGG-19 of Gatys et al. (2016) with average pooling.

Layer indices: Simonyan and Zisserman (2015), table 1, columns D and E; Krizhevsky (2014) for AlexNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from avsdk.errors import CheckpointRefused, UsageError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

_VGG_WIDTHS = {
    "vgg16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    "vgg19": (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
}
_TAPS = {
    "vgg16": {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22},
    "vgg19": {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20, "relu4_2": 22, "relu5_1": 29},
    "alexnet": {"relu1": 1, "relu2": 4, "relu3": 7, "relu4": 9, "relu5": 11},
}
_CONVOLUTION = re.compile(r"conv[1-5]_[1-4]")


@dataclass(frozen=True)
class FeatureLayers:
    """Which of a network's maps the losses read."""

    content: str
    style: tuple[str, ...]


class FeatureNetwork(nn.Module):
    """A frozen network that returns named maps of an RGB image in 0-1, shape ``(batch, 3, height, width)``."""

    layers: FeatureLayers

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """The maps that the losses may read, by name."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See ``maps``."""
        return self.maps(image)

    def freeze(self) -> FeatureNetwork:
        """No gradients, eval mode."""
        return self.requires_grad_(False).eval()


class TorchvisionFeatures(FeatureNetwork):
    """VGG-16, VGG-19 or AlexNet: the ``features`` part with torchvision's keys (``features.N.weight``)."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, average_pooling: bool = False) -> None:
        super().__init__()
        self.features = _alexnet(average_pooling) if name == "alexnet" else _vgg(name, average_pooling)
        self.taps = _TAPS[name]
        style = tuple(tap for tap in self.taps if tap != "relu4_2")
        content = {"vgg16": "relu2_2", "vgg19": "relu4_2", "alexnet": "relu3"}[name]
        self.layers = FeatureLayers(content, style)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """The taps of the network."""
        wanted = {index: tap for tap, index in self.taps.items()}
        x = (image - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in wanted:
                found[wanted[index]] = x
            if len(found) == len(wanted):
                break
        return found


class NormalisedVgg19(FeatureNetwork):
    """The VGG-19 whose filters are scaled to mean activation 1 (Gatys et al. 2016, section 2), as deep as its weights.

    ``preprocess`` is a 1x1 convolution from RGB in 0-1 to BGR minus the ImageNet mean in 0-255. Average pooling and
    reflection padding. State-dict keys: ``preprocess.*``, ``conv1_1.*``, ``conv1_2.*``, ...
    """

    def __init__(self, depth: Sequence[str]) -> None:
        super().__init__()
        self.depth = tuple(depth)
        self.preprocess = nn.Conv2d(3, 3, 1)
        channels = 3
        for name in self.depth:
            width = min(64 * 2 ** (int(name[4]) - 1), 512)
            self.add_module(name, nn.Conv2d(channels, width, 3))
            channels = width
        deepest = f"relu{self.depth[-1][4:]}"
        style = tuple(f"relu{name[4:]}" for name in self.depth if name in _gatys_style(self.depth))
        self.layers = FeatureLayers(content=deepest, style=style)

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """The last map of each stage, and the deepest."""
        x = self.preprocess(image)
        found: dict[str, Tensor] = {}
        stage = "1"
        for name in self.depth:
            if name[4] != stage:
                x, stage = functional.avg_pool2d(x, 2), name[4]
            x = functional.relu(self.get_submodule(name)(functional.pad(x, (1, 1, 1, 1), mode="reflect")))
            found[f"relu{name[4:]}"] = x
        wanted = {self.layers.content, *self.layers.style}
        return {name: found[name] for name in found if name in wanted}


def _gatys_style(depth: Sequence[str]) -> set[str]:
    """The last map of each stage that the weights hold."""
    last: dict[str, str] = {}
    for name in depth:
        last[name[4]] = name
    return set(last.values())


def _vgg(name: str, average_pooling: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG_WIDTHS[name]:
        if isinstance(width, str):
            layers.append(nn.AvgPool2d(2) if average_pooling else nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _alexnet(average_pooling: bool) -> nn.Sequential:
    pool = nn.AvgPool2d if average_pooling else nn.MaxPool2d
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), pool(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), pool(3, 2),
    )  # fmt: skip


def features_from_state(state: Mapping[str, Tensor], *, where: str) -> FeatureNetwork:
    """Recognise the network by its keys and load it, frozen. ``classifier.*`` and other extra layers are dropped."""
    if "preprocess.weight" in state:
        return _normalised_from_state(state, where=where).freeze()
    kept = {key: value for key, value in state.items() if key.startswith("features.")}
    for name in ("vgg16", "vgg19", "alexnet"):
        candidate = TorchvisionFeatures(name)
        shapes = {key: value.shape for key, value in candidate.state_dict().items()}
        if shapes == {key: value.shape for key, value in kept.items()}:
            candidate.load_state_dict(kept, strict=True)
            return candidate.freeze()
    raise CheckpointRefused(
        f"{where} holds no feature network that is known (first keys: {', '.join(sorted(state)[:3])})",
        expected="torchvision's vgg16, vgg19 or alexnet keys (features.N.weight), or the normalised VGG-19's",
        fix="convert the checkpoint to safetensors with those keys",
    )


def _normalised_from_state(state: Mapping[str, Tensor], *, where: str) -> NormalisedVgg19:
    convolutions = sorted({key.split(".")[0] for key in state} - {"preprocess"})
    expected = "preprocess.*, conv1_1.*, conv1_2.*, ... of the normalised VGG-19, as deep as one likes"
    strange = [name for name in convolutions if not _CONVOLUTION.fullmatch(name)]
    if strange or not convolutions:
        raise CheckpointRefused(f"{where} holds {strange[:3] or 'no convolution'} beside preprocess", expected=expected)
    network = NormalisedVgg19(convolutions)
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise CheckpointRefused(
            f"{where} does not fit: {str(error).splitlines()[-1].strip()}", expected=expected
        ) from error
    return network


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
