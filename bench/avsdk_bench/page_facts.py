"""The facts of a report as lists of names and values, for the HTML page: machine, noise, method, models, runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from avsdk.host import Host
from avsdk_bench.facts import GraphFacts, Machine, RuntimeFacts
from avsdk_bench.noise import Noise
from avsdk_bench.printing import printed_number
from avsdk_bench.report import Report, Row

_OPERATORS_SHOWN = 12


@dataclass(frozen=True)
class Card:
    """A title, and names with values."""

    title: str
    entries: tuple[tuple[str, str], ...]


def cards_of(report: Report) -> list[Card]:
    """One card each for the machine, its noise, the method, every other machine, every model and every runtime."""
    cards = [Card("Machine", tuple(_machine(report.host, report.machine)))]
    if report.method.rounds:
        cards += [Card("Noise", tuple(_noise(report.noise))), Card("Method", tuple(_method(report)))]
    for name, item in report.elsewhere.items():
        facts = {"date": item.date, "avsdk": item.avsdk, "rounds": f"{item.rounds}, {item.void_rounds} void"}
        entries = (*facts.items(), *_machine(item.host, item.machine), *_noise(item.noise))
        cards.append(Card(f"Elsewhere: {name}", tuple(entries)))
    graphs = dict.fromkeys((graph.sha256, graph.name) for row in report.rows for graph in row.graphs)
    for sha256, name in graphs:
        rows = [(row, graph) for row in report.rows for graph in row.graphs if graph.sha256 == sha256]
        cards.append(Card(f"Model: {name}", tuple(_graph(*rows[0]))))
    seen: dict[str, RuntimeFacts] = {}
    for row in report.rows:
        if row.runtime is not None:
            seen.setdefault(f"{row.runtime.engine} {row.runtime.version}".strip(), row.runtime)
    cards += [Card(f"Runtime: {name}", tuple(_runtime(item))) for name, item in seen.items()]
    return cards + [_accuracy(number, row) for number, row in enumerate(report.rows, 1) if row.parity is not None]


def _machine(host: Host, machine: Machine | None) -> Iterator[tuple[str, str]]:
    yield "processor", f"{host.cpu}, {host.arch}"
    yield "cores", f"{host.cores}{f', quota {host.cgroup_cpus:g}' if host.cgroup_cpus else ''}"
    yield "memory", f"{host.memory_mb} MB"
    yield "instructions", ", ".join(host.isa) or "none that matter"
    yield "accelerators", ", ".join(host.accelerators) or "none"
    yield "system", f"{host.system}, Python {host.python}"
    yield "libraries", ", ".join(f"{name} {version}" for name, version in host.libraries.items()) or "none"
    if machine is not None:
        yield "governor", machine.governor or "not told"
        yield "clock range", " to ".join(f"{clock:g} MHz" for clock in machine.frequency_mhz or ()) or "not told"
        yield "microcode", machine.microcode or "not told"
        yield "hypervisor", machine.hypervisor or "none seen"
        yield "temperatures", _listed(machine.temperatures_c, " C") or "not told"
        yield "board", machine.board or "not told"


def _noise(noise: Noise) -> Iterator[tuple[str, str]]:
    yield "verdict", "quiet" if noise.quiet else "; ".join(noise.reasons)
    yield "stolen time", "not told" if noise.steal_share is None else f"{noise.steal_share:.1%}"
    yield "busy", "not told" if noise.busy_share is None else f"{noise.busy_share:.0%} of all processors"
    yield "load", f"{_known(noise.load_before)} before, {_known(noise.load_after)} after"
    yield "clock", f"{_known(noise.frequency_mhz_before)} MHz before, {_known(noise.frequency_mhz_after)} MHz after"
    yield "throttled for heat", _known(noise.thermal_throttles)
    yield "stopped by quota", _known(noise.cgroup_throttles)
    yield "switches against their will", f"{_known(noise.involuntary_switches_per_s)} per s"


def _method(report: Report) -> Iterator[tuple[str, str]]:
    method = report.method
    yield (
        "rounds",
        f"{method.rounds}, {method.void_rounds} void{', used all the same' if method.void_rounds_used else ''}",
    )
    yield "budget", f"{method.budget_s:g} s, {method.elapsed_s:g} s used"
    yield "order", f"random in each round, seed {method.seed}"
    yield "clock", method.clock
    yield "percentiles", method.percentiles
    if method.calibration_ms:
        times = [time for pair in method.calibration_ms for time in pair]
        yield "calibration kernel", f"{min(times):.4g} to {max(times):.4g} ms"
    scenarios = ", ".join(dict.fromkeys(row.scenario for row in report.rows))
    yield "scenario", scenarios
    yield "inputs", "; ".join(dict.fromkeys(row.input for row in report.rows if row.input)) or "none"


def _graph(row: Row, graph: GraphFacts) -> Iterator[tuple[str, str]]:
    shown = list(graph.operators.items())[:_OPERATORS_SHOWN]
    more = len(graph.operators) - len(shown)
    yield "SHA-256", graph.sha256
    yield "ONNX", f"opset {graph.opset}, IR {graph.ir}, {graph.size_mb:g} MB"
    yield (
        "operators",
        ", ".join(f"{name} {count}" for name, count in shown) + (f" and {more} kinds more" if more else ""),
    )
    facts = row.roofline or {}
    for key, name in (("flops", "operations per run"), ("bytes", "bytes moved per run")):
        value = facts.get(key)
        if isinstance(value, (int, float)):
            yield name, f"{value:.4g}"


def _runtime(runtime: RuntimeFacts) -> Iterator[tuple[str, str]]:
    yield "version", runtime.version or "not told"
    yield "build", runtime.build or "not told"
    yield "Python", runtime.python
    yield "processors", ", ".join(map(str, runtime.affinity)) or "not told"
    yield "environment", ", ".join(f"{name}={value}" for name, value in runtime.environment.items()) or "nothing set"


def _accuracy(number: int, row: Row) -> Card:
    parity = row.parity
    assert parity is not None
    entries = {
        "parity": f"{parity.verdict}{f', {parity.reason}' if parity.reason else ''}",
        "compared with": parity.reference or "nothing",
        "samples": str(parity.samples),
        "executed on": parity.executed_on,
        "SNR": f"{parity.snr_db:g} dB" if parity.snr_db is not None else "not known",
        "cosine": f"{parity.cosine:.7f}" if parity.cosine is not None else "not known",
        "executed": f"{row.effective_precision or 'not known'} ({_percent(row.precision_shares)})",
        "placed": _percent(row.placement),
    }
    for name in ("load", "outcome", "energy"):  # what a scenario or a meter tells, where a row has it
        facts = getattr(row, name, None)
        if isinstance(facts, Mapping) and facts:
            entries[name] = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
    return Card(f"#{number} {row.graph}, {row.place}", tuple(entries.items()))


def _percent(shares: Mapping[str, float] | None) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in (shares or {}).items()) or "not known"


def _listed(values: Mapping[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:g}{unit}" for name, value in values.items())


def _known(value: float | None) -> str:
    return printed_number(value) or "not told"
