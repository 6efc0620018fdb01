"""Which devices of the catalogue this machine is, or holds."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from avsdk import host, nvidia
from avsdk_targets.device import Device

_OTHER_CARDS = "Ti|Super|Laptop|Mobile|D|Max-Q"
"""What stands behind the name of a card that is not the one of that name."""
_BOARD = Path("/proc/device-tree/model")


def local_arch(arch: str) -> str:
    """The word with this machine's GPU put in the place of ``host-gpu``; empty where that is asked for and absent."""
    if arch != "host-gpu":
        return arch
    gpus = nvidia.local_gpus()
    return gpus[0].arch if gpus else ""


def is_here(device: Device, names: Collection[str] | None = None) -> bool | None:
    """Whether the device is this machine or in it; None where only its engine can tell.

    ``names`` are what another machine calls its processor, its board and its GPUs, where that one is meant.
    """
    if device.arch == "host":
        return True
    if not device.seen_as:
        return None
    seen = (*names_here(), platform.system()) if names is None else names
    return any(_is_called(name, text) for text in device.seen_as for name in seen)


def _is_called(name: str, text: str) -> bool:
    """Whether the name holds the text as whole words; a suffix makes a card another: RTX 3090 is no RTX 3090 Ti."""
    pattern = rf"(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])(?! ({_OTHER_CARDS})\b)"
    return re.search(pattern, name, re.IGNORECASE) is not None


@cache
def names_here() -> tuple[str, ...]:
    """What this machine calls its processor, its board and its GPUs."""
    try:
        board = _BOARD.read_text(errors="replace").strip("\0\n ")
    except OSError:
        board = ""
    names = (host.probe().cpu, board, *(gpu.name for gpu in nvidia.local_gpus()))
    return tuple(name for name in names if name)
