"""Whether a bundle in a narrower precision is faster than the same model in fp32 on the machine that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from avsdk.bundle import open_bundle, write_manifest
from avsdk.errors import NotAvailable
from avsdk.host import probe
from avsdk.timing import load_timer
from avsdk_targets.assembly import Assembly
from avsdk_targets.placement import Placement
from avsdk_targets.plan import plan_target
from avsdk_targets.proof import proof_for

_BUDGET_S = 30.0


def compare_speed(made: Path, assembly: Assembly, notice: Callable[[str], None]) -> None:
    """Time the bundle beside its fp32 sibling and write what was found into its manifest.

    Nothing where the device is not here, where it has no fp32, or where no package that times bundles is installed,
    which is said.
    """
    plan = assembly.plan
    bundle = open_bundle(made)
    if proof_for(plan.candidate).executed_on != "device" or bundle.manifest.parity.verdict == "not_run":
        return
    try:
        timer = load_timer()
        plain = replace(assembly, placement=Placement(plan_target(plan.target, "fp32")), work=made.parent / "fp32")
        folder, draft = plain.draft()
        write_manifest(folder, draft)
        notice(f"measuring {bundle.manifest.precision} beside fp32")
        _, timed = timer((folder, made), _BUDGET_S)
    except NotAvailable as error:
        notice(f"not measured against fp32: {error.failed}")
        return
    speed = {
        "against": "fp32",
        "ratio": timed.ratio,
        "ratio_ci": list(timed.ratio_ci),
        "verdict": timed.verdict,
        "p50_ms": timed.p50_ms,
        "steady": timed.steady,
        "cpu": probe().cpu,
        "isa": list(probe().isa),
    }
    manifest = bundle.manifest
    write_manifest(made, replace(manifest, measured={**manifest.measured, "speed": speed}))
