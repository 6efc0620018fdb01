"""What the experiments have in common: their pictures, their feature network, and one measure for all results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from avsdk.errors import UsageError
from avsdk_train.curve import curve_from_series
from avsdk_train.data import Image, resized_short_side
from avsdk_train.experiment_report import Cell, Report
from avsdk_train.families.style_transfer.data import tensor_from_image
from avsdk_train.families.style_transfer.features import FeatureLayers, FeatureNetwork
from avsdk_train.families.style_transfer.losses import content_loss, gram, style_loss
from avsdk_train.families.style_transfer.optimise import Style, optimise
from avsdk_train.families.style_transfer.optimise_losses import version_one_layers
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings
from avsdk_train.families.style_transfer.stylise import (
    CallProgress,
    outcome_facts,
    prepare_features,
    read_picture,
)
from avsdk_train.families.style_transfer.targets import required_features

FEATURES_NOTE = "avsdk comes with no trained feature network; what was given here reaches {deepest}."


@dataclass(frozen=True)
class PictureSettings:
    """The inputs of an experiment with pictures.

    Without ``photo`` and ``style`` the photographs china.jpg and flower.jpg, which scikit-learn ships, stand for both.
    ``size_px`` is the shorter side, ``calls`` the evaluations of the loss for each picture.
    """

    features: str = ""
    photo: str = ""
    style: str = ""
    size_px: int = 256
    calls: int = 500
    style_weight: float | None = None
    seed: int = 0
    threads: int = 0

    def optimise_settings(self, **changes: Any) -> OptimiseSettings:
        """Those of ``optimise``, with changes."""
        chosen: dict[str, Any] = {
            "sizes": (self.size_px,), "calls": (self.calls,), "style_weight": self.style_weight,
            "seed": self.seed, "threads": self.threads,
        }  # fmt: skip
        return OptimiseSettings(**{**chosen, **changes})


def photograph(path: str, default: str = "china.jpg") -> Image:
    """The given picture, else one of the photographs that scikit-learn ships."""
    if path:
        return read_picture(Path(path), "photograph")
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise UsageError(
            f"no picture was given, and scikit-learn, which ships {default}, is not installed",
            expected="two pictures",
            fix="--set photo=FILE --set style=FILE, or pip install 'avsdk[export]'",
        )
    return read_picture(Path(found.origin).parent / "datasets" / "images" / default, "photograph")


def painting(path: str) -> Image:
    """The painting, else the photograph flower.jpg in its place."""
    return photograph(path, "flower.jpg")


def square(image: Image, px: int) -> Image:
    """The middle of the picture as a square."""
    sized = resized_short_side(image, px)
    top, left = (sized.shape[0] - px) // 2, (sized.shape[1] - px) // 2
    return sized[top : top + px, left : left + px]


class Studio:
    """One photograph, one painting and one feature network: paints, and measures every picture alike."""

    def __init__(self, settings: PictureSettings, features: str = "") -> None:
        self._settings = settings
        self.photo = resized_short_side(photograph(settings.photo), settings.size_px)
        self.painting = painting(settings.style)
        self.network = required_features(features or settings.features)
        plain = settings.optimise_settings()
        prepare_features(self.network, plain, (self.photo, self.painting))
        self.layers, self.notices = version_one_layers(self.network, plain)
        sized = resized_short_side(self.painting, settings.size_px)
        self._grams = grams_of(self.network, self.layers, sized)

    def paint(self, report: Report, name: str, **changes: Any) -> Cell:
        """A cell: optimise with these changed settings, draw the picture, keep losses and curve."""
        return report.cell(name, lambda: self._painted(report, name, changes))

    def measured(self, image: Image) -> dict[str, float]:
        """Content and style loss of a picture, by the mean square and the scale ``channels``, whatever painted it."""
        return scores_of(self.network, self.layers, self._grams, "channels", image, self.photo)

    def _painted(self, report: Report, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        settings = self._settings.optimise_settings(**changes)
        facts, image = painted(self.photo, self.painting, self.network, settings, name)
        report.draw(name, image)
        return {**facts, "measured": self.measured(image)}


def painted(
    photo: Image, style: Style, network: FeatureNetwork, settings: OptimiseSettings, label: str
) -> tuple[dict[str, Any], Image]:
    """Optimise with a bar; facts with the curve, and the picture. Ctrl-C ends the experiment; its cells stay."""
    with CallProgress(settings.total_calls(), label) as progress:
        outcome = optimise(photo, style, network, settings, progress)
    if not outcome.finished:
        raise KeyboardInterrupt
    curve = [call.loss for call in outcome.calls]
    return {**outcome_facts(outcome), "curve": curve}, outcome.image


def grams_of(network: FeatureNetwork, layers: FeatureLayers, image: Image) -> dict[str, Tensor]:
    """Gram matrices of a picture over their positions."""
    with torch.no_grad():
        maps = network.maps_of(tensor_from_image(image) / 255, layers.style)
    return {layer: gram(maps[layer])[0] for layer in layers.style}


def scores_of(
    network: FeatureNetwork, layers: FeatureLayers, grams: Mapping[str, Tensor], scale: str, image: Image, photo: Image
) -> dict[str, float]:
    """Content and style loss of the picture as version 2 defines them: ``losses.content_loss`` and ``style_loss``."""
    wanted = {layers.content, *layers.style}
    with torch.no_grad():
        after = network.maps_of(tensor_from_image(image) / 255, wanted)
        before = network.maps_of(tensor_from_image(photo) / 255, (layers.content,))
        content = content_loss(after[layers.content], before[layers.content])
        style = style_loss(after, grams, layers, cast(Literal["channels", "mean"], scale))
    return {"content": float(content), "style": float(style)}


def relative_curves(cells: Mapping[str, Cell]) -> Image:
    """The loss of each over its first value, against the calls, on a logarithmic axis."""
    series = {
        name: [(i, value / cell["curve"][0]) for i, value in enumerate(cell["curve"], 1)]
        for name, cell in cells.items()
        if cell["curve"][0] > 0
    }
    return curve_from_series(series, unit="calls")
