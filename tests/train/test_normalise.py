"""Weight normalisation: mean activation 1, and the network's function as it was, up to the scale of each channel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avsdk_train.families.style_transfer.features import (
    FeatureNetwork,
    NormalisedVgg19,
    Pooling,
    TorchvisionFeatures,
    random_features,
    set_pooling,
)
from avsdk_train.families.style_transfer.normalise import normalise

NETWORKS = {
    "vgg16": lambda: random_features("vgg16", 1),
    "alexnet": lambda: random_features("alexnet", 2),
    "published": lambda: NormalisedVgg19(["conv1_1", "conv1_2", "conv2_1"]).freeze(),
}


def photographs() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.rand(1, 3, 70, 80, generator=random), torch.rand(1, 3, 96, 66, generator=random)]


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_mean_activation_is_one_and_maps_keep_all_but_their_scale(name: str, pooling: Pooling) -> None:
    torch.manual_seed(0)
    network: FeatureNetwork = NETWORKS[name]()
    set_pooling(network, pooling)
    names = [layer for layer, _ in network.chain()]
    images, other = photographs(), torch.rand(1, 3, 64, 72)
    before = network.maps_of(other, names)
    scales = normalise(network, images)
    after = network.maps_of(other, names)
    convolution = ""
    for layer in names:
        if layer.startswith("conv"):
            convolution = layer
        scale = scales[convolution].view(1, -1, 1, 1)
        torch.testing.assert_close(
            after[layer] * scale, before[layer], rtol=1e-3, atol=1e-4 * float(before[layer].std())
        )
    assert set(scales) == {layer for layer in names if layer.startswith("conv")}
    relus = [name for name in names if name.startswith("relu")]
    maps = [network.maps_of(image, relus) for image in images]
    for layer in relus:
        positions = torch.cat(
            [found[layer].flatten(2) for found in maps], dim=2
        )  # over images and positions, not a mean of means
        means = positions.mean(dim=(0, 2))
        scale = scales[layer.replace("relu", "conv")]
        responds = scale > 1.001e-3 * scale.mean()
        assert responds.float().mean() > 0.6
        torch.testing.assert_close(means[responds], torch.ones(int(responds.sum())), rtol=1e-3, atol=1e-3)


def test_a_filter_that_hardly_responds_is_not_blown_up() -> None:
    network = random_features("alexnet", 0)
    first = network.features[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight[3] = 0
        first.bias[3] = -1
        first.weight[4] *= 1e-6
    scales = normalise(network, photographs())
    others = [i for i in range(64) if i not in (3, 4)]
    least = 1e-3 * float(scales["conv1"][others].sum()) / 64
    assert scales["conv1"][[3, 4]].tolist() == pytest.approx([least, least], rel=1e-3)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_a_layer_that_never_responds_keeps_its_scale() -> None:
    network = random_features("alexnet", 0)
    first = network.features[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(-1)
    assert (normalise(network, photographs())["conv1"] == 1).all()


def test_without_a_photograph_there_is_nothing_to_normalise_by() -> None:
    with pytest.raises(ValueError, match="no image"):
        normalise(TorchvisionFeatures("alexnet"), [])
