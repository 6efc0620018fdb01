"""What the graphs of a model are fed on real media: the predictor runs on files, and every graph's inputs are kept.

The reference is the model in fp32 on ONNX Runtime. Whatever a family does before, between and after its graphs is done
by its own predictor, so calibration needs no code of a family. Runs in a child process.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk import plugins
from avsdk.bundle import Bundle, open_bundle
from avsdk.dtypes import LISTS
from avsdk.errors import Refused, UsageError
from avsdk.golden import write_golden
from avsdk.predictor import Predictor
from avsdk.session import LoadedGraph, Session
from avsdk.spec import GraphSpec, Sizes

Array = NDArray[Any]
Feeds = Mapping[str, Array]

_PER_FILE = 4
_CALLS = frozenset({0, 2, 8, 32})
"""Which of a graph's calls on one file are kept: early ones and late ones, for loops and for the frames of a clip."""
_LEAST_VALUES = 512
_SIGMAS = 5.0


class _Enough(Exception):
    """Every graph has given what is kept of a file; the rest of it need not run."""


@dataclass
class _Kept:
    """The inputs of each graph on the file that runs now."""

    graphs: int
    feeds: dict[str, list[dict[str, Array]]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def take(self, graph: str, feeds: Feeds) -> None:
        call = self.calls.get(graph, 0)
        self.calls[graph] = call + 1
        if call in _CALLS:
            self.feeds.setdefault(graph, []).append({name: np.array(array) for name, array in feeds.items()})
        if len(self.feeds) == self.graphs and all(len(taken) >= _PER_FILE for taken in self.feeds.values()):
            raise _Enough


class _Tapped(LoadedGraph):
    """A graph whose every run is seen by ``kept``."""

    kept: _Kept

    def session_for(self, sizes: Sizes) -> Session:
        """The session, with its ``run`` tapped."""
        session = super().session_for(sizes)
        if "run" not in vars(session):
            plain = session.run

            def run(feeds: Feeds) -> dict[str, Array]:
                outputs = plain(feeds)
                self.kept.take(self.graph.name, feeds)
                return outputs

            session.run = run  # type: ignore[method-assign]
        return session


def record(
    reference: str,
    groups: Mapping[str, Sequence[str]],
    wanted: Mapping[str, int],
    sizes: Mapping[str, Sequence[Mapping[str, int]]],
    threads: int,
    out: str,
) -> dict[str, Any]:
    """Write ``<out>/<group>/<graph>.npz`` of inputs and fp32 outputs, and say what was read.

    ``reference``: the fp32 bundle. ``groups``: files in the order in which they are tried, each once; ``wanted``: how
    many of each. ``sizes``: per graph the fixed sizes that will be built, to which inputs are cut or repeated.
    """
    bundle = open_bundle(Path(reference))
    report = {}
    tried: set[str] = set()
    for group, files in groups.items():
        tap = _Tap(bundle, threads, sizes)
        for file in files:
            if len(tap.files) == wanted[group]:
                break
            if file not in tried:
                tap.read(Path(file))
            tried.add(file)
        report[group] = tap.write(Path(out) / group)
    return report


class _Tap:
    """Runs the predictor on files and keeps what its graphs are fed."""

    def __init__(self, bundle: Bundle, threads: int, sizes: Mapping[str, Sequence[Mapping[str, int]]]) -> None:
        self.files: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        self._sizes = sizes
        spec = bundle.manifest.spec
        self._graphs: dict[str, LoadedGraph] = {}
        for graph in spec.graphs:
            artifacts = [item for item in bundle.manifest.artifacts if item.graph == graph.name]
            self._graphs[graph.name] = _Tapped(bundle.path, graph, artifacts, threads)
        kind: type[Predictor] = plugins.load("predictors", spec.predictor)
        settings = {"fit": "resize"} if "fit" in kind.known_settings else {}
        self._least_rank = 3 if spec.predictor == "tensor" else 2
        self._predictor = kind(spec, self._graphs, bundle.path / "assets", settings)
        self._feeds: dict[str, list[dict[str, Array]]] = {graph.name: [] for graph in spec.graphs}

    def read(self, file: Path) -> None:
        """Run one file; what cannot be read is noted and passed over."""
        kept = _Kept(len(self._graphs))
        for graph in self._graphs.values():
            assert isinstance(graph, _Tapped)
            graph.kept = kept
        with TemporaryDirectory(prefix="avsdk-calibration-") as folder:
            try:
                self._predictor.run_file(file, Path(folder) / self._predictor.output_name(file))
            except _Enough:
                pass
            except (UsageError, Refused) as error:
                self.unreadable.append((str(file), error.failed))
                return
        wrong = _not_finite(kept.feeds)
        if wrong:
            self.unreadable.append((str(file), f"its input {wrong!r} holds numbers that are not finite"))
            return
        self.files.append(str(file))
        for name, taken in kept.feeds.items():
            self._feeds[name] += taken

    def write(self, folder: Path) -> dict[str, Any]:
        """The recorded inputs at the sizes that are built, with the reference's answers."""
        folder.mkdir(parents=True, exist_ok=True)
        coverage, noise = {}, []
        for name, taken in self._feeds.items():
            loaded = LoadedGraph(
                self._graphs[name].root,
                self._graphs[name].graph,
                self._graphs[name].artifacts,
                self._graphs[name].threads,
            )
            fitted = _fitted(loaded.graph, taken, self._sizes.get(name, ()))
            write_golden(folder / f"{name}.npz", [(feeds, loaded.run(feeds)) for feeds in fitted])
            loaded.close()
            coverage[name] = {"samples": len(fitted), "inputs": _coverage(fitted)}
            noise.append(bool(fitted) and all(is_noise(feeds, self._least_rank) for feeds in fitted))
        self._predictor.close()
        return {
            "files": self.files,
            "unreadable": self.unreadable,
            "coverage": coverage,
            "noise": any(noise),
        }


def is_noise(feeds: Feeds, least_rank: int = 3) -> bool:
    """Whether each large input is white along every axis: independent random numbers, which no medium is.

    The correlation of neighbours in ``n`` independent numbers has the standard deviation ``1 / sqrt(n)``. Every fourth
    number is looked at too, since noise that was enlarged has like neighbours. Below ``least_rank`` an input may be
    anything, as a vector of features is; constants are no noise.
    """
    large = [
        np.asarray(array, np.float64)
        for array in feeds.values()
        if array.ndim >= least_rank and array.size >= _LEAST_VALUES
    ]
    return bool(large) and all(_is_white(array) or _is_white(_thinned(array)) for array in large)


def _thinned(array: NDArray[np.float64]) -> NDArray[np.float64]:
    return array[tuple(slice(None, None, 4 if size >= 64 else 1) for size in array.shape)]


def _is_white(array: NDArray[np.float64]) -> bool:
    centred = array - array.mean()
    variance = float((centred**2).mean())
    if variance == 0.0:
        return False
    for axis, size in enumerate(array.shape):
        if size < 8:
            continue
        ahead = np.take(centred, range(1, size), axis)
        behind = np.take(centred, range(size - 1), axis)
        if abs(float((ahead * behind).mean()) / variance) > _SIGMAS / np.sqrt(ahead.size):
            return False
    return True


def _not_finite(feeds: Mapping[str, Sequence[Feeds]]) -> str:
    for item in itertools.chain(*feeds.values()):
        for name, array in item.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return name
    return ""


def _fitted(graph: GraphSpec, taken: Sequence[Feeds], sizes: Sequence[Mapping[str, int]]) -> list[dict[str, Array]]:
    """Each sample at one of the built sizes, these in turn: cut where it is longer, begun again where it is shorter."""
    if not sizes or not graph.axes:
        return [dict(feeds) for feeds in taken]
    fitted = []
    for feeds, size in zip(taken, itertools.cycle(sizes)):
        shapes = {tensor.name: tensor.sized(size) for tensor in graph.inputs if tensor.dtype not in LISTS}
        fitted.append({name: _wrapped(array, shapes.get(name, array.shape)) for name, array in feeds.items()})
    return fitted


def _wrapped(array: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis)
    return np.ascontiguousarray(array)


def _coverage(fitted: Sequence[Feeds]) -> dict[str, dict[str, Any]]:
    """Per input what range of values and which shapes the samples cover."""
    found: dict[str, dict[str, Any]] = {}
    for name in fitted[0] if fitted else ():
        arrays = [feeds[name] for feeds in fitted]
        shapes = sorted({array.shape for array in arrays})
        entry: dict[str, Any] = {"shapes": [list(shape) for shape in shapes[:8]]}
        if arrays[0].dtype.kind in "fiu":
            entry["min"] = float(min(array.min() for array in arrays))
            entry["max"] = float(max(array.max() for array in arrays))
            entry["mean"] = float(np.mean([array.mean() for array in arrays]))
        found[name] = entry
    return found
