"""How much accuracy a build may cost: the limits of ``--max-drop`` and ``--min-snr-db``, and what was measured."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from avsdk.errors import UsageError

DEFAULT_SNR_DB = 15.0
"""What int8 must reach where the model has no metric and no limit was given."""
_MOST_SNR_DB = 120.0
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%")


@dataclass(frozen=True)
class Limits:
    """``max_drop``: the share of the fp32 value that the family's metric may lose; ``min_snr_db``: against fp32."""

    max_drop: float | None = None
    min_snr_db: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0.0 < self.max_drop <= 1.0:
            raise UsageError(
                f"--max-drop {100 * self.max_drop:g}%",
                expected="more than 0 % and at most 100 % of the fp32 value: any rounding costs something",
                fix="--max-drop 1%",
            )
        snr = self.min_snr_db
        if snr is not None and not (math.isfinite(snr) and 0.0 < snr <= _MOST_SNR_DB):
            raise UsageError(
                f"--min-snr-db {snr:g}",
                expected=f"more than 0 and at most {_MOST_SNR_DB:g} dB, which fp32 itself reaches",
                fix="--min-snr-db 20",
            )

    def __bool__(self) -> bool:
        return self.max_drop is not None or self.min_snr_db is not None

    def __str__(self) -> str:
        drop = [] if self.max_drop is None else [f"a drop of at most {100 * self.max_drop:g} %"]
        snr = [] if self.min_snr_db is None else [f"an SNR of at least {self.min_snr_db:g} dB"]
        return " and ".join(drop + snr)


@dataclass(frozen=True)
class Accuracy:
    """What a build costs on held-back samples.

    ``snr_db``: the worst sample and output, against fp32. ``drop``: the share of its fp32 value that the metric lost,
    negative where it gained; None where the model has no metric. ``value`` and ``fp32`` are the metric itself.
    """

    snr_db: float
    samples: int
    drop: float | None = None
    metric: str = ""
    value: float | None = None
    fp32: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)

    def meets(self, limits: Limits) -> bool:
        """Whether it lies within the limits; NaN never does."""
        drop = limits.max_drop is None or (self.drop is not None and self.drop <= limits.max_drop)
        return drop and (limits.min_snr_db is None or self.snr_db >= limits.min_snr_db)

    def __str__(self) -> str:
        text = f"SNR {self.snr_db:.1f} dB on {self.samples} held-back sample{'s' if self.samples != 1 else ''}"
        return text if self.drop is None else f"{self.metric} drops by {100 * self.drop:.2f} %, {text}"


def drop_from_text(text: str) -> float:
    """``1%`` -> 0.01. Raises ``UsageError`` for what is no percentage."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--max-drop {text!r}", expected="percent of the fp32 value", fix="--max-drop 1%")
    return float(match[1]) / 100.0
