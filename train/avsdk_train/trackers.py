"""Where a training is followed beside its own log: TensorBoard's files, and MLflow if the recipe asks for it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable
from avsdk.files import write_atomic
from avsdk_train.recipe import Recipe
from avsdk_train.run import TENSORBOARD

_MLFLOW_RUN = "mlflow-run"


class Tracker(Protocol):
    """One place that is told of losses and pictures."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """The values of one step."""

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """A preview, RGB, (height, width, 3)."""

    def sound(self, step: int, samples: NDArray[np.float32], sample_rate_hz: int) -> None:
        """A preview that is heard, (samples,) in -1..1."""

    def close(self) -> None:
        """Write what is left."""


def open_trackers(run: Path, recipe: Recipe, start: int) -> list[Tracker]:
    """TensorBoard where its package is (a convenience, so its absence is no error), and those of the recipe."""
    found: list[Tracker] = []
    board = _tensorboard(run / TENSORBOARD, start)
    if board is not None:
        found.append(board)
    if "mlflow" in recipe.trackers:
        found.append(MlFlow(run, recipe))
    return found


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """See ``Tracker``."""
        self._writer.add_image("preview", picture, step, dataformats="HWC")

    def sound(self, step: int, samples: NDArray[np.float32], sample_rate_hz: int) -> None:
        """See ``Tracker``."""
        self._writer.add_audio("preview", samples[None], step, sample_rate=sample_rate_hz)

    def close(self) -> None:
        """See ``Tracker``."""
        self._writer.close()


class MlFlow:
    """A run of an MLflow server, which ``MLFLOW_TRACKING_URI`` names; a resumed training goes on in the same one."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import: it reports its use otherwise
        try:
            mlflow = importlib.import_module("mlflow")
        except ImportError as error:
            raise NotAvailable(
                "the recipe asks for the tracker mlflow, and the package is not installed",
                expected="MLflow",
                fix="pip install 'avsdk[mlflow]', or --set trackers=",
            ) from error
        self._mlflow = mlflow
        marker = run / _MLFLOW_RUN
        known = marker.read_text(encoding="utf-8").strip() if marker.is_file() else None
        try:
            mlflow.set_experiment(recipe.family)
            active = mlflow.start_run(run_id=known, run_name=None if known else run.resolve().name)
        except mlflow.exceptions.MlflowException as error:
            raise NotAvailable(
                f"MLflow refuses the run: {error}",
                expected="a server or a store that MLFLOW_TRACKING_URI names",
                fix="set MLFLOW_TRACKING_URI, or --set trackers=",
            ) from error
        if not known:
            write_atomic(marker, active.info.run_id + "\n")
            mlflow.log_params({key: str(value) for key, value in recipe.computed_keys().items()})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._mlflow.log_metrics(dict(values), step=step)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """See ``Tracker``."""
        self._mlflow.log_image(picture, key="preview", step=step)

    def sound(self, step: int, samples: NDArray[np.float32], sample_rate_hz: int) -> None:
        """MLflow shows no sounds; they lie in the run's folder."""

    def close(self) -> None:
        """See ``Tracker``."""
        self._mlflow.end_run()


def _tensorboard(folder: Path, start: int) -> TensorBoard | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return TensorBoard(SummaryWriter(str(folder), purge_step=start + 1 if start else None))
