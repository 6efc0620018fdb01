"""The loss of a training step: reconstruction while warming up, then the perceptual losses."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from avsdk_train.families.style_transfer.losses import perceptual_losses
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.families.style_transfer.targets import Targets
from avsdk_train.family import Batch, Losses

_RECONSTRUCTION_WEIGHT = 100.0


class PerceptualLoss:
    """Runs the transformation network and the feature network, and weighs what differs.

    A fresh network starts with a style loss some 1e5 times larger than it ends with, and then paints only grey relief:
    hence the warm-up, in which it learns to return its input.
    """

    def __init__(self, settings: StyleSettings, targets: Targets, device: torch.device, *, warm_up: bool) -> None:
        self._settings = settings
        self._features = targets.load_features(settings.features).to(device)
        self._grams = {layer: value.to(device) for layer, value in targets.grams.items()}
        self._layers = targets.layers
        self._scale = cast(Literal["channels", "mean"], targets.style_scale)
        self._warmup_batches = settings.warmup_batches if warm_up else 0

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Losses:
        """``batch["image"]`` is ``(batch, 3, height, width)`` in 0-255."""
        image = batch["image"]
        styled = network(image).float()[..., : image.shape[2], : image.shape[3]]
        if step < self._warmup_batches:
            loss = ((styled - image) / 255).square().mean() * _RECONSTRUCTION_WEIGHT
            return Losses(loss, {"reconstruction": loss.detach()})
        return self._perceptual(styled / 255, image / 255)

    def _perceptual(self, styled: Tensor, image: Tensor) -> Losses:
        styled_maps = self._features(styled)
        with torch.no_grad():
            content_maps = self._features(image)
        # Gram matrices and the sums over them overflow or lose digits in 16 bits.
        with torch.autocast(image.device.type, enabled=False):
            found = perceptual_losses(styled, styled_maps, content_maps, self._grams, self._layers, self._scale)
            settings = self._settings
            total = settings.content_weight * found.content + settings.style_weight * found.style
            if settings.total_variation_weight:
                total = total + settings.total_variation_weight * found.total_variation
        parts = {"content": found.content, "style": found.style, "total_variation": found.total_variation}
        return Losses(total, {name: value.detach() for name, value in parts.items()})
