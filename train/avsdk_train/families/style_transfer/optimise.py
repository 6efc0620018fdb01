"""Version 1 of style transfer: the picture itself is optimised (Gatys et al. 2016).

    outcome = optimise(photo, painting, load_features(file), OptimiseSettings(sizes=(256, 512)))

The picture is RGB in 0-1, unbounded while it is optimised and clipped at the end. The optimiser sees the loss over
the largest entry of its first gradient, so that learning rates and LBFGS's stopping thresholds mean the same under
every scale; what is reported is the loss itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import LBFGS, SGD, Adam, Optimizer

from avsdk.errors import NotAvailable, NotMet, UnusableInput, UsageError
from avsdk.host import default_threads
from avsdk_train.data import Image, resized_short_side
from avsdk_train.families.style_transfer.data import image_from_tensor, tensor_from_image
from avsdk_train.families.style_transfer.features import FeatureLayers, FeatureNetwork, set_pooling
from avsdk_train.families.style_transfer.losses import gram
from avsdk_train.families.style_transfer.optimise_losses import PictureObjective, version_one_layers
from avsdk_train.families.style_transfer.optimise_settings import OptimiseSettings

_LBFGS_STEP_CALLS = 20  # torch's max_iter
_NOISE_DEVIATION = 0.25
Style = Image | Mapping[str, Tensor]
"""A painting, or Gram matrices over their positions by layer, each of shape (N, N), as ``Targets.grams`` has them."""


@dataclass(frozen=True)
class Call:
    """One evaluation of the loss: ``call`` counts from 1 over all sizes; the parts are unweighted."""

    call: int
    size_px: int
    loss: float
    content: float
    style: float
    total_variation: float


@dataclass(frozen=True)
class Optimised:
    """The best picture of the last size that was reached; ``finished`` is false after Ctrl-C."""

    image: Image
    best: Call
    calls: tuple[Call, ...]
    layers: FeatureLayers
    notices: tuple[str, ...]
    finished: bool
    seconds: float


Watch = Callable[[Call], None]


def optimise(
    photo: Image,
    style: Style,
    network: FeatureNetwork,
    settings: OptimiseSettings,
    watch: Watch = lambda call: None,
) -> Optimised:
    """Optimise a picture to have the photograph's content and the painting's style.

    ``network`` is used as it is, but for the pooling, which ``settings`` choose. ``watch`` hears of every call. With
    one seed and thread count a run repeats bit for bit on a CPU. Ctrl-C ends it with the best picture so far. Raises
    ``NotMet`` for a loss that is not finite, ``UnknownName`` for a layer that the network lacks, ``UnusableInput``
    for a picture too small for it.
    """
    began = time.perf_counter()
    torch.set_num_threads(settings.threads or default_threads())
    device = _device(settings)
    set_pooling(network, settings.pooling)
    network.to(device)
    layers, notices = version_one_layers(network, settings)
    network.check_layers((layers.content, *layers.style))
    calls: list[Call] = []
    descent: _Descent | None = None
    interrupted = False
    for stage, size in enumerate(settings.sizes):
        content = resized_short_side(photo, size) if size else photo
        targets = _Targets(network, layers, settings, device, content, style)
        start = targets.start() if descent is None else _enlarged(descent.picture(), content)
        new = _Descent(targets.objective(), start.to(device), settings, min(content.shape[:2]), calls, watch)
        interrupted = new.run(settings.calls_at(stage))
        if new.best is not None:
            descent = new
        if interrupted:
            break
    if descent is None or descent.best is None:
        raise KeyboardInterrupt
    image = image_from_tensor(descent.picture() * 255)
    seconds = time.perf_counter() - began
    return Optimised(image, descent.best, tuple(calls), layers, tuple(notices), not interrupted, seconds)


class _Targets:
    """What the picture is compared with at one size."""

    def __init__(
        self,
        network: FeatureNetwork,
        layers: FeatureLayers,
        settings: OptimiseSettings,
        device: torch.device,
        content: Image,
        style: Style,
    ) -> None:
        self._network, self._layers, self._settings = network, layers, settings
        self._device, self._content, self._style = device, content, style

    def objective(self) -> PictureObjective:
        """The loss at this size."""
        content = self._maps(self._content, (self._layers.content,))[self._layers.content].float()
        return PictureObjective(self._network, self._layers, content, self._grams(), self._settings)

    def start(self) -> Tensor:
        """The picture to begin with: the photograph, seeded noise around grey, or the painting at its size."""
        photo = _tensor(self._content)
        if self._settings.init == "noise":
            random = torch.Generator().manual_seed(self._settings.seed)
            return 0.5 + _NOISE_DEVIATION * torch.randn(photo.shape, generator=random)
        if self._settings.init == "content":
            return photo
        if isinstance(self._style, Mapping):
            raise UsageError(
                "a picture cannot begin with the painting where only its Gram matrices are known",
                expected="init=content or init=noise",
                fix="--set init=content",
            )
        return _enlarged(_tensor(self._style), self._content)

    def _grams(self) -> dict[str, Tensor]:
        if isinstance(self._style, Mapping):
            missing = [layer for layer in self._layers.style if layer not in self._style]
            if missing:
                raise UsageError(
                    f"there is no Gram matrix for the style layer {missing[0]!r}",
                    expected=f"some of: {', '.join(self._style)}",
                )
            return {layer: self._style[layer].float().to(self._device) for layer in self._layers.style}
        short_px = self._settings.style_px or min(self._content.shape[:2])
        maps = self._maps(resized_short_side(self._style, short_px), self._layers.style)
        return {layer: gram(maps[layer])[0] for layer in self._layers.style}

    def _maps(self, image: Image, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        with torch.no_grad():
            smallest = self._network.smallest_px(wanted)
            if min(image.shape[:2]) < smallest:
                raise UnusableInput(
                    f"a picture of {image.shape[1]} x {image.shape[0]} pixels is too small for {wanted[-1]}",
                    expected=f"at least {smallest} pixels on the shorter side",
                    fix="choose larger sizes, or shallower layers: --set sizes=512",
                )
            return self._network.maps_of(_tensor(image).to(self._device), wanted)


class _Descent:
    """The calls at one size: evaluates, notes, keeps the best picture, and lets the optimiser move it."""

    def __init__(
        self,
        objective: PictureObjective,
        start: Tensor,
        settings: OptimiseSettings,
        size_px: int,
        calls: list[Call],
        watch: Watch,
    ) -> None:
        self._objective = objective
        self._picture = start.detach().clone().contiguous().requires_grad_(True)
        self._optimiser = _optimiser(self._picture, settings)
        self._size_px = size_px
        self._calls = calls
        self._watch = watch
        self._factor = 0.0
        self._left = 0
        self.best: Call | None = None
        self._best_picture = self._picture.detach()

    def picture(self) -> Tensor:
        """The best one, ``(1, 3, height, width)``, RGB in 0-1."""
        return self._best_picture.cpu()

    def run(self, calls: int) -> bool:
        """Evaluate the loss exactly ``calls`` times; whether Ctrl-C ended it before."""
        self._left = calls
        try:
            while self._left > 0:
                if isinstance(self._optimiser, LBFGS):
                    # A step of LBFGS evaluates at most max_iter times, fewer where it has converged.
                    self._optimiser.param_groups[0]["max_iter"] = min(_LBFGS_STEP_CALLS, self._left)
                self._optimiser.step(self._evaluate)
        except KeyboardInterrupt:
            return True
        return False

    def _evaluate(self) -> float:
        self._optimiser.zero_grad()
        losses = self._objective(self._picture)
        call = Call(
            call=len(self._calls) + 1,
            size_px=self._size_px,
            loss=float(losses.total.detach()),
            content=float(losses.content.detach()),
            style=float(losses.style.detach()),
            total_variation=float(losses.total_variation.detach()),
        )
        self._refuse_nan(call)
        self._note(call)
        losses.total.backward()  # type: ignore[no-untyped-call]
        gradient = cast(Tensor, self._picture.grad)
        if not self._factor:
            largest = float(gradient.abs().max())
            self._factor = 1 / largest if largest > 0 and math.isfinite(largest) else 1.0
        gradient.mul_(self._factor)
        self._left -= 1
        return call.loss * self._factor

    def _note(self, call: Call) -> None:
        self._calls.append(call)
        if self.best is None or call.loss < self.best.loss:
            # In this order: Ctrl-C may fall between, and must find a picture that is at least as good as it says.
            self._best_picture = self._picture.detach().clone()
            self.best = call
        self._watch(call)

    def _refuse_nan(self, call: Call) -> None:
        if math.isfinite(call.loss):
            return
        last = f"it was {self._calls[-1].loss:.6g} before" if self._calls else "it was the first"
        raise NotMet(
            f"the loss of call {call.call} is {call.loss}; {last}",
            expected="a finite loss",
            fix="lower style_weight or learning_rate, or choose another optimiser: --set optimiser=adam",
        )


def _optimiser(picture: Tensor, settings: OptimiseSettings) -> Optimizer:
    rate = settings.chosen_learning_rate()
    if settings.optimiser == "lbfgs":
        return LBFGS([picture], lr=rate)
    if settings.optimiser == "adam":
        return Adam([picture], lr=rate)
    return SGD([picture], lr=rate, momentum=settings.momentum)


def _device(settings: OptimiseSettings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise NotAvailable(
            "device=cuda was asked for, and torch sees none",
            expected="an NVIDIA card, its driver, and a torch built for CUDA",
            fix="--set device=cpu",
        )
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


def _tensor(image: Image) -> Tensor:
    return tensor_from_image(image) / 255


def _enlarged(picture: Tensor, like: Image) -> Tensor:
    """The picture at the height and width of another."""
    return functional.interpolate(picture, size=like.shape[:2], mode="bicubic", align_corners=False, antialias=True)
