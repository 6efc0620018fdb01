"""What a person sees of a training: a progress bar with losses, a log, and a picture now and then.

All of it goes to standard error and to the run's folder; standard output stays free for the command's answer.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from avsdk.files import typed_write_errors, write_atomic
from avsdk.media import write_image
from avsdk.sound import write_sound
from avsdk_train.family import Heard, Preview
from avsdk_train.recipe import Recipe
from avsdk_train.run import METRICS, PREVIEWS
from avsdk_train.trackers import Tracker, open_trackers

_LINE_EVERY_S = 15.0
_PACE = frozenset({"samples_per_s", "waiting_for_data"})


class Watch:
    """Follows one run from ``start`` to its recipe's end; silent in all but the first of several processes.

    Lines of the log beyond ``start``, from before a kill, go.
    """

    def __init__(self, run: Path, recipe: Recipe, *, start: int, is_main: bool = True) -> None:
        self._run = run
        self._recipe = recipe
        self._start = start
        self._steps = recipe.steps
        self._is_main = is_main
        self.pace = Pace()
        self._console = Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._log: TextIO | None = None
        self._trackers: list[Tracker] = []
        self._last_line = time.monotonic()

    def __enter__(self) -> Watch:
        """Open the log and show the bar."""
        self.pace = Pace()
        if not self._is_main:
            return self
        self._trackers = open_trackers(self._run, self._recipe, self._start)
        _cut_log(self._run / METRICS, self._start)
        self._log = (self._run / METRICS).open("a", encoding="utf-8")
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
        for tracker in self._trackers:
            tracker.close()
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the losses of one step (1 for the first), and how fast it goes."""
        if self._log is None:
            return
        logged = {**values, **self.pace.numbers()}
        with typed_write_errors(self._run / METRICS):
            self._log.write(json.dumps({"step": step, **logged}) + "\n")
            self._log.flush()
        for tracker in self._trackers:
            tracker.scalars(step, logged)
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "learning_rate")
        text = f"{text}  {self.pace.text()}"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, losses=text)
        elif time.monotonic() - self._last_line > _LINE_EVERY_S or step == self._steps:
            self._last_line = time.monotonic()
            self.notice(f"step {step}/{self._steps}  {text}  {self.pace.left(self._steps - step)}")

    def preview(self, step: int, preview: Preview) -> Path:
        """Write a preview as PNG or WAV, whole or not at all."""
        if isinstance(preview, Heard):
            path = self._run / PREVIEWS / f"{step:08d}.wav"
            path.parent.mkdir(exist_ok=True)
            write_sound(path, preview.samples, preview.sample_rate_hz)
            for tracker in self._trackers:
                tracker.sound(step, preview.samples, preview.sample_rate_hz)
            return path
        path = self._run / PREVIEWS / f"{step:08d}.png"
        write_image(path, preview)
        for tracker in self._trackers:
            tracker.picture(step, preview)
        return path

    def notice(self, text: str) -> None:
        """Say something on standard error, above the bar."""
        if self._is_main:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Pace:
    """How fast a training goes, and how much of its time it waits for data."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._waited_s = 0.0
        self._samples = 0
        self._steps = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent waiting for the next batch."""
        began = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - began

    def count(self, samples: int) -> None:
        """One step more, of that many samples over all processes."""
        self._steps += 1
        self._samples += samples

    def numbers(self) -> dict[str, float]:
        """``samples_per_s`` and ``waiting_for_data``, a share, since the training began or went on."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return {"samples_per_s": self._samples / seconds, "waiting_for_data": self._waited_s / seconds}

    def text(self) -> str:
        """The numbers in words."""
        numbers = self.numbers()
        return f"{numbers['samples_per_s']:.3g} samples/s, {numbers['waiting_for_data']:.0%} of it waiting for data"

    def left(self, steps: int) -> str:
        """How long the steps that are left will take."""
        if not self._steps:
            return ""
        minutes, seconds = divmod(round((time.perf_counter() - self._began) / self._steps * steps), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, without how fast it went, so that the logs of equal trainings are equal."""
    return [{key: value for key, value in line.items() if key not in _PACE} for line in _read_lines(path)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """A last line that was cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _cut_log(path: Path, start: int) -> None:
    if path.is_file():
        kept = [line for line in _read_lines(path) if line["step"] <= start]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
