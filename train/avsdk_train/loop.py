"""The training loop, readable in one sitting; ``distributed`` takes care of devices, precision and other processes.

A resumed run repeats an uninterrupted one bit for bit on a CPU with the same number of threads: the order of the data,
the augmentation and the learning rate are functions of (seed, step), and everything else is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.optim import Adam, Optimizer

from avsdk.errors import CheckpointRefused, UnusableInput, UsageError
from avsdk.files import atomic_folder, write_atomic
from avsdk_train.checkpoint import Best, Checkpoint, load_newest, random_state, write_best, write_checkpoint
from avsdk_train.distributed import Processes, end_step
from avsdk_train.ema import MovingAverage
from avsdk_train.family import Batch, Family, Loss, Losses, TrainingData
from avsdk_train.feed import Feed
from avsdk_train.history import History
from avsdk_train.order import Order
from avsdk_train.recipe import Recipe, toml_from_recipe
from avsdk_train.record import code_state, record_from_files, versions
from avsdk_train.run import (
    BEST,
    CHECKPOINTS,
    DATA_LISTING,
    METRICS,
    RECIPE,
    WEIGHTS,
    RunFile,
    write_run_file,
    write_spec,
)
from avsdk_train.stop import interrupt_flag, stop_training
from avsdk_train.trained import state_from_model
from avsdk_train.watch import Watch, read_log
from avsdk_train.weights import read_weights, write_weights


@dataclass(frozen=True)
class Outcome:
    """How a training ended: ``finished`` is false when it was interrupted and can be resumed.

    ``pace`` holds ``samples_per_s`` and ``waiting_for_data``; ``process`` is the index of this one.
    """

    run: Path
    step: int
    finished: bool
    losses: dict[str, float]
    pace: Mapping[str, float] = field(default_factory=dict)
    process: int = 0


def create_run(
    family: Family,
    recipe: Recipe,
    data: TrainingData,
    folders: Sequence[Path],
    out: Path,
    name: str,
    processes: Processes,
) -> None:
    """Make the run's folder, complete or not at all: recipe, spec, hashes, and what the loss is measured against.

    The first process makes it, the others wait.
    """
    processes.on_main(lambda: _write_run(family, recipe, data, folders, out, name, processes.count))


def _write_run(
    family: Family, recipe: Recipe, data: TrainingData, folders: Sequence[Path], out: Path, name: str, count: int
) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} is there already", expected="a new or empty folder", fix="--resume to go on, or another --out"
        )
    with atomic_folder(out) as folder:
        write_atomic(folder / RECIPE, toml_from_recipe(recipe))
        write_spec(folder, family.spec(name, recipe))
        family.prepare(recipe, folder)
        for file, text in family.texts_from_data(recipe, data).items():
            write_atomic(folder / file, text)
        record = record_from_files(data.files(), folders)
        write_atomic(folder / DATA_LISTING, record.listing)
        content = RunFile(
            data=tuple(str(path.resolve()) for path in folders),
            data_sha256=data.fingerprint(),
            recipe_sha256=recipe.sha256(),
            versions=versions(),
            files=record.files,
            content_sha256=record.sha256,
            code=code_state(),
            processes=count,
        )
        write_run_file(folder, content)


def train(family: Family, recipe: Recipe, data: TrainingData, run: Path, processes: Processes) -> Outcome:
    """Train the run in ``run`` from its newest checkpoint, or from the start, to the recipe's last step."""
    trainer = _Trainer(family, recipe, data, run, processes)
    start = trainer.resume()
    losses: dict[str, float] = {}
    watch = Watch(run, recipe, start=start, is_main=processes.is_main)
    order = Order(recipe.batch_size, recipe.seed, start, recipe.steps, processes.index, processes.count)
    with watch, trainer.feed(order, watch.notice) as feed, interrupt_flag(patient=processes.count > 1) as interrupted:
        for notice in trainer.notices:
            watch.notice(notice)
        drawn = iter(feed)
        for step in range(start, recipe.steps):
            with watch.pace.waiting():
                batch = next(drawn)
            found = trainer.losses(batch, step)
            done, last = step + 1, step + 1 == recipe.steps
            logs = done % recipe.log_every == 0 or last
            due = done % recipe.checkpoint_every == 0 or last
            asks = logs or due or processes.count == 1  # asking the others waits for the device
            stops = asks and not last and processes.any(interrupted.is_set())
            if logs or due or stops:  # before the step is taken: no checkpoint may hold a network that has diverged
                losses = trainer.checked(found, batch, done)
            trainer.update(found, step)
            watch.pace.count(recipe.batch_size * processes.count)
            if logs:
                watch.step(done, {**losses, "learning_rate": recipe.learning_rate_at(step)})
            if done % recipe.preview_every == 0 or last:
                trainer.preview(watch, done)
            if due or stops:
                trainer.save(done, best=due)
            if stops:
                return Outcome(run, done, False, losses, watch.pace.numbers(), processes.index)
        trainer.save_final()
    return Outcome(run, recipe.steps, True, losses, watch.pace.numbers(), processes.index)


class _Trainer:
    """The network, its optimiser, and what happens to them at a step."""

    def __init__(self, family: Family, recipe: Recipe, data: TrainingData, run: Path, processes: Processes) -> None:
        set_seed(recipe.seed)  # the same first weights everywhere; then every process draws its own numbers
        network = family.network(recipe.variant)
        if recipe.init:
            family.load_weights(network, state_from_model(recipe.init))
        self._network, self._optimiser = processes.prepare(network, lambda net: _adam(net, recipe))
        if processes.index:
            set_seed(recipe.seed + processes.index)
        self._family, self._recipe, self._data, self._run = family, recipe, data, run
        self._processes = processes
        self._loss: Loss = family.loss(recipe, run, processes.device)
        self._average = MovingAverage(self._inner, recipe.ema_decay) if recipe.ema_decay else None
        self._history = History([], recipe.checkpoint_every)
        self._corrupt: dict[int, str] = {}
        self.notices = processes.notices()

    @property
    def _inner(self) -> nn.Module:
        return self._processes.unwrapped(self._network)

    def feed(self, order: Order, notice: Callable[[str], None]) -> Feed:
        """The batches; what of them cannot be read is known from then on, in the checkpoints too."""
        recipe = self._recipe
        return Feed(
            self._data, order, workers=recipe.workers, max_corrupt=recipe.max_corrupt, corrupt=self._corrupt,
            notice=notice,
        )  # fmt: skip

    def losses(self, batch: Batch, step: int) -> Losses:
        """The losses of a batch."""
        placed = {name: value.to(self._processes.device, non_blocking=True) for name, value in batch.items()}
        with self._processes.accelerator.autocast():
            return self._loss(self._network, placed, step)

    def checked(self, found: Losses, batch: Batch, done: int) -> dict[str, float]:
        """The losses as numbers, over all processes; raises ``NotMet`` where the training has gone wrong."""
        values = self._processes.means({"loss": found.total.detach(), **found.parts})
        objection = self._history.objection(values, self._recipe.explode_factor)
        if objection:
            weights, _ = self._processes.states(self._network, self._optimiser)
            raise stop_training(self._run, done, objection, values, batch, weights, process=self._processes.index)
        self._history.add(done, values)
        return values

    def update(self, losses: Losses, step: int) -> None:
        """One step of the optimiser."""
        accelerator = self._processes.accelerator
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.learning_rate_at(step)
        self._optimiser.zero_grad()
        accelerator.backward(losses.total)
        if self._recipe.clip_norm:
            accelerator.clip_grad_norm_(self._network.parameters(), self._recipe.clip_norm)
        self._optimiser.step()
        self._processes.end_step()
        if self._average is not None:
            self._average.update(self._inner, step)
        end_step(self._processes.device)

    def resume(self) -> int:
        """Load the newest whole checkpoint into network, optimiser and random generators; its step, else 0."""
        found = load_newest(self._run / CHECKPOINTS, self.notices.append, self._processes.index)
        self._processes.wait()  # nobody writes before all have read
        if found is None:
            return 0
        if found.recipe_sha256 != self._recipe.sha256():
            raise CheckpointRefused(
                f"the checkpoint of step {found.step} in {self._run} was made by another recipe",
                expected="the recipe.toml that the run began with",
                fix="restore recipe.toml, or train into a new folder with --set init=RUN",
            )
        try:
            self._load(found)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointRefused(f"the checkpoint of step {found.step} does not fit: {error}",
                                    expected="one of this family and variant") from error  # fmt: skip
        log = (line for line in read_log(self._run / METRICS) if line["step"] <= found.step)
        self._history = History(log, self._recipe.checkpoint_every)
        self.notices.append(f"resuming after step {found.step} of {self._recipe.steps}")
        return found.step

    def _load(self, found: Checkpoint) -> None:
        extra = found.extra if "scaler" in found.extra else {"scaler": found.extra}  # as older checkpoints have it
        raw = {**found.weights, **extra.get("raw", {})}
        self._processes.load_states(self._network, self._optimiser, raw, found.optimiser)
        if self._average is not None:
            self._average.load(found.weights, self._inner)
        for corrupt in found.extra.get("corrupt", ())[self._processes.index : self._processes.index + 1]:
            self._corrupt.update(corrupt)
        scaler = self._processes.accelerator.scaler
        if scaler is not None and extra["scaler"]:
            scaler.load_state_dict(extra["scaler"])

    def save(self, done: int, *, best: bool) -> None:
        """Write a checkpoint, and the best weights where a whole stretch between two checkpoints was better."""
        recipe, folder = self._recipe, self._run / CHECKPOINTS
        raw, optimiser = self._processes.states(self._network, self._optimiser)
        averages = self._average.state() if self._average is not None else {}
        random = self._processes.gathered(random_state())
        corrupt = self._processes.gathered(dict(self._corrupt))
        if not self._processes.is_main:
            return
        scaler = self._processes.accelerator.scaler
        extra: dict[str, Any] = {"scaler": scaler.state_dict() if scaler is not None else {}}
        extra["corrupt"] = corrupt
        if averages:
            extra["raw"] = {name: raw[name] for name in averages}
        weights = {**raw, **averages}
        checkpoint = Checkpoint(done, recipe.sha256(), weights, optimiser, extra)
        write_checkpoint(folder, checkpoint, random, keep_all=recipe.keep == "all")
        mean = self._history.mean(recipe.best_by, done - recipe.checkpoint_every)
        if best and mean is not None:
            write_best(folder, weights, Best(done, recipe.best_by, mean, tuple(self._history.parts())))

    def save_final(self) -> None:
        """Write the weights that ship, once the last checkpoint is there."""
        if self._processes.is_main:
            best = self._run / CHECKPOINTS / BEST / WEIGHTS
            newest = load_newest(self._run / CHECKPOINTS, self.notices.append)
            assert newest is not None
            if self._recipe.final == "best" and not best.is_file():
                raise UsageError(
                    f"there are no best weights to ship: no loss is named {self._recipe.best_by!r}",
                    expected=f"best_by as one of: {', '.join(self._history.parts())}",
                    fix=f"avsdk export {self._run} takes the last weights, which are in its checkpoints",
                )
            weights = read_weights(best) if self._recipe.final == "best" else newest.weights
            write_weights(self._run / WEIGHTS, weights)
        self._processes.wait()

    def preview(self, watch: Watch, done: int) -> None:
        """Show what the network that would ship does now."""
        if self._average is None and not self._processes.hides_weights:
            if self._processes.is_main:
                self._show(self._inner, watch, done)
            return
        raw, _ = self._processes.states(self._network, self._optimiser)
        averages = self._average.state() if self._average is not None else {}
        if self._processes.is_main:
            with torch.random.fork_rng():
                network = self._family.network(self._recipe.variant)
            network.load_state_dict({**raw, **averages})
            self._show(network.to(self._processes.device), watch, done)

    def _show(self, network: nn.Module, watch: Watch, done: int) -> None:
        try:
            shown = self._family.preview(network, self._data)
        except UnusableInput as error:
            if not self._recipe.max_corrupt:
                raise
            watch.notice(f"no preview: {error.failed}")
            return
        if shown is not None:
            watch.preview(done, shown)


def _adam(network: nn.Module, recipe: Recipe) -> Optimizer:
    return Adam(network.parameters(), lr=recipe.learning_rate)
