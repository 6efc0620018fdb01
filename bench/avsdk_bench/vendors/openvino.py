"""OpenVINO's ``benchmark_app``, which comes with the package."""

from __future__ import annotations

import contextlib
import json
import re
import sys

from avsdk.dtypes import numpy_dtype
from avsdk.errors import NotAvailable
from avsdk_bench.vendors import Job, Outcome, positive_ms

TOOL = "benchmark_app"
_RUN = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_SETTING = re.compile(r"^\[ INFO \]\s+([A-Z_]{3,60}): (.{1,200})$", re.MULTILINE)
_READ_BACK = {"<Type: 'float32'>": "fp32", "<Type: 'bfloat16'>": "bf16", "<Type: 'float16'>": "fp16"}


def command(job: Job) -> list[str]:
    """One request at a time on one stream, the same input, precision and threads; inputs of their own type, not u8."""
    hint = _HINTS.get(job.artifact.precision)
    if job.artifact.device != "cpu" or hint is None:
        raise NotAvailable(f"{TOOL} is matched for cpu in {', '.join(_HINTS)} only, not {job.artifact.precision}")
    tensors = job.graph.inputs
    shapes = ",".join(f"{tensor.name}[{','.join(map(str, tensor.sized(job.sizes)))}]" for tensor in tensors)
    kinds = ",".join(f"{tensor.name}:{_kind(tensor.dtype)}" for tensor in tensors)
    given = ",".join(f"{name}:{path}" for name, path in job.inputs.items())
    return [
        sys.executable, "-c", _RUN, "-m", str(job.file), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams",
        "1", "-nthreads", str(job.threads), "-infer_precision", hint, "-t", str(max(1, round(job.seconds))), "-shape",
        shapes, "-iop", kinds, "-i", given, "-report_type", "no_counters", "-json_stats", "-report_folder",
        str(job.folder),
    ]  # fmt: skip


def outcome(job: Job, text: str) -> Outcome:
    """The median of its report, and what the plugin says it runs with."""
    try:
        report = json.loads((job.folder / "benchmark_report.json").read_text(encoding="utf-8"))
        results = report["execution_results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotAvailable(f"{TOOL} left no report: {_last(text)}") from error
    if not isinstance(results, dict) or "error" in results:
        raise NotAvailable(f"{TOOL} failed: {str(results)[-300:]}")
    median, remarks = results.get("latency (ms)"), ["it fills inputs once, outside its times, and copies no output"]
    if _is_coarse(median):
        count = positive_ms(results.get("total number of iterations"), TOOL)
        median = positive_ms(results.get("total execution time (ms)"), TOOL) / count
        remarks.append("its median has two decimals, which is too coarse here: its mean is taken")
    told = dict(_SETTING.findall(text))
    precision = told.get("INFERENCE_PRECISION_HINT", "")
    settings = {
        "threads": told.get("INFERENCE_NUM_THREADS", ""),
        "streams": told.get("NUM_STREAMS", ""),
        "precision": _READ_BACK.get(precision, precision),
        "pinning": told.get("ENABLE_CPU_PINNING", ""),
    }
    return Outcome(
        positive_ms(median, TOOL),
        {name: value for name, value in settings.items() if value},
        tuple(remarks),
    )


def _is_coarse(median: object) -> bool:
    """Whether two decimals of a millisecond are no longer one percent of the time told."""
    with contextlib.suppress(TypeError, ValueError):
        return 0.0 <= float(str(median)) < 1.0
    return False


def _kind(dtype: str) -> str:
    kind = numpy_dtype(dtype)
    return f"{'bool' if kind.kind == 'b' else kind.kind}{'' if kind.kind == 'b' else kind.itemsize * 8}"


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[:300]
