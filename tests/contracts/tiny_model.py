"""A model small enough to be compiled by every engine in a second: convolution, instance norm, ReLU, enlargement."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec


class Tiny(nn.Module):
    """(batch, 3, height, width) in 0-255 -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.last = nn.Conv2d(8, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(functional.pad(image, (1, 1, 1, 1), mode="reflect"))
        x = functional.interpolate(functional.relu(self.norm(x)), scale_factor=2.0, mode="nearest")
        x = self.last(functional.pad(x, (1, 1, 1, 1), mode="reflect"))
        return 20.0 * x + 128.0


def network() -> tuple[nn.Module, tuple[Tensor, ...], ModelSpec]:
    """The model with fixed seed, example inputs, and a spec with dynamic height and width."""
    torch.manual_seed(1)
    axes = {
        "batch": AxisRange(1, 8, 1, 1),
        "height": AxisRange(16, 256, 4, 32),
        "width": AxisRange(16, 256, 4, 48),
    }
    shape = ("batch", 3, "height", "width")
    graph = GraphSpec("tiny", (TensorSpec("image", "float32", shape),), (TensorSpec("answer", "float32", shape),), axes)
    return Tiny().eval(), (torch.rand(2, 3, 32, 48) * 255,), ModelSpec("tiny", "tensor", (graph,))
