"""The transformation network: published keys, shapes, sizes."""

from __future__ import annotations

import pytest
import torch

from avsdk.errors import CheckpointRefused
from avsdk_train.families.style_transfer import StyleTransfer
from avsdk_train.families.style_transfer.network import TransformerNet

PUBLISHED = {
    **{f"conv{i}.conv2d": (32, 3, 9) if i == 1 else (64, 32, 3) if i == 2 else (128, 64, 3) for i in (1, 2, 3)},
    **{f"res{i}.conv{j}.conv2d": (128, 128, 3) for i in range(1, 6) for j in (1, 2)},
    "deconv1.conv2d": (64, 128, 3),
    "deconv2.conv2d": (32, 64, 3),
    "deconv3.conv2d": (3, 32, 9),
}
NORMS = {"in1": 32, "in2": 64, "in3": 128, "in4": 64, "in5": 32} | {
    f"res{i}.in{j}": 128 for i in range(1, 6) for j in (1, 2)
}


def test_keys_and_shapes_are_the_published_ones() -> None:
    expected = {}
    for name, (out, into, size) in PUBLISHED.items():
        expected[f"{name}.weight"], expected[f"{name}.bias"] = (out, into, size, size), (out,)
    for name, channels in NORMS.items():
        expected[f"{name}.weight"] = expected[f"{name}.bias"] = (channels,)
    found = {key: tuple(value.shape) for key, value in TransformerNet().state_dict().items()}
    assert found == expected
    assert sum(value.numel() for value in TransformerNet().parameters()) == 1_679_235


@pytest.mark.parametrize(("size", "answer"), [((64, 64), (64, 64)), ((61, 67), (64, 68)), ((65, 66), (68, 68))])
def test_sides_are_rounded_up_to_a_multiple_of_four(size: tuple[int, int], answer: tuple[int, int]) -> None:
    with torch.no_grad():
        assert TransformerNet()(torch.zeros(1, 3, *size)).shape == (1, 3, *answer)


def test_running_statistics_of_old_checkpoints_are_dropped_and_half_precision_is_widened() -> None:
    trained = TransformerNet()
    state = {key: value.half() for key, value in trained.state_dict().items()}
    for name, channels in NORMS.items():
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.zeros(channels), torch.ones(channels)
    network = TransformerNet()
    StyleTransfer().load_weights(network, state)
    assert all(value.dtype == torch.float32 for value in network.parameters())
    torch.testing.assert_close(network.conv1.conv2d.weight, trained.conv1.conv2d.weight, atol=1e-3, rtol=1e-2)


def test_a_state_dict_of_another_network_is_refused() -> None:
    state = dict(TransformerNet().state_dict())
    state["conv9.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointRefused, match=r"do not fit the transformation network(.|\n)*pytorch/examples"):
        StyleTransfer().load_weights(TransformerNet(), state)
