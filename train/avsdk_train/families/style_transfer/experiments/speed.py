"""How much faster version 2 is than version 1: seconds for a whole picture, both in PyTorch, beside the paper's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from avsdk.host import default_threads
from avsdk_train.data import Image
from avsdk_train.experiment_report import Cell, Report
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.experiments.inputs import painting, photograph, square
from avsdk_train.families.style_transfer.features import FeatureNetwork, random_features
from avsdk_train.families.style_transfer.optimise import Call, optimise
from avsdk_train.families.style_transfer.optimise_losses import version_one_layers
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings
from avsdk_train.families.style_transfer.stylise import CallProgress, prepare_features
from avsdk_train.families.style_transfer.targets import required_features
from avsdk_train.family import load_family, load_trained
from avsdk_train.metrics.interval import median_interval
from avsdk_train.recipe import require

Network = Literal["alexnet", "vgg16", "vgg19", "features"]
_PAPER = {256: (9.15, 23.0, 0.020), 512: (16.0, 78.8, 0.070), 1024: (51.4, 285.0, 0.172)}
"""Shen and Wang's table, on a Colab GPU: seconds of version 1 with AlexNet, with VGG, and of version 2."""
_HOW = """\
Seconds for a whole picture in PyTorch, from the decoded photograph to 8 bits: version 1 with {s.calls} calls of LBFGS,
version 2 (`{s.model}`) in one pass. {s.rounds} round{s_of}; version 2 {times} times around each picture of version 1,
median with its 95 % bootstrap interval; loading is in neither. The paper's figures are of a GPU; what can be compared
is the factor."""
_WEIGHTS = """\
Whole networks have random weights, since no trained ones at full depth were at hand; weights do not change the time.
Where a size says *extrapolated*, only the named number of calls ran, and the rest was counted at their mean; LBFGS
keeps up to 100 earlier gradients, so that its later calls take a little longer than that."""


@dataclass(frozen=True)
class SpeedSettings:
    """What is timed.

    ``networks``: whole ones with random weights, which take the same time as trained ones, and ``features``, the
    network of the file ``features``. Every round times version 1 once with each network at each of ``sizes`` (squares),
    and version 2 ``repeats`` times before and after each. With ``sampled_calls`` the sizes from ``sampled_from_px`` on
    (0: the largest) run only that many calls, and their time is extrapolated to ``calls``.
    """

    networks: tuple[Network, ...] = ("alexnet", "vgg19")
    features: str = ""
    model: str = "zoo:style_transfer/wave"
    photo: str = ""
    style: str = ""
    sizes: tuple[int, ...] = (256, 512, 1024)
    calls: int = 500
    sampled_calls: int = 0
    sampled_from_px: int = 0
    rounds: int = 1
    repeats: int = 5
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be timed."""
        require(len(self.sizes) > 0, "sizes", self.sizes, "at least one")
        require(len(self.networks) > 0, "networks", self.networks, f"some of: {', '.join(get_args(Network))}")
        sampled = self.sampled_calls
        require(sampled == 0 or 2 <= sampled <= self.calls, "sampled_calls", sampled, "0, or 2 up to calls")
        require(min(self.rounds, self.repeats) >= 1, "rounds and repeats", (self.rounds, self.repeats), "at least 1")

    def calls_at(self, size: int) -> int:
        """The calls that run at a size."""
        sampled = self.sampled_calls and size >= (self.sampled_from_px or max(self.sizes))
        return self.sampled_calls if sampled else self.calls


def run(report: Report, settings: SpeedSettings) -> None:
    """Time every cell, round by round, and set them beside the paper's."""
    torch.set_num_threads(settings.threads or default_threads())
    photo, style = photograph(settings.photo), painting(settings.style)
    networks = {name: _network(name, settings, (photo, style)) for name in settings.networks}
    two = load_family("style_transfer").apply(next(iter(load_trained(settings.model).networks.values())))
    times: dict[tuple[int, str], list[Cell]] = {}
    for turn in range(settings.rounds):
        for size in settings.sizes:
            for name, network in networks.items():

                def compute(name: str = name, size: int = size, network: FeatureNetwork = network) -> Cell:
                    return _timed(network, two, square(photo, size), style, f"{name} {size} px", settings)

                cell = report.cell(f"round-{turn}-{size}-{name}-{settings.calls_at(size)}-calls", compute)
                times.setdefault((size, name), []).append(cell)
    _write(report, settings, times, {name: _described(name, network) for name, network in networks.items()})


def _timed(
    network: FeatureNetwork,
    two: Callable[[Image], Image],
    photo: Image,
    style: Image,
    label: str,
    settings: SpeedSettings,
) -> Cell:
    """One picture by version 1, between two blocks of pictures by version 2."""
    calls = settings.calls_at(photo.shape[0])
    options = OptimiseSettings(sizes=(0,), calls=(calls,), seed=settings.seed, threads=settings.threads)
    before = _version_two_seconds(two, photo, settings.repeats)
    called: list[float] = []
    with CallProgress(calls, label) as progress:

        def watch(call: Call) -> None:
            called.append(time.perf_counter())
            progress(call)

        outcome = optimise(photo, style, network, options, watch)
    if not outcome.finished:
        raise KeyboardInterrupt
    after = _version_two_seconds(two, photo, settings.repeats)
    each = [later - earlier for earlier, later in zip(called, called[1:], strict=False)]
    seconds = outcome.seconds
    if calls < settings.calls:  # all but the calls, once, and the calls at their mean
        seconds += (settings.calls - calls) * statistics.fmean(each)
    return {
        "seconds": seconds,
        "measured_calls": calls,
        "measured_seconds": outcome.seconds,
        "call_s": statistics.median(each) if each else outcome.seconds,
        "version_two_seconds": before + after,
    }


def _version_two_seconds(two: Callable[[Image], Image], photo: Image, repeats: int) -> list[float]:
    two(photo)  # the first one allocates
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        two(photo)
        found.append(time.perf_counter() - began)
    return found


def _network(name: Network, settings: SpeedSettings, pictures: tuple[Image, Image]) -> FeatureNetwork:
    if name != "features":
        return random_features(name, settings.seed)
    network = required_features(settings.features)
    prepare_features(network, OptimiseSettings(), pictures)
    return network


def _described(name: Network, network: FeatureNetwork) -> str:
    deepest = version_one_layers(network, OptimiseSettings())[0].style[-1]
    return f"{network.kind}, " + (f"trained, to {deepest}" if name == "features" else f"random weights, to {deepest}")


def _write(
    report: Report, settings: SpeedSettings, times: Mapping[tuple[int, str], list[Cell]], described: Mapping[str, str]
) -> None:
    rows: list[list[object]] = []
    for (size, name), cells in times.items():
        one = statistics.median(cell["seconds"] for cell in cells)
        samples = [second for other in times if other[0] == size for cell in times[other]
                   for second in cell["version_two_seconds"]]  # fmt: skip
        two = statistics.median(samples)
        low, high = median_interval(samples) or (two, two)
        calls = cells[0]["measured_calls"]
        note = f"{calls} calls" if calls == settings.calls else f"extrapolated from {calls} calls"
        paper = _paper(size, described[name])
        rows.append([f"{size} x {size}", described[name], f"{one:.4g} ({note})", f"{two:.4g} [{low:.4g}, {high:.4g}]",
                     f"{one / two:.0f} x", *paper])  # fmt: skip
    report.text(_HOW.format(s=settings, s_of="s" if settings.rounds > 1 else "", times=2 * settings.repeats))
    report.text(_WEIGHTS)
    columns = ("picture", "network of version 1", "version 1, s", "version 2, s", "faster",
               "paper: version 1, s", "paper: version 2, s", "paper: faster")  # fmt: skip
    report.table("Version 1 against version 2", columns, rows)


def _paper(size: int, described: str) -> list[object]:
    if size not in _PAPER:
        return [None, None, None]
    alexnet, vgg, two = _PAPER[size]
    one = alexnet if described.startswith("alexnet") else vgg
    return [one, two, f"{one / two:.0f} x"]


EXPERIMENT = Experiment(
    "speed", "Seconds for a whole picture: version 1 against version 2, beside the paper's.", SpeedSettings, run,
    {"sizes": [128, 256], "sampled_calls": 20},
    selects=("networks", "sizes", "rounds", "sampled_calls"),
)  # fmt: skip
