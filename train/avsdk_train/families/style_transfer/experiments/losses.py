"""Four distances of maps and Gram matrices (mean square, L1, smooth L1, Huber): curves and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from avsdk.media import read_image
from avsdk_train.experiment_report import Report
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.experiments.inputs import PictureSettings, Studio, relative_curves
from avsdk_train.families.style_transfer.optimise_settings import Distance
from avsdk_train.sheet import labelled_sheet

NAMES = get_args(Distance)


@dataclass(frozen=True)
class LossesSettings(PictureSettings):
    """See ``PictureSettings``; ``delta`` is where smooth L1 and Huber turn from square to linear."""

    delta: float = 1.0


def run(report: Report, settings: LossesSettings) -> None:
    """Paint with each loss at the same weights; measure all pictures by one."""
    studio = Studio(settings)
    before = studio.measured(studio.photo)
    cells = {name: studio.paint(report, name, loss=name, delta=settings.delta) for name in NAMES}
    report.text(
        f"LBFGS, {settings.calls} calls, {settings.size_px} px, the same weights for all. "
        f"Each loss has units of its own, so its curve is shown over its first value, and the pictures are measured "
        f"alike: content and style loss by the mean square. Smooth L1 and Huber at delta {settings.delta:g}"
        + (" are one function, and their curves coincide." if settings.delta == 1 else ".")
    )
    for notice in studio.notices:
        report.text(f"Note: {notice}.")
    rows: list[list[object]] = [["the photograph", None, None, before["content"], before["style"], None]]
    for name, cell in cells.items():
        first, best = cell["first"]["loss"], cell["best"]["loss"]
        measured = cell["measured"]
        rows.append([name, first, best / first, measured["content"], measured["style"], cell["seconds"]])
    columns = ("loss", "at first", "at last, over the first", "content (mse)", "style (mse)", "seconds")
    report.table("Four losses", columns, rows)
    report.draw("curves", relative_curves(cells))
    report.picture("curves", "Loss over its first value, by call")
    pictures = [(name, read_image(report.picture_file(name))) for name in NAMES]
    report.draw("sheet", labelled_sheet([("photograph", studio.photo), *pictures], columns=3))
    report.picture("sheet", "The photograph and the four pictures")


EXPERIMENT = Experiment(
    "losses", "Mean square, L1, smooth L1 and Huber as distances: curves and pictures.", LossesSettings, run,
    {"size_px": 128, "calls": 60},
)  # fmt: skip
