"""Movidius Myriad X: the device half. Device: ``myriad-x``, a Neural Compute Stick 2 or a module with that chip.

OpenVINO 2021.4.2 runs the blob: in this Python where it is importable here, else in the toolchain ``myriad``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np

from avsdk import host
from avsdk.errors import BundleRefused
from avsdk.myriad_stick import HEADER_BYTES, blob_fault
from avsdk.schema import encode
from avsdk.session import Array, Availability, Execution, Session
from avsdk.toolchains import installed_python
from avsdk.worker import Worker

DEVICE = "myriad-x"
RELEASE = "2021.4.2"
_SEEN_AS = "movidius: Myriad X"
_TIMEOUT_S = 120.0
_STICK = "avsdk.myriad_stick:LoadedBlob"


@dataclass(frozen=True)
class _InBlob:
    """A tensor's name and type in the blob."""

    name: str
    precision: Literal["FP16", "FP32", "U8", "I32"]


class MyriadSession(Session):
    """One blob on one stick, held by a child process of its own: what the plugin does on a lost stick stays there."""

    engine = "openvino_myriad"
    _worker: Worker | None = None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """The stick, by its USB number, then the release that runs its blobs."""
        if device != DEVICE:
            return Availability(False, f"it runs on {DEVICE}, not on {device}", "avsdk doctor myriad-x")
        if _SEEN_AS not in host.probe().accelerators:
            return Availability(
                False,
                "no Myriad X stick is plugged in (USB 03e7:2485)",
                "plug a Neural Compute Stick 2 in, or copy the bundle to the machine that has one",
            )
        if not _python():
            return Availability(
                False, f"OpenVINO {RELEASE} is not here, the last that runs Myriad X", "avsdk toolchain install myriad"
            )
        return Availability(True)

    @classmethod
    def release(cls, name: str) -> str:
        """Of openvino: the one that would run the blob, whichever Python it lives in."""
        return RELEASE if name == "openvino" and _python() else super().release(name)

    def _open(self) -> None:
        self._refuse_damaged()
        inputs, outputs = (self.option(kind, Mapping[str, _InBlob], {}) for kind in ("inputs", "outputs"))
        self._require_tensors(inputs, outputs)
        worker = Worker(f"run-{self.engine}", _python(), timeout_s=_TIMEOUT_S)
        try:
            worker.open(_STICK, blob=os.fspath(self.file()), inputs=encode(inputs), outputs=encode(outputs))
        except BaseException:
            worker.close()
            raise
        self._worker = worker

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        assert self._worker is not None
        found: dict[str, Any] = self._worker.ask("run", feeds=dict(feeds))
        return {item.name: np.asarray(found[item.name], item.dtype) for item in self.graph.outputs}

    def _execution(self) -> Execution:
        assert self._worker is not None
        return Execution(DEVICE, {DEVICE: 1.0}, {str(self._worker.ask("precision")): 1.0})

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _refuse_damaged(self) -> None:
        """A blob goes into the stick's memory as it is: no other file must."""
        size, wanted = self.file().stat().st_size, self.option("size", int, 0)
        with self.file().open("rb") as stream:
            fault = blob_fault(stream.read(HEADER_BYTES), size)
        if size != wanted:
            fault = fault or f"it has {size} bytes and the manifest says {wanted}"
        if fault:
            raise BundleRefused(
                f"{self.file().name} is no whole Myriad blob: {fault}",
                expected=f"a blob of {wanted} bytes",
                fix="get a whole copy of the bundle, or export it again",
            )


def _python() -> tuple[str, ...]:
    """The words that start the Python that has the release: this one, else the toolchain's; empty where neither."""
    try:
        here = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        here = ""
    return (sys.executable,) if here == RELEASE else installed_python("myriad")
