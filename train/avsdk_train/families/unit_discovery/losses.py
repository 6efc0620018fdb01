"""What unit discovery lowers (Tjandra et al. 2020, equations 7, 8, 9, 10 and 14), with the reductions stated.

The paper sums over time and dimensions. Here the same sums are divided by the number of real feature frames of the
batch, which leaves their weights beside one another as they are: gamma and lambda have the paper's meaning.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avsdk_train.families.unit_discovery.attention import mask_from_lengths
from avsdk_train.families.unit_discovery.network import Answer
from avsdk_train.families.unit_discovery.settings import UnitSettings
from avsdk_train.family import Batch, Losses


class UnitLoss:
    """The loss of encoder, codebook and decoder, or of the inverter, as the settings say."""

    def __init__(self, settings: UnitSettings) -> None:
        self._settings = settings

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Losses:
        """The losses of one step; the total of several processes takes all weights into account, used or not."""
        found = self._inverted(network, batch) if "magnitudes" in batch else self._decoded(network, batch, step)
        if isinstance(network, DistributedDataParallel):  # it waits for the gradient of every weight
            idle = [weight.sum() for weight in network.parameters() if weight.requires_grad]
            return Losses(found.total + 0 * torch.stack(idle).sum(), found.parts)
        return found

    def _decoded(self, network: nn.Module, batch: Batch, step: int) -> Losses:
        settings = self._settings
        given = (batch["frames"], batch["lengths"], batch["speakers"], settings.jitter)
        answer = cast(Answer, network(*given, quantises=step >= settings.warm_up_steps))
        mask = mask_from_lengths(batch["lengths"], batch["frames"].shape[1])
        frames = mask.sum()
        likelihood = 0.5 * _masked_squares(answer.features - batch["target"], mask) / frames
        commitment = _masked_squares(answer.vectors - answer.entries.detach(), answer.mask) / frames
        steps = answer.vectors[:, 1:] - answer.vectors[:, :-1]
        roughness = _masked_squares(steps, answer.mask[:, 1:]) / frames
        total = likelihood + settings.commitment * commitment + settings.smoothing * roughness
        parts = {"reconstruction": likelihood, "commitment": commitment, "roughness": roughness}
        if settings.consistency:
            twins = answer.vectors[0::2] - answer.vectors[1::2]
            parts["disagreement"] = _masked_squares(twins, answer.mask[0::2]) / frames
            total = total + settings.consistency * parts["disagreement"]
        parts["perplexity"] = perplexity(answer.codes, answer.mask, _entries(network))
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def _inverted(self, network: nn.Module, batch: Batch) -> Losses:
        answer = cast(Answer, network(batch["frames"], batch["lengths"], batch["speakers"], inverts=True))
        mask = mask_from_lengths(batch["lengths"], batch["frames"].shape[1])
        error = _masked_squares(answer.features - batch["magnitudes"], mask) / mask.sum()
        power = _masked_squares(batch["magnitudes"], mask) / mask.sum()
        return Losses(error, {"spectrum": error.detach(), "share_of_power": (error / power).detach()})


def perplexity(codes: Tensor, mask: Tensor, entries: int) -> Tensor:
    """Two to the entropy of the codes (batch, units) that are real: how many entries are in use, evenly counted."""
    counts = torch.bincount(codes.reshape(-1), weights=mask.reshape(-1), minlength=entries).float()
    shares = counts / counts.sum()
    return torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())


def _masked_squares(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of squares over all dimensions of the real frames, in float32."""
    return (values.float().square().sum(dim=-1) * mask).sum()


def _entries(network: nn.Module) -> int:
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    return int(cast(Tensor, inner.codebook.entries).shape[0])  # type: ignore[union-attr]
