"""PyTorch itself, eager or by ``torch.compile``: the baseline row of ``avsdk bench``. Devices: ``cpu``, ``cuda``.

What it loads is an ExportedProgram (.pt2). Such a file holds pickled parts, which is code: it is made from the model on
this machine, kept in the user's own cache, never shipped, and opened only where that cache vouches for its hash.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from avsdk import nvidia
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.files import cache_home, sha256_file, write_atomic
from avsdk.session import Array, Availability, Execution, Session

MODES = ("eager", "compile")
_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
_PRECISIONS = {"float": "fp32", "c10::BFloat16": "bf16", "c10::Half": "fp16", "double": "fp64"}
"""The profile's names of the types that arithmetic happens in."""
_DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float64": "fp64"}
_NARROW_FIRST = ("fp16", "bf16", "fp32", "fp64")
_WEIGHTED = re.compile(r"conv|mm$|mm_|linear|matmul|attention|lstm|gru")
_COMPILED_REGION = "Torch-Compiled Region"


class TorchSession(Session):
    """Runs the program as PyTorch's users would: inference mode, full fp32, autocast for bf16 and fp16.

    The artifact's option ``session.mode`` is one of ``MODES``. Compiling happens in the first run of a size.
    """

    engine = "torch"
    _module: Any = None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether PyTorch is here, and for ``cuda`` a GPU that it sees."""
        if device not in ("cpu", "cuda"):
            return Availability(False, f"PyTorch is run on cpu or cuda here, not on {device}", "avsdk doctor torch:cpu")
        if util.find_spec("torch") is None:
            return Availability(False, "the package torch is not installed", "pip install 'avsdk[train]'")
        return Availability(True) if device == "cpu" else _cuda_availability()

    def _open(self) -> None:
        program = self.file()
        _require_ours(program)
        mode = _mode_of(self.artifact.options)
        if mode == "compile":
            _require_cpp_compiler()
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_home() / "inductor"))
        import torch

        torch.set_num_threads(self.threads)
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]  # cuDNN's own default is TF32
        with _quiet():
            loaded = torch.export.load(program)
            if self.artifact.device != "cpu":
                from torch.export.passes import move_to_device_pass

                loaded = move_to_device_pass(loaded, self.artifact.device)
        module = loaded.module()
        # fullgraph: a graph that cannot be compiled whole is an error, never an eager remainder.
        self._module = torch.compile(module, fullgraph=True) if mode == "compile" else module
        self._devices = {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        given = [torch.from_numpy(_writable(feeds[item.name])).to(self.artifact.device) for item in self.graph.inputs]
        with torch.inference_mode(), self._autocast(), _quiet():
            answers = self._module(*given)
        tensors = answers if isinstance(answers, (tuple, list)) else (answers,)
        self._devices |= {tensor.device.type for tensor in tensors}
        self._answers_in = _DTYPES.get(str(tensors[0].dtype), "fp32")
        return {
            item.name: tensor.to("cpu", getattr(torch, item.dtype)).numpy()
            for item, tensor in zip(self.graph.outputs, tensors)
        }

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        import torch

        kind = _AUTOCAST.get(self.artifact.precision)
        if kind is None:
            return contextlib.nullcontext()
        return torch.autocast(self.artifact.device, dtype=getattr(torch, kind))

    def _execution(self) -> Execution:
        """From PyTorch's own profile of one run, so that it tells what ran and not what was asked for."""
        self.run(self.example_feeds())  # compiling, where that is still to do, stays out of the profile
        events = self._profiled()
        where = f"graph {self.graph.name!r} on torch:{self.artifact.device}"
        if _mode_of(self.artifact.options) == "compile" and not any(
            event.get("name", "").startswith(_COMPILED_REGION) for event in events
        ):
            raise SilentFallback(f"{where} ran eagerly", expected="torch.compile", fix="--set torch.mode=eager")
        if self._devices != {self.artifact.device}:
            raise SilentFallback(f"{where} has tensors on {sorted(self._devices)}", expected=self.artifact.device)
        shares = executed_shares(events, fp32=_fp32_kind(self.artifact.device))
        # torch.compile melts what is no convolution or product into kernels of its own, whose types the profile lacks.
        return Execution(self.artifact.device, {self.artifact.device: 1.0}, shares or {self._answers_in: 1.0})

    def _profiled(self) -> list[dict[str, Any]]:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.artifact.device == "cuda" else [])]
        with tempfile.TemporaryDirectory(prefix="avsdk-profile-") as folder:
            with profile(activities=activities, record_shapes=True) as record:
                self.run(self.example_feeds())
            trace = Path(folder) / "trace.json"
            record.export_chrome_trace(str(trace))
            events: list[dict[str, Any]] = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        return events

    def _close(self) -> None:
        self._module = None


def vouch_for(program: Path) -> None:
    """Note in the user's cache that this file was made here, so that a session may open it."""
    write_atomic(_voucher(program), "")


def executed_shares(events: Sequence[Mapping[str, Any]], *, fp32: str = "fp32") -> dict[str, float]:
    """Share of FLOPs per precision, from the events of a Chrome trace that PyTorch's profiler wrote.

    Convolutions and matrix products count; where there are none every operation on floats does, by its elements. Of
    nested operations the innermost counts: above it, autocast shows the types that it was given, not those it computes
    in. ``fp32`` is what arithmetic on floats of 32 bit really is, as ``tf32``. Empty where the profile shows none.
    """
    operations = [event for event in events if event.get("cat") == "cpu_op" and _kind_of(event)]
    weighted = [event for event in operations if _WEIGHTED.search(event["name"])]
    shares: Counter[str] = Counter()
    for event in _innermost(weighted or operations):
        kind = _kind_of(event)
        shares[fp32 if kind == "fp32" else kind] += _flops(event)
    total = sum(shares.values())
    return {name: count / total for name, count in shares.items()}


def _innermost(events: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those that hold no other of the list, in time and on the same thread."""
    ordered = sorted(events, key=lambda event: (event.get("tid", 0), event["ts"], -event.get("dur", 0)))
    for event, following in zip(ordered, [*ordered[1:], None]):
        inside = (
            following is not None
            and following.get("tid", 0) == event.get("tid", 0)
            and following["ts"] + following.get("dur", 0) <= event["ts"] + event.get("dur", 0)
        )
        if not inside:
            yield event


def _kind_of(event: Mapping[str, Any]) -> str:
    """The narrowest float type among the inputs; empty where there is none."""
    found = [_PRECISIONS[kind] for kind in _flat(event.get("args", {}).get("Input type", ())) if kind in _PRECISIONS]
    return min(found, key=_NARROW_FIRST.index) if found else ""


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _flops(event: Mapping[str, Any]) -> int:
    """An estimate: the profile has the inputs' sizes, so a convolution is counted at every position of its input."""
    shapes: list[list[int]] = [
        item for item in event["args"].get("Input Dims", ()) if item and all(isinstance(size, int) for size in item)
    ]
    if not shapes:
        return 1
    if "conv" in event["name"] and len(shapes) > 1:
        return 2 * math.prod(shapes[1]) * shapes[0][0] * math.prod(shapes[0][2:])
    matrices = [shape for shape in shapes if len(shape) > 1]
    if _WEIGHTED.search(event["name"]) and len(matrices) > 1:
        return 2 * math.prod(matrices[-2]) * matrices[-1][-1]
    return max(1, math.prod(shapes[0]))


def _fp32_kind(device: str) -> str:
    """What convolutions and matrix products now make of floats of 32 bit: ``fp32``, ``tf32`` or ``bf16``."""
    import torch

    backends: Any = torch.backends
    mkldnn = backends.mkldnn
    rooms = (backends.cuda.matmul, backends.cudnn.conv) if device == "cuda" else (mkldnn.matmul, mkldnn.conv)
    reduced = [room.fp32_precision for room in rooms if room.fp32_precision not in ("ieee", "none")]
    return str(reduced[0]) if reduced else "fp32"


def _cuda_availability() -> Availability:
    """The driver is asked first: importing PyTorch takes seconds, and without a GPU it could only say no."""
    reason = nvidia.why_no_gpu()
    if reason:
        return Availability(False, reason, nvidia.DRIVER_FIX)
    import torch

    if torch.cuda.is_available():
        return Availability(True)
    if torch.version.cuda is None:
        return Availability(
            False, f"torch {torch.__version__} is built without CUDA", "pip install a build of torch with CUDA"
        )
    return Availability(False, "PyTorch finds no CUDA device", "run nvidia-smi: it names the driver and the GPU")


def _mode_of(options: Mapping[str, Any]) -> str:
    mode = options.get("session", {}).get("mode", MODES[0])
    if mode not in MODES:
        raise BundleRefused(f"the manifest asks for the mode {mode!r} of PyTorch", expected=f"one of: {MODES}")
    return str(mode)


def _require_cpp_compiler() -> None:
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise NotAvailable(
            f"torch.compile needs a C++ compiler, and {name} is not on PATH",
            expected="g++, or the one that the variable CXX names",
            fix="apt-get install g++, or --set torch.mode=eager",
        )


def _require_ours(program: Path) -> None:
    if not _voucher(program).exists():
        raise BundleRefused(
            f"{program} is an exported program that was not made here",
            expected="one that this avsdk made on this machine: such a file holds pickled parts, which is code",
            fix="avsdk bench MODEL --target torch, with the run, zoo name or module that it came from",
        )


def _voucher(program: Path) -> Path:
    return cache_home() / "programs" / sha256_file(program)


def _writable(array: Array) -> Array:
    """PyTorch warns of memory that it may not write to."""
    return np.require(array, requirements=["C", "W"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch warns about its own code when it loads and compiles programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
