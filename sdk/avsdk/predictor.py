"""Media in, answer out: what a bundle's graphs are for.

A predictor owns pre- and post-processing, loops and state between graphs; a session only runs one graph. There is one
per family and three generic ones; ``predictor_for`` finds the one that the manifest names.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Optional

from avsdk import plugins
from avsdk.bundle import Bundle
from avsdk.errors import SizeNotBuilt, UnknownName, UsageError
from avsdk.host import default_threads
from avsdk.session import Array, LoadedGraph
from avsdk.spec import ModelSpec

STAGES = ("preprocess", "infer", "postprocess")

Progress = Callable[[str, Optional[int]], AbstractContextManager[Callable[[int], None]]]
"""``progress(description, total)``: a context that gives ``advance(n)``, as ``avsdk.console.progress`` does."""


@dataclass(frozen=True)
class FileResult:
    """What became of one input file. ``latency_ms`` holds the mean per item (picture, frame, sample) of each stage.

    ``extra``: what a predictor found beside the answer, by name, as JSON values.
    """

    source: Path
    outputs: tuple[Path, ...]
    latency_ms: Mapping[str, float]
    items: int = 1
    notices: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def silent(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """The ``Progress`` that shows nothing."""
    del description, total
    yield lambda count: None


@dataclass
class Stopwatch:
    """Adds up the time of each stage, around it and never inside a session.

    Stages may run at the same time, each in one thread: their times then add up to more than what passed.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as part of the stage ``name``, one of ``STAGES`` or the caller's own."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def mean_ms(self, items: int) -> dict[str, float]:
        """Milliseconds per item of every stage."""
        return {name: 1000 * total / max(1, items) for name, total in self.seconds.items()}


class Predictor(ABC):
    """Runs the graphs of one bundle on media. Subclasses write ``__call__`` and ``_run_file``.

    ``known_settings`` maps each setting of ``--set`` to what it does; another one is an ``UnknownName``. ``suffixes``
    are the files of a folder that it takes.
    """

    known_settings: ClassVar[Mapping[str, str]] = {}
    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, spec: ModelSpec, graphs: Mapping[str, LoadedGraph], assets: Path, settings: Mapping[str, str]
    ) -> None:
        for name in settings:
            if name not in self.known_settings:
                raise UnknownName.among("setting", name, self.known_settings, fix="avsdk run --help")
        self.spec = spec
        self.graphs = graphs
        self.assets = assets
        self.settings = dict(settings)
        self.rebuild = "avsdk export MODEL --target T"
        self.watch = Stopwatch()
        self.notices: list[str] = []
        self.extra: dict[str, Any] = {}

    @abstractmethod
    def __call__(self, media: Any) -> Any:
        """The answer for media that is in memory already."""

    def accepts(self, media: Any) -> bool:
        """Whether the graphs were built for media of this size."""
        del media
        return True

    def output_name(self, source: Path) -> str:
        """The file that the answer for ``source`` gets in an output folder."""
        return source.name

    def run_file(self, source: Path, out: Path, progress: Progress | None = None) -> FileResult:
        """Read ``source``, write the answer to ``out`` whole or not at all.

        Raises ``UnusableInput`` for a damaged file, ``SizeNotBuilt``, ``DiskFull``, and ``SilentFallback`` before
        anything is written.
        """
        self.watch = Stopwatch()
        self.notices = []
        self.extra = {}
        items = self._run_file(source, out, progress)
        return FileResult(
            source, (out,), self.watch.mean_ms(items), items, tuple(dict.fromkeys(self.notices)), self.extra
        )

    def groups(self, jobs: Sequence[tuple[Path, Path]]) -> list[list[tuple[Path, Path]]]:
        """The jobs, each a source and its output, that ``run_group`` runs at once; by default one each."""
        return [[job] for job in jobs]

    def run_group(self, jobs: Sequence[tuple[Path, Path]], progress: Progress | None = None) -> list[FileResult]:
        """``run_file`` for the jobs of one group."""
        return [self.run_file(source, out, progress) for source, out in jobs]

    @abstractmethod
    def _run_file(self, source: Path, out: Path, progress: Progress | None) -> int:
        """Do ``run_file``; the number of items in the file."""

    def infer(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph, timed; loading it and reading back what executed are not part of the time."""
        loaded = self.graphs[graph]
        sizes = loaded.graph.sizes_of({name: array.shape for name, array in feeds.items()})
        try:
            session = loaded.session_for(sizes)
        except SizeNotBuilt as error:
            fix = error.fix.replace(f"avsdk export MODEL --target {loaded.artifacts[0].engine}", self.rebuild)
            raise SizeNotBuilt(error.failed, expected=error.expected, fix=fix) from error
        with self.watch.stage("infer"):
            outputs = session.run(feeds)
        session.execution()
        self.notices += session.remarks
        return outputs

    def executed(self) -> list[dict[str, str]]:
        """Per session: graph, engine, device and effective precision, read back from the runtime."""
        return [
            {
                "graph": name,
                "engine": session.engine,
                "device": session.execution().device,
                "effective_precision": session.effective_precision,
            }
            for name, loaded in self.graphs.items()
            for session in loaded.open_sessions()
        ]

    def close(self) -> None:
        """Free the runtimes' memory. Closing twice is fine."""
        for loaded in self.graphs.values():
            loaded.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def whole_setting(self, name: str, default: int, *, least: int = 1) -> int:
        """A setting that is a whole number."""
        text = self.settings.get(name, str(default))
        if not text.isdecimal() or int(text) < least:
            raise UsageError(f"the setting {name!r} is {text!r}", expected=f"a whole number from {least} on")
        return int(text)

    def chosen_setting(self, name: str, options: tuple[str, ...]) -> str:
        """A setting that is one of a few words; the first is the default."""
        text = self.settings.get(name, options[0])
        if text not in options:
            raise UnknownName.among(f"value of the setting {name!r}:", text, options)
        return text


def predictor_for(
    bundle: Bundle, *, threads: int | None = None, settings: Mapping[str, str] | None = None
) -> Predictor:
    """The predictor that the bundle's manifest names, with nothing opened yet.

    ``threads`` defaults to the cores one may use. Raises ``UnknownName`` for a setting that it does not have, and
    ``BundleRefused`` for steps that do not exist.
    """
    count = default_threads() if threads is None else threads
    if count < 1:
        raise UsageError(f"threads is {count}", expected="at least 1")
    manifest = bundle.manifest
    kind: type[Predictor] = plugins.load("predictors", manifest.spec.predictor)
    predictor = kind(manifest.spec, bundle.load_graphs(count), bundle.path / "assets", settings or {})
    source = manifest.source
    model = f"zoo:{source['name']}" if source.get("kind") == "zoo" else str(bundle.path)
    predictor.rebuild = f"avsdk export {model} --target {manifest.target}"
    return predictor
