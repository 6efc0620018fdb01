"""A codebook learned by exponential moving averages (van den Oord et al. 2017, appendix A.1).

Counts start at 1 and sums at the vectors, smoothing is done on a copy, and vectors that nothing uses any more move to
where the data is: so no entry is thrown far away by a division by almost nothing, and few die.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

DECAY = 0.99
SMOOTHING = 1e-5
LEAST_USE = 0.1
"""An entry with a smaller moving count than this share of an even one's is moved to a vector of the batch."""


class Codebook(nn.Module):
    """``entries`` vectors of ``size``; everything that is compared is compared in float32."""

    entries: Tensor
    counts: Tensor
    sums: Tensor
    filled: Tensor

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.randn(count, size) / size**0.5)
        self.register_buffer("counts", torch.ones(count))
        self.register_buffer("sums", self.entries.clone())
        self.register_buffer("filled", torch.zeros(()))

    def nearest(self, vectors: Tensor) -> Tensor:
        """The index of the nearest entry by L2 (...,), int64; the part of the distance that all share is left out."""
        exact = vectors.float()
        distance = self.entries.square().sum(dim=1) - 2 * (exact @ self.entries.transpose(0, 1))
        return distance.argmin(dim=-1)

    def looked_up(self, codes: Tensor) -> Tensor:
        """The entries of the codes (..., size)."""
        return functional.embedding(codes, self.entries)

    @torch.no_grad()
    def begin(self, vectors: Tensor, mask: Tensor) -> None:
        """Take the entries from vectors of the first batch instead of chance; later calls do nothing."""
        if self.filled:
            return
        fresh = self._drawn(_real(vectors, mask))
        self.entries.copy_(fresh + 1e-3 * fresh.std() * torch.randn_like(fresh))
        self.sums.copy_(self.entries)
        self.filled.fill_(1)

    @torch.no_grad()
    def learn(self, vectors: Tensor, codes: Tensor, mask: Tensor) -> None:
        """Move the entries towards the vectors (batch, frames, size) that chose them, over all processes."""
        found = _real(vectors, mask)
        chosen = functional.one_hot(_real(codes[..., None], mask)[:, 0].long(), len(self.entries)).float()
        counts, sums = chosen.sum(dim=0), chosen.transpose(0, 1) @ found
        if _several():
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        self.counts.mul_(DECAY).add_(counts, alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(sums, alpha=1 - DECAY)
        self._restart(self._drawn(found))
        total = self.counts.sum()
        smooth = (self.counts + SMOOTHING) / (total + len(self.counts) * SMOOTHING) * total
        self.entries.copy_(self.sums / smooth[:, None])

    def _drawn(self, found: Tensor) -> Tensor:
        """As many of the vectors as there are entries, at random; the first process's, in all of them."""
        fresh = found[torch.randint(len(found), (len(self.entries),), device=found.device)]
        if _several():
            distributed.broadcast(fresh, 0)
        return fresh

    def _restart(self, fresh: Tensor) -> None:
        """Give what is hardly used a vector of this batch, with the count that it starts with."""
        dead = self.counts < LEAST_USE * self.counts.mean()
        start = self.counts.mean()
        self.sums.copy_(torch.where(dead[:, None], fresh * start, self.sums))
        self.counts.copy_(torch.where(dead, start, self.counts))


def _real(values: Tensor, mask: Tensor) -> Tensor:
    """The frames (frames, size) that are there, in float32."""
    return values.detach().float().reshape(-1, values.shape[-1])[mask.reshape(-1) > 0]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
