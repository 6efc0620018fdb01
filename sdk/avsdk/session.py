"""The device half of an engine: a session loads one artifact of one graph and runs it.

``Session`` checks what goes in and what comes out, so that an engine writes four short hooks. A session never times
itself and never changes device, precision or size behind the caller's back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from avsdk import plugins
from avsdk.dtypes import LISTS, numpy_dtype
from avsdk.errors import AvsdkError, BundleRefused, NotAvailable, SizeNotBuilt, UsageError
from avsdk.precision import check_executed, describe_shares
from avsdk.requirements import Requirements, installed_release, require, this_machine
from avsdk.schema import decode
from avsdk.spec import GraphSpec, Sizes
from avsdk.stages import Stages

Array = NDArray[Any]
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Artifact:
    """One graph, compiled for one engine and device at one set of sizes.

    ``files`` are relative to the bundle. ``shapes`` holds one size per dynamic axis; None where the axes stay dynamic.
    """

    graph: str
    engine: str
    device: str
    precision: str
    files: tuple[str, ...]
    shapes: Optional[Mapping[str, int]] = None  # noqa: UP045  (read at run time, on Python 3.9 too)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run on a device here; when not, why, and the exact line that would fix it."""

    ok: bool
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Execution:
    """What executed, read back from the runtime.

    ``placement``: share of operations per device; ``precision_shares``: share of FLOPs per precision;
    ``weights``: the precision that weights are stored in, where it differs from the one computed in.
    """

    device: str
    placement: Mapping[str, float]
    precision_shares: Mapping[str, float]
    weights: str = ""

    @property
    def effective_precision(self) -> str:
        """The shares as one phrase: ``bf16``, ``int8 (92 %) + fp32``, ``fp32 (fp16 weights)``."""
        return describe_shares(self.precision_shares, weights=self.weights)


class Session(ABC):
    """One graph, ready to run. Subclasses set ``engine`` and write the hooks; callers ``open``, ``run``, ``close``.

    ``runtime_errors`` are what the runtime raises when a run fails, as for want of memory. ``remarks`` are what the
    user of a run should know of how the artifact was loaded, as that a compiled model came from a cache.
    ``memory_factor``: the most that a run takes, as a multiple of the maps that a graph holds at once (measured; 2 for
    an allocator that doubles).
    """

    engine: str
    memory_factor: float = 2.0
    remarks: tuple[str, ...] = ()
    runtime_errors: tuple[type[Exception], ...] = (RuntimeError, MemoryError)

    def __init__(self, root: Path, artifact: Artifact, graph: GraphSpec, threads: int) -> None:
        self.root = root
        self.artifact = artifact
        self.graph = graph
        self.threads = threads
        self._executed: Execution | None = None
        self._closed = False

    @classmethod
    def open(cls, root: Path, artifact: Artifact, graph: GraphSpec, threads: int) -> Session:
        """Load the artifact.

        Raises ``NotAvailable`` when the runtime or the device is not here, or is another than the artifact was built
        for; the latter before the runtime sees it.
        """
        state = cls.availability(artifact.device)
        if not state.ok:
            raise NotAvailable(f"{cls.engine}:{artifact.device} cannot run here: {state.reason}", fix=state.fix)
        session = cls(root, artifact, graph, threads)
        require(
            session.requirements(),
            this_machine(cls.release),
            what=f"the {cls.engine} artifact of graph {graph.name!r}",
            rebuild=f"build it for what is here: avsdk export {root} --target {cls.engine}:{artifact.device}",
        )
        session._open()
        return session

    @classmethod
    @abstractmethod
    def availability(cls, device: str) -> Availability:
        """Whether this engine can run on ``device`` here; imports the runtime if need be, never raises."""

    @classmethod
    def python(cls) -> tuple[str, ...]:
        """The words that start the Python which this engine's runtime lives in; empty where that is this one.

        A session opened here starts it by itself; a measurement moves there, so that it times the runtime alone.
        """
        return ()

    @classmethod
    def stand_in(cls, device: str) -> Mapping[str, str]:
        """The environment in which this engine runs what is built for ``device`` on this processor; empty for none.

        What ran so proves the numbers, not the device: the session says ``cpu``.
        """
        del device
        return {}

    def requests(self) -> int:
        """How many runs may execute side by side, each called from a thread of its own."""
        return 1

    @classmethod
    def opens_onnx(cls, device: str, precision: str) -> bool:
        """Whether an ONNX file in fp32 is an artifact as it is: only then can it run in bands (``avsdk.stages``)."""
        del device, precision
        return False

    @classmethod
    def release(cls, name: str) -> str:
        """The version of the package ``name`` where the session runs; empty where it is not known."""
        return installed_release(name)

    @classmethod
    def build(cls) -> str:
        """How the runtime was built, in its own words; empty where it does not tell."""
        return ""

    def requirements(self) -> Requirements:
        """What the artifact needs of this machine, by its options."""
        return Requirements.of(self.artifact.options)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Raises ``UsageError`` for a wrong name or dtype and for a closed session, ``SizeNotBuilt`` for a size that the
        artifact lacks, and ``NotAvailable`` where the runtime cannot run it, as for want of memory.
        """
        sizes = self._check_feeds(feeds)
        if self._closed:
            raise UsageError(
                f"the session of graph {self.graph.name!r} on {self.engine}:{self.artifact.device} is closed",
                expected="an open session",
                fix="open it again",
            )
        try:
            outputs = self._run(feeds)
        except self.runtime_errors as error:
            where = f"{self.engine}:{self.artifact.device}"
            raise NotAvailable(
                f"{where} could not run graph {self.graph.name!r} at {_axes(sizes)}: {_first_line(error)}",
                expected="enough memory, and operations that this runtime knows",
                fix="try a smaller size or batch, or another target: avsdk doctor",
            ) from error
        self._check_outputs(outputs, sizes)
        return outputs

    def check(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Every check that ``run`` makes of what goes in and comes out; for who wants to know what they cost."""
        self._check_outputs(outputs, self._check_feeds(feeds))

    def execution(self) -> Execution:
        """What executed, read back from the runtime.

        Raises ``SilentFallback`` if it is not what the artifact was built for.
        """
        if self._executed is None:
            found = self._execution()
            where = f"graph {self.graph.name!r} on {self.engine}:{self.artifact.device}"
            check_executed(self.artifact.precision, found.precision_shares, where=where)
            self._executed = found
        return self._executed

    @property
    def effective_precision(self) -> str:
        """The precision that executed, as one phrase."""
        return self.execution().effective_precision

    def close(self) -> None:
        """Free the runtime's memory. Closing twice is fine."""
        self._closed = True
        self._close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _open(self) -> None:
        """Load ``self.artifact`` from ``self.root`` with ``self.threads`` threads."""

    @abstractmethod
    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph; inputs are checked already."""

    @abstractmethod
    def _execution(self) -> Execution:
        """Read device and precision back from the runtime."""

    @abstractmethod
    def _close(self) -> None:
        """Free what ``_open`` made."""

    def example_sizes(self) -> dict[str, int]:
        """Sizes this artifact runs at: its own fixed ones, else the spec's defaults."""
        return self.graph.complete_sizes(self.artifact.shapes or {})

    def example_feeds(self) -> dict[str, Array]:
        """Zeros of the example sizes, for a first run that only inspects."""
        sizes = self.example_sizes()
        return {tensor.name: np.zeros(tensor.sized(sizes), numpy_dtype(tensor.dtype)) for tensor in self.graph.inputs}

    def _require_tensors(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Refuse an artifact that lacks a tensor of the manifest."""
        taken, given = set(inputs), set(outputs)
        lacking = {tensor.name for tensor in self.graph.inputs} - taken
        lacking |= {tensor.name for tensor in self.graph.outputs} - given
        if lacking:
            raise BundleRefused(
                f"{self.file().name} has no tensor {sorted(lacking)[0]!r}, which the manifest names",
                expected=f"inputs {sorted(taken)}, outputs {sorted(given)}, as the file has them",
                fix="get a whole copy of the bundle, or export it again",
            )

    def file(self, index: int = 0) -> Path:
        """The artifact's file at ``index``. Raises ``BundleRefused`` for an artifact that lists fewer."""
        if index >= len(self.artifact.files):
            raise BundleRefused(
                f"the {self.engine} artifact of graph {self.graph.name!r} lists {len(self.artifact.files)} files",
                expected=f"at least {index + 1}",
                fix="get a whole copy of the bundle, or export it again",
            )
        return self.root / self.artifact.files[index]

    def option(self, name: str, kind: Any, default: object) -> Any:
        """The artifact's option of that name, read strictly as ``schema.decode`` reads: a manifest is untrusted."""
        return decode(kind, self.artifact.options.get(name, default), where=f"options.{name}", refused=BundleRefused)

    def built_shares(self) -> dict[str, float]:
        """The share of FLOPs per precision by the types in the model, for a runtime that obeys them and shows none."""
        shares: dict[str, float] = self.option("precision_shares", Mapping[str, float], {})
        if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + _ROUNDING:
            raise BundleRefused(
                f"options.precision_shares is {shares}",
                expected="shares from 0 to 1 that make up no more than 1",
                fix="export the bundle again",
            )
        return shares

    def _check_feeds(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        wanted = {tensor.name: tensor for tensor in self.graph.inputs}
        if set(feeds) != set(wanted):
            raise UsageError(
                f"graph {self.graph.name!r} was fed {sorted(feeds)}", expected=f"the inputs {sorted(wanted)}"
            )
        for name, tensor in wanted.items():
            if tensor.dtype not in LISTS and feeds[name].dtype != numpy_dtype(tensor.dtype):
                raise UsageError(f"input {name!r} has dtype {feeds[name].dtype}", expected=tensor.dtype)
        sizes = self.graph.sizes_of({name: np.shape(feeds[name]) for name in feeds if wanted[name].dtype not in LISTS})
        if self.artifact.shapes is not None and dict(self.artifact.shapes) != sizes:
            raise SizeNotBuilt(
                f"graph {self.graph.name!r} got {_axes(sizes)}",
                expected=f"{_axes(self.artifact.shapes)}, the size this {self.engine} artifact was built at",
                fix="build that size: avsdk export MODEL --target ... --axis " + _axes(sizes),
            )
        return sizes

    def _check_outputs(self, outputs: Mapping[str, Array], sizes: Sizes) -> None:
        for tensor in self.graph.outputs:
            found = outputs[tensor.name]
            if tensor.dtype not in LISTS and all(isinstance(axis, int) or axis in sizes for axis in tensor.shape):
                wanted = tensor.sized(sizes)
                if found.shape != wanted:
                    raise AvsdkError(
                        f"{self.engine} returned {tensor.name!r} with shape {list(found.shape)}",
                        expected=str(list(wanted)),
                    )


def session_class(engine: str) -> type[Session]:
    """The session of an engine. Raises ``NotAvailable`` for one that this avsdk does not have."""
    known = plugins.list_names("engines")
    if engine not in known:
        raise NotAvailable(
            f"this avsdk has no engine {engine!r}",
            expected=f"one of: {', '.join(known)}",
            fix="install the package that brings the engine, or export for another target",
        )
    found: type[Session] = plugins.load("engines", engine)
    return found


class LoadedGraph:
    """One graph of a bundle: a session per built size, opened when it is first needed.

    ``stages``: how the graph runs in bands, where the bundle says.
    """

    def __init__(
        self,
        root: Path,
        graph: GraphSpec,
        artifacts: Sequence[Artifact],
        threads: int,
        stages: Stages | None = None,
    ) -> None:
        self.root = root
        self.graph = graph
        self.artifacts = tuple(artifacts)
        self.threads = threads
        self.stages = stages
        self._sessions: dict[int, Session] = {}

    @property
    def built_sizes(self) -> tuple[dict[str, int], ...]:
        """The sizes that were built; empty where the axes are dynamic."""
        return tuple(dict(item.shapes) for item in self.artifacts if item.shapes is not None)

    def session_for(self, sizes: Sizes) -> Session:
        """The session whose artifact runs at ``sizes``. Raises ``SizeNotBuilt`` with the line that would build it."""
        for index, artifact in enumerate(self.artifacts):
            if artifact.shapes is None or dict(artifact.shapes) == dict(sizes):
                if index not in self._sessions:
                    engine = session_class(artifact.engine)
                    self._sessions[index] = engine.open(self.root, artifact, self.graph, self.threads)
                return self._sessions[index]
        first = self.artifacts[0]
        raise SizeNotBuilt(
            f"graph {self.graph.name!r} was not built for {_axes(sizes)}",
            expected=f"one of the built sizes: {'; '.join(_axes(size) for size in self.built_sizes)}",
            fix=f"avsdk export MODEL --target {first.engine} --axis {_axes(sizes)}, or run with --set fit=resize",
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the artifact that fits the shapes of ``feeds``."""
        sizes = self.graph.sizes_of({name: array.shape for name, array in feeds.items()})
        return self.session_for(sizes).run(feeds)

    @property
    def is_open(self) -> bool:
        """Whether a session was opened."""
        return bool(self._sessions)

    def open_sessions(self) -> tuple[Session, ...]:
        """The sessions opened so far; the first artifact's where none was needed yet."""
        if not self._sessions:
            self.session_for(self.artifacts[0].shapes or self.graph.default_sizes())
        return tuple(self._sessions.values())

    def close(self) -> None:
        """Close every session that was opened."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _axes(sizes: Sizes) -> str:
    shown = {name: size for name, size in sizes.items() if not (name == "batch" and size == 1)}
    return ",".join(f"{name}={size}" for name, size in (shown or sizes).items())
