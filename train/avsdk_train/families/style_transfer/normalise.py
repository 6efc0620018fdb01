"""Weight normalisation (Gatys et al. 2016, section 2): every filter gets mean activation 1, the function stays."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from avsdk_train.families.style_transfer.features import FeatureNetwork

_LEAST_SHARE = 1e-3


def normalise(network: FeatureNetwork, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """Scale the filters in place so that each one's mean activation over images and positions is 1; the scales.

    ``images`` are RGB in 0-1, each of shape ``(batch, 3, height, width)``, sizes may differ. Returns, by convolution,
    the mean activations ``a`` of shape ``(channels,)`` as they were: a map of the normalised network is the old one
    over ``a``. Filter and bias are divided by ``a``, the next convolution's input channels multiplied by it, which
    is exact since ReLU, average and maximum pooling and the padding all commute with a positive factor. A filter that
    responds less than a thousandth as much as its layer does on average is divided by that thousandth: on another
    picture it may respond, and must not drown all others then. In a layer that never responds all keep their scale.
    """
    scales: dict[str, Tensor] = {}
    before: Tensor | None = None
    with torch.no_grad():
        maps = [network.prepared(image) for image in images]
        if not maps:
            message = "no image to normalise the network by"
            raise ValueError(message)
        chain = network.chain()
        deepest = max(i for i, (_, layer) in enumerate(chain) if isinstance(layer, nn.Conv2d))
        for name, layer in chain[: deepest + 1]:
            if isinstance(layer, nn.Conv2d):
                if before is not None:
                    layer.weight.mul_(before.view(1, -1, 1, 1))
                before = scales[name] = _mean_activations([layer(x) for x in maps])
                layer.weight.div_(before.view(-1, 1, 1, 1))
                if layer.bias is not None:
                    layer.bias.div_(before)
            maps = [layer(x) for x in maps]
    return scales


def _mean_activations(maps: list[Tensor]) -> Tensor:
    """Per channel, over all positions of all images, after the ReLU; in double precision, since it is a long sum."""
    totals = torch.stack([x.relu().double().sum(dim=(0, 2, 3)) for x in maps]).sum(dim=0)
    positions = sum(x.shape[0] * x.shape[2] * x.shape[3] for x in maps)
    means = (totals / positions).float()
    least = _LEAST_SHARE * means.mean()
    return means.clamp(min=float(least)) if least > 0 else torch.ones_like(means)
