"""What a reader needs to judge a number, beside the number: the machine's state, the model, the runtime, its accuracy.

Everything is read from where the system or the bundle keeps it. What this system does not tell is None, never 0. Runs
on other machines too: Python 3.9, numpy and ``avsdk`` only.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from avsdk.bundle import Bundle
from avsdk.errors import NotAvailable
from avsdk.golden import PIPELINE
from avsdk.host import library_version
from avsdk.onnx_check import check_onnx
from avsdk.parity import Deviation
from avsdk.session import session_class

_ENVIRONMENT = re.compile(r"(OMP|MKL|OPENBLAS|GOMP|KMP)_[A-Z_]+|CUDA_VISIBLE_DEVICES|LD_PRELOAD|MALLOC_[A-Z_]+")
"""What changes how fast native code runs; the rest of a user's environment is nobody's business."""
_MOST_TEXT = 400


@dataclass(frozen=True)
class Machine:
    """The state of a machine that decides its speed. Temperatures in C, clocks in MHz; None where it is not told."""

    kernel: str
    governor: Optional[str] = None  # noqa: UP045  (read at run time, on Python 3.9 too)
    frequency_mhz: Optional[tuple[float, ...]] = None  # noqa: UP045
    microcode: Optional[str] = None  # noqa: UP045
    hypervisor: Optional[str] = None  # noqa: UP045
    threads_per_core: Optional[int] = None  # noqa: UP045
    cgroup_memory_mb: Optional[int] = None  # noqa: UP045
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    board: Optional[str] = None  # noqa: UP045


@dataclass(frozen=True)
class GraphFacts:
    """One ONNX graph, read without a native parser: ``operators`` counts nodes, ``size_mb`` is with all weights."""

    name: str
    sha256: str
    opset: int
    ir: int
    operators: Mapping[str, int]
    size_mb: float


@dataclass(frozen=True)
class Accuracy:
    """How far the bundle is from its fp32 reference, by its own record: the worst output; dB for ``snr_db``."""

    verdict: str
    executed_on: str
    reference: str = ""
    samples: int = 0
    reason: str = ""
    snr_db: Optional[float] = None  # noqa: UP045
    cosine: Optional[float] = None  # noqa: UP045
    max_rel: Optional[float] = None  # noqa: UP045
    agreement: Optional[float] = None  # noqa: UP045


@dataclass(frozen=True)
class RuntimeFacts:
    """What ran a cell: the runtime's version and build, and what its process was given. ``affinity``: processors."""

    engine: str
    version: str
    build: str
    python: str
    affinity: tuple[int, ...]
    environment: Mapping[str, str]


def machine(root: Path = Path("/")) -> Machine:
    """Read the state beneath ``root``, the root of the file system."""
    cpu = root / "sys/devices/system/cpu"
    clocks = [_number(cpu / "cpu0/cpufreq" / f"cpuinfo_{end}_freq") for end in ("min", "max")]
    siblings = _text(cpu / "cpu0/topology/thread_siblings_list")
    limit = _number(root / "sys/fs/cgroup/memory.max")
    board = _text(root / "sys/firmware/devicetree/base/model") or _text(root / "sys/class/dmi/id/product_name")
    return Machine(
        kernel=f"{platform.system()} {platform.release()}",
        governor=_text(cpu / "cpu0/cpufreq/scaling_governor") or None,
        frequency_mhz=tuple(value / 1000.0 for value in clocks if value is not None) or None,
        microcode=_cpuinfo(root, "microcode"),
        hypervisor=_hypervisor(root),
        threads_per_core=_count(siblings) if siblings else None,
        cgroup_memory_mb=int(limit) >> 20 if limit is not None else None,
        temperatures_c=dict(_temperatures(root)),
        board=board or None,
    )


def graph_facts(bundle: Bundle, graph: str) -> tuple[GraphFacts, ...]:
    """The ONNX graphs that a cell runs: one, or all of them for the pipeline."""
    manifest = bundle.manifest
    names = [name for name in manifest.model if graph in (PIPELINE, name)]
    found = []
    for name in names:
        file = manifest.model[name]
        found.append(facts_of_graph(name, bundle.file(file), manifest.files[file]))
    return tuple(found)


def facts_of_graph(name: str, onnx: Path, sha256: str) -> GraphFacts:
    """One ONNX file. Raises ``ModelRefused`` for a damaged or hostile one."""
    facts = check_onnx(onnx)
    operators = dict(sorted(facts.ops.items(), key=lambda item: (-item[1], item[0])))
    return GraphFacts(name, sha256, facts.opsets.get("", 0), facts.ir, operators, round(facts.size / 1e6, 3))


def accuracy_of(bundle: Bundle, graph: str) -> Accuracy:
    """The bundle's parity record as far as it concerns one graph; the pipeline's is that of all."""
    parity = bundle.manifest.parity
    outputs = [item for item in parity.outputs if graph == PIPELINE or item.graph == graph]
    worst: dict[str, Any] = _worst(outputs) if outputs else {}
    return Accuracy(parity.verdict, parity.executed_on, parity.reference, parity.samples, parity.reason, **worst)


def runtime_facts(engine: str) -> dict[str, Any]:
    """What runs this very process; called in the cell's. A cell without an engine of ours has no version to tell."""
    version, build = "", ""
    with contextlib.suppress(NotAvailable):
        kind = session_class(engine)
        version, build = kind.release(engine) or library_version(engine), kind.build()[:_MOST_TEXT]
    found = RuntimeFacts(
        engine=engine,
        version=version,
        build=build,
        python=platform.python_version(),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        environment={name: value for name, value in sorted(os.environ.items()) if _ENVIRONMENT.fullmatch(name)},
    )
    return {**vars(found), "affinity": list(found.affinity)}


def _worst(outputs: Sequence[Deviation]) -> dict[str, float | None]:
    agreements = [item.agreement for item in outputs if item.agreement is not None]
    return {
        "snr_db": round(min(item.snr_db for item in outputs), 2),
        "cosine": min(item.cosine for item in outputs),
        "max_rel": max(item.max_rel for item in outputs),
        "agreement": min(agreements) if agreements else None,
    }


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            yield f"{zone.name} {_text(zone / 'type')}".strip(), value / 1000.0


def _hypervisor(root: Path) -> Optional[str]:  # noqa: UP045
    """Its name where the system tells; ``yes`` where the processor says no more than that there is one."""
    named = _text(root / "sys/hypervisor/type") or _text(root / "sys/class/dmi/id/sys_vendor")
    flags = (_cpuinfo(root, "flags") or "").split()
    return (named or "yes") if "hypervisor" in flags else None


def _cpuinfo(root: Path, name: str) -> Optional[str]:  # noqa: UP045
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip() or None
    return None


def _count(listed: str) -> int:
    """How many numbers ``0-1`` or ``0,4`` lists."""
    ends = [part.partition("-") for part in listed.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def _number(path: Path) -> Optional[float]:  # noqa: UP045
    text = _text(path)
    return float(text) if re.fullmatch(r"-?[0-9]+", text) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""
