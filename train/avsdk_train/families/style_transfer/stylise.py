"""What ``avsdk stylise`` does: version 1 on files, with a progress bar, a loss curve and a log."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from avsdk.errors import UsageError
from avsdk.files import write_atomic
from avsdk.media import PHOTO_SUFFIXES, check_suffix, read_image, write_image
from avsdk.schema import encode
from avsdk_train.curve import curve_from_series
from avsdk_train.data import Image, ImageFolder, resized_short_side
from avsdk_train.families.style_transfer.data import tensor_from_image
from avsdk_train.families.style_transfer.features import FeatureNetwork, NormalisedVgg19
from avsdk_train.families.style_transfer.normalise import normalise
from avsdk_train.families.style_transfer.optimise import Call, Optimised, optimise
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings
from avsdk_train.families.style_transfer.targets import required_features
from avsdk_train.options import options_from

_LINE_EVERY_S = 15.0
_NORMALISE_PX = (64, 256)


def stylise(
    photo: Path, style: Path, features: str, out: Path, recipe: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Optimise the picture and write it with its curve and log beside it; the command's answer."""
    settings = options_from(OptimiseSettings, overrides, what="stylise", file=Path(recipe) if recipe else None)
    check_suffix(out, PHOTO_SUFFIXES, "pictures")
    content, painting = read_picture(photo, "photograph"), read_picture(style, "painting")
    network = required_features(features, "--features FILE")
    normalised = prepare_features(network, settings, (content, painting))
    with CallProgress(settings.total_calls()) as progress:
        outcome = optimise(content, painting, network, settings, progress)
    files = write_outcome(out, outcome)
    return {
        **files,
        "photo": str(photo),
        "style": str(style),
        "network": network.kind,
        "normalised": normalised,
        "settings": encode(settings),
        **outcome_facts(outcome),
    }


def read_picture(path: Path, what: str) -> Image:
    """A picture that the user named."""
    if not path.is_file():
        raise UsageError(f"the {what} {str(path)!r} is not a file", expected="a picture")
    return read_image(path)


def prepare_features(network: FeatureNetwork, settings: OptimiseSettings, pictures: Sequence[Image]) -> str:
    """Normalise the filters where the settings ask for it, in place; in words, what was done."""
    published = isinstance(network, NormalisedVgg19)
    if settings.normalise == "never" or (settings.normalise == "auto" and published):
        return "as published" if published else "no"
    if settings.normalise_by:
        place = Path(settings.normalise_by)
        files = ImageFolder([place]).files if place.is_dir() else (place,)
        pictures = [read_picture(file, "picture to normalise by") for file in files]
    low, high = _NORMALISE_PX
    sized = [resized_short_side(picture, max(low, min(high, *picture.shape[:2]))) for picture in pictures]
    normalise(network, [tensor_from_image(picture) / 255 for picture in sized])
    return f"by {len(sized)} pictures"


def outcome_facts(outcome: Optimised) -> dict[str, Any]:
    """What a script may want to know of an optimised picture."""
    return {
        "finished": outcome.finished,
        "calls": len(outcome.calls),
        "best": dataclasses.asdict(outcome.best),
        "first": dataclasses.asdict(outcome.calls[0]),
        "content_layer": outcome.layers.content,
        "style_layers": list(outcome.layers.style),
        "height": outcome.image.shape[0],
        "width": outcome.image.shape[1],
        "seconds": round(outcome.seconds, 3),
        "notices": list(outcome.notices),
    }


def write_outcome(out: Path, outcome: Optimised) -> dict[str, str]:
    """Write ``OUT``, ``OUT``'s stem + ``.losses.jsonl`` and ``.losses.png``, each whole or not at all."""
    log, curve = out.with_name(f"{out.stem}.losses.jsonl"), out.with_name(f"{out.stem}.losses.png")
    write_image(out, outcome.image)
    write_atomic(log, "".join(json.dumps(dataclasses.asdict(call)) + "\n" for call in outcome.calls))
    write_image(curve, curve_from_series(loss_series(outcome.calls), unit="calls"))
    return {"output": str(out), "log": str(log), "curve": str(curve)}


def loss_series(calls: Sequence[Call]) -> dict[str, list[tuple[float, float]]]:
    """The loss and its parts over the calls."""
    return {name: [(call.call, getattr(call, name)) for call in calls] for name in ("loss", "content", "style")}


class CallProgress:
    """A bar with the losses on standard error, and a line every quarter of a minute where that is no terminal."""

    def __init__(self, total: int, label: str = "optimising") -> None:
        self._total = total
        self._label = label
        self._console = Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last_line = time.monotonic()

    def __enter__(self) -> CallProgress:
        """Show the bar."""
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[losses]}"), console=self._console,
            )  # fmt: skip
            self._task = self._progress.add_task(self._label, total=self._total, losses="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, call: Call) -> None:
        """Hear of one call."""
        text = f"{call.size_px} px  loss {call.loss:.4g}  content {call.content:.4g}  style {call.style:.4g}"
        if self._progress is not None:
            self._progress.update(self._task, completed=call.call, losses=text)
        elif time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            line = f"{self._label} {call.call}/{self._total}  {text}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
