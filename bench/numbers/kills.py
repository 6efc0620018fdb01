"""Kill a training with SIGKILL at random moments, go on, and compare with one that was left alone.

    python bench/numbers/kills.py --kills 200

A parent that has imported everything and computed nothing forks one child per attempt, so an attempt takes as long as
the training and not as the start of Python. A child trains on from what the one before left. After each kill the state
is looked at: there must be a whole checkpoint as soon as one was ever written. When a child comes to the end, its
weights and its log must be those of the run that was left alone, bit for bit; then a new run begins.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from figures import Figure, Section, verdict
from safetensors.torch import load_file
from small_training import small_training

from avsdk.errors import AvsdkError, CheckpointRefused
from avsdk_train import commands
from avsdk_train.checkpoint import read_checkpoint
from avsdk_train.run import CHECKPOINTS, LATEST, METRICS, WEIGHTS
from avsdk_train.watch import read_log

KILLS = 200
_STEPS, _EVERY = 12, 2
_FAILED = 1


@dataclass
class Tally:
    """What became of the kills. ``while_writing``: part of a checkpoint was left behind, under a temporary name."""

    kills: int = 0
    while_writing: int = 0
    before_first: int = 0
    damaged: int = 0
    finished: int = 0
    different: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing was lost."""
        return self.damaged == 0 and self.different == 0


def measured(work: Path, kills: int = KILLS, seed: int = 0) -> Section:
    """The section of docs/benchmarks.md."""
    tally = tally_from_kills(work, kills, seed)
    return Section(
        "Training that is killed",
        f"SIGKILL at {tally.kills} random moments of a training of {_STEPS} steps, a checkpoint every {_EVERY} of"
        " them, each time going on from what was left; the ends are compared bit for bit with a run left alone.",
        (f"python bench/numbers/kills.py --kills {kills}",),
        (
            Figure("kills", str(tally.kills)),
            Figure("of them while a checkpoint was being written or removed", str(tally.while_writing)),
            Figure("damaged checkpoints under their own names", str(tally.damaged), "0", verdict(not tally.damaged)),
            Figure(
                "ends that differ from the run left alone", f"{tally.different} of {tally.finished}", "0",
                verdict(tally.different == 0 and tally.finished > 0),
            ),
        ),
    )  # fmt: skip


def tally_from_kills(work: Path, kills: int, seed: int) -> Tally:
    """Kill that many times."""
    settings = [
        *small_training(work, side_px=40, layers=("conv1_1",)), "style_px=32", "crop_px=32", "late_crop_px=36",
        "warmup_batches=1", f"steps={_STEPS}", "batch_size=1", f"checkpoint_every={_EVERY}", "preview_every=6",
        "preview_px=32", "threads=1", "device=cpu",
    ]  # fmt: skip
    alone = work / "alone"
    began = time.perf_counter()
    _train(work / "data", alone, settings, kill_after_s=None)
    seconds = time.perf_counter() - began
    chance = random.Random(seed)
    tally, run, number = Tally(), work / "run-0", 0
    while tally.kills < kills:
        had_one = (run / CHECKPOINTS / LATEST).is_file()
        if _train(work / "data", run, settings, kill_after_s=chance.uniform(0, seconds)):
            tally.kills += 1
            _look_at(run, tally, had_one=had_one)
            continue
        tally.finished += 1
        tally.different += not _same(run, alone)
        shutil.rmtree(run)
        number += 1
        run = work / f"run-{number}"
    while not tally.finished:  # few kills may leave no end to compare
        _train(work / "data", run, settings, kill_after_s=None)
        tally.finished += 1
        tally.different += not _same(run, alone)
    return tally


def _train(data: Path, run: Path, settings: list[str], kill_after_s: float | None) -> bool:
    """Train on in a child; whether it was killed. Raises where it failed by itself."""
    child = os.fork()
    if child == 0:
        _child(data, run, settings)
    if kill_after_s is not None:
        deadline = time.perf_counter() + kill_after_s
        while time.perf_counter() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return _ended(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return _ended(status)


def _ended(status: int) -> bool:
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise AvsdkError(f"a training that was to be killed ended by itself with exit code {code}", expected="0")
    return code != 0


def _child(data: Path, run: Path, settings: list[str]) -> None:
    """Train and leave without cleaning up; what goes wrong goes to standard error."""
    code = _FAILED
    try:
        errors = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress of hundreds of trainings is of no use
        if (run / "run.json").is_file():
            commands.train_on("style_transfer", [], run, "", "", ["threads=1"])
        else:
            commands.train_new("style_transfer", [data], run, "", "", settings)
        code = 0
    except AvsdkError as error:
        os.write(errors, f"{error}\n".encode())
    finally:
        os._exit(code)


def _look_at(run: Path, tally: Tally, *, had_one: bool) -> None:
    folder = run / CHECKPOINTS
    tally.while_writing += any(folder.glob(".step-*"))
    names = sorted(path.name for path in folder.glob("step-*"))
    if not names and not had_one:
        tally.before_first += 1
        return
    before = torch.get_rng_state()
    try:
        if not names:
            tally.damaged += 1
        for name in names:  # every one that stands there under its own name must be whole
            read_checkpoint(folder / name)
    except CheckpointRefused:
        tally.damaged += 1
    torch.set_rng_state(before)


def _same(run: Path, alone: Path) -> bool:
    first, second = (load_file(folder / WEIGHTS) for folder in (run, alone))
    weights = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return weights and read_log(run / METRICS) == read_log(alone / METRICS)


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often.")] = KILLS,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The tally as JSON.")] = False,
) -> None:
    """Kill trainings, and print what became of them."""
    with tempfile.TemporaryDirectory(prefix="avsdk-kills-") as folder:
        tally = tally_from_kills(Path(folder), kills, seed)
    sys.stdout.write((json.dumps(asdict(tally)) if as_json else _table(tally)) + "\n")
    if not tally.whole:
        raise typer.Exit(4)


def _table(tally: Tally) -> str:
    return "\n".join(f"{name.replace('_', ' '):16} {value}" for name, value in asdict(tally).items())


if __name__ == "__main__":
    typer.run(main)
