"""A bench on other machines: the same rounds as here, each turn asked of the machine's agent; several machines at once.

The rounds are driven from here and every time is taken there, so a slow network makes a bench longer, not its numbers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError, NotAvailable, Refused, UsageError
from avsdk.golden import PIPELINE
from avsdk.host import Host
from avsdk.schema import decode
from avsdk_bench import rounds
from avsdk_bench.baseline import elsewhere_of
from avsdk_bench.facts import Machine
from avsdk_bench.noise import Noise
from avsdk_bench.plan import THIS_CPU, Cell, CellPlan, ColdStartFacts
from avsdk_bench.reading import report_from_json
from avsdk_bench.remote import Remote
from avsdk_bench.remote_agent import ARRAY
from avsdk_bench.remote_link import Link, link_from
from avsdk_bench.report import Observed, Report, Row, comparisons_from, method_from, row_from
from avsdk_bench.scenario import OFFLINE
from avsdk_bench.subjects import measured_here

Notice = Callable[[str], None]
Outcome = tuple[Report, dict[int, AvsdkError]]
_MOST_NS = 10**14


class RemoteWorker:
    """What a cell asks of its process, asked of one on another machine."""

    def __init__(self, remote: Remote, key: str) -> None:
        self._remote, self._key = remote, key

    def ask(self, method: str, /, **arguments: Any) -> Any:
        """Call a method of what the process holds; times come back as an array of ns."""
        return self._numbers(self._remote.request("ask", key=self._key, what=method, arguments=arguments))

    def call(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """The one function that a cell's process is asked for beside what it holds."""
        del function, arguments
        return self._remote.request("runtime", key=self._key)

    def turn(self, items: int, arguments: Mapping[str, Any]) -> Any:
        """One turn of the cell, in which so many items are answered."""
        return self._numbers(self._remote.request("turn", key=self._key, items=items, arguments=arguments))

    def close(self) -> None:
        """End the process."""
        self._remote.request("close", key=self._key)

    def _numbers(self, value: Any) -> Any:
        if not isinstance(value, dict) or ARRAY not in value:
            return value
        found = value[ARRAY]
        if not isinstance(found, list) or not all(type(item) is int and 0 < item < _MOST_NS for item in found):
            raise Refused(f"{self._remote.name} answered {str(found)[:80]} for durations", expected="times in ns")
        return np.asarray(found, dtype=np.int64)


class RemoteCell(Cell):
    """A cell whose process lives on another machine."""

    def __init__(self, remote: Remote, key: int, plan: CellPlan) -> None:
        super().__init__(plan)
        self._remote, self._key = remote, str(key)

    def open(self) -> ColdStartFacts:
        """Ask whether the engine is there, bring the bundle, start the cell. Raises what the load raises."""
        plan = self.plan
        if plan.absent is not None:
            raise plan.absent
        bundle = open_bundle(Path(plan.arguments["bundle"]))
        state = self._remote.request("doctor", engine=plan.engine, device=_device_of(plan))
        if not state["ok"]:
            raise NotAvailable(
                f"{plan.engine}:{_device_of(plan)} cannot run on {self._remote.name}: {state['reason']}",
                fix=f"there: {state['fix']}" if state["fix"] else "",
            )
        asked = self._asked(self._remote.bundle(bundle))
        self._worker = RemoteWorker(self._remote, self._key)
        facts = self._remote.request("open", engine=plan.engine, **asked)
        return ColdStartFacts(float(facts["cold_start_ms"]), dict(facts["phases"]), str(facts["input"]))

    def cold_starts(self) -> Mapping[str, Mapping[str, float]] | None:
        """Two starts there, with caches cold and warm; the bundle is there from ``open``."""
        asked = self._asked(self._remote.bundle(open_bundle(Path(self.plan.arguments["bundle"]))))
        found = self._remote.request("cold_starts", **asked)
        if found is None:
            return None
        return {str(caches): {str(name): float(ms) for name, ms in times.items()} for caches, times in found.items()}

    def meter(self, devices: Sequence[str]) -> Mapping[str, Any]:
        """Have the turns' energy counted there; the reason where nothing counts it."""
        found: Mapping[str, Any] = self._remote.request("meter", key=self._key, devices=list(devices))
        return found

    def energy(self) -> Mapping[str, Any]:
        """What the turns took."""
        found: Mapping[str, Any] = self._remote.request("energy", key=self._key)
        return found

    def run(self, n: int, lead_in: int = 0) -> NDArray[np.int64]:
        """``n`` durations in ns, by that machine's clock."""
        return self._whole(super().run(n, lead_in), n)

    def turn(self, n: int, lead_in: int, seed: int) -> NDArray[np.int64]:
        """``n`` samples of the scenario in ns, by that machine's clock."""
        items = (n * int(self.load.get("runs_per_query", 1)) + lead_in) * self.plan.items
        arguments = {"load": dict(self.load), "n": n, "lead_in": lead_in, "seed": seed}
        assert isinstance(self._worker, RemoteWorker)
        return self._whole(self._worker.turn(items, arguments), 1 if self.load["scenario"] == OFFLINE else n)

    def resident_mb(self) -> float | None:
        """The resident memory of the cell's processes, read from outside."""
        found = self._remote.request("resident", key=self._key)
        return float(found) if isinstance(found, (int, float)) else None

    def _asked(self, bundle: str) -> dict[str, Any]:
        plan = self.plan
        kind = "pipeline" if plan.graph == PIPELINE else "graph"
        arguments = {**plan.arguments, "bundle": bundle}
        return {"key": self._key, "kind": kind, "threads": plan.threads, "arguments": arguments}

    def _whole(self, samples: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        if not isinstance(samples, np.ndarray) or len(samples) != n:
            raise Refused(f"{self._remote.name} answered {str(samples)[:80]} for {n} durations", expected="times in ns")
        return samples

    def involuntary_switches(self) -> int | None:
        """Of the cell's processes, so far."""
        found = self._remote.request("switches", key=self._key)
        return found if isinstance(found, int) else None


def bench_elsewhere(
    addresses: Sequence[str],
    plans: Sequence[CellPlan],
    settings: rounds.Settings,
    *,
    command: str = "",
    notice: Notice = lambda text: None,
    progress: Callable[[int], None] = lambda count: None,
    threads: int | None = None,
    cold: bool = False,
) -> Outcome:
    """Measure the plans on every machine, all at once, and return one report with the errors by row.

    A machine that cannot be reached, or on which nothing runs, gives rows ``unavailable``; the others go on.
    ``threads``: as many as each machine has to give where None. Raises ``UsageError`` for what is no address.
    """
    links = [link_from(address) for address in addresses]
    if len({link.name for link in links}) < len(links):
        raise UsageError(f"--on names a machine twice: {', '.join(addresses)}", expected="each machine once")
    found: dict[str, Outcome] = {}

    def work(link: Link) -> None:
        try:
            with Remote(link, notice=notice) as remote:
                remote.start()
                found[link.name] = _bench_on(remote, plans, settings, command, progress, threads, cold)
        except AvsdkError as error:
            found[link.name] = _nothing(link.name, plans, error, command)
        except (ArithmeticError, KeyError, LookupError, TypeError, ValueError) as error:  # its answers make no sense
            refused = Refused(f"{link.name} answered what makes no sense: {type(error).__name__}: {error}")
            found[link.name] = _nothing(link.name, plans, refused, command)

    workers = [threading.Thread(target=work, args=(link,), daemon=True) for link in links]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return merged([(link.name, *found[link.name]) for link in links])


def merged(parts: Sequence[tuple[str, Report, dict[int, AvsdkError]]]) -> Outcome:
    """One report of several machines'; the first measured one's method and noise stand at its head."""
    head = next((report for _, report, _ in parts if report.method.rounds), parts[0][1])
    rows: list[Row] = []
    comparisons, elsewhere = [], {}
    errors: dict[int, AvsdkError] = {}
    for name, report, failed in parts:
        first = len(rows)
        rows += [replace(row, machine=name) for row in report.rows]
        comparisons += [
            replace(item, row=item.row + first, reference=item.reference + first) for item in report.comparisons
        ]
        errors |= {place + first: error for place, error in failed.items()}
        elsewhere[name] = elsewhere_of(report)
    return replace(head, rows=tuple(rows), comparisons=tuple(comparisons), elsewhere=elsewhere), errors


def _bench_on(
    remote: Remote, plans: Sequence[CellPlan], settings: rounds.Settings, command: str,
    progress: Callable[[int], None], threads: int | None, cold: bool,
) -> Outcome:  # fmt: skip
    started = time.monotonic()
    probed = remote.request("probe")
    there = decode(Host, probed["host"], where="host")
    state = decode(Machine, probed["machine"], where="machine")
    plans = [_there(plan, there, state, remote.name, threads or int(probed["threads"])) for plan in plans]
    observed = [Observed() for _ in plans]
    remote.request("quiet")
    cells = _opened(remote, plans, observed, cold)
    switches = {key: cell.involuntary_switches() for key, cell in cells.items()}
    most = max((plan.threads for plan in plans), default=1)

    def calibrate() -> float:
        return float(remote.request("calibrate", threads=most))

    began = time.monotonic()
    measurement = rounds.measure(cells, settings, calibrate, started=started, progress=progress)
    measured_s = time.monotonic() - began
    for key, cell in cells.items():
        if key not in measurement.failures:
            _finish(cell, observed[key], switches[key])
    taken = [item.switches for item in observed if item.switches is not None]
    judged = remote.request(
        "judge", rounds=len(measurement.rounds), void_rounds=measurement.void_rounds,
        switches_per_s=round(sum(taken) / measured_s, 2) if taken and measured_s else None,
    )  # fmt: skip
    report = Report(
        host=there,
        rows=tuple(row_from(plan, observed[key], measurement, key) for key, plan in enumerate(plans)),
        comparisons=comparisons_from(plans, measurement),
        noise=decode(Noise, judged, where="noise"),
        method=method_from(measurement, settings.budget_s),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=state,
    )
    checked = report_from_json(report.to_json(), where=f"the report of {remote.name}")
    failed = {key: item.failure for key, item in enumerate(observed) if item.failure is not None}
    return checked, {**failed, **measurement.failures}


def _opened(
    remote: Remote, plans: Sequence[CellPlan], observed: Sequence[Observed], cold: bool
) -> dict[int, RemoteCell]:
    cells = {}
    for key, plan in enumerate(plans):
        cell = RemoteCell(remote, key, plan)
        try:
            observed[key].cold = cell.open()
            observed[key].starts = cell.cold_starts() if cold else None
            observed[key].execution = execution = cell.execution()
            observed[key].energy = cell.meter(sorted({str(facts["device"]) for facts in execution.values()})) or None
            cells[key] = cell
        except AvsdkError as error:
            observed[key].failure = error
            cell.close()
    return cells


def _finish(cell: RemoteCell, observed: Observed, switches_before: int | None) -> None:
    try:
        observed.load = cell.load
        observed.energy = observed.energy or cell.energy()
        observed.memory = cell.memory()
        observed.runtime = cell.runtime()
        observed.stages = cell.stages()
        after = cell.involuntary_switches()
        cell.close()
    except AvsdkError as error:
        observed.failure = error
        return
    if after is not None and switches_before is not None:
        observed.switches = after - switches_before


def _there(plan: CellPlan, host: Host, machine: Machine, name: str, threads: int) -> CellPlan:
    """The plan for another machine: its threads, and whether it is the device that the bundle was built for."""
    gpus = [text.partition(": ")[2].partition(",")[0] for text in host.accelerators if text.startswith("nvidia: ")]
    names = [text for text in (host.cpu, machine.board or "", *gpus) if text]
    remark = measured_here(plan.target, plan.engine, names).replace("this machine", name)
    device = _device_of(plan)
    return replace(
        plan, remark=remark, threads=threads, device=THIS_CPU if remark and device == "cpu" else device,
        arguments={**plan.arguments, **({"threads": threads} if "threads" in plan.arguments else {})},
    )  # fmt: skip


def _device_of(plan: CellPlan) -> str:
    return "cpu" if plan.device == THIS_CPU else plan.device


def _nothing(name: str, plans: Sequence[CellPlan], error: AvsdkError, command: str) -> Outcome:
    """The report of a machine that could not be reached: every row says why."""
    measurement = rounds.Measurement(least_rounds=rounds.LEAST_ROUNDS, seed=0)
    observed = [Observed(failure=error) for _ in plans]
    unknown: Mapping[str, Any] = dict.fromkeys(
        ("steal_share", "busy_share", "load_before", "load_after", "frequency_mhz_before", "frequency_mhz_after",
         "thermal_throttles", "cgroup_throttles", "cgroup_cpus", "involuntary_switches_per_s")
    )  # fmt: skip
    report = Report(
        host=Host(f"unknown, {name} was not reached", "", (), 0, None, 0, (), {}, "", ""),
        rows=tuple(row_from(plan, observed[key], measurement, key) for key, plan in enumerate(plans)),
        comparisons=(),
        noise=Noise(**unknown, void_rounds=0, rounds=0, quiet=False, reasons=("nothing was measured",)),
        method=method_from(measurement, 0.0),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return report, dict.fromkeys(range(len(plans)), error)
