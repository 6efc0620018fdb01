"""How long a graph would take on a device that is not here, and how sure that is.

The time is a sum over the graph's operators (``avsdk_bench.work``): operations over the device's peak rate and bytes
over its bandwidth, each divided by the efficiency that this kind of operator reached on machines that were measured,
and a fixed cost per operator and per run. The efficiencies are fitted by ``bench/numbers/prediction.py``; they, the
machine, and the errors on models that were left out of the fit stand in ``efficiencies.json``.

For other parts of avsdk: ``predict`` for a number, ``lower_bound_ms`` to reject early what cannot be fast enough.
"""

from __future__ import annotations

from pathlib import Path

from avsdk.host import default_threads
from avsdk.spec import Sizes
from avsdk_bench.roofline import Roof, least_ms, measured_roof, require_precision, roof_of
from avsdk_bench.work import graph_of, graph_work
from avsdk_targets.device import Device, load_device


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


def roof_for(device: Device, threads: int | None = None) -> Roof:
    """The limits of a device: measured for this processor, else those of its profile."""
    return measured_roof(threads or default_threads()) if device.arch == "host" else roof_of(device)
