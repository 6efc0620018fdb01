"""Where a bundle's numbers are proven: on the device itself, on this processor, under emulation, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avsdk_targets.target import Candidate


@dataclass(frozen=True)
class Proof:
    """What runs the golden samples. ``python`` are the words that start its Python; empty is the SDK's own.

    ``executed_on`` is written into the parity record; ``env`` is laid over the environment of that Python.
    """

    executed_on: str
    python: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def proof_for(candidate: Candidate) -> Proof:
    """The strongest proof that this machine can give for the candidate's device."""
    return Proof("device" if candidate.arch == "host" else "this-cpu")
