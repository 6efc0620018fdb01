"""Unit discovery as a family: what the loop, the exporter and the evaluation ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avsdk.errors import CheckpointRefused, UsageError
from avsdk.predictors.units import RATE_HZ, UnitFile, read_unit_file
from avsdk.schema import SCHEMA, encode
from avsdk.sound import write_sound
from avsdk.spec import GraphSpec, ModelSpec, Sizes
from avsdk_train.experiments import Experiment
from avsdk_train.families.unit_discovery.apply import SpeechModel, unit_net
from avsdk_train.families.unit_discovery.data import SpeechPieces
from avsdk_train.families.unit_discovery.features import steps_for
from avsdk_train.families.unit_discovery.graphs import graph_specs, graphs_of
from avsdk_train.families.unit_discovery.losses import UnitLoss
from avsdk_train.families.unit_discovery.network import UnitNet
from avsdk_train.families.unit_discovery.settings import UnitSettings
from avsdk_train.families.unit_discovery.variants import SHAPES
from avsdk_train.family import Family, Heard, Preview, Scores, TrainingData
from avsdk_train.recipe import Recipe

FILE = "units.json"


class UnitDiscovery(Family):
    """The Transformer VQ-VAE and codebook inverter of Tjandra et al. (2020), with the convolutional model of 2019."""

    name: ClassVar[str] = "unit_discovery"
    variants: ClassVar[tuple[str, ...]] = tuple(SHAPES)
    settings: ClassVar[type] = UnitSettings
    predictor: ClassVar[str] = "unit_discovery"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def recipes(self) -> Path:
        """``small.toml`` and ``small-inverter.toml`` for a laptop, ``paper.toml`` for ZeroSpeech on a GPU."""
        return Path(__file__).parent / "recipes"

    def spec(self, name: str, recipe: Recipe) -> ModelSpec:
        """Three graphs: ``encoder``, ``decoder`` and ``inverter``; the steps before the first make its features."""
        shape = SHAPES[recipe.variant]
        return ModelSpec(
            model=f"{self.name}/{name}",
            predictor=self.predictor,
            graphs=graph_specs(shape),
            preprocess=steps_for(shape.features),
        )

    def network(self, variant: str) -> nn.Module:
        """The whole network with fresh weights."""
        return UnitNet(SHAPES[variant])

    def load_weights(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Load a state dict of the same variant. No weights of the papers were published."""
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointRefused(
                f"the weights do not fit the network: {str(error).splitlines()[-1].strip()}",
                expected="weights of the same variant",
                fix="name it with --variant",
            ) from error

    def graphs(self, network: nn.Module) -> dict[str, nn.Module]:
        """The parts that ship."""
        return graphs_of(unit_net(network))

    def prepare(self, recipe: Recipe, folder: Path) -> None:
        """Refuse an inverter without units to invert; everything else comes from the data."""
        if recipe.settings.learns == "inverter" and not recipe.init:
            raise UsageError(
                "an inverter is to be trained, and no units are there yet",
                expected="init, a run that learned units",
                fix="--set init=RUN",
            )

    def texts_from_data(self, recipe: Recipe, data: TrainingData) -> Mapping[str, str]:
        """``units.json``: names of speakers and voices, in the order of the network's tables."""
        assert isinstance(data, SpeechPieces)
        shape, settings = SHAPES[recipe.variant], recipe.settings
        known = _unit_file_of(recipe.init)
        speakers, voices = (known.speakers, known.voices) if known else ((), ())
        if settings.learns == "inverter":
            voices = data.speakers
        else:
            speakers = data.speakers
        file = UnitFile(shape.stride, shape.context, speakers, voices, shape.entries)
        return {FILE: json.dumps({"schema": SCHEMA, **encode(file)}, indent=1) + "\n"}

    def loss(self, recipe: Recipe, run: Path, device: torch.device) -> UnitLoss:
        """See ``losses``."""
        return UnitLoss(recipe.settings)

    def dataset(self, recipe: Recipe, folders: Sequence[Path]) -> SpeechPieces:
        """Random pieces of utterances."""
        return SpeechPieces(recipe.settings, SHAPES[recipe.variant], folders)

    def preview(self, network: nn.Module, data: TrainingData) -> Preview | None:
        """The first utterance's features above those that come out again; or, of an inverter, how it sounds."""
        assert isinstance(data, SpeechPieces)
        model = SpeechModel(unit_net(network))
        features, speaker = data.preview()
        units = model.speech.units(features, len(features) * 160)
        if data.learns_inverter:
            return Heard(model.resynthesised(units, str(speaker)), RATE_HZ)
        made = model.speech.features(units.codes, str(speaker))[: len(features)]
        return _picture(np.concatenate([features.T[::-1], made.T[::-1]]))

    def score(
        self,
        apply: Callable[[Any], Any],
        folders: Sequence[Path],
        assets: Mapping[str, Path],
        options: Mapping[str, str],
    ) -> Scores:
        """See ``score``."""
        from avsdk_train.families.unit_discovery.score import unit_scores

        return unit_scores(apply, folders, assets, options)

    def apply(self, network: nn.Module) -> SpeechModel:
        """Sound in, units out."""
        return SpeechModel(unit_net(network))

    def write_example(self, network: nn.Module, example: Path, folder: Path) -> str:
        """``example.flac``: what the first voice makes of a recording's units."""
        file = read_unit_file(folder / FILE)
        if not file.voices:
            return "A model of units without a voice; no example."
        model = SpeechModel(unit_net(network), file)
        write_sound(folder / "example.flac", model.resynthesised(model(example), file.voices[0]), RATE_HZ)
        return f"[A recording's units, said again by the voice {file.voices[0]}](example.flac)"

    def examples(self, recipe: Recipe, graph: GraphSpec, sizes: Sizes) -> dict[str, NDArray[Any]]:
        """Inputs that mean something: whole and half lengths, features that change as slowly as speech does."""
        random = np.random.default_rng(sum(sizes.values()))
        shape = SHAPES[recipe.variant]
        batch, axis = sizes["batch"], "frames" if graph.name == "encoder" else "units"
        lengths = [max(1, sizes[axis] // (1 + index % 2)) for index in range(batch)]
        feeds: dict[str, NDArray[Any]] = {"length": np.array(lengths, np.int32)}
        if graph.name == "encoder":
            steps = random.standard_normal((batch, sizes[axis] + 8, shape.feature_size))
            smooth = np.cumsum(steps, axis=1)
            feeds["features"] = ((smooth[:, 8:] - smooth[:, :-8]) / 8**0.5).astype(np.float32)
            return feeds
        feeds["codes"] = random.integers(0, shape.entries, (batch, sizes[axis])).astype(np.int32)
        rows, who = (shape.speakers, "speaker") if graph.name == "decoder" else (shape.voices, "voice")
        feeds[who] = random.integers(0, rows, batch).astype(np.int32)
        return feeds

    def experiments(self) -> Sequence[Experiment]:
        """The paper's ablations."""
        from avsdk_train.families.unit_discovery.experiments import EXPERIMENTS

        return EXPERIMENTS


def _unit_file_of(model: str) -> UnitFile | None:
    """The ``units.json`` beside the weights that a recipe starts from, where there is one."""
    from avsdk_train.zoo import zoo_folder

    folder = zoo_folder(model) if model.startswith("zoo:") else Path(model or "/nowhere")
    return read_unit_file(folder / FILE) if (folder / FILE).is_file() else None


def _picture(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of numbers around 0 as shades of grey, four pixels high and two wide."""
    shades = np.clip(128 + 48 * values, 0, 255).astype(np.uint8).repeat(4, axis=0).repeat(2, axis=1)
    return np.stack([shades] * 3, axis=-1)
