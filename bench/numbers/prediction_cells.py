"""Measure the graphs that predictions are fitted on and judged by: each at each of its sizes, on each engine.

``python bench/numbers/prediction_cells.py --out cells.json`` goes on where it stopped. The time of a run is the median
over rounds of the processor time that the cell's process took per run: with one thread that is the latency of an
undisturbed machine, whatever else runs on this one. The median of the latencies stands beside it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import unlike_graphs

from avsdk import console, plugins
from avsdk.bundle import Manifest, write_manifest
from avsdk.errors import AvsdkError
from avsdk.files import write_atomic
from avsdk.parity import Parity
from avsdk.schema import encode
from avsdk.spec import GraphSpec, ModelSpec, TensorSpec
from avsdk_bench.calibration import Calibration
from avsdk_bench.cell import open_graph
from avsdk_bench.plan import Cell, CellPlan
from avsdk_bench.work import graph_work
from avsdk_export.program import export_program, save_program
from avsdk_export.to_onnx import onnx_from_program, write_onnx
from avsdk_targets.compiler import CompileJob

ZOO = ("zoo:style_transfer/wave/transform",)
ROUNDS = 5
TURN_S = 0.25


def main(
    out: Annotated[Path, typer.Option(help="The file that measurements are added to.")],
    engine: Annotated[list[str], typer.Option(help="The engines; may be repeated.")] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(help="Threads per cell.")] = 1,
    only: Annotated[list[str], typer.Option(help="Networks; all without it.")] = [],  # noqa: B006
    work: Annotated[Path | None, typer.Option(help="Where graphs and bundles stay.")] = None,
) -> None:
    """Build, measure, and write after every graph."""
    cells: list[dict[str, Any]] = json.loads(out.read_text())["cells"] if out.exists() else []
    folder = work or Path(tempfile.mkdtemp(prefix="avsdk-prediction-"))
    for name in only or (*unlike_graphs.NETWORKS, *ZOO):
        for place in range(3):
            known = {(item["graph"], item["place"], item["engine"], item["threads"]) for item in cells}
            wanted = [item for item in engine if (name, place, item, threads) not in known]
            if wanted:
                cells += measured(name, place, wanted, threads, folder)
                write_atomic(out, json.dumps({"cells": cells}, indent=1) + "\n")


def measured(name: str, place: int, engines: list[str], threads: int, folder: Path) -> list[dict[str, Any]]:
    """The cells of one graph at one size, in interleaved rounds; one that cannot be built is a cell without time."""
    onnx, graph = exported(name, place, folder)
    counted = encode(graph_work(onnx, graph, {}))
    found, cells = [], {}
    with ExitStack() as stack:
        for engine in engines:
            facts = {"graph": name, "place": place, "engine": engine, "threads": threads, "work": counted}
            try:
                bundle = built(onnx, graph, engine, folder)
                cells[engine] = stack.enter_context(Cell(_plan(bundle, graph, engine, threads)))
                cells[engine].open()
            except AvsdkError as error:
                console.notice(f"{name} {place} on {engine}: {error.failed.splitlines()[0][:300]}")
                cells.pop(engine, None)
                found.append({**facts, "ms": None, "reason": error.failed[:300]})
        calibration = Calibration(threads)
        stack.callback(calibration.close)
        times = _rounds(cells)
        rates = encode(calibration.rates())
        for engine in cells:
            facts = {"graph": name, "place": place, "engine": engine, "threads": threads, "work": counted}
            busy, wall = (float(np.median(part)) for part in zip(*times[engine], strict=True))
            found.append({**facts, "ms": busy, "wall_ms": wall, "rounds": times[engine], "rates": rates})
            console.notice(f"{name} {place} {engine}: {busy:.4g} ms busy, {wall:.4g} ms wall")
    return found


def exported(name: str, place: int, folder: Path) -> tuple[Path, GraphSpec]:
    """The network at one of its sizes as ONNX, and its program beside it, exported as ``avsdk export`` does."""
    stem = folder / f"{name.removeprefix('zoo:').replace('/', '-')}-{place}"
    module, sizes = unlike_graphs.network(name)
    inputs = sizes[place]
    given = tuple(
        TensorSpec(f"in{number}", str(item.dtype).removeprefix("torch."), tuple(item.shape))
        for number, item in enumerate(inputs)
    )
    answer = module(*inputs)
    spec = GraphSpec("net", given, (TensorSpec("answer", "float32", tuple(answer.shape)),))
    if not stem.with_suffix(".onnx").exists():
        program = export_program(module, spec)
        save_program(program, stem.with_suffix(".pt2"))
        write_onnx(onnx_from_program(program, spec, ModelSpec(stem.name, "tensor", (spec,))), stem.with_suffix(".onnx"))
    return stem.with_suffix(".onnx"), spec


def built(onnx: Path, graph: GraphSpec, engine: str, folder: Path) -> Path:
    """A bundle of the graph for one engine on this processor."""
    bundle = folder / f"{onnx.stem}-{engine}"
    if (bundle / "manifest.json").exists():
        return bundle
    out = bundle / "artifacts"
    out.mkdir(parents=True, exist_ok=True)
    (bundle / "model").mkdir(exist_ok=True)
    (bundle / "model" / "net.onnx").write_bytes(onnx.read_bytes())
    program = onnx.with_suffix(".pt2")
    compiler = plugins.load("compilers", engine)()
    job = CompileJob(
        onnx=bundle / "model" / "net.onnx", graph=graph, device="cpu", arch="host", precision="fp32", out=out,
        program=program if program.exists() else None, sizes={},
    )  # fmt: skip
    compiled = compiler.compile(job)
    files = tuple(f"artifacts/{file}" for file in compiled.artifact.files) or ("model/net.onnx",)
    manifest = Manifest(
        avsdk="0", spec=ModelSpec(onnx.stem, "tensor", (graph,)), target=f"{engine}:cpu", engine=engine, device="cpu",
        precision="fp32", effective_precision="fp32", source={"kind": "made"},
        artifacts=(replace(compiled.artifact, files=files),), golden={}, built_with=dict(compiled.built_with),
        parity=Parity.not_run("random weights"), model={"net": "model/net.onnx"},
    )  # fmt: skip
    write_manifest(bundle, manifest)
    return bundle


def _plan(bundle: Path, graph: GraphSpec, engine: str, threads: int) -> CellPlan:
    arguments = {"bundle": str(bundle), "graph": graph.name, "sizes": {}, "threads": threads, "seed": 0}
    return CellPlan(
        bundle=str(bundle), graph=graph.name, target=f"{engine}:cpu", engine=engine, device="cpu", precision="fp32",
        threads=threads, sizes={}, size_mb=None, factory=open_graph, arguments=arguments,
    )  # fmt: skip


def _rounds(cells: dict[str, Cell]) -> dict[str, list[tuple[float, float]]]:
    """Per cell and round: processor time and median latency of a run, in ms."""
    counts = {}
    for name, cell in cells.items():
        cell.run(2)
        typical_s = float(np.median(cell.run(3))) / 1e9
        counts[name] = max(3, min(2000, int(TURN_S / max(typical_s, 1e-6))))
    random = np.random.default_rng(0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cells}
    for _ in range(ROUNDS):
        for name in random.permutation(list(cells)):
            times[str(name)].append(_turn(cells[str(name)], counts[str(name)]))
    return times


def _turn(cell: Cell, count: int) -> tuple[float, float]:
    """Of ``count`` runs, less what the asking itself takes."""
    before = _busy_ns(cell)
    cell.run(1)
    middle = _busy_ns(cell)
    samples = cell.run(count + 1)
    return (_busy_ns(cell) - middle - (middle - before)) / count / 1e6, float(np.median(samples)) / 1e6


def _busy_ns(cell: Cell) -> int:
    """Processor time of all threads of the cell's processes so far; Linux's scheduler counts it."""
    return sum(int(file.read_text().split()[0]) for file in _tasks(cell._pids))


def _tasks(pids: list[int]) -> Iterator[Path]:
    for pid in pids:
        yield from Path(f"/proc/{pid}/task").glob("*/schedstat")


if __name__ == "__main__":
    typer.run(main)
