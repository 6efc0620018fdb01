"""What is to be tried next, as Optuna's multi-objective sampler proposes it.

The sampler is TPE (Ozaki et al., Multiobjective Tree-structured Parzen Estimator, JAIR 2022), with the user's limits as
its constraints. In a small space it proposes again what is known: then what it never proposed is taken in random order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from avsdk_bench.tune_choice import Limits, Tuned
from avsdk_bench.tune_space import Configuration, Space

if TYPE_CHECKING:
    from optuna import Study, Trial

_OBJECTIVES = 4
_UNKNOWN = 1e9
_TRIES = 12


class Proposals:
    """``next`` proposes what was not tried, ``tell`` reports what became of it.

    At first come those that ``Space.first`` names, so that every target is seen at each precision; ``first`` are those
    that are left of them.
    """

    def __init__(self, space: Space, known: Sequence[Tuned], limits: Limits, seed: int) -> None:
        self._space = space
        self._limits = limits
        self._study = _new_study(seed)
        self._random = np.random.default_rng(seed)
        self._open: dict[str, Trial] = {}
        self._tried: dict[str, Tuned] = {}
        for item in known:
            self._study.enqueue_trial(space.parameters(item.configuration))
            trial = self._study.ask()
            self._open[space.draw(trial).key] = trial
            self.tell([item])
        self.first = [item for item in space.first() if item.key not in self._tried]

    def next(self) -> Configuration | None:
        """A configuration that was not tried; None where all were."""
        from optuna.trial import TrialState

        while self.first:
            item = self.first.pop(0)
            if not self._seen(item):
                return self._taken(item)
        for _ in range(_TRIES):
            trial = self._study.ask()
            item = self._space.draw(trial)
            if not self._seen(item):
                self._open[item.key] = trial
                return item
            self._study.tell(trial, state=TrialState.FAIL)  # it is known: nothing is counted twice
        rest = [item for item in self._space.configurations() if not self._seen(item)]
        return self._taken(rest[int(self._random.integers(len(rest)))]) if rest else None

    def tell(self, items: Sequence[Tuned]) -> None:
        """Report what was found out about configurations that were proposed."""
        from optuna.trial import TrialState

        for item in items:
            self._tried[item.configuration.key] = item
            trial = self._open.pop(item.configuration.key)
            if not item.rows:
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            for name, share in self._limits.excess(item).items():
                trial.set_constraint(name, min(share, _UNKNOWN))
            self._study.tell(trial, _values(item))

    def drop(self, item: Configuration) -> None:
        """Not to be tried in this run: nothing was found out about it."""
        self.tell([Tuned(item, "rejected")])

    def _taken(self, item: Configuration) -> Configuration:
        self._study.enqueue_trial(self._space.parameters(item))
        trial = self._study.ask()
        self._open[self._space.draw(trial).key] = trial
        return item

    def _seen(self, item: Configuration) -> bool:
        return item.key in self._tried or item.key in self._open


def _new_study(seed: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it says when a parameter is one target's own, which is so here
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return optuna.create_study(directions=["minimize"] * _OBJECTIVES, sampler=sampler)


def _values(item: Tuned) -> list[float]:
    """Time per item, loss, size, memory: finite, as Optuna wants them."""
    per_item, _, *others = item.objectives()
    return [value if math.isfinite(value) else _UNKNOWN for value in (per_item, *others)]
