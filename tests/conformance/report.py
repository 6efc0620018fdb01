"""The page docs/conformance.md and the counts on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata

from tests.conformance.cases import GROUPS
from tests.conformance.expected import reason_for, release_of
from tests.conformance.runner import Outcome

from avsdk.host import probe

_BARE = {
    "onnxruntime": "1415 of the 1595 node cases with opset 26 or older, 59, 24 and 17 of the other groups",
    "openvino": "1371 of all node cases, 82, 31 and 15 of the other groups",
}
"""The bare runtimes of these releases, driven by the suite's own runner (types that numpy lacks given by ml_dtypes)."""


def counts(outcomes: Sequence[Outcome], group: str, *, newest: int = 99) -> tuple[int, int]:
    """Passed, and all, of a group's cases up to an opset."""
    chosen = [item for item in outcomes if item.case.group == group and item.case.opset <= newest]
    return sum(item.passed for item in chosen), len(chosen)


def confusion(outcomes: Sequence[Outcome]) -> Counter[tuple[bool, bool]]:
    """(The preflight sees a path, the real compile took it) -> cases."""
    return Counter((item.predicted != "no_path", item.compiled) for item in outcomes)


def agreement(outcomes: Sequence[Outcome]) -> float:
    """Share of cases where the preflight's verdict was the compile's."""
    table = confusion(outcomes)
    return (table[True, True] + table[False, False]) / max(1, len(outcomes))


def summary(engine: str, outcomes: Sequence[Outcome]) -> str:
    """One engine's counts in a few lines."""
    parts = [f"{group} {'/'.join(map(str, counts(outcomes, group)))}" for group in GROUPS]
    crashed = sum(item.stage == "crashed" for item in outcomes)
    return f"{engine} {release_of(engine)}: {', '.join(parts)}; crashed {crashed}; preflight {agreement(outcomes):.1%}"


def page(results: Mapping[str, Sequence[Outcome]], absent: Mapping[str, str]) -> str:
    """The whole page."""
    host = probe()
    lines = [
        "# Conformance: the ONNX backend suite through avsdk",
        "",
        f"Written by `make conformance` with the suite of onnx {metadata.version('onnx')}, whose cases nobody",
        "here wrote: the groups node, simple, pytorch-converted and pytorch-operator (the group real downloads its",
        "models and is left out). Each case goes through avsdk's own compiler, with the rewrites that it applies, and",
        "avsdk's own session, in a child process. Shapes and types must match exactly, values within the suite's own",
        "tolerances. The known failures stand in `tests/conformance/expected/`; a case that passes unexpectedly fails",
        "the run too. `make test` runs every tenth case.",
        "",
        f"Machine: {host.cpu}. Packages: numpy {metadata.version('numpy')}, ml_dtypes {metadata.version('ml_dtypes')}.",
        "",
        "| engine | node | node, opset 26 or older | simple | pytorch-converted | pytorch-operator | died |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, outcomes in results.items():
        cells = [
            _share(counts(outcomes, "node")),
            _share(counts(outcomes, "node", newest=26)),
            *(_share(counts(outcomes, group)) for group in GROUPS[1:]),
            str(sum(item.stage == "crashed" for item in outcomes)),
        ]
        lines.append(f"| {engine} {release_of(engine)} | {' | '.join(cells)} |")
    lines += [f"| {engine} | not run: {reason} | | | | | |" for engine, reason in absent.items()]
    lines += ["", "For comparison, the bare runtimes of these releases without avsdk passed:"]
    lines += [f"- {engine}: {text}." for engine, text in _BARE.items()]
    lines += ["", *_confusion_section(results)]
    for engine, outcomes in results.items():
        lines += ["", *_reasons_section(engine, outcomes)]
    return "\n".join(lines) + "\n"


def _confusion_section(results: Mapping[str, Sequence[Outcome]]) -> list[str]:
    lines = [
        "## Does `avsdk check` say the same?",
        "",
        "Per case: whether the preflight saw a path before anything was built, and whether there was an artifact that",
        "the runtime loaded. Whether its numbers then pass is the first table's business. The lists of operators come",
        "from the runtimes; their limits were partly learnt from these very cases (each gives its source), so on other",
        "models the agreement may be lower.",
        "",
        "| engine | path, compiled | path, refused | no path, refused | no path, compiled | agreement |",
        "|---|---|---|---|---|---|",
    ]
    for engine, outcomes in results.items():
        table = confusion(outcomes)
        cells = [table[True, True], table[True, False], table[False, False], table[False, True]]
        lines.append(f"| {engine} | {' | '.join(map(str, cells))} | {agreement(outcomes):.1%} |")
    return lines


def _reasons_section(engine: str, outcomes: Sequence[Outcome]) -> list[str]:
    reasons = Counter(reason_for(item) for item in outcomes if not item.passed)
    lines = [f"## What {engine} fails, and why", "", "| cases | reason |", "|---|---|"]
    lines += [f"| {count} | {reason.replace('|', '/')} |" for reason, count in reasons.most_common()]
    return lines


def _share(pair: tuple[int, int]) -> str:
    return f"{pair[0]} of {pair[1]}"
