"""The same photograph through every checkpoint of a run, as one labelled sheet: which one to keep?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsdk.errors import UsageError
from avsdk.files import sha256_file
from avsdk.media import PHOTO_SUFFIXES, check_suffix, read_image, write_image
from avsdk_train.data import Image, resized_short_side
from avsdk_train.experiment_report import Report
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.experiments.inputs import photograph, scores_of
from avsdk_train.families.style_transfer.stylise import read_picture
from avsdk_train.families.style_transfer.targets import FILE, Targets
from avsdk_train.run import BEST, CHECKPOINTS, RECIPE, WEIGHTS, is_run
from avsdk_train.sheet import labelled_sheet
from avsdk_train.trained import recipe_from_file
from avsdk_train.weights import read_weights


@dataclass(frozen=True)
class CheckpointsSettings:
    """``run`` is the run's folder; with ``features`` each picture is measured against the run's own targets.

    A run keeps its last two checkpoints, or all of them with ``avsdk train ... --set keep=all``.
    """

    run: str = ""
    photo: str = ""
    features: str = ""
    size_px: int = 256
    columns: int = 4


def run(report: Report, settings: CheckpointsSettings) -> None:
    """Paint, measure where a feature network is given, and lay out the sheet."""
    if not settings.run:
        raise UsageError("no run was given", expected="the folder of an avsdk train", fix="--set run=RUN")
    folder = Path(settings.run)
    photo = resized_short_side(photograph(settings.photo), settings.size_px)
    targets = Targets(folder / FILE) if settings.features else None
    network = targets.load_features(settings.features) if targets else None
    rows: list[list[object]] = []
    pictures: list[tuple[str, Image]] = [("photograph", photo)]
    for label, file in checkpoint_weights(folder).items():
        name = label.partition(",")[0].replace(" ", "-")

        def compute(file: Path = file, name: str = name) -> Mapping[str, Any]:
            image = painted_by(folder, file, photo)
            report.draw(name, image)
            if targets is None or network is None:
                return {}
            return scores_of(network, targets.layers, targets.grams, targets.style_scale, image, photo)

        cell = report.cell(name, compute)
        pictures.append((label, read_image(report.picture_file(name))))
        rows.append([label, cell.get("content"), cell.get("style")])
    _, recipe = recipe_from_file(folder / RECIPE)
    report.text(
        f"One photograph at {settings.size_px} px through every checkpoint that the run keeps. The run: style "
        f"{Path(recipe.settings.style).name}, style weight {recipe.settings.style_weight:g}, {recipe.steps} steps of "
        f"{recipe.batch_size} crops of {recipe.settings.crop_px} px, learning rate {recipe.learning_rate:g}, "
        f"{f'starting from {_name(recipe.init)}' if recipe.init else 'from fresh weights'}."
    )
    if targets is not None:
        report.table("Losses against the run's own targets", ("checkpoint", "content", "style"), rows)
    report.draw("sheet", labelled_sheet(pictures, columns=settings.columns))
    report.picture("sheet", "The photograph, and what each checkpoint makes of it")


def write_sheet(folder: Path, photo: Path, out: Path, size_px: int, columns: int) -> dict[str, Any]:
    """What ``avsdk sheet`` does: ``step N`` for each checkpoint, ``final`` for the finished weights."""
    check_suffix(out, PHOTO_SUFFIXES, "pictures")
    image = resized_short_side(read_picture(photo, "photograph"), size_px)
    weights = checkpoint_weights(folder)
    pictures = [(label, painted_by(folder, file, image)) for label, file in weights.items()]
    write_image(out, labelled_sheet([("photograph", image), *pictures], columns))
    return {"output": str(out), "run": str(folder), "checkpoints": list(weights)}


def checkpoint_weights(folder: Path) -> dict[str, Path]:
    """The weights of every checkpoint of a run, oldest first, then the best ones and the final ones where there are.

    The same weights under several names stand once, as ``step 300, best, final``.
    """
    if not is_run(folder):
        raise UsageError(f"{folder} is no training run", expected="a folder with recipe.toml and spec.json")
    files = sorted(
        (file for file in (folder / CHECKPOINTS).glob(f"*/{WEIGHTS}") if _step(file) is not None),
        key=lambda file: _step(file) or 0,
    )
    found = {f"step {_step(file)}": file for file in files}
    others = {"best": folder / CHECKPOINTS / BEST / WEIGHTS, "final": folder / WEIGHTS}
    found |= {label: file for label, file in others.items() if file.is_file()}
    if not found:
        raise UsageError(
            f"the run {folder} has no weights yet", expected="a checkpoint", fix="train on: avsdk train ... --resume"
        )
    labels: dict[str, list[str]] = {}
    for label, file in found.items():
        labels.setdefault(sha256_file(file), []).append(label)
    return {", ".join(same): found[same[0]] for same in labels.values()}


def painted_by(folder: Path, weights: Path, photo: Image) -> Image:
    """The photograph through the run's network with these weights."""
    family, recipe = recipe_from_file(folder / RECIPE)
    if family.name != "style_transfer":
        raise UsageError(f"{folder} is a run of {family.name}", expected="one of style_transfer, which gives pictures")
    network = family.network(recipe.variant)
    family.load_weights(network, read_weights(weights))
    image: Image = family.apply(network.eval())(photo)
    return image


def _name(model: str) -> str:
    return model if model.startswith("zoo:") else Path(model).name


def _step(weights: Path) -> int | None:
    """The step in the name of a checkpoint's folder; others, such as one half removed, have none."""
    name, _, number = weights.parent.name.partition("-")
    return int(number) if name == "step" and number.isdecimal() else None


EXPERIMENT = Experiment(
    "checkpoints", "The same photograph through every checkpoint of a run.", CheckpointsSettings, run,
    {"size_px": 128},
)  # fmt: skip
