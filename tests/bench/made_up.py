"""Reports made up for tests, with the numbers that a test wants to see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from avsdk.host import Host
from avsdk_bench import noise
from avsdk_bench.facts import Accuracy, GraphFacts, Machine, RuntimeFacts
from avsdk_bench.report import Comparison, Method, Report, Row

ROUNDS, RUNS = 8, 100


def made_up_row(name: str = "wave", *, p50_ms: float = 10.0, spread: float = 0.002, seed: int = 0, **facts: Any) -> Row:
    """A measured row; every round's median lies within about ``spread`` of ``p50_ms``."""
    random = np.random.default_rng(seed)
    centres = p50_ms * (1.0 + spread * random.standard_normal(ROUNDS))
    samples = [np.abs(centre * (1.0 + 0.01 * random.standard_normal(RUNS))) for centre in centres]
    pooled = np.concatenate(samples)
    engine = facts.get("engine", "openvino")
    row = Row(
        bundle=name, graph="net", target=f"{engine}:cpu", engine=engine, device="cpu", precision="fp32", threads=1,
        shapes={"batch": 1, "height": 16, "width": 20}, size_mb=6.5, status="measured", effective_precision="fp32",
        precision_shares={"fp32": 1.0}, placement={"cpu": 1.0}, p50_ms=float(np.median(pooled)),
        p50_ci_ms=(float(min(centres)), float(max(centres))), p90_ms=float(np.quantile(pooled, 0.92)),
        p99_ms=float(np.quantile(pooled, 0.995)), min_ms=float(pooled.min()), n=len(pooled), rounds=ROUNDS,
        throughput_per_s=len(pooled) / (float(pooled.sum()) / 1e3), cold_start_ms=400.0, peak_rss_mb=120.0, steady=True,
        cold_start={"spawn_ms": 50.0, "import_ms": 150.0, "load_ms": 180.0, "first_output_ms": 20.0},
        samples_ms=tuple(tuple(np.round(item, 6).tolist()) for item in samples), iqr_ms=(p50_ms * 0.99, p50_ms * 1.01),
        includes=("infer",), graphs=(GraphFacts("net", "ab" * 32, 18, 9, {"Conv": 3, "Relu": 2}, 0.01),),
        parity=Accuracy("pass", "device", "fp32 reference", 8, "", 101.5, 0.9999999, 1e-6),
        runtime=RuntimeFacts(engine, "1.2.3", "Release", "3.11.7", (0, 1), {"OMP_NUM_THREADS": "1"}),
    )  # fmt: skip
    return replace(row, **facts)


def made_up_report(*rows: Row, **facts: Any) -> Report:
    """A report of these rows, else of two that may be compared."""
    shown = rows or (made_up_row(), made_up_row("wave", p50_ms=12.0, seed=1, engine="onnxruntime"))
    calm = noise.judge(noise.Snapshot(*[None] * 7), noise.Snapshot(*[None] * 7), rounds=ROUNDS, void_rounds=0)
    method = Method(
        30.0, 5, ROUNDS, 0, False, "precision", 28.0, 0, tuple((0, 1) for _ in range(ROUNDS)), (False,) * ROUNDS,
        tuple((1.0, 1.01) for _ in range(ROUNDS)),
    )  # fmt: skip
    report = Report(
        host=Host("Test CPU", "x86_64", ("avx2",), 2, None, 8000, (), {"openvino": "1.2.3"}, "3.11.7", "Linux 6"),
        rows=shown,
        comparisons=(Comparison(1, 0, 1.2, (1.19, 1.21), ROUNDS, "slower", True),) if len(shown) > 1 else (),
        noise=calm,
        method=method,
        command="avsdk bench wave --threads 1",
        date="2026-01-02T03:04:05+00:00",
        machine=Machine("Linux 6"),
    )
    return replace(report, **facts)
