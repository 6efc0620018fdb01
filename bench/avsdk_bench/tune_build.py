"""The builds that a tuner asks for: one per target, precision and sizes, whatever the settings that act at load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from avsdk.bundle import Bundle
from avsdk.errors import AvsdkError, NotAvailable, UsageError
from avsdk.files import cache_home
from avsdk.spec import GraphSpec
from avsdk_bench.facts import accuracy_of
from avsdk_bench.plan import CellPlan, plans_for
from avsdk_bench.predict import roof_for
from avsdk_bench.roofline import Roof, least_ms
from avsdk_bench.tune_space import Configuration, Space
from avsdk_bench.work import graph_work
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.bundle_files import publish
from avsdk_targets.export_settings import split_settings
from avsdk_targets.variant import publish_variant

_FEWER_PRODUCTS = 2.25
"""Winograd's F(2x2, 3x3), the least of what engines use; Lavin and Gray, CVPR 2016."""


@dataclass(frozen=True)
class Built:
    """A bundle in the build cache, and its accuracy; or why there is none."""

    bundle: Bundle | None = None
    snr_db: float | None = None
    drop: float | None = None
    error: AvsdkError | None = None


class Builds:
    """Builds when first asked, and remembers. ``settings`` are the user's own, for all of them."""

    def __init__(
        self, model: str, space: Space, settings: Mapping[str, str], notice: Callable[[str], None], seed: int = 0
    ) -> None:
        self.model = model
        self.settings = dict(settings)
        self._space = space
        self._notice = notice
        self._seed = seed
        self._known: dict[tuple[str, str, str], Built] = {}
        self._roofs: dict[tuple[str, int], Roof | None] = {}

    def get(self, item: Configuration) -> Built:
        """The build of a configuration. Raises ``UsageError`` for what was asked for wrongly, as an unknown axis."""
        if item.build not in self._known:
            self._known[item.build] = self._built(item)
        return self._known[item.build]

    def bound_ms(self, item: Configuration) -> float | None:
        """A time that no run of the configuration can be under; None before anything was built, as the work is unknown.

        The roofline's least time, less what an algorithm can save that needs fewer products than the direct one.
        """
        bundle = next((built.bundle for built in self._known.values() if built.bundle is not None), None)
        if bundle is None:
            return None
        roof = self._roof(item)
        if roof is None:
            return None
        manifest = bundle.manifest
        works = [
            graph_work(bundle.file(manifest.model[graph.name]), graph, _own_sizes(item, graph))
            for graph in manifest.spec.graphs
        ]
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
        return [replace(plan, arguments={**plan.arguments, "session_settings": session}) for plan in whole or plans]

    def session_options(self, item: Configuration) -> dict[str, object]:
        """What the artifacts of this configuration record of their sessions."""
        plan = self._space.offers[item.target].plans[item.precision]
        engine = plan.candidate.engine
        chosen = split_settings({**self.settings, **item.settings})[0].get(engine, {})
        recorded: dict[str, object] = plan.compiler.session_options(chosen, plan.candidate.device).get("session", {})
        return recorded

    def publish(self, item: Configuration, out: Path) -> Bundle:
        """The bundle of a configuration, its settings recorded, in ``out``. Raises what a failed parity raises."""
        bundle, session = self.get(item).bundle, self.session_options(item)
        assert bundle is not None
        plan = self._space.offers[item.target].plans[item.precision]
        if session == self.session_options(replace(item, settings={})):
            return publish(bundle.path, out)
        return publish_variant(bundle, session, plan, out)

    def options(self, item: Configuration, out: Path) -> ExportOptions:
        """What ``avsdk export`` is asked for to build it."""
        sizes = (dict(item.sizes),) if item.sizes else ()
        return ExportOptions(out, item.precision, sizes, settings=self.settings)

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

    def _built(self, item: Configuration) -> Built:
        target = self._space.offers[item.target].target
        try:
            with Exporter(self.model, self.options(item, cache_home() / "bundles"), self._notice) as exporter:
                exported = exporter.build(target)
        except UsageError:
            raise
        except AvsdkError as error:
            return Built(error=error)
        manifest = exported.bundle.manifest
        records = [accuracy_of(exported.bundle, graph.name).snr_db for graph in manifest.spec.graphs]
        known = [value for value in records if value is not None]
        return Built(exported.bundle, min(known) if len(known) == len(records) else None)


def _own_sizes(item: Configuration, graph: GraphSpec) -> dict[str, int]:
    return {name: size for name, size in item.sizes.items() if name in graph.axes}
