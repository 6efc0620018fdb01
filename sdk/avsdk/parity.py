"""Do two runnables give the same numbers? Deviations per output, judged against tolerances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import ParityFailed
from avsdk.precision import Tolerance

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Deviation:
    """How far one output is from the reference, the worst over all samples.

    ``max_rel`` is max_abs over the reference's largest magnitude; ``snr_db`` is 10 log10 of signal over error energy
    (200 where there is no error); ``agreement`` is the share of equal elements, for integer outputs only.
    """

    graph: str
    name: str
    max_abs: float
    max_rel: float
    cosine: float
    snr_db: float
    agreement: Optional[float] = None  # noqa: UP045  (read at run time, on Python 3.9 too)

    def violations(self, tolerance: Tolerance) -> list[str]:
        """The measures that miss the tolerance, each with its value and bound."""
        if self.agreement is not None:
            least = tolerance.agreement
            return [] if self.agreement >= least else [f"agreement {self.agreement:.4f} < {least}"]
        found = []
        if not self.cosine >= tolerance.cosine:
            found.append(f"cosine {self.cosine:.6f} < {tolerance.cosine}")
        if not self.snr_db >= tolerance.snr_db:
            found.append(f"SNR {self.snr_db:.1f} dB < {tolerance.snr_db} dB")
        if tolerance.max_abs is not None and not self.max_rel <= tolerance.max_abs:
            found.append(f"largest error {self.max_rel:.1e} of the reference's maximum > {tolerance.max_abs}")
        if tolerance.steps is not None and not self.max_abs <= tolerance.steps:
            found.append(f"largest error {self.max_abs:g} > {tolerance.steps:g} steps")
        return found


@dataclass(frozen=True)
class Parity:
    """The record that a bundle carries.

    ``executed_on``: ``device`` (the target itself), ``this-cpu`` (the same engine here), ``emulated`` or ``none``.
    """

    verdict: str
    executed_on: str
    reference: str = ""
    candidate: str = ""
    samples: int = 0
    reason: str = ""
    outputs: tuple[Deviation, ...] = field(default_factory=tuple)

    @classmethod
    def not_run(cls, reason: str) -> Parity:
        """The record of a comparison that could not be made here, and why."""
        return cls(verdict="not_run", executed_on="none", reason=reason)

    def require(self, *, where: str) -> None:
        """Raise ``ParityFailed`` when the verdict is ``fail``."""
        if self.verdict == "fail":
            raise ParityFailed(
                f"{where} differs from {self.reference}: {self.reason}",
                expected="the tolerances of its precision (docs/precision.md)",
                fix="choose a wider precision, or report the model",
            )


def deviation(graph: str, name: str, reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> Deviation:
    """Compare one output; a shape or finiteness mismatch counts as an infinite deviation."""
    if reference.shape != candidate.shape or not np.isfinite(candidate.astype(np.float64)).all():
        return Deviation(graph, name, float("inf"), float("inf"), 0.0, -float("inf"), None)
    agreement = None
    if np.issubdtype(reference.dtype, np.integer):
        agreement = float(np.mean(reference == candidate)) if reference.size else 1.0
    wanted = reference.astype(np.float64).ravel()
    error = candidate.astype(np.float64).ravel() - wanted
    found = wanted + error
    signal, noise = float(wanted @ wanted), float(error @ error)
    norms = float(np.sqrt(signal) * np.sqrt(found @ found))
    peak = float(np.abs(wanted).max(initial=0.0))
    max_abs = float(np.abs(error).max(initial=0.0))
    return Deviation(
        graph=graph,
        name=name,
        max_abs=max_abs,
        max_rel=max_abs / peak if peak else max_abs,
        cosine=float(wanted @ found) / norms if norms else float(noise == 0.0),
        snr_db=_snr_db(signal, noise),
        agreement=agreement,
    )


def compare(
    graph: str,
    references: Sequence[Arrays],
    candidates: Sequence[Arrays],
    tolerance: Tolerance,
    *,
    reference: str,
    candidate: str,
    executed_on: str,
) -> Parity:
    """Judge the outputs of one graph over all samples; the worst sample of each output is kept."""
    worst: dict[str, Deviation] = {}
    for wanted, found in zip(references, candidates):
        for name in wanted:
            measured = deviation(graph, name, np.asarray(wanted[name]), np.asarray(found[name]))
            worst[name] = _worse(worst[name], measured) if name in worst else measured
    reasons = [f"{graph}/{name}: {text}" for name, item in worst.items() for text in item.violations(tolerance)]
    return Parity(
        verdict="fail" if reasons else "pass",
        executed_on=executed_on,
        reference=reference,
        candidate=candidate,
        samples=len(references),
        reason="; ".join(reasons),
        outputs=tuple(worst.values()),
    )


def merge(records: Sequence[Parity]) -> Parity:
    """One record for all graphs of a bundle: fail if any failed, not_run if any was not run, else pass."""
    if not records:
        return Parity.not_run("the bundle has no graph")
    first = next(record for word in ("fail", "not_run", "pass") for record in records if record.verdict == word)
    return Parity(
        verdict=first.verdict,
        executed_on=first.executed_on,
        reference=first.reference,
        candidate=first.candidate,
        samples=sum(record.samples for record in records),
        reason="; ".join(record.reason for record in records if record.reason and record.verdict == first.verdict),
        outputs=tuple(item for record in records for item in record.outputs),
    )


def _snr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return 200.0
    return float(10.0 * np.log10(signal / noise)) if signal else -200.0


def _worse(a: Deviation, b: Deviation) -> Deviation:
    agreements = [item.agreement for item in (a, b) if item.agreement is not None]
    return Deviation(
        graph=a.graph,
        name=a.name,
        max_abs=max(a.max_abs, b.max_abs),
        max_rel=max(a.max_rel, b.max_rel),
        cosine=min(a.cosine, b.cosine),
        snr_db=min(a.snr_db, b.snr_db),
        agreement=min(agreements) if agreements else None,
    )
