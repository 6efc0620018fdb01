"""What a model system is made of, and how a name becomes a trained model.

This module imports no torch: ``model_files`` serves fingerprints, which must answer in a fraction of a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from avsdk import plugins
from avsdk.errors import UnknownName, UsageError
from avsdk.spec import GraphSpec, ModelSpec, Sizes
from avsdk_train.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from avsdk_train.experiments import Experiment

Batch = Mapping[str, "Tensor"]
_BUILT_IN = {
    "style_transfer": "avsdk_train.families.style_transfer:StyleTransfer",
    "unit_discovery": "avsdk_train.families.unit_discovery:UnitDiscovery",
}


@dataclass(frozen=True)
class Sample:
    """One item of a batch: its index in the data, and the generator of its augmentation."""

    index: int
    random: np.random.Generator


@dataclass(frozen=True)
class Losses:
    """What the optimiser lowers, and the parts to show, each a scalar."""

    total: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True)
class Heard:
    """A preview that is heard: ``samples`` of shape (samples,), float32 in -1..1."""

    samples: NDArray[np.float32]
    sample_rate_hz: int


Preview = NDArray[np.uint8] | Heard
"""A picture, RGB of shape (height, width, 3), or a sound."""


@dataclass(frozen=True)
class Scores:
    """The family's metrics on some data: ``{key: value, key_ci: [low, high]}`` and how many items they are over."""

    metrics: Mapping[str, Any]
    n: int


class TrainingData(Protocol):
    """What the loop draws batches from."""

    def __len__(self) -> int:
        """How many items there are."""

    def batch(self, samples: Sequence[Sample], progress: float) -> Batch:
        """The batch of these items; ``progress`` runs from 0 to 1 over the training. No other source of randomness."""

    def fingerprint(self) -> str:
        """A hash that changes when the data does, quick to make: names and sizes will do."""

    def files(self) -> Sequence[Path]:
        """The files that the items are read from; their content is hashed when a run begins."""


class Loss(Protocol):
    """Runs the network on a batch and compares; called under the recipe's autocast."""

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Losses:
        """The losses of one step."""


class Family(ABC):
    """One model system. ``settings`` is the frozen dataclass of the recipe's ``[settings]`` table."""

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    settings: ClassVar[type]
    predictor: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def recipes(self) -> Path:
        """The folder of the family's own recipes; ``small`` is the default one."""

    @abstractmethod
    def spec(self, name: str, recipe: Recipe) -> ModelSpec:
        """What the model ``<family>/<name>`` takes and gives."""

    @abstractmethod
    def network(self, variant: str) -> nn.Module:
        """The network with fresh weights."""

    @abstractmethod
    def load_weights(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Load a state dict, published layouts included; one that does not fit is ``CheckpointRefused``."""

    @abstractmethod
    def graphs(self, network: nn.Module) -> dict[str, nn.Module]:
        """The network's parts as the spec's graphs name them."""

    @abstractmethod
    def prepare(self, recipe: Recipe, folder: Path) -> None:
        """Write what the loss is measured against, and evaluation needs, into a new run's folder."""

    def texts_from_data(self, recipe: Recipe, data: TrainingData) -> Mapping[str, str]:
        """Files of a new run, by name, with what the model must know of its data, as the names of speakers."""
        return {}

    @abstractmethod
    def loss(self, recipe: Recipe, run: Path, device: device) -> Loss:
        """The loss, from the recipe and what ``prepare`` wrote."""

    @abstractmethod
    def dataset(self, recipe: Recipe, folders: Sequence[Path]) -> TrainingData:
        """The training data."""

    @abstractmethod
    def preview(self, network: nn.Module, data: TrainingData) -> Preview | None:
        """What the network does now, to look at or to listen to; no randomness."""

    @abstractmethod
    def score(
        self,
        apply: Callable[[Any], Any],
        folders: Sequence[Path],
        assets: Mapping[str, Path],
        options: Mapping[str, str],
    ) -> Scores:
        """The paper's metrics of a model, given as a function from media to answer.

        ``options["split"]`` is the one of ``splits`` that was asked for; without it every item is measured.
        """

    @abstractmethod
    def apply(self, network: nn.Module) -> Callable[[Any], Any]:
        """The trained network as a function from media to answer, pre- and post-processing included."""

    def examples(self, recipe: Recipe, graph: GraphSpec, sizes: Sizes) -> Mapping[str, NDArray[Any]]:
        """Inputs of a graph at these sizes, for who compares runtimes; empty where noise does as well."""
        return {}

    def write_example(self, network: nn.Module, example: Path, folder: Path) -> str:
        """Write what a model of the zoo makes of a file beside it; the line about that in its card.

        Empty for a family that makes pictures of pictures: those are shown side by side.
        """
        return ""

    def comparisons(
        self, recipe: Recipe, assets: Mapping[str, Path], options: Mapping[str, str]
    ) -> Mapping[str, Callable[[Any], Any]]:
        """What else could do the same, as functions like that of ``apply``, by name: further rows of a model card."""
        return {}

    def experiments(self) -> Sequence[Experiment]:
        """What the paper measured, each as one command (``avsdk experiment FAMILY.NAME``)."""
        return ()


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to export: ``networks`` by graph, in eval mode, float32, on the CPU.

    ``origin`` is ``{"kind": "run" | "zoo" | "module", "name", "sha256"}``. ``assets`` are the model's other files.
    ``examples`` holds one set of inputs per graph where the model's maker gave them, ``samples`` makes some at any
    sizes (none, where noise does as well). ``whole`` is the network that the graphs are parts of, where there is one.
    """

    spec: ModelSpec
    networks: Mapping[str, nn.Module]
    origin: Mapping[str, str]
    assets: Mapping[str, Path] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    samples: Callable[[GraphSpec, Sizes], Mapping[str, NDArray[Any]]] | None = None
    whole: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """What ``Family.apply`` takes."""
        return self.whole if self.whole is not None else next(iter(self.networks.values()))


def list_families() -> tuple[str, ...]:
    """The families that come with avsdk and those of installed plug-ins."""
    return tuple(sorted({*_BUILT_IN, *plugins.list_names("families")}))


def load_family(name: str) -> Family:
    """The family of that name; an unknown one gets the nearest."""
    if name not in list_families():
        raise UnknownName.among("family", name, list_families())
    kind = _imported(_BUILT_IN[name]) if name in _BUILT_IN else plugins.load("families", name)
    family: Family = kind()
    return family


def claims(model: str) -> bool:
    """Whether ``load_trained`` knows this kind of name: a run folder, ``zoo:NAME`` or ``package.module:function``."""
    from avsdk_train.run import is_run

    return model.startswith("zoo:") or is_run(Path(model)) or _is_function_name(model)


def load_trained(model: str) -> TrainedModel:
    """The networks and the spec that a run folder, ``zoo:NAME`` or ``package.module:function`` stands for."""
    from avsdk_train import trained

    if model.startswith("zoo:"):
        return trained.trained_from_zoo(model)
    if Path(model).is_dir():
        return trained.trained_from_run(Path(model))
    if _is_function_name(model):
        return trained.trained_from_function(model)
    raise _unknown_model(model)


def model_files(model: str) -> list[Path]:
    """The files that decide what ``load_trained`` returns; their hashes make a fingerprint. Imports no torch."""
    from avsdk_train.run import RECIPE, SPEC, asset_files, is_run, weights_file
    from avsdk_train.zoo import zoo_folder

    folder = zoo_folder(model) if model.startswith("zoo:") else Path(model)
    if is_run(folder):
        return [folder / SPEC, folder / RECIPE, weights_file(folder), *asset_files(folder).values()]
    if not _is_function_name(model):
        raise _unknown_model(model)
    found = _module_spec(model)
    return [Path(found)]


def _is_function_name(model: str) -> bool:
    module, colon, function = model.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _module_spec(model: str) -> str:
    with_current_folder()
    module = model.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise UsageError(
            f"no module {module!r}", expected="package.module:function", fix="run from the folder it lies in"
        )
    return found.origin


def with_current_folder() -> None:
    """Let ``package.module:function`` name a file of the current folder, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _unknown_model(model: str) -> UsageError:
    return UsageError(
        f"{model!r} is no trained model",
        expected="a run folder (recipe.toml, spec.json), zoo:NAME, or package.module:function",
        fix="avsdk zoo list",
    )
