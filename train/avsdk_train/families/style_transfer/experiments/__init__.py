"""The experiments of Shen and Wang's comparison of both versions of style transfer, one module each."""

from __future__ import annotations

from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.experiments import (
    backbones,
    checkpoints,
    losses,
    optimisers,
    speed,
    versions,
)

EXPERIMENTS: tuple[Experiment, ...] = (
    speed.EXPERIMENT,
    backbones.EXPERIMENT,
    losses.EXPERIMENT,
    optimisers.EXPERIMENT,
    versions.EXPERIMENT,
    checkpoints.EXPERIMENT,
)
