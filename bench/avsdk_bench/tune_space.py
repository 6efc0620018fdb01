"""What a tuner may vary: the configurations of a model on the targets that were named, as one space to draw from.

What an engine lets vary, its compiler says (``Compiler.tunables``); nothing here knows an engine by name.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from avsdk import host, plugins
from avsdk.errors import NotAvailable, UnknownName, UsageError
from avsdk.precision import PRECISIONS
from avsdk.spec import Sizes
from avsdk_bench.subjects import absent_device
from avsdk_targets.plan import Plan, buildable, plan_target
from avsdk_targets.target import Target

if TYPE_CHECKING:
    from optuna import Trial

LOSSY = "int8"


@dataclass(frozen=True)
class Configuration:
    """One point: what is built (target, precision, sizes) and how it is loaded and run (settings, threads).

    ``settings`` are as ``--set ENGINE.NAME=VALUE`` has them, those that differ from what stands by itself.
    ``sizes`` are as they were asked for; empty for the model's defaults.
    """

    target: str
    precision: str
    threads: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for equal configurations."""
        return json.dumps([self.target, self.precision, self.threads, dict(self.sizes), dict(self.settings)],
                          sort_keys=True)  # fmt: skip

    @property
    def build(self) -> tuple[str, str, str]:
        """What of it decides the build."""
        return self.target, self.precision, sizes_key(self.sizes)

    @property
    def label(self) -> str:
        """What messages call it."""
        chosen = [f"{name}={value}" for name, value in {**self.sizes, **self.settings}.items()]
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return " ".join([self.target, self.precision, threads, *chosen])


@dataclass(frozen=True)
class Offer:
    """What one target offers. ``plans``: by precision which engine builds it; none for what can only be predicted.

    ``here``: whether this machine is its device, so that it can be measured. ``fixed``: settings that are not varied.
    ``many``: requests come many at a time.
    """

    target: Target
    precisions: tuple[str, ...]
    plans: Mapping[str, Plan]
    here: bool
    fixed: frozenset[str] = frozenset()
    many: bool = False

    def tunables(self, precision: str) -> dict[str, tuple[str, ...]]:
        """``ENGINE.NAME`` -> values to try, what stands by itself first."""
        if not self.here:
            return {}
        plan = self.plans[precision]
        found = {
            f"{plan.candidate.engine}.{name}": tuple(values)
            for name, values in plan.compiler.tunables(plan.candidate.device, many=self.many).items()
        }
        return {name: values for name, values in found.items() if name not in self.fixed}


@dataclass(frozen=True)
class Space:
    """All configurations. ``sizes`` are numbered from the one wanted most; ``threads`` rise.

    ``left_out``: what was asked for and cannot be tried, with the reason.
    """

    offers: Mapping[str, Offer]
    threads: tuple[int, ...]
    sizes: tuple[Mapping[str, int], ...]
    left_out: tuple[str, ...] = ()

    def here(self, here: bool = True) -> Space:
        """The part that this machine can measure, or the part that it cannot."""
        return replace(self, offers={name: item for name, item in self.offers.items() if item.here is here})

    def configurations(self) -> Iterator[Configuration]:
        """Every one, each target's in the order of its precisions."""
        for name, offer in self.offers.items():
            for precision, sizes, threads in itertools.product(offer.precisions, self.sizes, self.threads):
                tunables = offer.tunables(precision)
                for values in itertools.product(*tunables.values()):
                    yield self._configuration(name, precision, threads, sizes, dict(zip(tunables, values, strict=True)))

    def holds(self, item: Configuration) -> bool:
        """Whether the configuration is one of these."""
        offer = self.offers.get(item.target)
        if offer is None or item.precision not in offer.precisions or item.threads not in self.threads:
            return False
        tunables = offer.tunables(item.precision)
        known = all(value in tunables.get(name, ()) for name, value in item.settings.items())
        return known and sizes_key(item.sizes) in map(sizes_key, self.sizes)

    def first(self) -> Iterator[Configuration]:
        """What each target does by itself at each precision, at the sizes wanted most and with all threads."""
        for name, offer in self.offers.items():
            for precision in offer.precisions:
                yield self._configuration(name, precision, self.threads[-1], self.sizes[0], {})

    def draw(self, trial: Trial) -> Configuration:
        """The configuration that the trial suggests."""
        name = trial.suggest_categorical("target", list(self.offers))
        offer = self.offers[name]
        precision = trial.suggest_categorical(f"{name}: precision", list(offer.precisions))
        threads = trial.suggest_categorical("threads", list(self.threads))
        place = trial.suggest_categorical("sizes", list(range(len(self.sizes))))
        settings = {
            setting: trial.suggest_categorical(setting, list(values))
            for setting, values in offer.tunables(precision).items()
        }
        return self._configuration(name, precision, threads, self.sizes[place], settings)

    def parameters(self, item: Configuration) -> dict[str, Any]:
        """What a trial suggests for that configuration: the inverse of ``draw``."""
        place = [sizes_key(sizes) for sizes in self.sizes].index(sizes_key(item.sizes))
        fixed = {"target": item.target, f"{item.target}: precision": item.precision, "threads": item.threads}
        tunables = self.offers[item.target].tunables(item.precision)
        chosen = {setting: item.settings.get(setting, values[0]) for setting, values in tunables.items()}
        return {**fixed, "sizes": place, **chosen}

    def _configuration(
        self, name: str, precision: str, threads: int, sizes: Sizes, settings: Mapping[str, str]
    ) -> Configuration:
        default = {setting: values[0] for setting, values in self.offers[name].tunables(precision).items()}
        chosen = {setting: value for setting, value in settings.items() if value != default[setting]}
        return Configuration(name, precision, threads, dict(sizes), chosen)


def space_of(
    targets: Sequence[Target],
    *,
    precisions: Sequence[str] = (),
    sizes: Sequence[Sizes] = (),
    threads: int | None = None,
    calibrated: bool = False,
    fixed: Collection[str] = (),
    many: bool = False,
) -> Space:
    """The space of these targets. ``precisions`` and ``threads`` bind it, ``fixed`` are settings that are not varied;
    ``calibrated``: int8 has samples to see; ``many``: requests come many at a time.

    Raises ``UsageError`` for an unknown precision and where only int8 was asked for without samples, and what the
    targets raise where none of them can be built for.
    """
    for name in precisions:
        if name not in PRECISIONS:
            raise UnknownName.among("precision", name, PRECISIONS)
    if set(precisions) == {LOSSY} and not calibrated:
        raise UsageError(
            f"{LOSSY} was asked for, and there is nothing to calibrate it on",
            expected="real inputs of the model",
            fix="--calibration DIR",
        )
    offers: dict[str, Offer] = {}
    left_out: list[str] = []
    failures: list[NotAvailable] = []
    for target in targets:
        offer, refusals = _offer(target, precisions, calibrated)
        failures += refusals
        left_out += [f"{target.name}: {error.failed}" for error in refusals if precisions or not offer.precisions]
        if offer.precisions:
            offers[target.name] = replace(offer, fixed=frozenset(fixed), many=many)
    if not offers:
        raise failures[0]
    if not calibrated and not precisions and any(LOSSY in _precisions(target) for target in targets):
        left_out.append(f"{LOSSY} is left out: there is nothing to calibrate it on; give --calibration DIR")
    largest = sorted(sizes, key=lambda item: -math.prod(item[name] for name in item if name != "batch"))
    return Space(offers, thread_counts(threads), tuple(map(dict, largest)) or ({},), tuple(dict.fromkeys(left_out)))


def thread_counts(asked: int | None) -> tuple[int, ...]:
    """The one asked for; else one, two, four and so on, up to what this process may use."""
    if asked is not None:
        return (asked,)
    most = host.default_threads()
    return tuple(sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most}))


def sizes_key(sizes: Sizes) -> str:
    """The same for equal sizes, in whatever order."""
    return json.dumps(dict(sizes), sort_keys=True)


def _offer(target: Target, precisions: Sequence[str], calibrated: bool) -> tuple[Offer, list[NotAvailable]]:
    """What can be tried of a target, and why the rest cannot; a device that is not here need not be built for."""
    here = absent_device(target) is None
    known = _precisions(target) if here else target.precisions
    wanted = [name for name in precisions or known if calibrated or name != LOSSY]
    plans: dict[str, Plan] = {}
    refusals: list[NotAvailable] = []
    for name in wanted:
        try:
            plan = plan_target(target, name)
            if plan.compiler.baseline:
                raise NotAvailable(f"{plan.compiler.engine} makes no bundle: it is what others are measured by")
            plans[name] = plan
        except NotAvailable as error:
            refusals.append(error)
    if not wanted:
        text = f"{target.name} is built in {LOSSY} alone" if known else f"nothing is known of what {target.name} runs"
        refusals.append(NotAvailable(text, fix="--calibration DIR" if known else "avsdk doctor"))
    predictable = not here and not target.withdrawn
    offered = wanted if predictable else list(plans)
    return Offer(target, tuple(offered), plans, here), refusals


def _precisions(target: Target) -> list[str]:
    """Those that one of its engines builds, in the device's order."""
    found = [
        name
        for candidate in target.candidates
        for name in buildable(candidate, plugins.load("compilers", candidate.engine)())
    ]
    return [name for name in target.precisions or found if name in found]
