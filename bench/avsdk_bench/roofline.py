"""The least time that a graph's work can take on a device, by the roofline of its peak rate and its bandwidth.

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52 (2009): an operator takes at
least its operations over the peak rate, and at least its bytes over the bandwidth, whichever is more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avsdk import host
from avsdk.errors import NotAvailable, UnknownName
from avsdk.precision import PRECISIONS
from avsdk_bench.calibration import Calibration, Rates
from avsdk_bench.work import BYTES, Operator, Work
from avsdk_targets.device import Device

_SAME_RATE: Mapping[str, tuple[str, ...]] = {"fp16w": ("fp32",), "bf16": ("fp16",), "fp16": ("bf16",), "fp11": ()}
"""Peaks that stand in for one that a profile lacks: fp16w computes in fp32, and half precisions share their units."""


@dataclass(frozen=True)
class Roof:
    """The limits of a device: operations per s and precision, and bytes per s.

    ``bytes_per_s`` is None where the profile does not tell. ``cached_bytes_per_s`` holds for operators that move no
    more than ``cache_bytes``, where that is known. ``basis`` says in a phrase where the limits are from.
    """

    device: str
    flops_per_s: Mapping[str, float]
    bytes_per_s: float | None
    basis: str
    cached_bytes_per_s: float | None = None
    cache_bytes: int = 0
    notes: tuple[str, ...] = field(default=())

    def flops_for(self, precision: str) -> float:
        """The peak for a precision. Raises ``NotAvailable`` where the profile has none that could serve."""
        for name in (precision, *_SAME_RATE.get(precision, ())):
            if name in self.flops_per_s:
                return self.flops_per_s[name]
        known = ", ".join(name for name in self.flops_per_s if name in PRECISIONS)
        raise NotAvailable(
            f"the profile of {self.device} gives no peak rate for {precision}, so nothing can be predicted",
            expected=f"one of: {known}" if known else "a profile with peaks",
            fix=f"--precision {known.partition(',')[0]}" if known else f"avsdk devices {self.device}",
        )

    def compute_s(self, operator: Operator, precision: str) -> float:
        """Seconds of its operations at the peak; without a peak for what stays in fp32, at that of the precision."""
        computed = operator.computed_in(precision)
        known = any(name in self.flops_per_s for name in (computed, *_SAME_RATE.get(computed, ())))
        return operator.flops / self.flops_for(computed if known else precision)

    def memory_s(self, operator: Operator, precision: str) -> float:
        """Seconds that its bytes take; 0 where no bandwidth is known."""
        moved = operator.moved_bytes(precision)
        fits = self.cached_bytes_per_s is not None and moved / max(1, operator.steps) <= self.cache_bytes
        rate = self.cached_bytes_per_s if fits else self.bytes_per_s
        return moved / rate if rate else 0.0


@dataclass(frozen=True)
class Bound:
    """The least time in ms, and which of the two limits most of it is: ``compute`` or ``memory``."""

    ms: float
    by: str


def bound_of(work: Work, roof: Roof, precision: str) -> Bound:
    """The sum over operators of the larger of the two times."""
    compute = memory = 0.0
    for item in work.operators:
        calculated, moved = roof.compute_s(item, precision), roof.memory_s(item, precision)
        if calculated >= moved:
            compute += calculated
        else:
            memory += moved
    return Bound(1e3 * (compute + memory), "compute" if compute >= memory else "memory")


def least_ms(work: Work, roof: Roof, precision: str) -> float:
    """A time that no run can be under: all operations at the peak, or inputs, weights and outputs moved once.

    Less than ``bound_of``, for what lies between operators may never leave the device.
    """
    compute = sum(roof.compute_s(item, precision) for item in work.operators)
    once = sum(item.weight_bytes(precision) for item in work.operators)
    once += BYTES[precision][0] * (work.given + work.answered)
    rate = max(roof.cached_bytes_per_s or 0.0, roof.bytes_per_s or 0.0)
    return 1e3 * max(compute, once / rate if rate else 0.0)


def roof_of(device: Device) -> Roof:
    """The limits in a device's profile. Raises ``NotAvailable`` for a profile without a peak rate."""
    peaks = {name: 1e12 * figure.value for name, figure in device.peaks.items() if name in PRECISIONS}
    if not peaks:
        raise NotAvailable(
            f"the profile of {device.name} gives no peak rate, so nothing can be predicted for it",
            expected="a device with peaks: avsdk devices NAME",
            fix="name the exact device that is meant: avsdk devices lists them",
        )
    width = device.bandwidth_gb_s
    notes = () if width else ("its bandwidth is not known: no time for moving bytes is counted",)
    marks = sorted({figure.mark for figure in (*device.peaks.values(), *([width] if width else []))})
    return Roof(
        device=device.name,
        flops_per_s=peaks,
        bytes_per_s=1e9 * width.value if width else None,
        basis=f"the profile's peak and bandwidth ({', '.join(marks)})",
        notes=notes,
    )


def roof_here(rates: Rates, isa: tuple[str, ...]) -> Roof:
    """The limits of this processor: what the calibration kernel and copies reached, and what its instruction sets make
    of other precisions: products of int8 and bf16 per instruction, over those of fp32."""
    fp32 = rates.flops_per_s
    return Roof(
        device="this-cpu",
        flops_per_s={name: factor * fp32 for name, factor in _factors(isa).items()},
        bytes_per_s=rates.bytes_per_s,
        basis=f"the rates of a matrix product and of copies measured here with {rates.threads} thread(s)",
        cached_bytes_per_s=rates.cached_bytes_per_s,
        cache_bytes=rates.cache_bytes,
    )


def measured_roof(threads: int) -> Roof:
    """Measure this processor's limits with so many threads; takes about half a second."""
    calibration = Calibration(threads)
    try:
        return roof_here(calibration.rates(), host.probe().isa)
    finally:
        calibration.close()


def _factors(isa: tuple[str, ...]) -> dict[str, float]:
    int8 = 32.0 if "amx_int8" in isa else 4.0 if {"avx512_vnni", "avx_vnni", "i8mm", "asimddp"} & set(isa) else 2.0
    bf16 = 16.0 if "amx_bf16" in isa else 2.0 if {"avx512_bf16", "bf16"} & set(isa) else 1.0
    return {"fp32": 1.0, "bf16": bf16, "int8": int8, "fp16": 2.0 if "fphp" in isa else 1.0}


def has_peak(device: Device, precision: str) -> bool:
    """Whether the profile has a peak rate that serves the precision."""
    return any(name in device.peaks for name in (precision, *_SAME_RATE.get(precision, ())))


def require_precision(device: Device, precision: str) -> None:
    """Raise ``UnknownName`` for a word that is no precision, ``NotAvailable`` for one that the device does not have."""
    if precision not in PRECISIONS:
        raise UnknownName.among("precision", precision, PRECISIONS)
    if device.precisions and precision not in device.precisions:
        raise NotAvailable(
            f"{device.name} has no {precision}",
            expected=f"one of: {', '.join(device.precisions)}",
            fix=f"--precision {device.precisions[0]}",
        )


def roofline_facts(work: Work, roof: Roof, precision: str, p50_ms: float | None) -> dict[str, Any]:
    """What a row says of its bound; ``reached`` is the share of the bound in the time, where that is known."""
    bound = bound_of(work, roof, precision)
    return {
        "bound_ms": round(bound.ms, 6),
        "bound_by": bound.by,
        **({"reached": round(bound.ms / p50_ms, 4)} if p50_ms else {}),
        "flops": work.flops,
        "bytes": work.moved_bytes(precision),
        "flops_by_kind": work.flops_by_kind(),
        "operators": len(work.operators),
        "not_counted": list(work.not_counted),
        "basis": roof.basis,
        "gflops_per_s": round(roof.flops_for(precision) / 1e9, 3),
        "gb_per_s": round(roof.bytes_per_s / 1e9, 3) if roof.bytes_per_s else None,
    }
