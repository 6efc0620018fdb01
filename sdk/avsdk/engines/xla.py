"""XLA: the device half. Devices: ``tpu``, and ``cpu`` by PJRT's own client for processors.

The artifact is a StableHLO program at fixed sizes and the arrays that it takes beside the graph's inputs. PyTorch/XLA
runs it: in this Python where it is importable, else in the toolchain ``xla``. Its own loader is not used: it reads
pickled arrays, and compiles the program again in each run.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.arrays import read_arrays
from avsdk.errors import BundleRefused, SilentFallback
from avsdk.session import Array, Availability, Execution, Session
from avsdk.toolchains import installed_python
from avsdk.worker import Worker

TOOLCHAIN = "xla"
_PJRT = {"cpu": "CPU", "tpu": "TPU"}
_TPU_NODES = ("accel[0-9]*", "vfio/[0-9]*")
"""What a TPU's driver shows below ``/dev``, by generation."""
_OPEN_TIMEOUT_S = 900.0
_RUN_TIMEOUT_S = 300.0
_MOST_BYTES = 16 << 30
_WHOLE = "get a whole copy of the bundle, or export it again"
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "f64": "fp64", "s8": "int8", "u8": "int8"}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = \(?(\w+)\[([\d,]*)\]\S* ([\w-]+)\((.*)$", re.MULTILINE)
_WINDOW = re.compile(r"window=\{[^}]*size=([\dx]+)")
_WEIGHTED = ("convolution", "dot")


class XlaSession(Session):
    """Compiled when it is opened, for the sizes that it was built at."""

    engine = "xla"
    _program: Any = None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether PyTorch/XLA is here or in its toolchain, and for ``tpu`` whether one is attached."""
        if device not in _PJRT:
            return Availability(False, f"XLA runs on {' or '.join(_PJRT)} here, not on {device}", "avsdk doctor xla")
        if _kind(device) == "TPU" and not any(node for name in _TPU_NODES for node in Path("/dev").glob(name)):
            return Availability(
                False,
                "no TPU is attached (neither /dev/accel* nor /dev/vfio/*)",
                "copy the bundle to a TPU's machine, and there: avsdk doctor xla:tpu",
            )
        if not _importable() and not installed_python(TOOLCHAIN):
            return Availability(
                False, "neither torch_xla is importable nor its toolchain installed", "avsdk toolchain install xla"
            )
        return Availability(True)

    @classmethod
    def python(cls) -> tuple[str, ...]:
        """That of the toolchain, unless PyTorch/XLA is importable here."""
        return () if _importable() else installed_python(TOOLCHAIN)

    @classmethod
    def stand_in(cls, device: str) -> Mapping[str, str]:
        """The client for processors runs the same StableHLO; PJRT's own variable asks for it."""
        return {"PJRT_DEVICE": "CPU"} if device == "tpu" else {}

    def _open(self) -> None:
        inputs = {str(name): int(place) for name, place in self.artifact.options.get("inputs", {}).items()}
        arguments: dict[str, Any] = {
            "stablehlo": os.fspath(self.file(0)),
            "weights": os.fspath(self.file(1)),
            "inputs": inputs,
            "outputs": [tensor.name for tensor in self.graph.outputs],
            "device": self.artifact.device,
        }
        environment = environment_of(self.artifact.device, self.threads)
        if _importable():
            os.environ.update(environment)  # read when torch_xla is imported
            self._program = LoadedProgram(**arguments)
            return
        worker = Worker(f"run-{self.engine}", self.python(), timeout_s=_RUN_TIMEOUT_S, env=environment)
        try:
            worker.open(LoadedProgram, timeout_s=_OPEN_TIMEOUT_S, **arguments)
        except BaseException:
            worker.close()
            raise
        self._program = _Remote(worker)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs: dict[str, Array] = self._program.run(feeds={name: np.asarray(feeds[name]) for name in feeds})
        return outputs

    def _execution(self) -> Execution:
        self.run(self.example_feeds())
        facts = self._program.facts()
        asked = _kind(self.artifact.device)
        if facts["device"] != asked:
            raise SilentFallback(f"PJRT opened {facts['device']}", expected=asked)
        device = next(name for name, kind in _PJRT.items() if kind == asked)
        return Execution(device, {device: 1.0}, executed_shares(facts["hlo"], device=device))

    def _close(self) -> None:
        if self._program is not None:
            self._program.close()
        self._program = None


class LoadedProgram:
    """The program in the Python that has PyTorch/XLA; ``inputs`` are the places of the graph's inputs."""

    def __init__(self, stablehlo: str, weights: str, inputs: dict[str, int], outputs: list[str], device: str) -> None:
        stored = _arrays_of(Path(weights))  # the cheapest refusal first
        count = len(stored) + len(inputs)
        if {*stored, *(str(place) for place in inputs.values())} != {str(place) for place in range(count)}:
            raise BundleRefused(
                f"{Path(weights).name} and the manifest give {count} arguments that are not 0 to {count - 1}",
                expected="each argument of the program once",
                fix=_WHOLE,
            )
        self._dump = Path(tempfile.mkdtemp(prefix="avsdk-xla-"))
        flags = f"--xla_dump_to={self._dump} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        self._hlo, self._computation = _compiled_from(Path(stablehlo))
        import torch
        import torch_xla

        self._outputs, self._places = outputs, inputs
        self._device = torch_xla.device()
        self._arguments: list[Any] = [None] * count
        for name, array in stored.items():
            self._arguments[int(name)] = torch.from_numpy(array).to(self._device)
        torch_xla.sync()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One run, from arrays to arrays; the first one compiles."""
        import torch
        import torch_xla

        for name, place in self._places.items():
            self._arguments[place] = torch.from_numpy(np.require(feeds[name], requirements=["C", "W"])).to(self._device)
        call: Any = torch_xla._XLAC._xla_user_computation
        answers = call("xla::avsdk", self._arguments, self._computation)
        torch_xla.sync()
        return {name: answer.cpu().numpy() for name, answer in zip(self._outputs, answers)}

    def facts(self) -> dict[str, str]:
        """The kind of device that PJRT opened, and the HLO that it compiled: after its own passes where it tells."""
        import torch_xla.runtime

        dumped = [file.read_text(errors="replace") for file in self._dump.glob("*after_optimizations.txt")]
        fitting = [text for text in dumped if any(f" {name}(" in text for name in _WEIGHTED)]
        return {
            "device": str(torch_xla.runtime.device_type()),
            "hlo": max(fitting or dumped, key=len, default=self._hlo),
        }

    def close(self) -> None:
        """Free the arrays and what XLA wrote about its work."""
        self._arguments = []
        self._computation = None
        shutil.rmtree(self._dump, ignore_errors=True)


class _Remote:
    """A program that lives in a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs: dict[str, Array] = self._worker.ask("run", feeds=dict(feeds))
        return outputs

    def facts(self) -> dict[str, str]:
        facts: dict[str, str] = self._worker.ask("facts")
        return facts

    def close(self) -> None:
        self._worker.close()


def environment_of(device: str, threads: int) -> dict[str, str]:
    """What PJRT reads when it starts: the kind of device, and the size of the processor client's thread pool."""
    return {"PJRT_DEVICE": _kind(device), "NPROC": str(threads)}


def _kind(device: str) -> str:
    """What PJRT is to open: the device's own kind, or the processor where the user's environment asks for it."""
    return "CPU" if os.environ.get("PJRT_DEVICE") == "CPU" else _PJRT[device]


def executed_shares(hlo: str, *, device: str) -> dict[str, float]:
    """Share of FLOPs per precision, from the text of an HLO module.

    Convolutions and matrix products count, where there are any; a convolution's operations are its results times its
    window. A TPU multiplies floats of 32 bit as bf16 unless the operation asks for ``highest``.
    """
    shares: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for kind, sizes, operation, rest in _INSTRUCTION.findall(hlo):
        precision = _PRECISIONS.get(kind)
        if precision is None or operation in ("parameter", "constant"):
            continue
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        if operation not in _WEIGHTED:
            others[precision] += elements
            continue
        if device == "tpu" and precision == "fp32" and "operand_precision={highest,highest}" not in rest:
            precision = "bf16"
        window = _WINDOW.search(rest)
        shares[precision] += elements * (math.prod(int(size) for size in window.group(1).split("x")) if window else 1)
    counted = shares or others
    total = sum(counted.values()) or 1
    return {name: count / total for name, count in counted.items()}


def _compiled_from(stablehlo: Path) -> tuple[str, Any]:
    """The HLO text of a StableHLO program, and the computation that PyTorch/XLA calls, compiled once and kept."""
    from jaxlib import _jax
    from torch_xla.core import xla_builder

    content = stablehlo.read_bytes()
    try:
        computation = _jax.mlir.mlir_module_to_xla_computation(content, use_tuple_args=False, return_tuple=True)
    except (RuntimeError, ValueError) as error:
        raise BundleRefused(
            f"{stablehlo.name} is no StableHLO program: {str(error).splitlines()[0] if str(error) else error!r}",
            expected="what the xla compiler wrote",
            fix=_WHOLE,
        ) from error
    proto = computation.as_serialized_hlo_module_proto()
    return computation.as_hlo_text(), xla_builder.computation_from_module_proto("avsdk", proto)


def _arrays_of(weights: Path) -> dict[str, Array]:
    def wrong(reason: str) -> BundleRefused:
        return BundleRefused(f"{weights.name}: {reason}", expected="plain arrays, by argument", fix=_WHOLE)

    return read_arrays(weights, wrong, max_bytes=_MOST_BYTES)


def _importable() -> bool:
    return all(util.find_spec(name) is not None for name in ("torch_xla", "jaxlib"))
