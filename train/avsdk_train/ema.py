"""A moving average of the weights, which often does better than the weights themselves (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from avsdk_train.distributed import whole_tensor


class MovingAverage:
    """The exponential moving average of a network's parameters; buffers are taken as they are.

    Step t (from 0) moves it by 1 - min(decay, (1 + t) / (10 + t)), so that it forgets the first weights early. This is
    a function of the step: nothing but the average itself needs to be kept.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._values = {name: value.detach().clone() for name, value in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights as they are after ``step``."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in network.named_parameters():
            self._values[name].mul_(decay).add_(value.detach(), alpha=1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter, whole."""
        return {name: whole_tensor(value) for name, value in self._values.items()}

    def load(self, state: Mapping[str, Tensor], network: nn.Module) -> None:
        """Load what ``state`` gave, laid out as the network's parameters are."""
        for name, value in network.named_parameters():
            whole = state[name].to(value.device)
            if isinstance(value, DTensor):
                self._values[name] = distribute_tensor(whole, value.device_mesh, value.placements)
            else:
                self._values[name] = whole.clone()
