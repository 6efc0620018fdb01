"""Perceptual losses (Johnson et al. 2016, section 3.2) in the scaling that suits a network with mean activation 1.

Everything here runs in float32, whatever the precision of the maps: Gram matrices of 0-255 images overflow half
precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from avsdk_train.families.style_transfer.features import FeatureLayers


@dataclass(frozen=True)
class StyleLosses:
    """The parts of the loss, unweighted, each a scalar."""

    content: Tensor
    style: Tensor
    total_variation: Tensor


def gram(features: Tensor) -> Tensor:
    """``F F^T / (H W)`` per image: ``(batch, C, H, W) -> (batch, C, C)``."""
    batch, channels, height, width = features.shape
    flat = features.float().reshape(batch, channels, height * width)
    return flat @ flat.transpose(1, 2) / (height * width)


def content_loss(styled: Tensor, content: Tensor) -> Tensor:
    """Mean squared difference of the two maps."""
    return functional.mse_loss(styled.float(), content.float())


def style_loss(
    maps: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    layers: FeatureLayers,
    scale: Literal["channels", "mean"] = "channels",
) -> Tensor:
    """Sum over the style layers of the distance between Gram matrices; ``targets[layer]`` has shape ``(C, C)``.

    ``channels``: ``C * MSE(Gram, target)``, the squared Frobenius distance over the channel count, of order 1 for
    features of mean activation 1. ``mean``: ``MSE`` of the Gram matrices over ``C H W``, as pytorch/examples has it.
    """
    total = None
    for layer in layers.style:
        found = gram(maps[layer])
        channels = found.shape[1]
        factor = channels if scale == "channels" else channels**-2
        term = factor * functional.mse_loss(found, targets[layer].expand_as(found))
        total = term if total is None else total + term
    if total is None:
        message = "the feature network names no style layer"
        raise ValueError(message)
    return total


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of an RGB image in 0-1."""
    vertical = (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
    horizontal = (image[..., :, 1:] - image[..., :, :-1]).abs().mean()
    return vertical + horizontal


def perceptual_losses(
    styled: Tensor,
    styled_maps: Mapping[str, Tensor],
    content_maps: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    layers: FeatureLayers,
    scale: Literal["channels", "mean"] = "channels",
) -> StyleLosses:
    """All three parts; ``styled`` is RGB in 0-1."""
    return StyleLosses(
        content=content_loss(styled_maps[layers.content], content_maps[layers.content]),
        style=style_loss(styled_maps, targets, layers, scale),
        total_variation=total_variation(styled.float()),
    )
