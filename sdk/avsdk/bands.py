"""Runs a graph on a picture of any size within a memory limit: whole where that fits, else stage by stage in bands.

The bands of a stage are rows of the full width with a halo on either side, so that what is kept of each is what the
uncut graph computes there; moments of whole maps are gathered between the stages, row by row in float32 and over the
rows in float64. What it needs is reckoned beforehand from the maps' sizes, on the safe side.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import numpy as np

from avsdk.arrays import read_arrays
from avsdk.errors import BundleRefused, UsageError
from avsdk.files import typed_write_errors
from avsdk.onnx_check import check_onnx
from avsdk.session import Array, Artifact, Execution, Session, session_class
from avsdk.stages import Norm, Stage, Stages

BASE_MB = 350
"""What Python, a runtime, OpenCV and the weights take before any picture."""
PICTURE_BYTES = 64
"""Per pixel: the picture in 8 bits, as a tensor, its answer, and the copies that postprocessing makes."""
_MB = 1 << 20
_HOST_BYTES = 1.0
"""Copies of a band's inputs and outputs that are made around the runtime, as a share of what the stage holds."""
_MOST_ROWS = 512
"""Taller bands save nothing: the halo is small already."""

Timed = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class MemoryPlan:
    """How a picture is run: ``way`` is ``whole``, ``bands``, or ``bands on disk`` where the maps between are in files.

    ``expected_mb``: the peak that is reckoned with; ``whole_mb``: that of the uncut graph; ``frames``: how many such
    pictures fit at once, whole; ``rows``: of the picture, in the tallest band of each stage.
    """

    way: str
    limit_mb: int
    expected_mb: int
    whole_mb: int
    frames: int = 1
    rows: tuple[int, ...] = ()

    def notice(self) -> str:
        """What was done, for the one who set the limit."""
        if self.way == "whole":
            return f"ran whole: about {self.expected_mb} MB of {self.limit_mb} MB"
        kept = ", the maps between them in temporary files" if self.way == "bands on disk" else ""
        return (
            f"ran in bands of {min(self.rows)} to {max(self.rows)} rows{kept}: about {self.expected_mb} MB of "
            f"{self.limit_mb} MB; whole it would take about {self.whole_mb} MB"
        )


def plan_memory(
    stages: Stages, artifact: Artifact, height: int, width: int, limit_mb: int, *, admits: bool = True
) -> MemoryPlan:
    """Choose how a picture runs within the limit; ``admits``: whether the uncut graph takes this size.

    Raises ``UsageError`` with the least limit that would do where even bands on disk are too large, and for a size
    that cannot be cut.
    """
    factor = session_class(artifact.engine).memory_factor
    pixels = height * width
    around_mb = BASE_MB + PICTURE_BYTES * pixels / _MB
    whole_mb = math.ceil(around_mb + factor * stages.bytes_per_pixel * pixels / _MB)
    if admits and whole_mb <= limit_mb:
        return MemoryPlan("whole", limit_mb, whole_mb, whole_mb, (limit_mb - BASE_MB) // (whole_mb - BASE_MB))
    cuts = height % stages.multiple_of == 0 and width % stages.multiple_of == 0
    kept_mb = stages.kept_bytes(height, width) / _MB
    for way, fixed_mb in (("bands", around_mb + kept_mb), ("bands on disk", around_mb)):
        rows = [_rows_within(stage, stages, width, factor, limit_mb - fixed_mb, height) for stage in stages.stages]
        if cuts and all(rows):
            used = [_band_mb(stage, count, width, factor) for stage, count in zip(stages.stages, rows)]
            return MemoryPlan(way, limit_mb, math.ceil(fixed_mb + max(used)), whole_mb, 1, tuple(rows))
    least = [_band_mb(stage, stages.multiple_of, width, factor) for stage in stages.stages]
    least_mb = math.ceil(around_mb + max(least)) if cuts else whole_mb
    least_mb = min(whole_mb, least_mb) if admits else least_mb
    raise UsageError(
        f"a picture of {width}x{height} pixels does not fit into {limit_mb} MB",
        expected=f"a limit of at least {least_mb} MB",
        fix=f"--max-memory-mb {least_mb}, or scale the picture down",
    )


def _band_mb(stage: Stage, rows: int, width: int, factor: float) -> float:
    return (factor + _HOST_BYTES) * stage.bytes_per_pixel * (rows + 2 * stage.halo) * width / _MB


def _rows_within(stage: Stage, stages: Stages, width: int, factor: float, room_mb: float, height: int) -> int:
    """The tallest band that fits; 0 where none does."""
    per_row_mb = (factor + _HOST_BYTES) * stage.bytes_per_pixel * width / _MB
    rows = int(room_mb / per_row_mb) - 2 * stage.halo
    return max(0, min(rows, _MOST_ROWS, height) // stages.multiple_of * stages.multiple_of)


class BandedGraph:
    """One graph of a bundle in bands; ``artifact`` says which engine, device and precision run the stages.

    Raises ``BundleRefused`` for an artifact whose engine does not run stages as they are: no export makes such a
    bundle.
    """

    def __init__(self, root: Path, stages: Stages, artifact: Artifact, threads: int) -> None:
        opens = session_class(artifact.engine).opens_onnx(artifact.device, artifact.precision)
        if not opens or artifact.shapes is not None:
            raise BundleRefused(
                f"the manifest has stages for {artifact.engine}:{artifact.device} at {artifact.precision}",
                expected="an engine and a precision that run ONNX stages of any size",
                fix="export it again",
            )
        self.root = root
        self.stages = stages
        self.artifact = artifact
        self.threads = threads
        self.executed: list[Execution] = []
        self._parameters: dict[str, Array] = {}
        self._channels = {item.name: item.shape[1] for stage in stages.stages for item in stage.graph.outputs}

    def plan(self, height: int, width: int, limit_mb: int, *, admits: bool = True) -> MemoryPlan:
        """See ``plan_memory``."""
        return plan_memory(self.stages, self.artifact, height, width, limit_mb, admits=admits)

    def narrowest(self) -> MemoryPlan:
        """Bands as narrow as they can be, for a test."""
        rows = (self.stages.multiple_of,) * len(self.stages.stages)
        return MemoryPlan("bands", 0, 0, 0, rows=rows)

    def describe(self) -> dict[str, str]:
        """What executed the stages of the last run: graph, engine, device and effective precision."""
        return {
            "graph": self.stages.stages[0].graph.name.rpartition(".")[0],
            "engine": self.artifact.engine,
            "device": self.executed[0].device,
            "effective_precision": " | ".join(dict.fromkeys(item.effective_precision for item in self.executed)),
        }

    def run(self, picture: Array, plan: MemoryPlan, timed: Timed) -> Array:
        """The answer for one picture (1, channels, height, width); ``timed`` is entered around all that it takes.

        The stages are opened anew for every picture, so that too is its time.
        """
        self._read_parameters()
        self.executed.clear()
        height, width = picture.shape[2:]
        if height % self.stages.multiple_of or width % self.stages.multiple_of:
            raise UsageError(
                f"a picture of {width}x{height} pixels cannot run in bands",
                expected=f"sides that are multiples of {self.stages.multiple_of}",
            )
        last = self.stages.last_use()
        norms = {norm.result: norm for norm in self.stages.norms}
        whole = _InMemory(np.ascontiguousarray(picture[0].transpose(1, 0, 2)))
        with ExitStack() as exits, typed_write_errors(Path(tempfile.gettempdir())):
            kept: dict[str, _Kept] = {self.stages.stages[0].graph.inputs[0].name: whole}
            for index, (stage, rows) in enumerate(zip(self.stages.stages, plan.rows)):
                for item in stage.graph.outputs:
                    step = self.stages.rows[item.name]
                    shape = (height // step, int(item.shape[1]), width // step)
                    on_disk = plan.way == "bands on disk" and index + 1 < len(self.stages.stages)
                    kept[item.name] = _OnDisk(shape, exits) if on_disk else _InMemory(np.empty(shape, np.float32))
                self._run_stage(stage, rows, height, kept, norms, timed)
                for name in [name for name in kept if last.get(name, len(self.stages.stages)) <= index]:
                    kept.pop(name).close()
            (answer,) = (kept[item.name].read(0, height) for item in self.stages.stages[-1].graph.outputs)
        return np.ascontiguousarray(answer.transpose(1, 0, 2))[np.newaxis]

    def open_all(self) -> None:
        """Open and close every stage, and read the parameters of the norms: for the first load."""
        self._read_parameters()
        for stage in self.stages.stages:
            self._open(stage).close()

    def _read_parameters(self) -> None:
        """Scale and bias of every norm. Raises ``BundleRefused`` where they do not fit."""
        file = self.root / self.stages.parameters

        def wrong(reason: str) -> BundleRefused:
            return BundleRefused(
                f"{file} cannot be used: {reason}", expected="scale and bias of every norm", fix="export it again"
            )

        self._parameters = read_arrays(file, wrong)
        channels = self._channels
        for norm in self.stages.norms:
            for name in (f"{norm.result}.scale", f"{norm.result}.bias"):
                found = self._parameters.get(name)
                if found is None or found.shape != (channels.get(norm.source),) or found.dtype.kind != "f":
                    raise wrong(f"{name!r} is {'absent' if found is None else f'{found.dtype} {list(found.shape)}'}")

    def _run_stage(
        self, stage: Stage, rows: int, height: int, kept: Mapping[str, _Kept], norms: Mapping[str, Norm], timed: Timed
    ) -> None:
        with timed():
            session = self._open(stage)
        with session:
            for start in range(0, height, rows):
                end = min(start + rows, height)
                low, high = max(0, start - stage.halo), min(height, end + stage.halo)
                with timed():
                    feeds = {item.name: self._band(item.name, low, high, kept, norms) for item in stage.graph.inputs}
                    found = session.run(feeds)
                    for name, array in found.items():
                        step = self.stages.rows[name]
                        self._check_band(name, array, kept[name].width, (high - low) // step)
                        kept[name].write(start // step, array[0, :, (start - low) // step : (end - low) // step])
                del feeds, found
            self.executed.append(session.execution())

    def _check_band(self, name: str, array: Array, width: int, rows: int) -> None:
        """A stage from a stranger may say one thing of its maps, and make another."""
        channels = self._channels[name]
        if array.shape != (1, channels, rows, width) or array.dtype != np.float32:
            raise BundleRefused(
                f"a stage made {name!r} as {array.dtype} {list(array.shape)}",
                expected=f"float32 [1, {channels}, {rows}, {width}]",
                fix="export it again",
            )

    def _open(self, stage: Stage) -> Session:
        if check_onnx(self.root / stage.file).external:
            raise BundleRefused(f"{stage.file} keeps weights in another file", expected="one file per stage")
        settings = {name: said for name, said in self.artifact.options.items() if name == "session"}
        artifact = replace(self.artifact, graph=stage.graph.name, files=(stage.file,), options=settings)
        return session_class(artifact.engine).open(self.root, artifact, stage.graph, self.threads)

    def _band(self, name: str, low: int, high: int, kept: Mapping[str, _Kept], norms: Mapping[str, Norm]) -> Array:
        """Rows of a map (1, channels, rows, width), of the picture's rows from ``low`` to ``high``; normed if asked."""
        norm = norms.get(name)
        source = kept[norm.source if norm else name]
        step = self.stages.rows[norm.source if norm else name]
        band = source.read(low // step, high // step).transpose(1, 0, 2)
        if norm is None:
            return np.ascontiguousarray(band)[np.newaxis]
        mean, variance = source.moments.result()
        scale = self._parameters[f"{name}.scale"].astype(np.float64) / np.sqrt(variance + norm.epsilon)
        shift = self._parameters[f"{name}.bias"].astype(np.float64) - mean * scale
        normed = np.multiply(band, scale.astype(np.float32)[:, None, None], order="C")
        normed += shift.astype(np.float32)[:, None, None]
        return normed[np.newaxis]


class _Moments:
    """Mean and variance per channel of a map that comes in bands (Chan, Golub and LeVeque 1979, eq. 2.1)."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, band: Array) -> None:
        """Rows (channels, rows, width): each row's moments in float32, together in float64."""
        width = band.shape[2]
        for row in range(band.shape[1]):
            values = band[:, row]
            mean = values.mean(axis=1, dtype=np.float32)
            centred = values - mean[:, None]
            squares = np.einsum("cw,cw->c", centred, centred).astype(np.float64)
            delta = mean.astype(np.float64) - self._mean
            total = self._count + width
            self._mean += delta * (width / total)
            self._squares += squares + delta**2 * (self._count * width / total)
            self._count = total

    def result(self) -> tuple[Array, Array]:
        """Mean and biased variance."""
        return self._mean, self._squares / max(1, self._count)


class _Kept:
    """A map between two stages, rows first: (rows, channels, width)."""

    def __init__(self, channels: int, width: int) -> None:
        self.moments = _Moments(channels)
        self.width = width

    def read(self, low: int, high: int) -> Array:
        """Rows ``low`` to ``high``."""
        raise NotImplementedError

    def write(self, low: int, band: Array) -> None:
        """Rows from ``low`` on, of a band (channels, rows, width); every row once, from the top."""
        raise NotImplementedError

    def close(self) -> None:
        """Free it."""


class _InMemory(_Kept):
    def __init__(self, held: Array) -> None:
        super().__init__(held.shape[1], held.shape[2])
        self._held = held

    def read(self, low: int, high: int) -> Array:
        return self._held[low:high]

    def write(self, low: int, band: Array) -> None:
        self.moments.add(band)
        self._held[low : low + band.shape[1]] = band.transpose(1, 0, 2)


class _OnDisk(_Kept):
    """A file without a name, so that nothing stays behind."""

    def __init__(self, shape: tuple[int, int, int], exits: ExitStack) -> None:
        super().__init__(shape[1], shape[2])
        self._row = shape[1:]
        self._row_bytes = 4 * shape[1] * shape[2]
        self._file = exits.enter_context(tempfile.TemporaryFile(prefix="avsdk-map-"))  # noqa: SIM115

    def read(self, low: int, high: int) -> Array:
        band = np.empty((high - low, *self._row), np.float32)
        self._file.seek(low * self._row_bytes)
        count = self._file.readinto(band.reshape(-1).data.cast("B"))
        assert count == band.nbytes
        return band

    def write(self, low: int, band: Array) -> None:
        self.moments.add(band)
        self._file.seek(low * self._row_bytes)
        self._file.write(np.ascontiguousarray(band.transpose(1, 0, 2)).reshape(-1).data.cast("B"))
        self._file.flush()  # a full disk is met here, not when the file is closed

    def close(self) -> None:
        self._file.close()
