"""AlexNet against VGG-16 and VGG-19: the time of one call at full depth, and pictures with the weights at hand."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from avsdk.host import default_threads
from avsdk.media import read_image
from avsdk_train.data import Image
from avsdk_train.experiment_report import Cell, Report
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.data import tensor_from_image
from avsdk_train.families.style_transfer.experiments.inputs import (
    PictureSettings,
    Studio,
    grams_of,
    painting,
    photograph,
    square,
)
from avsdk_train.families.style_transfer.features import Backbone, random_features
from avsdk_train.families.style_transfer.optimise_losses import PictureObjective, version_one_layers
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings
from avsdk_train.metrics.interval import median_interval
from avsdk_train.sheet import labelled_sheet

NAMES = get_args(Backbone)
_HOW = """\
Time of one evaluation of the loss with its gradient on a {s.timed_px} x {s.timed_px} picture, whole networks with
**random weights** (no trained ones at this depth were at hand; weights do not change the time), content at stage 4,
style at stages 1 to 5. {s.rounds} rounds with the networks in turn; median with its 95 % bootstrap interval. The
optimiser's own time comes on top, and is the same for all."""


@dataclass(frozen=True)
class BackbonesSettings(PictureSettings):
    """See ``PictureSettings``; ``timed_px`` squares are evaluated ``rounds`` times with each network in turn.

    ``features`` may name several files, separated by commas; a picture is painted with each.
    """

    timed_px: int = 512
    rounds: int = 9


def run(report: Report, settings: BackbonesSettings) -> None:
    """Time the three networks in turn; paint with each file of weights."""
    timed = report.cell("timing", lambda: _timing(settings))
    report.text(_HOW.format(s=settings))
    fastest = min(cell["median_s"] for cell in timed.values())
    rows: list[list[object]] = []
    for name, cell in sorted(timed.items(), key=lambda item: float(item[1]["median_s"])):
        low, high = cell["interval_s"]
        rows.append(
            [name, cell["parameters_m"], cell["median_s"], f"{low:.4g} .. {high:.4g}", cell["median_s"] / fastest]
        )
    report.table("One call", ("backbone", "parameters, M", "seconds", "95 % interval", "times the fastest"), rows)
    files = [file for file in settings.features.split(",") if file]
    if not files:
        report.text("No pictures: they need trained weights (`--set features=FILE`).")
        return
    _pictures(report, settings, files)


def _pictures(report: Report, settings: BackbonesSettings, files: list[str]) -> None:
    rows: list[list[object]] = []
    pictures: list[tuple[str, Image]] = []
    for i, file in enumerate(files):
        studio = Studio(settings, file)
        pictures = pictures or [("photograph", studio.photo)]
        cell = studio.paint(report, f"picture-{i}")
        label = f"{studio.network.kind} to {studio.layers.style[-1]}"
        rows.append([Path(file).name, label, cell["first"]["loss"], cell["best"]["loss"], cell["seconds"]])
        pictures.append((label, read_image(report.picture_file(f"picture-{i}"))))
        for notice in studio.notices:
            report.text(f"Note: {notice}.")
    report.text(
        "Each file of trained weights paints one picture: `--set features=alexnet.safetensors,vgg19.safetensors`."
    )
    columns = ("weights", "network", "loss at first", f"best of {settings.calls} calls", "seconds")
    report.table(f"Pictures with the weights at hand, {settings.size_px} px", columns, rows)
    report.draw("sheet", labelled_sheet(pictures, columns=2))
    report.picture("sheet", "The photograph, and a picture with each file of weights")


def _timing(settings: BackbonesSettings) -> Cell:
    torch.set_num_threads(settings.threads or default_threads())
    photo, style = (
        square(image, settings.timed_px) for image in (photograph(settings.photo), painting(settings.style))
    )
    calls = {name: _Evaluation(name, photo, style, settings) for name in NAMES}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for call in calls.values():
        call()  # the first one allocates
    for _ in range(settings.rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    found: dict[str, Any] = {}
    for name, values in seconds.items():
        low, high = median_interval(values) or (min(values), max(values))
        found[name] = {
            "seconds": values,
            "median_s": statistics.median(values),
            "interval_s": [low, high],
            "parameters_m": calls[name].parameters_m,
        }
    return found


class _Evaluation:
    """One call: the loss and its gradient."""

    def __init__(self, name: Backbone, photo: Image, style: Image, settings: BackbonesSettings) -> None:
        network = random_features(name, settings.seed)
        options = OptimiseSettings()
        layers, _ = version_one_layers(network, options)
        self.parameters_m = sum(value.numel() for value in network.parameters()) / 1e6
        with torch.no_grad():
            content = network.maps_of(tensor_from_image(photo) / 255, (layers.content,))[layers.content]
        self._objective = PictureObjective(network, layers, content, grams_of(network, layers, style), options)
        self._picture = (tensor_from_image(photo) / 255).requires_grad_(True)

    def __call__(self) -> None:
        self._picture.grad = None
        self._objective(self._picture).total.backward()  # type: ignore[no-untyped-call]


EXPERIMENT = Experiment(
    "backbones", "AlexNet, VGG-16 and VGG-19: the time of one call, and pictures.", BackbonesSettings, run,
    {"size_px": 128, "calls": 60, "timed_px": 128, "rounds": 5},
)  # fmt: skip
