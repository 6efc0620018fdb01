"""Training data without files, in a module of its own: a worker process that unpickles it imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch

from avsdk.errors import UnusableInput
from avsdk_train.family import Batch, Sample


class Numbers:
    """Items 0..count-1; ``bad`` ones cannot be read, ``deadly`` ones end the process, ``buggy`` ones raise."""

    def __init__(self, count: int, bad: Sequence[int] = (), deadly: int = -1, buggy: int = -1) -> None:
        self.count, self.bad, self.deadly, self.buggy = count, bad, deadly, buggy

    def __len__(self) -> int:
        return self.count

    def fingerprint(self) -> str:
        return ""

    def files(self) -> list[Path]:
        return []

    def batch(self, samples: Sequence[Sample], progress: float) -> Batch:
        for sample in samples:
            if sample.index in self.bad:
                raise UnusableInput(f"item {sample.index} is truncated")
            if sample.index == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if sample.index == self.buggy:
                raise ZeroDivisionError("a bug")
        drawn = [float(sample.random.random()) for sample in samples]
        return {"index": torch.tensor([sample.index for sample in samples]), "random": torch.tensor(drawn)}
