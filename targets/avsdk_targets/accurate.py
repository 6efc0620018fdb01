"""A bundle whose accuracy is measured on real inputs and held within limits; quantised on real inputs where it is int8.

The fp32 reference runs on the files first (``recording``), which gives the quantiser its samples and the held-back ones
their reference answers. Over budget, layers are ranked and the worst stay in fp32 (``kept_layers``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from avsdk import plugins
from avsdk.bundle import Manifest, open_bundle, write_manifest
from avsdk.errors import BudgetNotMet, NotAvailable, UsageError
from avsdk.golden import PIPELINE, read_golden, write_golden
from avsdk.host import default_threads
from avsdk.metric import Metric, has_metric, measure_metric
from avsdk.onnx_check import check_onnx
from avsdk.parity import Parity
from avsdk.precision import MIXED
from avsdk.predictor import Predictor
from avsdk.schema import encode
from avsdk.spec import ModelSpec
from avsdk.worker import call_in_child
from avsdk_targets.assembly import Assembly, isa_of, proven, verify_draft
from avsdk_targets.calibration import Calibration, Chosen, choose, content_hash, require_enough
from avsdk_targets.compiler import Quantisation
from avsdk_targets.compilers.onnxruntime import rank_layers
from avsdk_targets.kept_layers import Ranked, chart, fewest_kept
from avsdk_targets.limits import DEFAULT_SNR_DB, Accuracy, Limits
from avsdk_targets.placement import Placement
from avsdk_targets.plan import plan_target
from avsdk_targets.quantised import QUANTISING
from avsdk_targets.recording import is_noise, record
from avsdk_targets.speed import compare_speed
from avsdk_targets.target import resolve

_TIMEOUT_S = 1800.0
_MEMORY_MB = 16_384
_MOST_UNREADABLE = 20


@dataclass(frozen=True)
class Budget:
    """What may be lost, and what it is measured on."""

    calibration: Calibration
    limits: Limits = Limits()
    compare_speed: bool = True


@dataclass(frozen=True)
class Recorded:
    """The samples of each graph, and the folder that a metric is measured on. ``facts`` go into the manifest."""

    reference: Path
    calibrating: Mapping[str, Path]
    held_back: Mapping[str, Path]
    data: Path
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One build and what it costs. ``kept``: the layers in fp32, by graph."""

    folder: Path
    draft: Manifest
    accuracy: Accuracy | None
    parity: Parity
    kept: tuple[Ranked, ...] = ()


def build_within(assembly: Assembly, budget: Budget, notice: Callable[[str], None]) -> Path:
    """Build the bundle and prove it.

    Raises ``BudgetNotMet`` where no choice of layers holds the limits, and ``NotAvailable`` where limits were asked for
    and nothing here can run the build to measure them.
    """
    with TemporaryDirectory(prefix="avsdk-accurate-") as folder:
        recorded = _recorded(assembly, budget.calibration, Path(folder), notice)
        work = _Search(assembly, recorded, _limits(assembly, budget.limits), Path(folder), notice)
        trial = work.best()
        if trial.accuracy is None:
            _unmeasured(trial, budget, notice)
        measured: dict[str, Any] = {"calibration": recorded.facts} if work.graphs else {"data": recorded.facts}
        if trial.accuracy is not None:
            measured["accuracy"] = {**encode(trial.accuracy), "limits": encode(work.limits)}
            if work.graphs:
                measured["accuracy"]["golden_snr_db"] = 0.0  # judged on the held-back samples already
        if work.ranking:
            measured["sensitivity"] = [encode(item) for item in work.ranking]
        draft = replace(trial.draft, measured=measured)
        made = proven(trial.folder, draft, assembly.plan)
        if work.graphs and trial.accuracy is not None:
            _keep_golden_floor(made)
        if budget.compare_speed and work.graphs:
            compare_speed(made, assembly, notice)
        return _taken(made, assembly.work)


def _unmeasured(trial: Trial, budget: Budget, notice: Callable[[str], None]) -> None:
    """What could not be run here holds no limit that was asked for; without one, that nothing was measured is said."""
    if budget.limits:
        raise NotAvailable(
            f"{budget.limits} cannot be measured here: {trial.parity.reason}",
            expected="the device, or something that stands in for it",
            fix="export it where the device is, or leave the limits out and verify the bundle there",
        )
    notice(f"the accuracy was not measured: {trial.parity.reason}; avsdk bundle verify BUNDLE --run on the device does")


def _taken(made: Path, work: Path) -> Path:
    """The bundle, moved to where it stays when the trials are thrown away."""
    place = work / made.name
    shutil.rmtree(place, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(made, place))


def _limits(assembly: Assembly, asked: Limits) -> Limits:
    """The limits, with int8's own where nothing was asked for; raises ``UsageError`` for a drop without a metric."""
    family = assembly.files.spec.predictor
    if asked.max_drop is not None and not has_metric(family):
        raise UsageError(
            f"--max-drop {100 * asked.max_drop:g}%: {assembly.files.spec.model} has no metric that could drop",
            expected="a limit of the SNR against fp32, which every model has",
            fix="--min-snr-db 20",
        )
    if not asked and assembly.plan.precision == "int8":
        return Limits(min_snr_db=DEFAULT_SNR_DB)
    return asked


class _Search:
    """Builds with more and more layers in fp32, and measures each on the held-back samples."""

    def __init__(
        self, assembly: Assembly, recorded: Recorded, limits: Limits, work: Path, notice: Callable[[str], None]
    ) -> None:
        self.graphs = _to_quantise(assembly)
        self.ranking: tuple[Ranked, ...] = ()
        self._assembly = replace(assembly, files=replace(assembly.files, golden=_real(assembly, recorded, work)))
        if not self.graphs:
            self._assembly = assembly
        self._recorded, self.limits, self._work, self._notice = recorded, limits, work, notice
        self._fp32: Metric | None = None

    def best(self) -> Trial:
        """The first build that holds the limits, with as few layers in fp32 as will do."""
        first = self._trial(0)
        if self._holds(first):
            return first
        if not self.graphs:
            raise self._not_met(first)
        self.ranking = self._ranked()
        found, last = fewest_kept(len(self.ranking), lambda kept: first if not kept else self._trial(kept), self._holds)
        if found is None:
            raise self._not_met(last)
        if not found.folder.exists():  # a later trial of the search took its place
            found = self._trial(len(found.kept))
        return found

    def _holds(self, trial: Trial) -> bool:
        return trial.accuracy is None or trial.accuracy.meets(self.limits)

    def _trial(self, kept: int) -> Trial:
        layers = self.ranking[:kept]
        quantisation = {
            graph: Quantisation(
                samples=self._recorded.calibrating[graph],
                cache=self._work / "cache",
                kept=tuple(item.layer for item in layers if item.graph == graph),
                isa=isa_of(self._assembly.placement.plan_for(graph)),
            )
            for graph in self.graphs
        }
        assembly = replace(self._assembly, work=self._work / f"kept-{kept}")
        folder, draft = assembly.draft(quantisation, MIXED if layers else "")
        write_manifest(folder, draft)
        verified = verify_draft(folder, assembly.plan, self._recorded.held_back)
        accuracy = self._accuracy(folder, verified.parity)
        if layers:
            self._notice(f"{kept} of {len(self.ranking)} layers in fp32: {accuracy or 'not run here'}")
        return Trial(folder, draft, accuracy, verified.parity, layers)

    def _accuracy(self, folder: Path, parity: Parity) -> Accuracy | None:
        """What the build costs; None where the device is not here, which nothing can be measured on."""
        if parity.verdict == "not_run":
            return None
        outputs = {f"{item.graph}/{item.name}": item.snr_db for item in parity.outputs}
        accuracy = Accuracy(min(outputs.values()), parity.samples, outputs=outputs)
        family = self._assembly.files.spec.predictor
        if not has_metric(family):
            return accuracy
        self._fp32 = self._fp32 or _metric(self._recorded.reference, self._recorded.data)
        found = _metric(folder, self._recorded.data)
        return replace(
            accuracy,
            drop=found.drop_from(self._fp32.value),
            metric=found.name,
            value=found.value,
            fp32=self._fp32.value,
        )

    def _ranked(self) -> tuple[Ranked, ...]:
        self._notice("over budget: ranking the layers by what each costs alone")
        found: list[Ranked] = []
        for graph in self.graphs:
            answers = call_in_child(
                rank_layers,
                name="rank layers",
                timeout_s=_TIMEOUT_S,
                memory_mb=_MEMORY_MB,
                onnx=str(self._assembly.files.onnx[graph]),
                calibrating=str(self._recorded.calibrating[graph]),
                held_back=str(self._recorded.held_back[graph]),
                cache=str(self._work / "cache"),
            )
            found += [Ranked(graph, item["layer"], item["operator"], item["snr_db"]) for item in answers]
        return tuple(sorted(found, key=lambda item: item.snr_db))

    def _not_met(self, trial: Trial) -> BudgetNotMet:
        plan = self._assembly.plan
        kept = f" with {len(trial.kept)} of {len(self.ranking)} layers in fp32" if trial.kept else ""
        return BudgetNotMet(
            f"{plan.candidate.engine}:{plan.candidate.device} at {plan.precision} cannot meet {self.limits}: "
            f"{trial.accuracy}{kept}",
            expected=str(self.limits),
            fix="a wider limit, or another precision: --precision fp16 or bf16 where the device has it, else fp32",
            chart=chart(self.ranking) if self.ranking else "",
        )


def _to_quantise(assembly: Assembly) -> list[str]:
    """The graphs that are built in int8 and carry no quantisation of their own."""
    if assembly.plan.precision != "int8":
        return []
    onnx = assembly.files.onnx
    return [name for name, file in onnx.items() if not QUANTISING & check_onnx(file).ops.keys()]


def _recorded(assembly: Assembly, asked: Calibration, work: Path, notice: Callable[[str], None]) -> Recorded:
    """Run the fp32 reference on the chosen files. Raises ``UsageError`` for files that cannot serve."""
    spec = assembly.files.spec
    kind: type[Predictor] = plugins.load("predictors", spec.predictor)
    chosen = choose(asked, kind.suffixes)
    reference = _reference(assembly, work / "reference")
    groups = {"held_back": chosen.held_back}
    if asked.data is None:  # what cannot be read is held back by none, so that the next one is
        groups["held_back"] += chosen.calibrating
    if _to_quantise(assembly):
        groups["calibrating"] = chosen.calibrating
    counts = {"calibrating": chosen.wanted, "held_back": len(chosen.held_back)}
    files = {name: min(counts[name], len(group)) for name, group in groups.items()}
    notice(f"running fp32 on {' and '.join(f'{count} files ({name})' for name, count in files.items())}")
    report: dict[str, Any] = call_in_child(
        record,
        name="calibration",
        timeout_s=_TIMEOUT_S,
        memory_mb=_MEMORY_MB,
        reference=str(reference),
        groups={name: [str(file) for file in files] for name, files in groups.items()},
        wanted=counts,
        sizes=_built_sizes(assembly, spec),
        threads=default_threads(),
        out=str(work),
    )
    _check(report, chosen, asked, notice)
    return Recorded(
        reference=reference,
        calibrating={graph.name: work / "calibrating" / f"{graph.name}.npz" for graph in spec.graphs},
        held_back={graph.name: work / "held_back" / f"{graph.name}.npz" for graph in spec.graphs},
        data=asked.data or _held_back_folder(asked, report["held_back"]["files"], kind.suffixes, work / "data"),
        facts=_facts(report, chosen),
    )


def _check(report: Mapping[str, Any], chosen: Chosen, asked: Calibration, notice: Callable[[str], None]) -> None:
    """Raise ``UsageError`` for files that cannot serve; name those that were passed over."""
    for group in report:
        option = "--data" if group == "held_back" and asked.data else "--calibration"
        unreadable = [f"{Path(file).name}: {reason}" for file, reason in report[group]["unreadable"]]
        for text in unreadable[:_MOST_UNREADABLE]:
            notice(f"{option}: passed over {text}")
        if len(unreadable) > _MOST_UNREADABLE:
            notice(f"{option}: and {len(unreadable) - _MOST_UNREADABLE} more that cannot be read")
        usable = replace(chosen, asked=chosen.asked and group == "calibrating")
        require_enough(usable, len(report[group]["files"]), unreadable)
        if report[group]["noise"]:
            raise UsageError(
                f"{option} holds random numbers: neighbours in its {len(report[group]['files'])} samples have nothing "
                "in common",
                expected="real inputs, as the model meets in use: ranges found on noise do not fit them",
                fix="give photographs, recordings or clips of the model's own kind",
            )


def _facts(report: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """What the manifest says of the samples: hash, size, coverage, what was passed over."""
    none: dict[str, list[str]] = {"files": []}
    unreadable = [Path(file).name for group in report.values() for file, _ in group["unreadable"]]
    return {
        "sha256": content_hash(
            file for group in ("calibrating", "held_back") for file in report.get(group, none)["files"]
        ),
        "files": len(report.get("calibrating", none)["files"]),
        "held_back": len(report["held_back"]["files"]),
        "duplicates": chosen.duplicates,
        "unreadable": {"count": len(unreadable), "names": unreadable[:_MOST_UNREADABLE]},
        "coverage": report.get("calibrating", report["held_back"])["coverage"],
    }


def _reference(assembly: Assembly, work: Path) -> Path:
    """The model in fp32 on ONNX Runtime, as a bundle that stays here. Pictures are brought to the sizes to be built."""
    plan = plan_target(resolve("onnxruntime:cpu"), "fp32")
    plain = replace(assembly, placement=Placement(plan), work=work, sizes=(), settings={})
    folder, draft = plain.draft()
    kind: type[Predictor] = plugins.load("predictors", draft.spec.predictor)
    if "fit" in kind.known_settings:
        (graph,) = draft.spec.graphs
        sizes = [draft.spec.sizes_for(graph, item) for item in assembly.sizes or ({},)] if graph.axes else []
        artifacts = [replace(draft.artifacts[0], shapes=item) for item in sizes] or draft.artifacts
        draft = replace(draft, artifacts=tuple(artifacts), stages={})
    write_manifest(folder, draft)
    return folder


def _built_sizes(assembly: Assembly, spec: ModelSpec) -> dict[str, list[dict[str, int]]]:
    found = {}
    for graph in spec.graphs:
        sizes = assembly.sizes_to_build(assembly.placement.plan_for(graph.name), graph)
        found[graph.name] = [dict(item) for item in sizes if item is not None]
    return found


def _held_back_folder(asked: Calibration, held: Sequence[str], suffixes: Sequence[str], out: Path) -> Path:
    """The calibration folder as links, without the media that calibrate: labels and lists stay beside the rest."""
    assert asked.folder is not None
    keep = {Path(file) for file in held}
    for file in asked.folder.rglob("*"):
        if file.is_file() and (file in keep or file.suffix.lower() not in suffixes):
            link = out / file.relative_to(asked.folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return out


def _real(assembly: Assembly, recorded: Recorded, work: Path) -> dict[str, Path]:
    """The golden samples without random ones, which int8 owes nothing; held-back ones where none is left."""
    golden = {}
    (work / "golden").mkdir()
    for name, file in assembly.files.golden.items():
        samples = [sample for sample in read_golden(file) if not is_noise(sample[0])]
        if not samples and name != PIPELINE:
            samples = read_golden(recorded.held_back[name])[:2]
        if samples:
            golden[name] = work / "golden" / f"{name}.npz"
            write_golden(golden[name], samples)
    return golden


def _keep_golden_floor(made: Path) -> None:
    """Write down what the golden samples show now, which they must show again wherever the bundle is verified."""
    manifest = open_bundle(made).manifest
    shown = min(item.snr_db for item in manifest.parity.outputs)
    accuracy = {**manifest.measured["accuracy"], "golden_snr_db": shown}
    write_manifest(made, replace(manifest, measured={**manifest.measured, "accuracy": accuracy}))


def _metric(bundle: Path, data: Path) -> Metric:
    document = call_in_child(
        measure_metric,
        name="metric",
        timeout_s=_TIMEOUT_S,
        memory_mb=_MEMORY_MB,
        path=str(bundle),
        data=str(data),
        threads=default_threads(),
        known=plugins.offered("engines", "metrics", "predictors"),
    )
    return Metric(**document)
