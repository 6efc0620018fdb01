"""What the entry-point group ``avsdk.metrics`` gives: how good a model is, by its family's own measure.

An entry is named after the family, as the predictor of its specs is, and stands for a function
``(family, predictor, data) -> Metric``. It runs the predictor on the labelled files of the folder ``data`` and leaves
it open. It is called in a child process, on the fp32 reference and on each candidate, with the same folder: what it
draws at random it must seed. A family without an entry has no drop; its accuracy is the SNR against fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsdk import plugins
from avsdk.bundle import open_bundle
from avsdk.predictor import Predictor, predictor_for
from avsdk.schema import encode


@dataclass(frozen=True)
class Metric:
    """One number about a model. ``n``: items that it was measured on; ``name``: its key in ``avsdk evaluate``."""

    name: str
    value: float
    n: int
    higher_is_better: bool = True

    def drop_from(self, reference: float) -> float:
        """The share of the reference's value that is lost; negative where something was gained."""
        lost = reference - self.value if self.higher_is_better else self.value - reference
        return lost / abs(reference) if reference else (0.0 if lost <= 0 else float("inf"))


MetricFunction = Callable[[str, Predictor, Path], Metric]


def has_metric(family: str) -> bool:
    """Whether an installed package offers a metric for the family."""
    return family in plugins.list_names("metrics")


def measure_metric(path: str, data: str, threads: int, known: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """In the child: the metric of a bundle on a folder, as a JSON document. ``known``: the parent's plug-ins."""
    plugins.lend(known)
    bundle = open_bundle(Path(path))
    family = bundle.manifest.spec.predictor
    function: MetricFunction = plugins.load("metrics", family)
    with predictor_for(bundle, threads=threads) as predictor:
        document: dict[str, Any] = encode(function(family, predictor, Path(data)))
    return document
