"""How long a graph would take on a device that is not here, and how sure that is.

The time is a sum over the graph's operators (``avsdk_bench.work``): operations over the device's peak rate and bytes
over its bandwidth, each divided by the efficiency that this kind of operator reached on machines that were measured,
and a fixed cost per operator and per run. The efficiencies are fitted by ``bench/numbers/prediction.py``; they, the
machine, and the errors on models that were left out of the fit stand in ``efficiencies.json``.

For other parts of avsdk: ``predict`` for a number, ``lower_bound_ms`` to reject early what cannot be fast enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import NotAvailable
from avsdk.host import default_threads
from avsdk.spec import GraphSpec, Sizes
from avsdk_bench.efficiencies import LEVEL, Fit, load_efficiencies, parts_of
from avsdk_bench.roofline import Roof, bound_of, least_ms, measured_roof, require_precision, roof_of
from avsdk_bench.work import Work, graph_of, graph_work
from avsdk_targets.device import Device, load_device

_LAUNCH_US = 5.0
"""What the start of one operator is taken to cost an accelerator's queue, about that of a CUDA kernel; not measured."""
_PROCESSORS = ("host", "x86_64", "cortex")
_UNKNOWN_MEMORY = math.log(2.0)
"""Added to the spread where a profile has no bandwidth: bytes may take as long as operations."""


@dataclass(frozen=True)
class Prediction:
    """Times in ms. ``interval_ms`` is to hold the median latency with the probability ``level``.

    ``bound_by``: what most of the predicted time goes to, ``compute``, ``memory`` or ``overhead``; ``parts_ms`` has all
    three. ``bound_ms`` is the roofline's. ``basis`` says in a sentence what the number and its interval rest on.
    """

    device: str
    precision: str
    p50_ms: float
    interval_ms: tuple[float, float]
    level: float
    bound_by: str
    parts_ms: Mapping[str, float]
    bound_ms: float
    basis: str
    work: Work


def lower_bound_ms(
    onnx: Path, sizes: Sizes, device: str | Device, precision: str = "fp32", *, threads: int | None = None,
    roof: Roof | None = None,
) -> float:  # fmt: skip
    """A time in ms that no engine's run of this graph on that device can be under: to reject early, never to promise.

    ``sizes``: of the dynamic axes, defaults for those left out. ``device``: a name of the catalogue, or a profile;
    ``this-cpu`` is measured for half a second with ``threads`` (all by default), so keep its ``measured_roof(threads)``
    and give it as ``roof`` for many calls. Counting a graph takes about a second in a child process, and is remembered.
    What cannot be counted is left out, so that the bound stays one. It is of the direct algorithms: Winograd's for 3x3
    convolutions could be up to 2.25 times faster, and a GPU may boost above the clock that its peak is given for.

    Raises ``NotAvailable`` for a precision that the device lacks or has no peak for, ``UsageError`` for unknown axes
    and sizes out of range, ``ModelRefused`` for a hostile file.
    """
    profile = device if isinstance(device, Device) else load_device(device)
    require_precision(profile, precision)
    limits = roof or roof_for(profile, threads)
    return least_ms(graph_work(onnx, graph_of(onnx), sizes), limits, precision)


def predict(
    onnx: Path, sizes: Sizes, device: str | Device, precision: str = "fp32", *, engine: str = "",
    graph: GraphSpec | None = None, threads: int | None = None, roof: Roof | None = None,
) -> Prediction:  # fmt: skip
    """The median latency of this graph on that device, with an interval.

    Arguments as for ``lower_bound_ms``; ``engine``: whose efficiencies, the first of the device's engines that was
    measured without it, else all that were; ``graph``: its spec, else the one in the file. Raises what
    ``lower_bound_ms`` raises, and ``NotAvailable`` for a graph with parts that cannot be counted, as loops.
    """
    profile = device if isinstance(device, Device) else load_device(device)
    require_precision(profile, precision)
    limits = roof or roof_for(profile, threads)
    limits.flops_for(precision)
    return predicted(graph_work(onnx, graph or graph_of(onnx), sizes), profile, precision, limits, engine)


def predicted(work: Work, profile: Device, precision: str, roof: Roof, engine: str = "") -> Prediction:
    """``predict`` for work that is counted and limits that are known."""
    if work.not_counted:
        raise NotAvailable(
            f"no latency is predicted for a graph with parts that cannot be counted: {'; '.join(work.not_counted[:3])}",
            expected="a graph without control flow, foreign operators and sizes that depend on the data",
            fix="measure it on the device: avsdk bench BUNDLE --on ssh://USER@HOST",
        )
    known = load_efficiencies()
    processor = profile.arch.startswith(_PROCESSORS)
    asked = (engine,) if engine else profile.engines
    names = [name for name in asked if processor and name in known.engines][:1]
    fits = [known.engines[name] for name in names or known.engines]
    found = [parts_of(work, roof, precision, fit, None if processor else _LAUNCH_US) for fit in fits]
    bound = bound_of(work, roof, precision)
    total = 1e3 * math.exp(sum(math.log(item.total) for item in found) / len(found))
    parts = {
        name: total * sum(getattr(item, name) / item.total for item in found) / len(found)
        for name in ("compute", "memory", "overhead")
    }
    if profile.arch != "host" and total < bound.ms:  # efficiencies hold what a cache spared the machine they are of
        parts[bound.by] += bound.ms - total
        total = bound.ms
    spread, why = _spread(profile, roof, fits, names)
    low, high = (total * math.exp(sign * spread) for sign in (-1.0, 1.0))
    return Prediction(
        device=profile.name,
        precision=precision,
        p50_ms=total,
        interval_ms=(low, high),
        level=LEVEL,
        bound_by=max(parts, key=lambda name: parts[name]),
        parts_ms={name: round(value, 6) for name, value in parts.items()},
        bound_ms=bound.ms,
        basis="; ".join([f"{roof.basis}, {why}", *roof.notes]),
        work=work,
    )


def _spread(profile: Device, roof: Roof, fits: list[Fit], names: list[str]) -> tuple[float, str]:
    """The half width of the interval as a logarithm, and what it rests on."""
    elsewhere = load_efficiencies().elsewhere
    own = max(fit.spread for fit in fits)
    whose = f"the efficiencies of {names[0]}" if names else "the efficiencies of all engines that were measured"
    if profile.arch == "host" and names:
        return own, f"{whose} on {fits[0].machine}; the interval is that of models left out of the fit"
    spread = own if names else max(own, elsewhere.engine)
    spread += elsewhere.machine if profile.arch.startswith(_PROCESSORS) else elsewhere.accelerator
    spread += 0.0 if roof.bytes_per_s else _UNKNOWN_MEMORY
    factor = math.exp(spread)
    return spread, (
        f"{whose} on another device ({fits[0].machine}); the interval, a factor of {factor:.1f} either way, adds what "
        "is assumed for a device that was never measured"
    )


def roof_for(device: Device, threads: int | None = None) -> Roof:
    """The limits of a device: measured for this processor, else those of its profile."""
    return measured_roof(threads or default_threads()) if device.arch == "host" else roof_of(device)
