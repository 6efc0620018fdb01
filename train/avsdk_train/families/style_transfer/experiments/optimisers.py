"""LBFGS, Adam and SGD on the same loss: curves and pictures."""

from __future__ import annotations

from typing import get_args

from avsdk.media import read_image
from avsdk_train.curve import curve_from_series
from avsdk_train.experiment_report import Report
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.experiments.inputs import PictureSettings, Studio
from avsdk_train.families.style_transfer.optimise_settings import LEARNING_RATES, OptimiserName
from avsdk_train.sheet import labelled_sheet

NAMES = get_args(OptimiserName)
_SHOWN = (10, 50, 100, 200, 500)


def run(report: Report, settings: PictureSettings) -> None:
    """Paint with each optimiser."""
    studio = Studio(settings)
    cells = {name: studio.paint(report, name, optimiser=name) for name in NAMES}
    rates = ", ".join(f"{name} {LEARNING_RATES[name]:g}" for name in NAMES)
    report.text(
        f"{settings.calls} calls, {settings.size_px} px; learning rates: {rates} (SGD with momentum 0.9; the rates "
        "refer to the loss over the largest entry of its first gradient)."
    )
    for notice in studio.notices:
        report.text(f"Note: {notice}.")
    shown = [call for call in _SHOWN if call < settings.calls] + [settings.calls]
    rows = []
    for name, cell in cells.items():
        best = [min(cell["curve"][:call]) for call in shown]
        rows.append([name, cell["first"]["loss"], *best, cell["measured"]["style"], cell["seconds"]])
    columns = ("optimiser", "at first", *(f"best of {call} calls" for call in shown), "style (mse)", "seconds")
    report.table("Three optimisers", columns, rows)
    series = {name: list(enumerate(cell["curve"], 1)) for name, cell in cells.items()}
    report.draw("curves", curve_from_series(series, unit="calls"))
    report.picture("curves", "The loss by call")
    pictures = [(name, read_image(report.picture_file(name))) for name in NAMES]
    report.draw("sheet", labelled_sheet([("photograph", studio.photo), *pictures], columns=2))
    report.picture("sheet", "The photograph and the three pictures")


EXPERIMENT = Experiment(
    "optimisers", "LBFGS, Adam and SGD on the same loss: curves and pictures.", PictureSettings, run,
    {"size_px": 128, "calls": 60},
)  # fmt: skip
