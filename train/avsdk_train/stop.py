"""What ends a training early: a signal, after the step at hand, or a loss that goes wrong, before its step is taken.

The latter leaves what it takes to see why:

RUN/stopped/step-NNNNNNNN/weights.safetensors   the network before the step
                          batch-P.safetensors   what process P was given
                          losses.json           what came of it
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from avsdk.errors import NotMet
from avsdk.files import write_atomic
from avsdk.schema import SCHEMA
from avsdk_train.family import Batch
from avsdk_train.run import STOPPED, WEIGHTS
from avsdk_train.weights import write_weights

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupt_flag(*, patient: bool) -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM ends the run after the step at hand, with a checkpoint; a second one ends it at once.

    Not so when ``patient``: a launcher of several processes passes on a signal that the terminal has sent to all of
    them already, and itself kills those that take too long.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, action in before.items():
            signal.signal(number, action)

    def note(number: int, frame: object) -> None:
        flag.set()
        if not patient:
            restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield flag
    finally:
        restore()


def stop_training(
    run: Path,
    step: int,
    objection: str,
    losses: Mapping[str, float],
    batch: Batch,
    weights: Mapping[str, Tensor],
    *,
    process: int,
) -> NotMet:
    """Write the folder (every process its own batch) and give the error to raise."""
    folder = run / STOPPED / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / f"batch-{process}.safetensors", batch)
    if process == 0:
        write_weights(folder / WEIGHTS, weights)
        values = {name: value if abs(value) < float("inf") else str(value) for name, value in losses.items()}
        write_atomic(folder / "losses.json", json.dumps({"schema": SCHEMA, "step": step, **values}, indent=1) + "\n")
    return NotMet(
        f"the loss of step {step} {objection}",
        expected="a finite loss, of the order of those before",
        fix=f"look at {folder} (the batch, the weights before it), then lower learning_rate or the weight of the loss "
        "that grew, or set clip_norm, and train into a new folder",
    )
