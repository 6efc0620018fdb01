"""The builds that a tuner asks for: one per target, precision and sizes, whatever the settings that act at load."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from avsdk.bundle import Bundle
from avsdk.errors import AvsdkError, NotAvailable, UsageError
from avsdk.files import cache_home
from avsdk.metric import has_metric
from avsdk.schema import encode
from avsdk.spec import GraphSpec
from avsdk_bench.facts import accuracy_of
from avsdk_bench.plan import CellPlan, plans_for
from avsdk_bench.predict import roof_for
from avsdk_bench.roofline import Roof, least_ms
from avsdk_bench.scenario import Load
from avsdk_bench.tune_choice import Tuned
from avsdk_bench.tune_space import LOSSY, Configuration, Space, sizes_key
from avsdk_bench.work import graph_work
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.bundle_files import publish
from avsdk_targets.calibration import Calibration, fingerprint
from avsdk_targets.export_settings import split_settings
from avsdk_targets.limits import Limits
from avsdk_targets.variant import publish_variant

_EXACT = "fp32"
_FEWER_PRODUCTS = 2.25
"""Winograd's F(2x2, 3x3), the least of what engines use; Lavin and Gray, CVPR 2016."""


@dataclass(frozen=True)
class Asked:
    """What every build is asked for beside its configuration: the user's settings, real inputs, what may be lost.

    Without real inputs the loss is judged by the bundle's parity record.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    limits: Limits = Limits()

    def options(self, item: Configuration) -> ExportOptions:
        """Those of an export. Real inputs run where int8 is fitted to them or a metric is wanted, for that takes long;
        the SNR of other precisions is that of the parity record.
        """
        sizes = (dict(item.sizes),) if item.sizes else ()
        judged = self.calibration is not None and self._measures(item.precision)
        return ExportOptions(
            cache_home() / "bundles",
            sizes=sizes,
            settings=self.settings,
            calibration=self.calibration if judged else None,
            limits=self.limits if judged else Limits(),
            compare_speed=False,
        )

    def _measures(self, precision: str) -> bool:
        """Whether builds of that precision are measured on the real inputs; fp32 loses nothing of a metric."""
        return precision == LOSSY or (self.limits.max_drop is not None and precision != _EXACT)

    def key(self, item: Configuration) -> tuple[str, bool]:
        """The same for configurations that one exporter serves."""
        return sizes_key(item.sizes), self._measures(item.precision)

    def words(self, item: Configuration) -> list[str]:
        """The options of ``avsdk export`` that say the same."""
        asked = self.options(item)
        given = {
            "--min-snr-db": asked.limits.min_snr_db,
            "--max-drop": None if asked.limits.max_drop is None else f"{100 * asked.limits.max_drop:g}%",
        }
        limits = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        return replace(self, calibration=asked.calibration).source_words() + limits

    def source_words(self) -> list[str]:
        """The options that say which settings there are and what is measured on."""
        found = [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        if self.calibration is None:
            return found
        given = {
            "--calibration": self.calibration.folder, "--data": self.calibration.data,
            "--calibration-samples": self.calibration.samples,
        }  # fmt: skip
        return found + [word for name, value in given.items() if value is not None for word in (name, str(value))]

    def identity(self) -> dict[str, object]:
        """What of it decides the builds, content of folders included."""
        asked = self.calibration or Calibration(None)
        return {
            "settings": dict(self.settings), "samples": asked.samples, "limits": encode(self.limits),
            "folders": [fingerprint(asked.folder), fingerprint(asked.data)],
        }  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A bundle in the build cache, and its accuracy; or why there is none."""

    bundle: Bundle | None = None
    snr_db: float | None = None
    drop: float | None = None
    error: AvsdkError | None = None


class Builds:
    """Builds when first asked, and remembers. To be closed. ``longest_s``: what a build has taken at most so far."""

    def __init__(
        self,
        model: str,
        space: Space,
        asked: Asked,
        notice: Callable[[str], None],
        seed: int = 0,
        load: Load | None = None,
    ) -> None:
        self.model = model
        self._space = space
        self._asked = asked
        self._notice = notice
        self._seed = seed
        self._load = load or Load()
        self._held = ExitStack()
        self._exporters: dict[tuple[str, bool], Exporter] = {}
        self._known: dict[tuple[str, str, str], Built] = {}
        self._roofs: dict[tuple[str, int], Roof | None] = {}
        self.longest_s = 0.0

    def __enter__(self) -> Builds:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def require_measurable(self) -> None:
        """Raise ``UsageError`` where a drop is limited that cannot be measured: for want of a metric, or of data."""
        drop = self._asked.limits.max_drop
        if drop is None:
            return
        spec = self._exporter(next(self._space.configurations())).materialise().spec
        if not has_metric(spec.predictor):
            raise UsageError(
                f"--max-drop {100 * drop:g}%: {spec.model} has no metric that could drop",
                expected="a limit of the SNR against fp32, which every model has",
                fix="--min-snr-db 20",
            )
        if self._asked.calibration is None:
            raise UsageError(
                f"--max-drop {100 * drop:g}% cannot be measured: there is nothing to measure on",
                expected="the model's own inputs",
                fix="--calibration DIR, of which a tenth is held back for that, or --data DIR",
            )

    def get(self, item: Configuration) -> Built:
        """The build of a configuration. Raises ``UsageError`` for what was asked for wrongly, as an unknown axis."""
        if item.build not in self._known:
            self._exporter(item).materialise()  # once for all builds, so no guide to how long the next one takes
            started = time.monotonic()
            self._known[item.build] = self._built(item)
            self.longest_s = max(self.longest_s, time.monotonic() - started)
        return self._known[item.build]

    def knows(self, item: Configuration) -> bool:
        """Whether nothing would have to be built for it."""
        return item.build in self._known

    def with_accuracy(self, item: Tuned) -> Tuned:
        """A prediction with the accuracy and size of its bundle, as far as that can be built and run here."""
        configuration = item.configuration
        if configuration.precision not in self._space.offers[configuration.target].plans:
            return item
        try:
            built = self.get(configuration)
        except UsageError:  # as ranges of axes that its compiler wants: what is predicted needs none
            return item
        if built.bundle is None:
            return item
        rows = tuple(replace(row, size_mb=_size_mb(built.bundle, row.graph)) for row in item.rows)
        return replace(item, rows=rows, snr_db=built.snr_db, drop=built.drop)

    def bound_ms(self, item: Configuration) -> float | None:
        """A time that no run of the configuration can be under; None where nothing is known of its device's limits.

        The roofline's least time, less what an algorithm can save that needs fewer products than the direct one.
        """
        roof = self._roof(item)
        if roof is None:
            return None
        files = self._exporter(item).materialise()
        works = [graph_work(files.onnx[graph.name], graph, _own_sizes(item, graph)) for graph in files.spec.graphs]
        return sum(least_ms(work, roof, item.precision) for work in works) / _FEWER_PRODUCTS

    def cells(self, item: Configuration) -> list[CellPlan]:
        """What is measured of a configuration: its graph; of several the pipeline, or each, where it cannot be fed."""
        bundle = self.get(item).bundle
        assert bundle is not None
        several = len(bundle.manifest.spec.graphs) > 1
        shown = {name.partition(".")[2]: value for name, value in item.settings.items()}
        sizes = [item.sizes] if item.sizes else []
        plans = plans_for(
            bundle, sizes, item.threads, seed=self._seed, name=self.model, settings=shown, pipeline=several
        )
        whole = [plan for plan in plans if plan.arguments.get("graph") is None]
        session = self.session_options(item)
        arguments = {"session_settings": session}
        return [replace(plan, arguments={**plan.arguments, **arguments}, load=self._load) for plan in whole or plans]

    def session_options(self, item: Configuration) -> dict[str, object]:
        """What the artifacts of this configuration record of their sessions."""
        plan = self._space.offers[item.target].plans[item.precision]
        engine = plan.candidate.engine
        chosen = split_settings({**self._asked.settings, **item.settings})[0].get(engine, {})
        recorded: dict[str, object] = plan.compiler.session_options(chosen, plan.candidate.device).get("session", {})
        return recorded

    def publish(self, item: Configuration, out: Path) -> Bundle:
        """The bundle of a configuration, its settings recorded, in ``out``. Raises what a failed parity raises."""
        built = self.get(item)
        if built.bundle is None:
            raise built.error or NotAvailable(f"{item.label} was not built")
        if not item.settings:
            return publish(built.bundle.path, out)
        plan = self._space.offers[item.target].plans[item.precision]
        return publish_variant(built.bundle, self.session_options(item), plan, out)

    def _roof(self, item: Configuration) -> Roof | None:
        """The limits of the device, this processor's measured once per number of threads; None where none are known."""
        profile = self._space.offers[item.target].plans[item.precision].candidate.profile
        key = (profile.name, item.threads)
        if key not in self._roofs:
            try:
                self._roofs[key] = roof_for(profile, item.threads)
            except NotAvailable:
                self._roofs[key] = None
        return self._roofs[key]

    def _exporter(self, item: Configuration) -> Exporter:
        """One for all configurations of the same sizes that are asked for the same accuracy."""
        key = self._asked.key(item)
        if key not in self._exporters:
            exporter = Exporter(self.model, self._asked.options(item), self._notice)
            self._exporters[key] = self._held.enter_context(exporter)
        return self._exporters[key]

    def _built(self, item: Configuration) -> Built:
        try:
            exported = self._exporter(item).build(self._space.offers[item.target].target, item.precision)
        except UsageError:
            raise
        except AvsdkError as error:
            return Built(error=error)
        manifest = exported.bundle.manifest
        records = [accuracy_of(exported.bundle, graph.name).snr_db for graph in manifest.spec.graphs]
        known = [value for value in records if value is not None]
        proven = min(known) if len(known) == len(records) else None
        drop = 0.0 if item.precision == _EXACT and has_metric(manifest.spec.predictor) else exported.drop
        return Built(exported.bundle, proven if exported.snr_db is None else exported.snr_db, drop)


def _own_sizes(item: Configuration, graph: GraphSpec) -> dict[str, int]:
    return {name: size for name, size in item.sizes.items() if name in graph.axes}


def _size_mb(bundle: Bundle, graph: str) -> float:
    names = {file for item in bundle.manifest.artifacts if item.graph == graph for file in item.files}
    return round(math.fsum(bundle.file(name).stat().st_size for name in names) / 1e6, 3)
