"""The multi-view contrastive loss: words and their sounds apart from those of other words, by a margin.

Source: Rhodes and Bains, equation 4, with the mining of the code it comes from (He et al. 2017; Settle et al. 2019):
the distance is 1 - cosine, and of the batch's negatives only the k hardest count. Semi-hard leaves out those that are
nearer than the positive already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OBJECTIVES = ("sound_to_words", "word_to_words", "word_to_sounds")
_NONE = -2.0
"""The cosine of a negative that is left out: further than any can be."""


@dataclass(frozen=True)
class Contrast:
    """How negatives are chosen. ``k`` falls by one with every step, down to ``least_k``.

    ``sum`` adds the pairs' losses up, as the paper's code does; ``mean`` keeps the scale for any batch.
    """

    margin: float = 0.5
    k: int = 16
    least_k: int = 8
    mining: Literal["hard", "semi-hard"] = "semi-hard"
    objectives: Sequence[str] = OBJECTIVES
    reduction: Literal["sum", "mean"] = "mean"

    def k_at(self, step: int) -> int:
        """How many negatives count in this step."""
        return max(self.least_k, self.k - step)


def multi_view_loss(
    sounds: Tensor, words: Tensor, which: Tensor, step: int, contrast: Contrast
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss of a batch and its parts.

    ``sounds``: (batch, size), unit vectors of spoken words; ``words``: (types, size), those of the batch's distinct
    words; ``which``: (batch,), the word of each sound. Words of the same pronunciation are no negatives of each other.
    """
    positive = (sounds * words[which]).sum(dim=1)
    alike = torch.eye(len(words), dtype=torch.bool, device=words.device) | (words @ words.T >= 1.0 - 1e-6)
    other = ~alike[which]
    negatives = {
        "sound_to_words": (sounds @ words.T, other),
        "word_to_words": ((words @ words.T)[which], other),
        "word_to_sounds": (words[which] @ sounds.T, other[:, which]),
    }
    parts = {}
    for name in contrast.objectives:
        cosines, allowed = negatives[name]
        parts[name] = _hinge(positive, cosines, allowed, contrast, contrast.k_at(step))
    return torch.stack(list(parts.values())).sum(), parts


def _hinge(positive: Tensor, cosines: Tensor, allowed: Tensor, contrast: Contrast, k: int) -> Tensor:
    """The mean hinge over each pair's k hardest negatives, over the pairs; a pair without any negative counts 0."""
    if contrast.mining == "semi-hard":
        allowed = allowed & (cosines <= positive.detach()[:, None])
    hardest = cosines.masked_fill(~allowed, _NONE).topk(min(k, cosines.shape[1]), dim=1).values
    counted = (hardest > _NONE).float()
    losses = (contrast.margin + hardest - positive[:, None]).clamp(min=0) * counted
    each = losses.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return each.sum() if contrast.reduction == "sum" else each.mean()
