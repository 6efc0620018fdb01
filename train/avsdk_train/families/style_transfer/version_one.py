"""Version 1 as the yardstick of version 2: the same photograph, painting, layers and weights, the picture optimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

from avsdk_train.data import Image
from avsdk_train.families.style_transfer.features import FeatureNetwork, NormalisedVgg19
from avsdk_train.families.style_transfer.optimise import optimise
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.families.style_transfer.targets import Targets

CALLS = 500
"""What the paper gives version 1."""


def version_one(
    settings: StyleSettings, assets: Mapping[str, Path], options: Mapping[str, str]
) -> dict[str, Callable[[Image], Image]]:
    """``{"version 1 ...": photograph -> picture}``; ``options["features"]`` is the file of the feature network."""
    targets = Targets(assets["targets"])
    network = targets.load_features(options.get("features", ""))
    equal = equal_settings(settings, targets, network, calls=CALLS)
    return {f"version 1, {CALLS} calls": lambda photo: optimise(photo, targets.grams, network, equal).image}


def equal_settings(
    settings: StyleSettings, targets: Targets, network: FeatureNetwork, *, calls: int, threads: int = 0
) -> OptimiseSettings:
    """What makes version 1 lower the very loss that version 2 was trained on: layers, scale, weights and pooling."""
    return OptimiseSettings(
        sizes=(0,),
        calls=(calls,),
        content_layer=targets.layers.content,
        style_layers=targets.layers.style,
        content_weight=settings.content_weight,
        style_weight=settings.style_weight,
        total_variation_weight=settings.total_variation_weight,
        scale=cast(Literal["channels", "mean"], targets.style_scale),
        pooling="average" if isinstance(network, NormalisedVgg19) else "max",
        threads=threads,
    )
