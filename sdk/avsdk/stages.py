"""A graph cut at its instance norms into stages, so that a picture of any size can run in bands of rows.

An instance norm needs mean and variance of a whole map; what lies between two of them is convolutions, which need only
a few rows around each row. So a stage runs band after band, its maps are kept, and the moments of the whole map are
known before the next stage reads them. Nothing is approximated: the operations are those of the uncut graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from avsdk.spec import GraphSpec

_MOST_HALO = 1 << 14
_LEAST_BYTES = 1e-3


@dataclass(frozen=True)
class Norm:
    """One instance norm: the map that it reads, the name of what it gives, and its epsilon.

    Its scale and bias per channel are the arrays ``<result>.scale`` and ``<result>.bias`` of ``Stages.parameters``.
    """

    source: str
    result: str
    epsilon: float


@dataclass(frozen=True)
class Stage:
    """One piece of the graph, an ONNX file of its own.

    ``halo``: rows of the picture on either side of a band that its answer depends on. ``bytes_per_pixel``: what it
    holds at once, inputs and outputs included, per pixel of the picture.
    """

    file: str
    graph: GraphSpec
    halo: int
    bytes_per_pixel: float


@dataclass(frozen=True)
class Stages:
    """How one graph runs in bands.

    ``rows``: rows of the picture per row of each map. ``multiple_of``: bands start at multiples of this many rows of
    the picture. ``bytes_per_pixel``: what the uncut graph holds at once, per pixel of the picture.
    """

    rows: Mapping[str, int]
    norms: tuple[Norm, ...]
    parameters: str
    stages: tuple[Stage, ...]
    multiple_of: int
    bytes_per_pixel: float

    def files(self) -> tuple[str, ...]:
        """Every file that it names."""
        return (*(stage.file for stage in self.stages), self.parameters)

    def problem(self, whole: GraphSpec) -> str:
        """What makes no sense, for a manifest from a stranger; else empty."""
        if whole.problem():
            return whole.problem()
        if len(whole.inputs) != 1 or len(whole.outputs) != 1:
            return f"the graph has {len(whole.inputs)} inputs and {len(whole.outputs)} outputs, not one of each"
        if not self.stages or self.multiple_of < 1 or not _LEAST_BYTES <= self.bytes_per_pixel < 1e9:
            return "it has no stages, or sizes out of range"
        if not all(0 < norm.epsilon < 1 for norm in self.norms):
            return f"its norms have the epsilons {sorted({norm.epsilon for norm in self.norms})[:3]}"
        sources = {norm.result: norm.source for norm in self.norms}
        made = {whole.inputs[0].name}
        for stage in self.stages:
            if stage.graph.problem():
                return stage.graph.problem()
            if (
                not 0 <= stage.halo <= _MOST_HALO
                or stage.halo % self.multiple_of
                or not _LEAST_BYTES <= stage.bytes_per_pixel < 1e9
            ):
                return f"stage {stage.graph.name!r} has the halo {stage.halo} and {stage.bytes_per_pixel} bytes a pixel"
            for tensor in (*stage.graph.inputs, *stage.graph.outputs):
                rows = self.rows.get(sources.get(tensor.name, tensor.name), 0)
                if (
                    rows < 1
                    or self.multiple_of % rows
                    or len(tensor.shape) != 4
                    or not isinstance(tensor.shape[1], int)
                    or tensor.shape[1] < 1
                    or tensor.dtype != "float32"
                ):
                    return f"the map {tensor.name!r} is {list(tensor.shape)}, a row for every {rows} of the picture"
            unmade = [item.name for item in stage.graph.inputs if sources.get(item.name, item.name) not in made]
            if unmade:
                return f"stage {stage.graph.name!r} reads {unmade[0]!r} before it is made"
            twice = [item.name for item in stage.graph.outputs if item.name in made]
            if twice:
                return f"stage {stage.graph.name!r} makes {twice[0]!r}, which is there already"
            made |= {item.name for item in stage.graph.outputs}
        return self._problem_of_answer(whole)

    def _problem_of_answer(self, whole: GraphSpec) -> str:
        last, wanted = self.stages[-1].graph.outputs, whole.outputs[0]
        if [item.name for item in last] != [wanted.name] or last[0].shape[1] != wanted.shape[1]:
            return f"the last stage makes {[item.name for item in last]}, not {wanted.name!r} alone"
        if self.rows[wanted.name] != 1:
            return f"the answer {wanted.name!r} has a row for every {self.rows[wanted.name]} of the picture"
        return ""

    def last_use(self) -> Mapping[str, int]:
        """The last stage that reads each map; a map that is only an answer is not in it."""
        sources = {norm.result: norm.source for norm in self.norms}
        return {
            sources.get(item.name, item.name): index
            for index, stage in enumerate(self.stages)
            for item in stage.graph.inputs
        }

    def kept_bytes(self, height: int, width: int) -> int:
        """The most that all maps which are kept between the stages hold at once."""
        return max(self._kept_at(height, width))

    def _kept_at(self, height: int, width: int) -> Iterator[int]:
        last = self.last_use()
        kept: dict[str, int] = {}
        for index, stage in enumerate(self.stages):
            for item in stage.graph.outputs:
                step = self.rows[item.name]
                kept[item.name] = 4 * int(item.shape[1]) * (height // step) * (width // step)
            yield sum(kept.values())
            kept = {name: size for name, size in kept.items() if last.get(name, len(self.stages)) > index}
