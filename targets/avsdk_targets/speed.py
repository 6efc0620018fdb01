"""Whether a bundle in a narrower precision is faster than the same model in fp32 on the machine that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from avsdk.bundle import Manifest, open_bundle, write_manifest
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


def layers_of(manifest: Manifest) -> dict[str, dict[str, str]]:
    """Which layer of which graph computes in what, where a quantiser said so."""
    found = {item.graph: item.options["layers"] for item in manifest.artifacts if item.options.get("layers")}
    return {graph: dict(layers) for graph, layers in found.items()}


def accuracy_notices(manifest: Manifest) -> list[str]:
    """What a person is to know of a build within a budget: its cost, its layers in fp32, and whether it is faster."""
    said = []
    accuracy, speed = manifest.measured.get("accuracy"), manifest.measured.get("speed")
    if accuracy:
        drop = f"{accuracy['metric']} drops by {100 * accuracy['drop']:.2f} %, " if accuracy["metric"] else ""
        said.append(f"{drop}SNR {accuracy['snr_db']:.1f} dB against fp32 on {accuracy['samples']} held-back samples")
    for graph, layers in layers_of(manifest).items():
        kept = [name for name, precision in layers.items() if precision != "int8"]
        if kept:
            said.append(f"{len(kept)} of {len(layers)} layers of {graph} in fp32: {', '.join(kept)}")
    if speed:
        low, high = speed["ratio_ci"]
        word = {"slower": "SLOWER than", "faster": "faster than"}.get(speed["verdict"], "not shown to be faster than")
        said.append(
            f"{word} fp32 on the machine that made it: {speed['ratio']:.2f} of its latency ({low:.2f} to {high:.2f})"
        )
    return said
