"""The half of the Myriad X session that talks to the stick; runs where OpenVINO 2021.4.2 is, maybe in its toolchain.

It needs no more of avsdk than the errors, and of numpy what 1.19 has.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from avsdk.errors import NotAvailable, UsageError

MAGIC = b"\x7felf"
HEADER_BYTES = 64
_BLOB = struct.Struct("<III")
_BLOB_AT = 52
_BLOB_NUMBER, _BLOB_MAJOR = 9709, 6
"""Behind a 52-byte head of ELF's kind stand the compiler's own number, the blob's size and its format's version."""

_DTYPES: Mapping[str, Any] = {"FP16": np.float16, "FP32": np.float32, "U8": np.uint8, "I32": np.int32}


def blob_fault(head: bytes, size: int) -> str:
    """What is wrong with a blob of ``size`` bytes that begins with ``head``; empty where it is one of this release."""
    if head[: len(MAGIC)] != MAGIC or len(head) < HEADER_BYTES:
        return f"it begins with {head[:8]!r}, not with {MAGIC!r}"
    number, promised, major = _BLOB.unpack_from(head, _BLOB_AT)
    if (number, major) != (_BLOB_NUMBER, _BLOB_MAJOR):
        return f"it is of the format {number}, version {major}, not {_BLOB_NUMBER}, version {_BLOB_MAJOR}"
    return "" if promised == size else f"it has {size} bytes and says that it has {promised}"


class LoadedBlob:
    """A blob on a stick. ``inputs`` and ``outputs``: per tensor of the graph, its name and precision in the blob."""

    def __init__(
        self, blob: str, inputs: Mapping[str, Mapping[str, str]], outputs: Mapping[str, Mapping[str, str]]
    ) -> None:
        from openvino.inference_engine import IECore

        self._inputs, self._outputs = inputs, outputs
        self._core = IECore()
        try:
            self._network = self._core.import_network(model_file=blob, device_name="MYRIAD")
        except RuntimeError as error:
            raise _refused(str(error)) from error

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: feeds in the graph's dtypes, answers in the blob's."""
        sent = {held["name"]: _sent(name, feeds[name], held["precision"]) for name, held in self._inputs.items()}
        found = self._network.infer(sent)
        return {name: np.asarray(found[held["name"]]) for name, held in self._outputs.items()}

    def precision(self) -> str:
        """What the plugin says it computes in."""
        listed = self._core.get_metric("MYRIAD", "OPTIMIZATION_CAPABILITIES")
        return ",".join(str(item).lower() for item in listed)

    def close(self) -> None:
        """Let go of the stick."""
        self._network = self._core = None


def _sent(name: str, array: Any, precision: str) -> Any:
    """The array as the blob takes it. Raises ``UsageError`` where u8 would change the numbers."""
    kind = np.dtype(_DTYPES[precision])
    if kind.kind in "ui" and array.dtype.kind == "f":
        whole = np.rint(array)
        limits: Any = np.iinfo(_DTYPES[precision])
        if whole.size and (np.any(whole != array) or whole.min() < limits.min or whole.max() > limits.max):
            raise UsageError(
                f"the input {name!r} holds numbers from {array.min():g} to {array.max():g}",
                expected=f"whole numbers from {limits.min} to {limits.max}, as the blob was built for",
                fix="export again with --set openvino_myriad.input=fp16",
            )
    return np.ascontiguousarray(array.astype(kind))


def _refused(text: str) -> NotAvailable:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    if "no available devices" in text or "Can not init Myriad device" in text:
        return NotAvailable(
            f"OpenVINO cannot reach the stick: {reason}",
            expected="a Myriad X stick that this user may open and no other process holds",
            fix="plug the stick in, add Intel's udev rule for 03e7, and end other programs that use it",
        )
    if "libusb" in text:
        return NotAvailable(
            f"OpenVINO cannot load its plugin: {reason}", expected="libusb-1.0", fix="apt-get install libusb-1.0-0"
        )
    return NotAvailable(
        f"OpenVINO cannot load the blob: {reason}",
        expected="a blob of this very release",
        fix="export the bundle again for myriad-x",
    )
