"""``avsdk run`` without its printing: many inputs through one predictor, one bad file does not stop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsdk import console
from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError, DiskFull, NotMet, UnusableInput, UsageError
from avsdk.first_load import require_loads
from avsdk.host import default_threads
from avsdk.predictor import STAGES, FileResult, Predictor, predictor_for


@dataclass(frozen=True)
class Failure:
    """An input that no answer came of, and why."""

    source: Path
    error: AvsdkError


@dataclass
class RunReport:
    """What became of all inputs of one command."""

    results: list[FileResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    graphs: list[dict[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def latency_ms(self) -> dict[str, float]:
        """Mean milliseconds per item over all files, per stage."""
        items = sum(result.items for result in self.results)
        totals = {name: sum(result.latency_ms[name] * result.items for result in self.results) for name in STAGES}
        return {name: total / max(1, items) for name, total in totals.items()}

    def to_json(self) -> dict[str, Any]:
        """The document of ``run --json``."""
        return {
            "outputs": [str(path) for result in self.results for path in result.outputs],
            "graphs": self.graphs,
            "latency_ms": self.latency_ms(),
            "files": [
                {"input": str(item.source), "outputs": [str(path) for path in item.outputs], "items": item.items,
                 "latency_ms": dict(item.latency_ms), "notices": list(item.notices), **item.extra}
                for item in self.results
            ],
            "failed": [{"input": str(item.source), **item.error.to_json()} for item in self.failures],
            "notices": self.notices,
        }  # fmt: skip


def run_bundle(
    bundle: Path, inputs: Sequence[Path], out: Path, settings: Mapping[str, str], threads: int | None
) -> RunReport:
    """Run every input; a single one that fails raises, of several each failure is reported and the others are done.

    What would fail for every file alike (a full disk, another precision than asked for) raises at once.
    """
    report = RunReport()
    opened = open_bundle(bundle)
    with predictor_for(opened, threads=threads, settings=settings) as predictor:
        sources, is_many = _sources(inputs, predictor, report)
        jobs = _jobs(sources, out, predictor, report, is_many=is_many)
        if jobs:
            require_loads(opened, threads or default_threads(), stages="max_memory_mb" in settings)
        for group in predictor.groups(jobs):
            _run_group(predictor, group, report, is_many=is_many)
        if report.results:
            report.graphs = predictor.executed()
    return report


def _run_group(predictor: Predictor, jobs: Sequence[tuple[Path, Path]], report: RunReport, *, is_many: bool) -> None:
    """Run jobs that go together; where one of them fails, each by itself, so that the others are done."""
    try:
        results = predictor.run_group(jobs, console.progress)
    except (DiskFull, NotMet):
        raise
    except AvsdkError as error:
        if not is_many:
            raise
        if len(jobs) > 1:
            for job in jobs:
                _run_group(predictor, [job], report, is_many=True)
            return
        report.failures.append(Failure(jobs[0][0], error))
        return
    for result in results:
        report.results.append(result)
        report.notices += [f"{result.source}: {text}" for text in result.notices]


def _sources(inputs: Sequence[Path], predictor: Predictor, report: RunReport) -> tuple[list[Path], bool]:
    """The files to run, and whether the output is a folder: several inputs, or a folder, were given."""
    if not inputs:
        raise UsageError("run got no input", expected=f"files of the kinds {' '.join(predictor.suffixes)}, or folders")
    files: list[Path] = []
    for given in inputs:
        if not given.is_dir():
            files.append(given)
            continue
        found = sorted(item for item in given.iterdir() if item.is_file() and not item.name.startswith("."))
        fitting = [item for item in found if item.suffix.lower() in predictor.suffixes]
        if not fitting:
            raise UnusableInput(
                f"the folder {given} holds nothing that this model takes",
                expected=f"files of the kinds {' '.join(predictor.suffixes)}",
            )
        if len(found) > len(fitting):
            report.notices.append(f"{given}: {len(found) - len(fitting)} files of other kinds were left out")
        files += fitting
    return list(dict.fromkeys(files)), len(inputs) > 1 or inputs[0].is_dir()


def _jobs(
    sources: Sequence[Path], out: Path, predictor: Predictor, report: RunReport, *, is_many: bool
) -> list[tuple[Path, Path]]:
    """Each source with its output; refuses to write over an input, and keeps equal names apart."""
    if is_many and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", expected="a folder, since there are several inputs")
    jobs: list[tuple[Path, Path]] = []
    taken: set[Path] = set()
    originals = {source.resolve() for source in sources}
    for source in sources:
        try:
            target = out / predictor.output_name(source) if is_many or out.is_dir() else out
        except AvsdkError as error:
            if not is_many:
                raise
            report.failures.append(Failure(source, error))
            continue
        number = 2
        while target in taken:
            target = target.with_name(f"{Path(predictor.output_name(source)).stem}-{number}{target.suffix}")
            number += 1
        if target.resolve() in originals:
            raise UsageError(f"the output {target} would replace an input", expected="another file or folder for --out")
        taken.add(target)
        jobs.append((source, target))
    return jobs
