"""A tiny training that every part of the loop goes through: 32 px crops, a feature network of two small layers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from tests.train import tiny_family

from avsdk_train import family
from avsdk_train.families.style_transfer.features import NormalisedVgg19

ROOT = Path(__file__).resolve().parents[2]
SOURCES = os.pathsep.join(str(ROOT / name) for name in ("sdk", "train"))


@dataclass(frozen=True)
class Tiny:
    """Files of the tiny training, and the settings that name them."""

    features: Path
    style: Path
    data: Path
    folder: Path

    def settings(self, **changes: object) -> list[str]:
        chosen: dict[str, object] = {
            "features": self.features, "style": self.style, "style_px": 32, "crop_px": 32, "late_crop_px": 36,
            "late_crop_from": 0.5, "warmup_batches": 1, "steps": 6, "batch_size": 2, "checkpoint_every": 2,
            "preview_every": 3, "preview_px": 32, "threads": 1, "device": "cpu",
        }  # fmt: skip
        return [f"{key}={value}" for key, value in {**chosen, **changes}.items()]

    def arguments(self, out: Path, *more: str, **changes: object) -> list[str]:
        """The command line of a training."""
        sets = [part for setting in self.settings(**changes) for part in ("--set", setting)]
        return ["train", "style_transfer", "--data", str(self.data), "--out", str(out), *sets, *more]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    # The published layout, cut off after its first convolution: quick, and all the loss needs.
    save_file(NormalisedVgg19(["conv1_1"]).state_dict(), folder / "features.safetensors")
    random = np.random.default_rng(0)
    data = folder / "data"
    (data / "deeper").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deeper/c.PNG"):
        cv2.imwrite(str(data / name), random.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    cv2.imwrite(str(data / "grey.png"), random.integers(0, 256, (44, 36), dtype=np.uint8))
    (data / "notes.txt").write_text("not a picture")
    cv2.imwrite(str(folder / "style.png"), random.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    return Tiny(folder / "features.safetensors", folder / "style.png", data, folder)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its precision for the whole process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def tiny_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family ``tiny``, for this test alone."""
    monkeypatch.setitem(family._BUILT_IN, "tiny", tiny_family.PATH)


CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCES, "NO_COLOR": "1", "COLUMNS": "200"}


def command_line(*arguments: str) -> list[str]:
    """A child process that runs this package's own commands, errors as tracebacks."""
    return [sys.executable, "-c", "from avsdk_train.cli import app; app()", *arguments]
