"""The settings of version 1: what is lowered, by what, from where, at which sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from avsdk.errors import UsageError
from avsdk_train.families.style_transfer.features import Pooling
from avsdk_train.recipe import require

Distance = Literal["mse", "l1", "smooth_l1", "huber"]
Scale = Literal["paper", "notebook", "channels", "mean"]
OptimiserName = Literal["lbfgs", "adam", "sgd"]

STYLE_WEIGHTS: dict[Scale, float] = {"paper": 1e3, "notebook": 1.0, "channels": 1e-2, "mean": 1e5}
"""The style weight of each convention's source, at content weight 1: Gatys et al. 2016 (alpha / beta = 1e-3), their
notebook, our feed-forward recipes, pytorch/examples (1e5 and 1e10)."""
LEARNING_RATES: dict[OptimiserName, float] = {"lbfgs": 1.0, "adam": 0.02, "sgd": 0.02}
MAX_PX = 4096


@dataclass(frozen=True)
class OptimiseSettings:
    """How a picture is optimised (Gatys et al. 2016).

    ``sizes``: shorter sides in pixels, one after the other, each beginning with the enlarged result of the one before;
    0 is the photograph's own size. ``calls``: evaluations of the loss at each size, one number for all or one for each.
    ``style_px``: the painting's shorter side, 0 for that of the photograph. ``content_layer`` and ``style_layers`` are
    by default content stage 4 and style stages 1-5, as far as the network reaches. ``layer_weights``, one per style
    layer, ``style_weight`` and ``learning_rate`` have defaults of their own by ``scale`` and ``optimiser``: see
    ``optimise_losses`` and the tables above. ``delta`` is where Huber and smooth L1 turn from square to linear.
    ``normalise``: scale the filters to mean activation 1 by the photographs in ``normalise_by`` (a picture or folder;
    by default the photograph and the painting); ``auto`` does so unless the weights are published as normalised.
    """

    sizes: tuple[int, ...] = (512,)
    calls: tuple[int, ...] = (500,)
    style_px: int = 0
    init: Literal["content", "noise", "style"] = "content"
    content_layer: str = ""
    style_layers: tuple[str, ...] = ()
    layer_weights: tuple[float, ...] = ()
    content_weight: float = 1.0
    style_weight: float | None = None
    total_variation_weight: float = 0.0
    scale: Scale = "channels"
    loss: Distance = "mse"
    delta: float = 1.0
    optimiser: OptimiserName = "lbfgs"
    learning_rate: float | None = None
    momentum: float = 0.9
    pooling: Pooling = "average"
    normalise: Literal["auto", "always", "never"] = "auto"
    normalise_by: str = ""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be optimised with."""
        require(len(self.sizes) > 0, "sizes", self.sizes, "at least one shorter side in pixels")
        for size in self.sizes:
            require(
                size == 0 or 16 <= size <= MAX_PX, "sizes", size, f"0 (the photograph's own) or 16..{MAX_PX} pixels"
            )
        require(all(calls >= 1 for calls in self.calls), "calls", self.calls, "at least 1 each")
        if len(self.calls) not in (1, len(self.sizes)):
            raise UsageError(
                f"calls has {len(self.calls)} numbers for {len(self.sizes)} sizes",
                expected="one number for all sizes, or one for each",
                fix="--set calls=500,200",
            )
        require(self.style_px == 0 or 16 <= self.style_px <= MAX_PX, "style_px", self.style_px, f"0 or 16..{MAX_PX}")
        for key in ("content_weight", "total_variation_weight", "style_weight", "momentum"):
            value = getattr(self, key)
            require(value is None or value >= 0, key, value, "0 or more")
        rate = self.learning_rate
        require(rate is None or rate > 0, "learning_rate", rate, "more than 0")
        require(self.delta > 0, "delta", self.delta, "more than 0")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.threads >= 0, "threads", self.threads, "0 (all cores one may use) or more")

    def calls_at(self, stage: int) -> int:
        """The evaluations at the size of that index."""
        return self.calls[stage if len(self.calls) > 1 else 0]

    def total_calls(self) -> int:
        """The evaluations over all sizes."""
        return sum(self.calls_at(stage) for stage in range(len(self.sizes)))

    def chosen_style_weight(self) -> float:
        """``style_weight``, else that of the scale's source."""
        return STYLE_WEIGHTS[self.scale] if self.style_weight is None else self.style_weight

    def chosen_learning_rate(self) -> float:
        """``learning_rate``, else the optimiser's own."""
        return LEARNING_RATES[self.optimiser] if self.learning_rate is None else self.learning_rate
