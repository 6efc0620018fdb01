"""What ``avsdk export --json`` prints: finished bundles, and the targets that were skipped or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from avsdk.errors import AvsdkError, BudgetNotMet
from avsdk.schema import encode
from avsdk_targets.prepared import Prepared
from avsdk_targets.speed import layers_of

if TYPE_CHECKING:
    from avsdk_targets.build import Exported

Refusal = tuple[str, AvsdkError]
"""A target's name, and why it got no bundle."""


def export_document(
    exported: Sequence[Exported], failed: Sequence[Refusal], skipped: Sequence[Refusal]
) -> dict[str, Any]:
    """The ``--json`` document of ``avsdk export``."""
    return {
        "bundles": [_bundle_document(item) for item in exported],
        "skipped": [_reason(name, error) for name, error in skipped],
        "failed": [_reason(name, error) for name, error in failed],
    }


def _reason(target: str, error: AvsdkError) -> dict[str, Any]:
    path = str(error.path) if isinstance(error, Prepared) and error.path else None
    chart = error.chart if isinstance(error, BudgetNotMet) else ""
    return {
        "target": target,
        "code": error.exit_code,
        "reason": error.failed,
        "fix": error.fix,
        "path": path,
        **({"ranking": chart} if chart else {}),
    }


def _bundle_document(item: Exported) -> dict[str, Any]:
    manifest = item.bundle.manifest
    per_graph = manifest.measured.get("effective_precision", {})
    parity = encode(manifest.parity)
    artifacts = {artifact.graph: artifact for artifact in manifest.artifacts}
    return {
        "path": str(item.bundle.path),
        "target": manifest.target,
        "engine": manifest.engine,
        "device": manifest.device,
        "precision": manifest.precision,
        "effective_precision": manifest.effective_precision,
        "seconds": round(item.seconds, 3),
        "cached": item.cached,
        "passed_over": list(item.passed_over),
        "notices": list(item.notices),
        "size_mb": item.bundle.size_bytes(artifacts_only=True) / 1e6,
        "graphs": [
            {
                "graph": graph.name,
                "engine": artifacts[graph.name].engine,
                "device": artifacts[graph.name].device,
                "effective_precision": per_graph.get(graph.name, manifest.effective_precision),
            }
            for graph in manifest.spec.graphs
        ],
        "parity": parity,
        "drop": item.drop,
        "snr_db": item.snr_db,
        "layers": layers_of(manifest),
        "calibration": manifest.measured.get("calibration"),
        "speed": manifest.measured.get("speed"),
    }
