"""LiteRT's ``litert-benchmark``, which comes with the package ``ai-edge-litert`` from 2.1 on."""

from __future__ import annotations

import json
import sys

from avsdk.errors import NotAvailable
from avsdk_bench.vendors import Job, Outcome, positive_ms

TOOL = "litert-benchmark"
_RUN = "import sys; from ai_edge_litert.tools.benchmark_litert_model import main; sys.exit(main())"


def command(job: Job) -> list[str]:
    """Its CPU loop with our number of threads; it makes its own input."""
    if job.artifact.device != "cpu":
        raise NotAvailable(f"{TOOL} is matched for cpu only, not {job.artifact.device}")
    return [
        sys.executable, "-c", _RUN, "--model", str(job.file), "--num_threads", str(job.threads), "--num_runs",
        str(job.runs), "--warmup_runs", "3", "--result_json", str(job.folder / "result.json"),
    ]  # fmt: skip


def outcome(job: Job, text: str) -> Outcome:
    """The median of its result file."""
    try:
        result = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
        latency, threads = result["latency"], str(result["num_threads"])[:20]
    except (OSError, ValueError, KeyError, TypeError) as error:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
        raise NotAvailable(f"{TOOL} left no result: {last[:300]}") from error
    median = latency.get("median_ms") if isinstance(latency, dict) else None
    remarks = ("it fills inputs once, with random numbers from -1 to 1, outside its times, and reads no output",)
    return Outcome(positive_ms(median, TOOL), {"threads": threads}, remarks)
