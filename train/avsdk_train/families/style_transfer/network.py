"""The feed-forward image transformation network of Johnson, Alahi and Fei-Fei (2016), "Perceptual losses for real-time
style transfer and super-resolution", with the instance norm of Ulyanov et al. (2016) and resize-convolutions.

The layer list and the state-dict keys are those of the widely published ``pytorch/examples`` checkpoints, so that
weights trained there load here.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

_OLD_KEYS = re.compile(r"in\d+\.(running_mean|running_var|num_batches_tracked)$")


class ConvLayer(nn.Module):
    """Reflection padding of half the kernel, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.reflection_pad = nn.ReflectionPad2d(kernel_size // 2)
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, C, H, W)``; the sides are divided by the stride, rounded up."""
        result: Tensor = self.conv2d(self.reflection_pad(x))
        return result


class ResidualBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, added to its input, with no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, kernel_size=3)
        self.in1 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = ConvLayer(channels, channels, kernel_size=3)
        self.in2 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        hidden = functional.relu(self.in1(self.conv1(x)))
        result: Tensor = x + self.in2(self.conv2(hidden))
        return result


class UpsampleConvLayer(nn.Module):
    """Nearest-neighbour enlargement by a whole factor, then a padded convolution: no checkerboard (Odena 2016)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, upsample: int) -> None:
        super().__init__()
        self.upsample = upsample
        self.reflection_pad = nn.ReflectionPad2d(kernel_size // 2)
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """The sides are multiplied by ``upsample``."""
        enlarged = functional.interpolate(x, scale_factor=float(self.upsample), mode="nearest")
        result: Tensor = self.conv2d(self.reflection_pad(enlarged))
        return result


class TransformerNet(nn.Module):
    """Image transformation network, 1.68 M parameters.

    Input and output: ``(batch, 3, height, width)`` float32, RGB in 0-255 (the output is not clamped). The output's
    sides are the input's rounded up to a multiple of 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvLayer(3, 32, kernel_size=9)
        self.in1 = nn.InstanceNorm2d(32, affine=True)
        self.conv2 = ConvLayer(32, 64, kernel_size=3, stride=2)
        self.in2 = nn.InstanceNorm2d(64, affine=True)
        self.conv3 = ConvLayer(64, 128, kernel_size=3, stride=2)
        self.in3 = nn.InstanceNorm2d(128, affine=True)
        self.res1 = ResidualBlock(128)
        self.res2 = ResidualBlock(128)
        self.res3 = ResidualBlock(128)
        self.res4 = ResidualBlock(128)
        self.res5 = ResidualBlock(128)
        self.deconv1 = UpsampleConvLayer(128, 64, kernel_size=3, upsample=2)
        self.in4 = nn.InstanceNorm2d(64, affine=True)
        self.deconv2 = UpsampleConvLayer(64, 32, kernel_size=3, upsample=2)
        self.in5 = nn.InstanceNorm2d(32, affine=True)
        self.deconv3 = ConvLayer(32, 3, kernel_size=9)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        x = functional.relu(self.in1(self.conv1(image)))
        x = functional.relu(self.in2(self.conv2(x)))
        x = functional.relu(self.in3(self.conv3(x)))
        x = self.res5(self.res4(self.res3(self.res2(self.res1(x)))))
        x = functional.relu(self.in4(self.deconv1(x)))
        x = functional.relu(self.in5(self.deconv2(x)))
        result: Tensor = self.deconv3(x)
        return result


def load_published(network: TransformerNet, state: dict[str, Tensor]) -> None:
    """Load a state dict in the published key layout, strictly.

    Checkpoints older than PyTorch 0.4 also hold running statistics of the instance norms; they were never used, and are
    dropped.
    """
    kept = {key: value.to(torch.float32) for key, value in state.items() if not _OLD_KEYS.search(key)}
    network.load_state_dict(kept, strict=True)
