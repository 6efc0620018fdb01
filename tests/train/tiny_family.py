"""A family of a few dozen weights, for what the loop does with any family; as a program it is ``avsdk`` with it.

python -m tests.train.tiny_family train tiny --data DIR --out RUN --set steps=6
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avsdk.spec import GraphSpec, ModelSpec, TensorSpec
from avsdk_train import family as families
from avsdk_train.family import Batch, Family, Heard, Losses, Preview, Sample, Scores, TrainingData
from avsdk_train.recipe import Recipe


@dataclass(frozen=True)
class TinySettings:
    """From step ``spoilt_at`` (from 0; -1 for never) the loss is multiplied by ``spoilt_by``, by NaN for 0."""

    spoilt_at: int = -1
    spoilt_by: float = 0.0
    sound: bool = False


class TinyData:
    """Vectors that are functions of the sample; the files of the folders only count."""

    def __init__(self, folders: Sequence[Path], sound: bool) -> None:
        self.sound = sound
        self._files = tuple(sorted(file for folder in folders for file in folder.iterdir()))

    def __len__(self) -> int:
        return len(self._files)

    def fingerprint(self) -> str:
        return hashlib.sha256("".join(file.name for file in self._files).encode()).hexdigest()

    def files(self) -> Sequence[Path]:
        return self._files

    def batch(self, samples: Sequence[Sample], progress: float) -> Batch:
        rows = [sample.random.standard_normal(4) + sample.index for sample in samples]
        return {"x": torch.tensor(np.array(rows), dtype=torch.float32)}


class TinyFamily(Family):
    name: ClassVar[str] = "tiny"
    variants: ClassVar[tuple[str, ...]] = ("base",)
    settings: ClassVar[type] = TinySettings
    predictor: ClassVar[str] = "tensor"

    def recipes(self) -> Path:
        return Path(__file__).parent / "tiny_recipes"

    def spec(self, name: str, recipe: Recipe) -> ModelSpec:
        tensors = [(TensorSpec(name, "float32", (1, size)),) for name, size in (("x", 4), ("y", 2))]
        return ModelSpec(f"tiny/{name}", self.predictor, (GraphSpec("net", *tensors),))

    def network(self, variant: str) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def load_weights(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        network.load_state_dict(dict(state))

    def graphs(self, network: nn.Module) -> dict[str, nn.Module]:
        return {"net": network}

    def prepare(self, recipe: Recipe, folder: Path) -> None:
        return

    def loss(self, recipe: Recipe, run: Path, device: torch.device) -> Any:
        settings = recipe.settings

        def loss(network: nn.Module, batch: Batch, step: int) -> Losses:
            error = functional.mse_loss(network(batch["x"]), batch["x"][:, :2].sin())
            total = error * (settings.spoilt_by or float("nan")) if 0 <= settings.spoilt_at <= step else error
            return Losses(total, {"error": error.detach()})

        return loss

    def dataset(self, recipe: Recipe, folders: Sequence[Path]) -> TinyData:
        return TinyData(folders, recipe.settings.sound)

    def preview(self, network: nn.Module, data: TrainingData) -> Preview | None:
        weight = next(iter(network.state_dict().values())).detach().float().cpu().numpy()
        assert isinstance(data, TinyData)
        if data.sound:
            return Heard(np.tanh(weight.ravel()), 8000)
        return np.repeat(np.uint8(127 + 100 * np.tanh(weight))[..., None], 3, axis=2)

    def score(
        self,
        apply: Callable[[Any], Any],
        folders: Sequence[Path],
        assets: Mapping[str, Path],
        options: Mapping[str, str],
    ) -> Scores:
        return Scores({}, 0)

    def apply(self, network: nn.Module) -> Callable[[Any], Any]:
        return network


PATH = "tests.train.tiny_family:TinyFamily"


def register() -> None:
    """Make it a family of this process; tests, which share theirs with others, use the fixture ``tiny_registered``."""
    families._BUILT_IN["tiny"] = PATH


if __name__ == "__main__":
    from avsdk.cli import main

    register()
    main()
