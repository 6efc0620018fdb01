"""Both versions on one photograph, with the losses of each at the weights that version 2 was trained with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avsdk.host import default_threads
from avsdk.media import read_image
from avsdk_train.data import Image, resized_short_side
from avsdk_train.experiment_report import Cell, Report
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.experiments.inputs import painted, photograph, scores_of
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.families.style_transfer.targets import FILE, Targets
from avsdk_train.families.style_transfer.version_one import equal_settings
from avsdk_train.family import load_family, load_trained
from avsdk_train.run import RECIPE
from avsdk_train.sheet import labelled_sheet
from avsdk_train.trained import recipe_from_file
from avsdk_train.zoo import load_zoo


@dataclass(frozen=True)
class VersionsSettings:
    """``models`` are trained networks: ``zoo:NAME`` or runs; ``features`` is the network they were trained with."""

    features: str = ""
    photo: str = ""
    models: tuple[str, ...] = ("zoo:style_transfer/wave", "zoo:style_transfer/starry-night")
    size_px: int = 256
    calls: int = 500
    seed: int = 0
    threads: int = 0


class TrainedStyle:
    """A trained network with its own Gram targets and weights: what version 1 needs to be compared fairly."""

    def __init__(self, model: str, features: str) -> None:
        folder = load_zoo(model).folder if model.startswith("zoo:") else Path(model)
        _, recipe = recipe_from_file(folder / RECIPE)
        self.settings: StyleSettings = recipe.settings
        self.targets = Targets(folder / FILE)
        self.network = self.targets.load_features(features)
        trained = load_trained(model)
        self._apply = load_family("style_transfer").apply(next(iter(trained.networks.values())))

    def version_two(self, photo: Image) -> Image:
        """The photograph through the trained network."""
        image: Image = self._apply(photo)
        return image

    def version_one(self, photo: Image, calls: int, label: str, threads: int = 0) -> tuple[dict[str, Any], Image]:
        """The picture optimised from the photograph, on the same losses at the same weights; facts, and the picture."""
        settings = equal_settings(self.settings, self.targets, self.network, calls=calls, threads=threads)
        return painted(photo, self.targets.grams, self.network, settings, label)

    def scores(self, image: Image, photo: Image) -> dict[str, float]:
        """Content and style loss of a picture, and their sum at the model's weights."""
        targets = self.targets
        found = scores_of(self.network, targets.layers, targets.grams, targets.style_scale, image, photo)
        total = self.settings.content_weight * found["content"] + self.settings.style_weight * found["style"]
        return {**found, "total": total}


def run(report: Report, settings: VersionsSettings) -> None:
    """For each model: the photograph, version 1 and version 2, measured alike."""
    photo = resized_short_side(photograph(settings.photo), settings.size_px)
    rows: list[list[object]] = []
    pictures: list[tuple[str, Image]] = []
    names = [Path(model).name for model in settings.models]
    for i, model in enumerate(settings.models):
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]}-{i + 1}"
        style = TrainedStyle(model, settings.features)

        def compute(style: TrainedStyle = style, name: str = name) -> Cell:
            return _compared(report, style, photo, name, settings)

        cell = report.cell(name, compute)
        for label, key in (("the photograph", "photo"), ("version 1", "one"), ("version 2", "two")):
            found = cell[key]
            weight = style.settings.style_weight if key == "photo" else None
            exact = min(cell["curve"]) if key == "one" else None
            rows.append([model if key == "photo" else "", label, found["content"], found["style"], found["total"],
                         exact, found.get("seconds"), weight])  # fmt: skip
        pictures += [
            ("photograph", photo),
            (f"version 1: {name}", read_image(report.picture_file(f"{name}-version-1"))),
            (f"version 2: {name}", read_image(report.picture_file(f"{name}-version-2"))),
        ]
    report.text(
        f"Version 1 with {settings.calls} calls of LBFGS from the photograph, version 2 by the trained network, "
        f"{settings.size_px} px. Both on version 2's own losses, Gram targets and weights; measured on the pictures as "
        "they are seen, clipped and rounded to 8 bits, which costs version 1 some of its loss. "
        "Seconds are for the whole picture, each run once."
    )
    columns = (
        "model",
        "picture",
        "content",
        "style",
        "total at equal weights",
        "before clipping",
        "seconds",
        "style weight",
    )
    report.table("Both versions at equal weights", columns, rows)
    report.draw("sheet", labelled_sheet(pictures, columns=3))
    report.picture("sheet", "The photograph, version 1, version 2")


def _compared(report: Report, style: TrainedStyle, photo: Image, name: str, settings: VersionsSettings) -> Cell:
    torch.set_num_threads(settings.threads or default_threads())
    facts, one = style.version_one(photo, settings.calls, name, settings.threads)
    style.version_two(photo)  # the first call allocates
    began = time.perf_counter()
    two = style.version_two(photo)
    seconds = time.perf_counter() - began
    report.draw(f"{name}-version-1", one)
    report.draw(f"{name}-version-2", two)
    return {
        "photo": style.scores(photo, photo),
        "one": {**style.scores(one, photo), "seconds": facts["seconds"]},
        "two": {**style.scores(two, photo), "seconds": seconds},
        "curve": facts["curve"],
    }


EXPERIMENT = Experiment(
    "versions", "Both versions on one photograph, with the losses of each at equal weights.", VersionsSettings, run,
    {"size_px": 128, "calls": 60, "models": ["zoo:style_transfer/wave"]},
)  # fmt: skip
