"""The ``[settings]`` table of a unit discovery recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from avsdk_train.recipe import require


@dataclass(frozen=True)
class UnitSettings:
    """What is learned, at which weights, from which pieces.

    ``learns``: the encoder, codebook and decoder, or, from such a run as ``init``, the inverter of ``voices``, which
    are names of speakers in the data (all of them where none is named). ``commitment`` (gamma) and ``smoothing``
    (lambda) are the paper's, for sums over time and dimensions. ``jitter``: the probability per side. ``crop_frames``
    is the length of a training piece. ``warp``: how far the encoder's input is warped in frequency, up to this share
    either way, while the decoder owes the features as they were; the paper does not (0). For the first
    ``warm_up_steps`` the decoder has the vectors themselves, and the codebook starts from what they are then.
    ``consistency`` weighs the distance between the vectors of one piece under two warps; a batch then holds every piece
    twice.
    """

    learns: Literal["units", "inverter"] = "units"
    voices: tuple[str, ...] = ()
    commitment: float = 0.25
    smoothing: float = 5e-3
    jitter: float = 0.05
    crop_frames: int = 128
    warp: float = 0.0
    warm_up_steps: int = 0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no training can run with."""
        for key in ("commitment", "smoothing", "consistency"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(0 <= self.jitter < 0.5, "jitter", self.jitter, "a probability per side, less than 0.5")
        require(not self.consistency or self.warp > 0, "consistency", self.consistency, "0 where there is no warp")
        require(self.warm_up_steps >= 0, "warm_up_steps", self.warm_up_steps, "0 or more")
        require(0 <= self.warp <= 0.4, "warp", self.warp, "0 (none) up to 0.4")
        require(
            self.crop_frames >= 8 and self.crop_frames % 4 == 0, "crop_frames", self.crop_frames,
            "a multiple of 4, from 8 on",
        )  # fmt: skip
        require(not self.voices or self.learns == "inverter", "voices", list(self.voices), "learns = inverter")
