"""Names of precisions, how an executed graph's precision is written, and the parity tolerances of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from avsdk.errors import SilentFallback

PRECISIONS = ("fp32", "bf16", "fp16", "fp16w", "int8", "fp11")
"""What ``--precision`` takes. ``fp16w`` stores weights in fp16 and computes in fp32; ``fp11`` is block floating point
with six bits of mantissa, an FPGA's.
"""
MIXED = "int8+fp32"
"""What a bundle is called whose most sensitive layers stayed in fp32, so that an accuracy budget holds."""


@dataclass(frozen=True)
class Tolerance:
    """The least agreement with the fp32 reference, per output.

    ``max_abs`` is a share of the reference's largest magnitude, ``steps`` the largest error itself, for answers whose
    unit means something, as the grey levels of a picture; None where it does not count.
    ``agreement`` is the least share of equal elements of integer outputs.
    """

    cosine: float
    snr_db: float
    max_abs: float | None
    agreement: float
    steps: float | None = None


_HALF = Tolerance(cosine=0.999, snr_db=30.0, max_abs=None, agreement=0.99)
_COARSE = Tolerance(cosine=0.0, snr_db=15.0, max_abs=None, agreement=0.95)
TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(cosine=0.99999, snr_db=80.0, max_abs=1e-3, agreement=0.999),
    "bf16": _HALF,
    "fp16": _HALF,
    "fp16w": _HALF,
    "int8": _COARSE,
    "fp11": _COARSE,
    MIXED: _COARSE,
}


_LEAST_SHARES: Mapping[str, float] = {"fp32": 0.995, MIXED: 0.001}


def describe_shares(shares: Mapping[str, float], *, weights: str = "") -> str:
    """Write shares of executed work per precision as one phrase.

    ``{"fp32": 1.0}`` is ``fp32``; ``{"int8": .92, "fp32": .08}`` is ``int8 (92 %) + fp32``; ``weights`` names the
    precision that the weights are stored in where it differs: ``fp32 (fp16 weights)``. Shares below 0.5 % are left out.
    """
    ordered = sorted(((share, name) for name, share in shares.items() if share >= 0.005), reverse=True)
    if not ordered:
        return "unknown"
    first_share, first = ordered[0]
    text = first
    if len(ordered) > 1:
        text = " + ".join([f"{first} ({100 * first_share:.0f} %)", *(name for _, name in ordered[1:])])
    return f"{text} ({weights} weights)" if weights else text


def check_executed(asked: str, shares: Mapping[str, float], *, where: str) -> None:
    """Raise ``SilentFallback`` unless most of the work ran in the precision that was asked for.

    Norms and other sensitive operations may stay in fp32, so a half or int8 graph passes with more than half of its
    work in the precision asked for; an fp32 graph passes only when nothing ran in less. Of a mixed graph any share may
    be in int8: its manifest says which layers are.
    """
    compute = {"fp16w": "fp32", MIXED: "int8"}.get(asked, asked)
    share = shares.get(compute, 0.0)
    least = _LEAST_SHARES.get(asked if asked == MIXED else compute, 0.5)
    if share < least:
        raise SilentFallback(
            f"{where} was asked for {asked} and executed {describe_shares(shares)}",
            expected=f"{compute} for at least {least:.0%} of the work",
            fix="choose a precision that this device has: avsdk devices NAME",
        )
