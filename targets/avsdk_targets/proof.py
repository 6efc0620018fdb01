"""Where a bundle's numbers are proven: on the device itself, on this processor, under emulation, or nowhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from avsdk import host
from avsdk.errors import NotAvailable
from avsdk.session import Session, session_class
from avsdk.toolchains import installed_python
from avsdk_targets.device import Emulation
from avsdk_targets.presence import is_here
from avsdk_targets.target import Candidate
from avsdk_targets.toolchain import load_toolchain

EMULATED_BUDGET_S = 90.0
"""Seconds of golden samples under emulation: one always runs, another only while it fits. The style network takes 7 s
of processor time at 64 x 64 pixels, 76 s at 256 x 256."""

_COMPUTE_CAPABILITY = re.compile(r"sm[0-9]{2,3}")


@dataclass(frozen=True)
class Proof:
    """What runs the golden samples. ``python`` are the words that start its Python; empty is the SDK's own.

    ``executed_on`` is written into the parity record; ``env`` is laid over the environment of that Python; ``budget_s``
    bounds the samples where they run slowly; ``notice`` says why the proof is not a stronger one, and how to get that.
    """

    executed_on: str
    python: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    budget_s: float | None = None
    notice: str = ""
    emulation: Emulation | None = None

    def record(self) -> dict[str, dict[str, str | float]]:
        """What the manifest keeps, so that the bundle can be verified in the same way again."""
        if self.emulation is None or self.budget_s is None:
            return {}
        emulation = self.emulation
        return {"emulation": {"toolchain": emulation.toolchain, "cpu": emulation.cpu, "budget_s": self.budget_s}}


def proof_for(candidate: Candidate) -> Proof:
    """The strongest proof that this machine can give for the candidate's device."""
    # Where only the engine can tell whether the device is here, it runs there or not at all; so does what is built for
    # a GPU's compute capability. Files for a processor run on others too.
    if is_here(candidate.profile) is not False or _COMPUTE_CAPABILITY.fullmatch(candidate.arch):
        return _proof_by_stand_in(candidate) or Proof("device")
    emulation = candidate.profile.emulation
    if emulation is None:
        return Proof("this-cpu")
    return _proof_by(emulation, candidate.profile.name)


def stood_in_for(session: type[Session], device: str) -> bool:
    """Whether the environment of this very process makes the processor stand in, as ``PJRT_DEVICE=CPU`` for a TPU."""
    env = session.stand_in(device)
    return bool(env) and all(os.environ.get(name) == value for name, value in env.items())


def _proof_by_stand_in(candidate: Candidate) -> Proof | None:
    """The same engine on this processor, where it has a way to run there what is built for a device that is absent."""
    try:
        session = session_class(candidate.engine)
    except NotAvailable:
        return None
    env = session.stand_in(candidate.device)
    if not env or (session.availability(candidate.device).ok and not stood_in_for(session, candidate.device)):
        return None
    return Proof("this-cpu", session.python() or (sys.executable,), env)


def _proof_by(emulation: Emulation, device: str) -> Proof:
    """Its emulation where that is installed; else this processor, which another Arm serves as well as the emulation."""
    if host.probe().arch in ("aarch64", "arm64"):
        return Proof("this-cpu")
    python = installed_python(emulation.toolchain)
    if not python:
        return Proof(
            "this-cpu",
            notice=f"{device} is not emulated here, so this processor ran the golden samples; "
            f"to emulate it: {load_toolchain(emulation.toolchain).install_line}",
        )
    # QEMU reads its -cpu from this variable too, so that the words which start the toolchain's Python stay the same.
    return Proof("emulated", python, {"QEMU_CPU": emulation.cpu}, EMULATED_BUDGET_S, emulation=emulation)
