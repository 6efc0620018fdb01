"""Content and style loss of a model over photographs, beside the style loss of the photographs themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch

from avsdk.errors import CheckpointRefused, UsageError
from avsdk_train.data import Image, ImageFolder, resized_short_side
from avsdk_train.families.style_transfer.data import tensor_from_image
from avsdk_train.families.style_transfer.losses import content_loss, style_loss
from avsdk_train.families.style_transfer.targets import Targets
from avsdk_train.family import Scores
from avsdk_train.metrics.interval import mean_interval

_OPTIONS = ("features", "short_px")


def style_scores(
    apply: Callable[[Image], Image], folders: Sequence[Path], assets: Mapping[str, Path], options: Mapping[str, str]
) -> Scores:
    """``content_loss``, ``style_loss``, ``style_loss_unstyled`` of the pictures as a user gets them (uint8): means.

    Every photograph is taken at a shorter side of ``options["short_px"]`` (256).
    """
    short_px = _short_px(options)
    if "targets" not in assets:
        raise CheckpointRefused("the model carries no style targets", expected="targets.safetensors beside the weights")
    targets = Targets(assets["targets"])
    features = targets.load_features(options.get("features", ""))
    scale = cast(Literal["channels", "mean"], targets.style_scale)
    images = ImageFolder(folders)
    values: dict[str, list[float]] = {"content_loss": [], "style_loss": [], "style_loss_unstyled": []}
    for index in range(len(images)):
        photo = resized_short_side(images.read(index), short_px)
        styled = apply(photo)
        if styled.shape != photo.shape:
            raise UsageError(f"the model made {styled.shape} of {photo.shape}", expected="a picture of the same size")
        with torch.no_grad():
            before = features(tensor_from_image(photo) / 255)
            after = features(tensor_from_image(styled) / 255)
            layers = targets.layers
            values["content_loss"].append(float(content_loss(after[layers.content], before[layers.content])))
            values["style_loss"].append(float(style_loss(after, targets.grams, layers, scale)))
            values["style_loss_unstyled"].append(float(style_loss(before, targets.grams, layers, scale)))
    metrics: dict[str, Any] = {}
    for key, samples in values.items():
        interval = mean_interval(samples)
        metrics[key] = sum(samples) / len(samples)
        metrics[f"{key}_ci"] = list(interval) if interval else [None, None]
    return Scores(metrics, len(images))


def _short_px(options: Mapping[str, str]) -> int:
    for key in options:
        if key not in _OPTIONS:
            raise UsageError(
                f"style transfer's evaluation has no setting {key!r}", expected=f"one of: {', '.join(_OPTIONS)}"
            )
    text = options.get("short_px", "256")
    if not text.isdecimal() or not 64 <= int(text) <= 4096:
        raise UsageError(f"--set short_px={text}", expected="64..4096 pixels")
    return int(text)
