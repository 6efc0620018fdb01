"""The training loop, readable in one sitting; accelerate takes care of devices, precision and gradient scaling.

A resumed run repeats an uninterrupted one bit for bit on a CPU with the same number of threads: the order of the data,
the augmentation and the learning rate are functions of (seed, step), and everything else is in the checkpoint.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_torch_xla_available, set_seed
from torch import nn
from torch.optim import Adam, Optimizer

from avsdk.errors import CheckpointRefused, NotAvailable, NotMet, SilentFallback, UsageError
from avsdk.files import atomic_folder, write_atomic
from avsdk.host import default_threads
from avsdk_train.checkpoint import Checkpoint, load_newest, write_checkpoint
from avsdk_train.data import batches
from avsdk_train.family import Batch, Family, Loss, Losses, TrainingData
from avsdk_train.recipe import Recipe, toml_from_recipe
from avsdk_train.run import CHECKPOINTS, RECIPE, WEIGHTS, RunFile, write_run_file, write_spec
from avsdk_train.trained import state_from_model
from avsdk_train.watch import Watch
from avsdk_train.weights import write_weights

_VERSIONS = ("torch", "accelerate", "numpy", "opencv-python-headless", "opencv-python")


@dataclass(frozen=True)
class Outcome:
    """How a training ended: ``finished`` is false when it was interrupted and can be resumed."""

    run: Path
    step: int
    finished: bool
    losses: dict[str, float]


def create_run(
    family: Family, recipe: Recipe, data: TrainingData, folders: Sequence[Path], out: Path, name: str
) -> None:
    """Make the run's folder, complete or not at all: recipe, spec, and what the loss is measured against."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} is there already", expected="a new or empty folder", fix="--resume to go on, or another --out"
        )
    with atomic_folder(out) as folder:
        write_atomic(folder / RECIPE, toml_from_recipe(recipe))
        write_spec(folder, family.spec(name, recipe))
        family.prepare(recipe, folder)
        content = RunFile(
            data=tuple(str(path.resolve()) for path in folders),
            data_sha256=data.fingerprint(),
            recipe_sha256=recipe.sha256(),
            versions=_versions(),
        )
        write_run_file(folder, content)


def train(family: Family, recipe: Recipe, data: TrainingData, run: Path) -> Outcome:
    """Train the run in ``run`` from its newest checkpoint, or from the start, to the recipe's last step."""
    torch.set_num_threads(recipe.threads or default_threads())
    accelerator = _accelerator(recipe)
    set_seed(recipe.seed)
    network = family.network(recipe.variant)
    if recipe.init:
        family.load_weights(network, state_from_model(recipe.init))
    optimiser: Optimizer = Adam(network.parameters(), lr=recipe.learning_rate)
    network, optimiser = accelerator.prepare(network, optimiser)
    notices = _place(accelerator)
    start = _resume(accelerator, network, optimiser, recipe, run, notices)
    loss = family.loss(recipe, run, accelerator.device)
    with Watch(run, start=start, steps=recipe.steps) as watch, _interrupt_flag() as interrupted:
        for notice in notices:
            watch.notice(notice)
        trainer = _Trainer(accelerator, network, optimiser, loss, recipe)
        step, losses = start, {}
        drawn = batches(
            data, batch_size=recipe.batch_size, seed=recipe.seed, start=start, stop=recipe.steps,
            process=accelerator.process_index, processes=accelerator.num_processes,
        )  # fmt: skip
        for batch in drawn:
            found = trainer.step(batch, step)
            step += 1
            last = step == recipe.steps
            logs = step % recipe.log_every == 0 or last
            saves = step % recipe.checkpoint_every == 0 or last or interrupted.is_set()
            if logs or saves:  # before a checkpoint too: none may hold a network that has diverged
                losses = _numbers(found, step)
            if logs:
                watch.step(step, {**losses, "learning_rate": recipe.learning_rate_at(step - 1)})
            if (step % recipe.preview_every == 0 or last) and accelerator.is_main_process:
                picture = family.preview(accelerator.unwrap_model(network), data)
                if picture is not None:
                    watch.preview(step, picture)
            if saves:
                _save(accelerator, network, optimiser, recipe, run, step)
            if saves and interrupted.is_set() and not last:
                return Outcome(run, step, finished=False, losses=losses)
    _save_final(accelerator, network, run)
    return Outcome(run, step, finished=True, losses=losses)


@dataclass(frozen=True)
class _Trainer:
    """One step of the optimiser."""

    accelerator: Accelerator
    network: nn.Module
    optimiser: Optimizer
    loss: Loss
    recipe: Recipe

    def step(self, batch: Batch, step: int) -> Losses:
        placed = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        with self.accelerator.autocast():
            losses = self.loss(self.network, placed, step)
        self.optimiser.zero_grad()
        self.accelerator.backward(losses.total)
        if self.recipe.clip_norm:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        return losses


def _accelerator(recipe: Recipe) -> Accelerator:
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise NotAvailable(
            "the recipe asks for device cuda, and torch sees none",
            expected="an NVIDIA card, its driver, and a torch built for CUDA",
            fix="--set device=cpu",
        )
    if recipe.device == "tpu" and not is_torch_xla_available(check_is_tpu=True):
        raise NotAvailable(
            "the recipe asks for device tpu, and PyTorch/XLA sees none",
            expected="a TPU, and the toolchain xla on its machine",
            fix="avsdk toolchain install xla, then: avsdk toolchain run xla -- avsdk train ...",
        )
    if recipe.mixed_precision == "fp16" and (recipe.device == "cpu" or not torch.cuda.is_available()):
        raise NotAvailable("fp16 training needs a GPU", expected="mixed_precision bf16 or no on a CPU",
                           fix="--set mixed_precision=bf16")  # fmt: skip
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=recipe.device == "cpu")
    kind = accelerator.device.type
    if recipe.device != "auto" and kind != {"tpu": "xla"}.get(recipe.device, recipe.device):
        raise SilentFallback(
            f"the recipe asks for device {recipe.device}, and accelerate chose {kind}",
            expected=recipe.device,
            fix="train in an environment without torch_xla, or with --set device=auto",
        )
    return accelerator


def _place(accelerator: Accelerator) -> list[str]:
    """What PyTorch/XLA trains on, which its device's name does not tell."""
    if accelerator.device.type != "xla":
        return []
    tpu = is_torch_xla_available(check_is_tpu=True)
    return [f"training on {accelerator.device}: {'a TPU' if tpu else 'no TPU, this processor stands in for one'}"]


def _resume(
    accelerator: Accelerator, network: nn.Module, optimiser: Optimizer, recipe: Recipe, run: Path, notices: list[str]
) -> int:
    """Load the newest whole checkpoint into the network, the optimiser and all random generators; its step, else 0."""
    found = load_newest(run / CHECKPOINTS, notices.append)
    if found is None:
        return 0
    if found.recipe_sha256 != recipe.sha256():
        raise CheckpointRefused(
            f"the checkpoint of step {found.step} in {run} was made by another recipe",
            expected="the recipe.toml that the run began with",
            fix="restore recipe.toml, or train into a new folder with --set init=RUN",
        )
    try:
        accelerator.unwrap_model(network).load_state_dict(found.weights)
        optimiser.load_state_dict(found.optimiser)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointRefused(f"the checkpoint of step {found.step} does not fit: {error}",
                                expected="one of this family and variant") from error  # fmt: skip
    if accelerator.scaler is not None and found.extra:
        accelerator.scaler.load_state_dict(found.extra)
    notices.append(f"resuming after step {found.step} of {recipe.steps}")
    return found.step


def _save(
    accelerator: Accelerator, network: nn.Module, optimiser: Optimizer, recipe: Recipe, run: Path, step: int
) -> None:
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    state = accelerator.unwrap_model(network).state_dict()
    scaler: dict[str, Any] = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
    checkpoint = Checkpoint(step, recipe.sha256(), dict(state), optimiser.state_dict(), scaler)
    write_checkpoint(run / CHECKPOINTS, checkpoint)


def _save_final(accelerator: Accelerator, network: nn.Module, run: Path) -> None:
    if accelerator.is_main_process:
        write_weights(run / WEIGHTS, accelerator.unwrap_model(network).state_dict())


def _numbers(losses: Losses, step: int) -> dict[str, float]:
    values = {"loss": float(losses.total.detach()), **{name: float(value) for name, value in losses.parts.items()}}
    if not math.isfinite(values["loss"]):
        raise NotMet(
            f"the loss of step {step} is {values['loss']}",
            expected="a finite loss",
            fix="lower learning_rate or style_weight, or set clip_norm, and train into a new folder",
        )
    return values


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Ctrl-C ends the run after the step at hand, with a checkpoint; a second one ends it at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, frame: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
