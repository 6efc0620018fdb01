"""A network as a function from speech to units, with everything around it as on the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from avsdk.ops import Trace, pipelines_for
from avsdk.predictors.units import RATE_HZ, SpeechUnits, UnitFile, Units, sound_from_magnitudes
from avsdk.sound import read_sound
from avsdk.spec import ModelSpec
from avsdk_train.families.unit_discovery.features import steps_for
from avsdk_train.families.unit_discovery.graphs import graph_specs, graphs_of
from avsdk_train.families.unit_discovery.network import Shape, UnitNet

Array = NDArray[Any]


class SpeechModel:
    """``model(path or sound) -> Units``, and ``model.resynthesised(units, voice)``, as the device's predictor has them.

    ``file`` names the voices; without one they are known by their numbers.
    """

    def __init__(self, network: UnitNet, file: UnitFile | None = None) -> None:
        shape = network.shape
        self._network, self._graphs = network, graphs_of(network)
        spec = ModelSpec("unit_discovery/network", "unit_discovery", graph_specs(shape))
        self._spec = spec
        self._before, _ = pipelines_for("audio", steps_for(shape.features), ())
        self.speech = SpeechUnits(spec, file or unit_file(shape), self._run, lambda graph: ())

    def __call__(self, media: Any) -> Units:
        """The units of a file's path, or of a sound (samples,) at 16 kHz."""
        heard = read_sound(media, RATE_HZ) if isinstance(media, (str, Path)) else media
        trace = Trace()
        features = np.asarray(self._before(heard, trace), np.float32)
        return self.speech.units(features, trace.samples)

    def resynthesised(self, units: Units, voice: str) -> Array:
        """The sound (samples,) at 16 kHz of the units in one of the voices."""
        return sound_from_magnitudes(self.speech.magnitudes(units.codes, voice), units.samples)

    def _run(self, graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        device = next(self._network.parameters()).device
        was_training = self._network.training
        self._network.eval()
        spec = self._spec.graph(graph)
        with torch.no_grad():
            given = (torch.from_numpy(np.ascontiguousarray(feeds[tensor.name])).to(device) for tensor in spec.inputs)
            answer = self._graphs[graph](*given)
        self._network.train(was_training)
        values = answer if isinstance(answer, tuple) else (answer,)
        return {tensor.name: value.cpu().numpy() for tensor, value in zip(spec.outputs, values, strict=True)}


def unit_file(shape: Shape, speakers: tuple[str, ...] = (), voices: tuple[str, ...] = ()) -> UnitFile:
    """What the device must know of the network beside its graphs."""
    speakers = speakers or _numbered(shape.speakers)
    return UnitFile(shape.stride, shape.context, speakers, voices or _numbered(shape.voices))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(index) for index in range(count))


def unit_net(network: nn.Module) -> UnitNet:
    """The network as this family's."""
    assert isinstance(network, UnitNet)
    return network
