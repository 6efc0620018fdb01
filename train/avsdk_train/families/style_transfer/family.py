"""Style transfer as a family: what the loop, the exporter and the evaluation ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avsdk.errors import CheckpointRefused
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk_train.data import Image
from avsdk_train.experiments import Experiment
from avsdk_train.families.style_transfer.data import PhotoCrops, image_from_tensor, tensor_from_image
from avsdk_train.families.style_transfer.network import TransformerNet, load_published
from avsdk_train.families.style_transfer.objective import PerceptualLoss
from avsdk_train.families.style_transfer.score import style_scores
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.families.style_transfer.targets import FILE, Targets, write_targets
from avsdk_train.family import Family, Scores, TrainingData
from avsdk_train.recipe import Recipe


class StyleTransfer(Family):
    """The feed-forward network of Johnson et al. (2016), one network per painting."""

    name: ClassVar[str] = "style_transfer"
    variants: ClassVar[tuple[str, ...]] = ("base",)
    settings: ClassVar[type] = StyleSettings
    predictor: ClassVar[str] = "style_transfer"

    def recipes(self) -> Path:
        """``small.toml`` for a laptop, ``paper.toml`` for COCO on a GPU."""
        return Path(__file__).parent / "recipes"

    def spec(self, name: str, recipe: Recipe) -> ModelSpec:
        """One graph, ``transform``: an image in 0-255 to an image, sides a multiple of 4."""
        shape = ("batch", 3, "height", "width")
        side = AxisRange(min=64, max=4096, multiple_of=4, default=256)
        graph = GraphSpec(
            name="transform",
            inputs=(TensorSpec("image", "float32", shape),),
            outputs=(TensorSpec("styled", "float32", shape),),
            axes={"batch": AxisRange(min=1, max=64), "height": side, "width": side},
        )
        return ModelSpec(
            model=f"{self.name}/{name}",
            predictor=self.predictor,
            graphs=(graph,),
            preprocess=(
                Step("image_rgb"),
                Step("pad_to_multiple", {"multiple": 4, "mode": "reflect"}),
                Step("to_nchw_float", {"scale": 1.0}),
            ),
            postprocess=(Step("from_nchw_float"), Step("crop_to_input"), Step("clip_uint8")),
        )

    def network(self, variant: str) -> nn.Module:
        """The transformation network with fresh weights."""
        return TransformerNet()

    def load_weights(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Load ours or a published state dict; old running statistics are dropped."""
        assert isinstance(network, TransformerNet)
        try:
            load_published(network, dict(state))
        except RuntimeError as error:
            raise CheckpointRefused(
                f"the weights do not fit the transformation network: {str(error).splitlines()[-1].strip()}",
                expected="the state-dict keys of pytorch/examples fast_neural_style",
            ) from error

    def graphs(self, network: nn.Module) -> dict[str, nn.Module]:
        """The whole network is the one graph."""
        return {"transform": network}

    def prepare(self, recipe: Recipe, folder: Path) -> None:
        """Write the painting's Gram matrices."""
        write_targets(recipe.settings, folder)

    def loss(self, recipe: Recipe, run: Path, device: torch.device) -> PerceptualLoss:
        """The perceptual loss; a network that starts from trained weights needs no warm-up."""
        return PerceptualLoss(recipe.settings, Targets(run / FILE), device, warm_up=not recipe.init)

    def dataset(self, recipe: Recipe, folders: Sequence[Path]) -> PhotoCrops:
        """Random crops of photographs."""
        return PhotoCrops(recipe.settings, folders)

    def preview(self, network: nn.Module, data: TrainingData) -> NDArray[np.uint8] | None:
        """Rows of photograph | styled photograph."""
        assert isinstance(data, PhotoCrops)
        apply = self.apply(network)
        rows = [np.concatenate([photo, apply(photo)], axis=1) for photo in data.previews()]
        width = max(row.shape[1] for row in rows)
        return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])

    def score(
        self,
        apply: Callable[[Any], Any],
        folders: Sequence[Path],
        assets: Mapping[str, Path],
        options: Mapping[str, str],
    ) -> Scores:
        """See ``style_scores``."""
        return style_scores(apply, folders, assets, options)

    def comparisons(
        self, recipe: Recipe, assets: Mapping[str, Path], options: Mapping[str, str]
    ) -> Mapping[str, Callable[[Any], Any]]:
        """Version 1 at equal weights."""
        from avsdk_train.families.style_transfer.version_one import version_one

        return version_one(recipe.settings, assets, options)

    def apply(self, network: nn.Module) -> Callable[[Image], Image]:
        """Photograph in, picture of the same size out, both RGB uint8; padded by reflection as on the device."""
        device = next(network.parameters()).device

        def styled(photo: Image) -> Image:
            height, width = photo.shape[:2]
            padded = np.pad(photo, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="reflect")
            was_training = network.training
            with torch.no_grad():
                answer = network.eval()(tensor_from_image(padded).to(device))
            network.train(was_training)
            return image_from_tensor(answer[:, :, :height, :width])

        return styled

    def experiments(self) -> Sequence[Experiment]:
        """Shen and Wang's comparisons of both versions."""
        from avsdk_train.families.style_transfer.experiments import EXPERIMENTS

        return EXPERIMENTS
