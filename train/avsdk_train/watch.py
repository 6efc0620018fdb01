"""What a person sees of a training: a progress bar with losses, a log, and a picture now and then.

All of it goes to standard error and to the run's folder; standard output stays free for the command's answer.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from avsdk.files import typed_write_errors, write_atomic
from avsdk.media import write_image
from avsdk_train.run import METRICS, PREVIEWS, TENSORBOARD

_LINE_EVERY_S = 15.0


class Watch:
    """Follows one run from ``start`` to ``steps``. Lines of the log beyond ``start``, from before a kill, go."""

    def __init__(self, run: Path, *, start: int, steps: int) -> None:
        self._run = run
        self._start = start
        self._steps = steps
        self._console = Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._log: TextIO | None = None
        self._board: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Watch:
        """Open the log and show the bar."""
        _cut_log(self._run / METRICS, self._start)
        self._log = (self._run / METRICS).open("a", encoding="utf-8")
        self._board = _tensorboard(self._run / TENSORBOARD, self._start)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}"), console=self._console,
            )  # fmt: skip
            self._task = self._progress.add_task("train", total=self._steps, completed=self._start, losses="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the losses of one step (1 for the first)."""
        assert self._log is not None
        with typed_write_errors(self._run / METRICS):
            self._log.write(json.dumps({"step": step, **values}) + "\n")
            self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "learning_rate")
        if self._progress is not None:
            self._progress.update(self._task, completed=step, losses=text)
        elif time.monotonic() - self._last_line > _LINE_EVERY_S or step == self._steps:
            self._last_line = time.monotonic()
            self.notice(f"step {step}/{self._steps}  {text}")

    def preview(self, step: int, picture: NDArray[np.uint8]) -> Path:
        """Write a preview as PNG, whole or not at all."""
        path = self._run / PREVIEWS / f"{step:08d}.png"
        write_image(path, picture)
        return path

    def notice(self, text: str) -> None:
        """Say something on standard error, above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last one cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _cut_log(path: Path, start: int) -> None:
    if path.is_file():
        kept = [line for line in read_log(path) if line["step"] <= start]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


def _tensorboard(folder: Path, start: int) -> Any:
    """TensorBoard is a convenience: without its package the run goes on, with the JSONL log alone."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
