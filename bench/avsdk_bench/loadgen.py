"""Turns driven by MLPerf LoadGen, inside the cell's process, where its wheel is. Not an MLPerf result.

One turn is one LoadGen test of exactly so many queries; its latencies are read from LoadGen's own trace, whole, to the
ns. Needs Python 3.9, as the cell does. Source: the Python bindings of mlcommons-loadgen 6.0.17 and what it writes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import AvsdkError, NotAvailable

FIX = "pip install mlcommons-loadgen, or --loop own"
_SCENARIOS = {
    "single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline", "server": "Server",
}  # fmt: skip
_DONE = re.compile(r'"query_seq":(\d+),.*"complete_ns":(\d+)')
_EXPECTED_NS = 1000  # below every real latency: LoadGen makes its queries beforehand, and must not make too few


def turn(load: Mapping[str, Any], run: Callable[[], object], n: int, seed: int) -> NDArray[np.int64]:
    """``n`` queries' latencies in ns as LoadGen took them; for ``offline``, one query's of ``n`` runs, divided by n.

    Raises ``NotAvailable`` without the wheel, and what ``run`` raised.
    """
    with tempfile.TemporaryDirectory(prefix="avsdk-loadgen-") as folder:
        _test(_settings(load, n, seed), run, Path(folder))
        latencies = _latencies(Path(folder) / "mlperf_log_trace.json")
    wanted = 1 if load["scenario"] == "offline" else n
    if len(latencies) != wanted:
        raise AvsdkError(
            f"LoadGen traced {len(latencies)} queries of {load['scenario']}",
            expected=f"{wanted}",
            fix="measure with --loop own",
        )
    return latencies // n if load["scenario"] == "offline" else latencies


def _library() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise NotAvailable("MLPerf LoadGen is not here: no module mlperf_loadgen", fix=FIX) from error
    return mlperf_loadgen


def _settings(load: Mapping[str, Any], n: int, seed: int) -> Any:
    lg = _library()
    test = lg.TestSettings()
    test.scenario = getattr(lg.TestScenario, _SCENARIOS[load["scenario"]])
    test.mode = lg.TestMode.PerformanceOnly
    test.min_duration_ms = 0
    test.min_query_count = test.max_query_count = n
    test.single_stream_expected_latency_ns = test.multi_stream_expected_latency_ns = _EXPECTED_NS
    test.multi_stream_samples_per_query = int(load.get("runs_per_query") or 1)
    test.server_target_qps = float(load.get("qps") or 1.0)
    test.server_target_latency_ns = int(1e6 * float(load.get("latency_ms") or 1e6))
    test.offline_expected_qps = 1e-3
    test.schedule_rng_seed = seed
    return test


def _test(settings: Any, run: Callable[[], object], folder: Path) -> None:
    """Run the test to its end. After an error of ``run`` its other queries are answered at once, and it is raised."""
    lg = _library()
    errors: list[Exception] = []

    def issue(samples: list[Any]) -> None:
        try:
            for _ in samples:
                if not errors:
                    run()
        except Exception as error:  # noqa: BLE001  (through LoadGen's C++ it would end the process)
            errors.append(error)
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

    log = lg.LogSettings()
    output = lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log.log_output, log.enable_trace = output, True
    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(1, 1, lambda indices: None, lambda indices: None)
    try:
        lg.StartTestWithLogSettings(system, library, settings, log, "")
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
    if errors:
        raise errors[0]


def _latencies(trace: Path) -> NDArray[np.int64]:
    """Per query, the latency of its last sample, in the order of issue."""
    latest: dict[int, int] = {}
    with trace.open() as lines:
        for line in lines:
            found = _DONE.search(line) if '"ph":"b"' in line else None
            if found:
                query, done = int(found[1]), int(found[2])
                latest[query] = max(done, latest.get(query, 0))
    return np.array([latest[query] for query in sorted(latest)], dtype=np.int64)
