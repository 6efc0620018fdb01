"""The losses of version 1 (Gatys et al. 2016, equations 1-5), with the factors of four conventions.

Let ``F`` and ``P`` be maps of the picture and the photograph with ``N`` channels and ``M`` positions, ``G = F F^T`` and
``A`` the painting's, ``d`` the distance summed over all entries (the square for ``mse``). Every Gram matrix is divided
by its own ``M``, which equals the equations where picture and painting have one size, and compares textures where they
have not. Then with the weights ``w_l`` of the style layers, L of them:

| scale    | content              | style layer                        | default ``w_l`` | source                      |
|----------|----------------------|------------------------------------|-----------------|-----------------------------|
| paper    | 1/2 d(F, P)          | 1/(4 N^2) d(G/M, A/M)              | 1/L             | eq. 1 and 4 (1/(4 N^2 M^2)) |
| notebook | 1/(N M) d(F, P)      | 1/N^2 d(G/M, A/M) = 4 E_l          | 1000/N^2        | the authors' notebook       |
| channels | 1/(N M) d(F, P)      | 1/N d(G/M, A/M) = 4 N E_l          | 1               | avsdk's version 2           |
| mean     | 1/(N M) d(F, P)      | 1/N^2 d(G/(N M), A/(N M))          | 1               | pytorch/examples            |

The content loss of ``notebook`` is thus 2/(N M) times the paper's. The paper's is a sum over positions, so that the
same weights give a larger picture less style; with the others they do not depend on its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from avsdk.errors import UsageError
from avsdk_train.families.style_transfer.features import FeatureLayers, FeatureNetwork
from avsdk_train.families.style_transfer.losses import gram, total_variation
from avsdk_train.families.style_transfer.optimise_settings import Distance, OptimiseSettings, Scale

_PREFERRED_CONTENT = ("relu4_2", "relu4")
_STYLE_STAGES = 5


@dataclass(frozen=True)
class PictureLosses:
    """What is lowered, and its unweighted parts, each a scalar."""

    total: Tensor
    content: Tensor
    style: Tensor
    total_variation: Tensor


def distance(found: Tensor, target: Tensor, kind: Distance, delta: float = 1.0) -> Tensor:
    """The distance summed over all entries; at ``delta`` 1 Huber and smooth L1 are one function.

    ``smooth_l1`` is ``huber / delta``; both are half the square near 0, where ``mse`` is the whole square.
    """
    if kind == "mse":
        return functional.mse_loss(found, target, reduction="sum")
    if kind == "l1":
        return functional.l1_loss(found, target, reduction="sum")
    if kind == "smooth_l1":
        return functional.smooth_l1_loss(found, target, reduction="sum", beta=delta)
    return functional.huber_loss(found, target, reduction="sum", delta=delta)


def content_loss(found: Tensor, target: Tensor, scale: Scale, kind: Distance = "mse", delta: float = 1.0) -> Tensor:
    """Equation 1; ``found`` and ``target`` are maps of one shape."""
    factor = 0.5 if scale == "paper" else 1 / found.numel()
    return factor * distance(found.float(), target, kind, delta)


def layer_style_loss(found: Tensor, target: Tensor, scale: Scale, kind: Distance = "mse", delta: float = 1.0) -> Tensor:
    """Equation 4 of one layer; ``found`` and ``target`` are Gram matrices over their positions, shape ``(N, N)``."""
    channels = found.shape[0]
    if scale == "mean":
        found, target = found / channels, target / channels
    factor = {"paper": 0.25 / channels**2, "notebook": channels**-2, "channels": 1 / channels, "mean": channels**-2}
    return factor[scale] * distance(found, target, kind, delta)


def default_layer_weight(scale: Scale, channels: int, layers: int) -> float:
    """``w_l``, see the module."""
    return {"paper": 1 / layers, "notebook": 1000 / channels**2, "channels": 1.0, "mean": 1.0}[scale]


class PictureObjective:
    """The loss of a picture against the maps of a photograph and the Gram matrices of a painting."""

    def __init__(
        self,
        network: FeatureNetwork,
        layers: FeatureLayers,
        content: Tensor,
        grams: Mapping[str, Tensor],
        settings: OptimiseSettings,
    ) -> None:
        self._network = network
        self._layers = layers
        self._wanted = (layers.content, *layers.style)
        self._content = content
        self._grams = grams
        self._settings = settings
        self._style_weight = settings.chosen_style_weight()
        count = len(layers.style)
        self._weights: Sequence[float] = settings.layer_weights or [
            default_layer_weight(settings.scale, grams[layer].shape[-1], count) for layer in layers.style
        ]
        if len(self._weights) != count:
            raise UsageError(
                f"layer_weights has {len(self._weights)} numbers for {count} style layers",
                expected=f"one for each of {', '.join(layers.style)}",
            )

    def __call__(self, picture: Tensor) -> PictureLosses:
        """``picture`` is ``(1, 3, height, width)``, RGB in 0-1."""
        s = self._settings
        maps = self._network.maps_of(picture, self._wanted)
        content = content_loss(maps[self._layers.content], self._content, s.scale, s.loss, s.delta)
        style = picture.new_zeros(())
        for layer, weight in zip(self._layers.style, self._weights, strict=True):
            found = gram(maps[layer])[0]
            style = style + weight * layer_style_loss(found, self._grams[layer], s.scale, s.loss, s.delta)
        variation = total_variation(picture)
        total = s.content_weight * content + self._style_weight * style
        if s.total_variation_weight:
            total = total + s.total_variation_weight * variation
        return PictureLosses(total, content, style, variation)


def version_one_layers(network: FeatureNetwork, settings: OptimiseSettings) -> tuple[FeatureLayers, list[str]]:
    """The layers of the settings, else content stage 4 and style stages 1-5 as far as the network reaches; notices."""
    names = [name for name, _ in network.chain()]
    activations = [name for name in names if name.startswith("relu")]
    firsts = [name for name in activations if name.endswith("_1") or "_" not in name]
    content = next((name for name in _PREFERRED_CONTENT if name in names), activations[-1])
    layers = FeatureLayers(settings.content_layer or content, settings.style_layers or tuple(firsts))
    shallow_content = not settings.content_layer and content not in _PREFERRED_CONTENT
    shallow_style = not settings.style_layers and len(firsts) < _STYLE_STAGES
    if not shallow_content and not shallow_style:
        return layers, []
    return layers, [
        f"the weights reach {activations[-1]}: content is compared at {layers.content}, style at "
        f"{', '.join(layers.style)} (the paper: content at stage 4, style at stages 1 to 5)"
    ]
