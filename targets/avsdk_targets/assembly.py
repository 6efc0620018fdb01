"""One bundle being put together: its graphs compiled for their targets, in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avsdk import __version__
from avsdk.bundle import Artifact, Manifest, write_manifest
from avsdk.errors import UsageError
from avsdk.host import probe
from avsdk.parity import Parity
from avsdk.precision import check_executed
from avsdk.session import session_class
from avsdk.source import SourceFiles
from avsdk.spec import GraphSpec
from avsdk.stages import Stages
from avsdk.verify import Verified, verify_bundle
from avsdk_targets.bundle_files import place_files, place_models
from avsdk_targets.compiler import CompileJob, Quantisation
from avsdk_targets.placement import Placement
from avsdk_targets.plan import Plan
from avsdk_targets.proof import proof_for
from avsdk_targets.sources import GUESSED
from avsdk_targets.stages import write_stages


@dataclass(frozen=True)
class Assembly:
    """What a bundle is made of. ``sizes``: as ``--axis`` gave them; ``settings``: those of engines, by engine."""

    placement: Placement
    files: SourceFiles
    work: Path
    sizes: tuple[Mapping[str, int], ...] = ()
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan of the whole bundle."""
        return self.placement.whole

    def draft(
        self, quantisation: Mapping[str, Quantisation] | None = None, precision: str = ""
    ) -> tuple[Path, Manifest]:
        """Compile every graph into a fresh folder; the manifest says what is not proven yet, and is not written.

        ``quantisation``: by graph. ``precision``: what the bundle is called, where that is not the one of the plan.
        """
        plan, files = self.plan, self.files
        self.placement.require_graphs([graph.name for graph in files.spec.graphs])
        folder = self.work / f"{plan.candidate.engine}-{plan.candidate.device}-{precision or plan.precision}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = place_models(folder, files.onnx)
        golden = place_files(folder, "golden", files.golden, ".npz")
        place_files(folder, "assets", files.assets, "")
        artifacts: list[Artifact] = []
        built_with: dict[str, str] = {}
        for graph in files.spec.graphs:
            mine = self.placement.plan_for(graph.name)
            for sizes in self.sizes_to_build(mine, graph):
                job = self._job(mine, graph, folder, sizes, len(artifacts), (quantisation or {}).get(graph.name))
                compiled = mine.compiler.compile(job)
                names = compiled.artifact.files
                prefix = f"artifacts/{graph.name}/{len(artifacts)}/"
                listed = tuple(prefix + name for name in names) if names else (model[graph.name],)
                artifacts.append(replace(compiled.artifact, files=listed, precision=precision or mine.precision))
                built_with.update(compiled.built_with)
        draft = self._manifest(artifacts, built_with, model, golden, precision)
        return folder, replace(draft, stages=_stages(folder, files, artifacts))

    def sizes_to_build(self, plan: Plan, graph: GraphSpec) -> list[Mapping[str, int] | None]:
        """The fixed sizes to build, or one build with dynamic axes.

        Raises ``UsageError`` for an axis whose size or range the engine needs and nobody gave.
        """
        asked = [self.files.spec.sizes_for(graph, sizes) for sizes in self.sizes]
        keeps = plan.compiler.keeps_axes(plan.candidate.device)
        guessed = [name for name in self.files.origin.get(GUESSED, ()) if name in graph.axes]
        if keeps and plan.compiler.needs_ranges and guessed:
            raise _no_range(plan, guessed, "MIN:MAX")
        if keeps or not graph.axes:
            return [None]
        lacking = [name for name in guessed if not self._is_sized(graph, name)]
        if lacking:
            raise _no_range(plan, lacking, "SIZE")
        return list(asked) or [self.files.spec.sizes_for(graph, {})]

    def _is_sized(self, graph: GraphSpec, name: str) -> bool:
        """Whether every set of sizes gives the axis, or it leads all its tensors: a batch, run one at a time."""
        if all(tensor.shape[0] == name for tensor in graph.inputs if name in tensor.shape):
            return True
        given = [name in sizes or f"{graph.name}.{name}" in sizes for sizes in self.sizes]
        return bool(given) and all(given)

    def _job(
        self,
        plan: Plan,
        graph: GraphSpec,
        folder: Path,
        sizes: Mapping[str, int] | None,
        index: int,
        quantisation: Quantisation | None,
    ) -> CompileJob:
        out = folder / "artifacts" / graph.name / str(index)
        out.mkdir(parents=True)
        return CompileJob(
            onnx=self.files.onnx[graph.name],
            program=self.files.programs.get(graph.name),
            golden=self.files.golden.get(graph.name),
            graph=graph,
            device=plan.candidate.device,
            arch=plan.candidate.arch,
            precision=plan.precision,
            sizes=sizes,
            out=out,
            options={**plan.candidate.profile.options, **self.settings.get(plan.candidate.engine, {})},
            quantisation=quantisation,
        )

    def _manifest(
        self,
        artifacts: Sequence[Artifact],
        built_with: Mapping[str, str],
        model: Mapping[str, str],
        golden: Mapping[str, str],
        precision: str,
    ) -> Manifest:
        plan = self.plan
        return Manifest(
            avsdk=__version__,
            spec=self.files.spec,
            target=plan.target.name,
            engine=plan.candidate.engine,
            device=plan.candidate.device,
            precision=precision or plan.precision,
            effective_precision="unknown",
            source=dict(self.files.origin),
            artifacts=tuple(artifacts),
            golden=golden,
            built_with={"avsdk": __version__, **built_with},
            parity=Parity.not_run("not verified yet"),
            model=model,
        )


def isa_of(plan: Plan) -> tuple[str, ...]:
    """The instruction sets of the processor that a plan builds for, in the words of ``avsdk.host``."""
    candidate = plan.candidate
    return probe().isa if candidate.arch == "host" else tuple(candidate.profile.isa)


def verify_draft(folder: Path, plan: Plan, samples: Mapping[str, Path] | None = None) -> Verified:
    """Run the golden samples, or others, where this machine proves the plan's device best."""
    proof = proof_for(plan.candidate)
    return verify_bundle(
        folder,
        executed_on=proof.executed_on,
        python=proof.python,
        env=proof.env,
        budget_s=proof.budget_s,
        samples=samples,
    )


def proven(folder: Path, draft: Manifest, plan: Plan) -> Path:
    """Write the manifest, run the golden samples, and write it again with the record. Raises when parity fails."""
    for empty in sorted(folder.rglob("*"), reverse=True):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
    write_manifest(folder, draft)
    verified = verify_draft(folder, plan)
    where = f"the {plan.candidate.engine}:{plan.candidate.device} bundle"
    verified.parity.require(where=where)
    for graph, shares in verified.precision_shares.items():
        check_executed(draft.precision, shares, where=f"graph {graph!r} of {where}")
    effective = " | ".join(dict.fromkeys(verified.effective_precision.values()))
    measured = {
        **draft.measured,
        "precision_shares": verified.precision_shares,
        "effective_precision": verified.effective_precision,
        **proof_for(plan.candidate).record(),
    }
    complete = replace(
        draft,
        parity=verified.parity,
        effective_precision=effective or f"{draft.precision} (as built; not executed here)",
        measured=measured,
    )
    write_manifest(folder, complete)
    return folder


def _stages(folder: Path, files: SourceFiles, artifacts: Sequence[Artifact]) -> dict[str, Stages]:
    """The stages of the graphs that can run in bands: their engine opens ONNX, and each is made of what can be cut."""
    found: dict[str, Stages] = {}
    for item in artifacts:
        if item.shapes is None and session_class(item.engine).opens_onnx(item.device, item.precision):
            cut = write_stages(files.onnx[item.graph], files.spec.graph(item.graph), folder)
            found.update({item.graph: cut} if cut else {})
    return found


def _no_range(plan: Plan, names: Sequence[str], what: str) -> UsageError:
    axes = f"axis {names[0]!r}" if len(names) == 1 else f"axes {', '.join(names)}"
    return UsageError(
        f"{plan.candidate.engine} needs the sizes of the {axes}, and the model does not say them",
        expected="sizes to build, or ranges: the model names the axes and no more",
        fix=f"--axis {','.join(f'{name}={what}' for name in names)}",
    )
