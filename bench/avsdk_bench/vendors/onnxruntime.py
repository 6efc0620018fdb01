"""ONNX Runtime's own loop in Python: its wheel brings no benchmark, so this is what its users write.

Run as a program, ``python onnxruntime.py FILE THREADS SECONDS INPUTS RESULT``, it needs numpy and ``onnxruntime`` only.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

TOOL = "onnxruntime's own loop"


def _loop(file: str, threads: str, seconds: str, inputs: str, result: str) -> None:
    """Time ``InferenceSession.run`` on the same inputs for so many seconds, after 3 runs that are not counted."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = {name: np.load(path, allow_pickle=False) for name, path in json.loads(inputs).items()}
    for _ in range(3):
        session.run(None, feeds)
    clock, times = time.perf_counter_ns, list[int]()
    until = clock() + float(seconds) * 1e9
    while clock() < until or len(times) < 5:
        start = clock()
        session.run(None, feeds)
        times.append(clock() - start)
    told = session.get_session_options()
    found = {"median_ms": statistics.median(times) / 1e6, "threads": told.intra_op_num_threads}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _loop(*sys.argv[1:])
else:
    from avsdk.errors import NotAvailable
    from avsdk_bench.vendors import Job, Outcome, positive_ms

    def command(job: Job) -> list[str]:
        """This file as a program."""
        if job.artifact.device != "cpu":
            raise NotAvailable(f"{TOOL} is matched for cpu only, not {job.artifact.device}")
        inputs = json.dumps({name: str(path) for name, path in job.inputs.items()})
        facts = (str(job.file), str(job.threads), str(job.seconds), inputs, str(job.folder / "result.json"))
        # -I: else this file's folder comes first on its path, and this very file would be "onnxruntime".
        return [sys.executable, "-I", __file__, *facts]

    def outcome(job: Job, text: str) -> Outcome:
        """The median of its result file."""
        try:
            result = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
            threads = str(result["threads"])[:20]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotAvailable(f"{TOOL} left no result: {text[-300:]}") from error
        return Outcome(positive_ms(result.get("median_ms"), TOOL), {"threads": threads})
