"""Feature networks: recognised by their keys, tapped at the published layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from avsdk.errors import CheckpointRefused, UnknownName, UsageError
from avsdk_train.families.style_transfer.features import (
    FeatureNetwork,
    NormalisedVgg19,
    TorchvisionFeatures,
    features_from_state,
    load_features,
    random_features,
)

CONVOLUTIONS = {
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
    "alexnet": [0, 3, 6, 8, 10],
}
TAPS = {
    "vgg16": {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512},
    "vgg19": {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512, "relu4_2": 512, "relu5_1": 512},
    "alexnet": {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256},
}


@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
def test_torchvision_layouts_are_recognised_and_tapped(name: str) -> None:
    torch.manual_seed(0)
    network = TorchvisionFeatures(name)
    state = dict(network.state_dict())
    assert sorted({int(key.split(".")[1]) for key in state}) == CONVOLUTIONS[name]
    state["classifier.0.weight"] = torch.zeros(2, 2)  # published files hold the classifier too
    found = features_from_state(state, where="here")
    image = torch.rand(1, 3, 64, 64)
    maps = found(image)
    assert {tap: value.shape[1] for tap, value in maps.items()} == TAPS[name]
    assert set(found.layers.style) | {found.layers.content} <= set(maps)
    assert not any(value.requires_grad for value in found.parameters())
    # By hand: the first tap of VGG-19 and AlexNet is ReLU(conv(normalised image)).
    first = network.features[:2]((image - network.mean) / network.std)
    if name != "vgg16":
        torch.testing.assert_close(next(iter(maps.values())), first)


def test_average_pooling_replaces_every_maximum() -> None:
    kinds = {type(layer) for layer in TorchvisionFeatures("vgg19", average_pooling=True).features}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.AvgPool2d}


def test_the_normalised_vgg19_is_as_deep_as_its_weights() -> None:
    depth = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"]
    found = features_from_state(NormalisedVgg19(depth).state_dict(), where="here")
    maps = found(torch.rand(1, 3, 32, 40))
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "relu1_2": (64, 32, 40), "relu2_2": (128, 16, 20), "relu3_1": (256, 8, 10),
    }  # fmt: skip
    assert found.layers.content == "relu3_1"


def test_unknown_weights_are_refused(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointRefused, match=r"first keys: encoder.weight(.|\n)*torchvision's vgg16"):
        load_features(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"conv.weight": (2, 2)}, "'conv'"),
        ({"conv9_1.weight": (2, 2)}, "'conv9_1'"),
        ({"conv1_1.weight": (64, 3, 5, 5)}, "does not fit: size mismatch for conv1_1.weight"),
        ({"conv2_1.weight": (128, 64, 3, 3)}, "does not fit"),
        (None, "no convolution"),
    ],
)
def test_normalised_weights_of_another_shape_are_refused(
    tmp_path: Path, change: dict[str, tuple[int, ...]] | None, text: str
) -> None:
    state = dict(NormalisedVgg19(["conv1_1"]).state_dict())
    if change is None:
        state = {key: value for key, value in state.items() if key.startswith("preprocess")}
    else:
        state.update({key: torch.zeros(shape) for key, shape in change.items()})
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointRefused, match=text):
        load_features(tmp_path / "x.safetensors")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"features.0.weight": Bomb()}, tmp_path / "vgg16.pth")
    with pytest.raises(CheckpointRefused, match="no safetensors file"):
        load_features(tmp_path / "vgg16.pth")
    assert not (tmp_path / "ran").exists()


def test_an_absent_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--set features=FILE"):
        load_features(tmp_path / "no.safetensors")


@pytest.mark.shared_data
def test_the_real_normalised_weights_have_mean_activation_near_one(shared_data: Path, photograph: Path) -> None:
    from avsdk.media import read_image
    from avsdk_train.families.style_transfer.data import tensor_from_image

    network = load_features(shared_data / "weights" / "vgg19_normalised_to_conv3_1.safetensors")
    with torch.no_grad():
        maps = network(tensor_from_image(read_image(photograph)) / 255)
    assert all(0.4 < float(value.mean()) < 1.2 for value in maps.values())


def test_the_published_normalised_layout_takes_bgr_minus_the_mean_and_pads_with_zeros() -> None:
    torch.manual_seed(0)
    depth = [f"conv{stage}_{i}" for stage, count in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, count + 1)]
    state = {key: value for key, value in NormalisedVgg19(depth[:3]).state_dict().items() if "preprocess" not in key}
    found = features_from_state(state, where="here")
    image = torch.rand(1, 3, 16, 16)
    bgr = image.flip(1) * 255 - torch.tensor([0.40760392, 0.45795686, 0.48501961]).view(1, 3, 1, 1) * 255
    expected = functional.relu(functional.conv2d(bgr, state["conv1_1.weight"], state["conv1_1.bias"], padding=1))
    torch.testing.assert_close(found.maps_of(image, ["relu1_1"])["relu1_1"], expected, rtol=1e-4, atol=1e-3)
    whole = NormalisedVgg19(depth)
    assert [name for name, _ in whole.chain() if name.startswith("relu")][-1] == "relu5_4"
    assert [name for name, _ in whole.chain() if name.startswith("pool")] == ["pool1", "pool2", "pool3", "pool4"]


@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
def test_layers_stand_at_torchvision_s_indices(name: str) -> None:
    chain = TorchvisionFeatures(name).chain()
    indices = {layer: i for i, (layer, _) in enumerate(chain)}
    assert [indices[layer] for layer in indices if layer.startswith("conv")] == CONVOLUTIONS[name]
    published = {
        "vgg16": {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "pool5": 30},
        "vgg19": {"relu3_1": 11, "conv4_2": 21, "relu4_2": 22, "relu5_1": 29, "pool5": 36},
        "alexnet": {"relu1": 1, "pool2": 5, "relu5": 11, "pool5": 12},
    }[name]
    assert {layer: indices[layer] for layer in published} == published


@pytest.mark.parametrize(
    "network", [TorchvisionFeatures("alexnet"), TorchvisionFeatures("vgg16")], ids=lambda n: n.kind
)
@pytest.mark.parametrize("layer", ["pool5", "first"])
def test_the_smallest_picture_is_the_smallest_that_runs(network: FeatureNetwork, layer: str) -> None:
    wanted = (network.chain()[0][0] if layer == "first" else layer,)
    px = network.smallest_px(wanted)
    assert all(side >= 1 for side in network.maps_of(torch.rand(1, 3, px, px), wanted)[wanted[0]].shape)
    with pytest.raises(RuntimeError):
        network.maps_of(torch.rand(1, 3, px - 1, px - 1), wanted)


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'relu4_2'"):
        TorchvisionFeatures("vgg19").maps_of(torch.rand(1, 3, 64, 64), ["relu42"])


def test_nothing_deeper_than_asked_is_computed() -> None:
    network = TorchvisionFeatures("alexnet")
    network.features[3] = nn.Identity()  # a map of it would fail the next convolution's channel count
    assert set(network.maps_of(torch.rand(1, 3, 64, 64), ["relu1"])) == {"relu1"}


def test_random_weights_are_those_of_their_seed() -> None:
    first, again, other = (random_features("alexnet", seed).features[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
