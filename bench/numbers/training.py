"""What the training loop costs beside a bare PyTorch step: same network, loss, optimiser and batch, in memory.

    python bench/numbers/training.py [--small]

Both sides are timed from the first call of the loss to the last, over the same number of steps, so that what a run does
once (its folder, the last checkpoint, the preview) counts on neither side, and all that it does at every step does:
reading the next batch, checking and logging the losses, the bar, TensorBoard.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate.state import AcceleratorState
from figures import Figure, Section, verdict, written
from small_training import small_training
from torch.optim import Adam

from avsdk.host import default_threads
from avsdk_bench.statistics import Interval, paired_ratio
from avsdk_train.distributed import Processes
from avsdk_train.families.style_transfer.family import StyleTransfer
from avsdk_train.family import Batch, Loss, Losses, Sample
from avsdk_train.loop import create_run, train
from avsdk_train.recipe import Recipe
from avsdk_train.trained import recipe_from_file

GOAL = 0.9
_LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")


class MemoryData:
    """One batch, always the same."""

    def __init__(self, batch_size: int, side_px: int) -> None:
        self._batch = {"image": torch.rand(batch_size, 3, side_px, side_px) * 255}

    def __len__(self) -> int:
        return 64

    def fingerprint(self) -> str:
        """Nothing is read."""
        return ""

    def files(self) -> Sequence[Path]:
        """Nothing is read."""
        return ()

    def batch(self, samples: Sequence[Sample], progress: float) -> Batch:
        """The batch."""
        return self._batch


class TimedLoss:
    """A loss that notes when it is called."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.called_s: list[float] = []

    def __call__(self, network: torch.nn.Module, batch: Batch, step: int) -> Losses:
        """See the loss."""
        self.called_s.append(time.perf_counter())
        return self._loss(network, batch, step)

    @property
    def step_s(self) -> float:
        """Mean time from one call to the next; the first two steps warm up."""
        kept = self.called_s[2:]
        return (kept[-1] - kept[0]) / (len(kept) - 1)


class TimedFamily(StyleTransfer):
    """Version 2 of style transfer with its loss timed, and no preview, which happens once in hundreds of steps."""

    timed: TimedLoss

    def loss(self, recipe: Recipe, run: Path, device: torch.device) -> TimedLoss:  # type: ignore[override]
        """The loss, which is kept to be asked."""
        self.timed = TimedLoss(super().loss(recipe, run, device))
        return self.timed

    def preview(self, network: torch.nn.Module, data: object) -> None:
        """None."""
        return


def measured(work: Path, *, small: bool = False) -> Section:
    """The section of docs/benchmarks.md."""
    rounds, steps, side_px, batch_size = (2, 4, 32, 1) if small else (9, 14, 128, 4)
    threads = 1 if small else default_threads()
    named = small_training(work, side_px=64, layers=_LAYERS)
    family = TimedFamily()
    _, recipe = recipe_from_file(
        family.recipes() / "small.toml",
        (
            *named, "style_px=64", f"threads={threads}", f"steps={steps}", f"batch_size={batch_size}",
            "device=cpu", "warmup_batches=0", "mixed_precision=no", "checkpoint_every=1000", "preview_every=1000",
            "schedule=constant",
        ),
    )  # fmt: skip
    data = MemoryData(batch_size, side_px)
    loops: list[float] = []
    bare: list[float] = []
    order = random.Random(0)
    for number in range(rounds):
        for side in order.sample(("loop", "bare"), 2):
            gc.collect()
            if side == "loop":
                loops.append(_by_the_loop(family, recipe, data, work / f"run-{number}"))
            else:
                bare.append(_by_hand(family, recipe, data, work / "run-bare"))
    ratio = paired_ratio(bare, loops)
    share = None if ratio is None else ratio.ratio
    return Section(
        "Training loop",
        f"Version 2 of style transfer, fp32, {batch_size} crops of {side_px} px, normalised VGG-19 to conv3_1,"
        f" {threads} threads; {rounds} interleaved rounds of {steps - 2} steps each; ratios are paired per round,"
        " with 95 % intervals.",
        ("python bench/numbers/training.py" + (" --small" if small else ""),),
        (
            Figure("a step by the loop", _seconds(loops)),
            Figure("a bare PyTorch step", _seconds(bare)),
            Figure(
                "throughput of the loop over the bare step's", written(share, ""), f"at least {GOAL:g}",
                _judged(share),
            ),
        ),
    )  # fmt: skip


def _judged(share: Interval | None) -> str:
    if share is not None and share.low < GOAL <= share.high:
        return "not decided: the interval holds the goal"
    return verdict(share is not None and share.low >= GOAL)


def _seconds(rounds: list[float]) -> str:
    low, high = 1e3 * min(rounds), 1e3 * max(rounds)
    return f"{1e3 * sorted(rounds)[len(rounds) // 2]:.4g} ms ({low:.4g} to {high:.4g})"


def _by_the_loop(family: TimedFamily, recipe: Recipe, data: MemoryData, run: Path) -> float:
    AcceleratorState._reset_state(True)
    processes = Processes(recipe)
    create_run(family, recipe, data, [run.parent / "data"], run, "timed", processes)
    train(family, recipe, data, run, processes)
    return family.timed.step_s


def _by_hand(family: TimedFamily, recipe: Recipe, data: MemoryData, run: Path) -> float:
    """What a page of PyTorch's tutorial does, with no line more."""
    run.mkdir(exist_ok=True)
    family.prepare(recipe, run)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(0)
    network = family.network(recipe.variant)
    optimiser = Adam(network.parameters(), lr=recipe.learning_rate)
    loss = family.loss(recipe, run, torch.device("cpu"))
    batch = data.batch([], 0.0)
    for step in range(recipe.steps):
        optimiser.zero_grad()
        loss(network, batch, step).total.backward()
        optimiser.step()
    return family.timed.step_s


def main(small: Annotated[bool, typer.Option("--small", help="Only see that it runs.")] = False) -> None:
    """Measure, and print the figures."""
    with tempfile.TemporaryDirectory(prefix="avsdk-training-") as folder:
        section = measured(Path(folder), small=small)
    lines = [f"{item.what}: {item.value}  {item.goal}  {item.verdict}".rstrip() for item in section.figures]
    sys.stdout.write("\n".join([section.method, *lines]) + "\n")


if __name__ == "__main__":
    typer.run(main)
