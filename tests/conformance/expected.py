"""The expected failures: one TOML file per engine and release, cases grouped by reason. Strict in both directions."""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tests.conformance.runner import Outcome

FOLDER = Path(__file__).parent / "expected"
_RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}
_TOLERANCE = (
    "computed, and further from the reference than the suite's default tolerance (1e-3 relative, 1e-7 absolute)"
)

# What the runtimes say -> what it means. The first that fits; {0} is what the pattern caught.
_REASONS = (
    (r"Failed to construct locale", "ONNX Runtime asks the system for the locale en_US.UTF-8, which it may not have"),
    (r"^crashed: (.*)", "the worker died: {0}"),
    (r"compile-litert: .* died by (SIG\w+)", "the toolchain's process died by {0}"),
    (r"unresolved custom op: ONNX_(\w+)\.", "onnx2tf leaves {0} as a custom operator, which LiteRT does not have"),
    (r"Input tensor \d+ lacks data", "the file that onnx2tf wrote has a tensor without data"),
    (r"flatbuffer_direct validation failed: op=(\w+)", "onnx2tf takes {0} in another form only"),
    (r"data type '(\w+)' not understood", "the litert compiler takes no inputs of the type {0}"),
    (r"NULL SignatureDef", "LiteRT has no models without inputs"),
    (r"failed to delegate|XNNPack", "XNNPACK refuses the file that onnx2tf wrote"),
    (r"[Tt]ype \S+ is (?:currently )?(?:not|un)\s?supported|Does not support type|only supports",
     "LiteRT's kernel does not take these types"),
    (r"the converted file takes '", "onnx2tf makes a vector of one of an input that is a scalar"),
    (r"gives '.*' as \[|model\.tflite holds", "the file that onnx2tf wrote has other types or shapes"),
    (r"the converted file gives '.* dB", "the file that onnx2tf wrote gives other numbers"),
    (r"ONNX Runtime (?:cannot load|does not run)",
     "the ONNX Runtime of the onnx2tf toolchain, which gives the reference, does not run it"),
    (r"Numpy_type \d+ can't|No corresponding Numpy|Unsupported ONNX dtype|value of type FLOAT16",
     "types below 16 bits, bfloat16 and fp16 inputs do not reach LiteRT"),
    (r"onnx2tf made no file .* its ONNX: (.{0,60})", "onnx2tf: {0}"),
    (r"util::(?:SequenceInsert|SequenceMark)",
     "OpenVINO's reader keeps no sequence that it cannot take apart again"),
    (r"'list' object has no attribute|takes tensors, not sequences", "OpenVINO takes tensors, not sequences"),
    (r"Node::evaluate\(\) is not implemented", "OpenVINO's CPU plugin has no kernel for what its reader made of it"),
    (r"No conversion rule found for operations: (.*)", "OpenVINO's reader has no {0}"),
    (r"cannot read graph 'model': Unsupported type", "OpenVINO's reader knows no tensors of 2 bits or of float8 *fnuz"),
    (r"detailed log: -- (\w+?)-\d+ with a message", "OpenVINO's reader has {0}, and not this form of it"),
    (r"CPU plug-in doesn't support (\w+) operation with dynamic rank",
     "OpenVINO's CPU plugin needs a rank, which {0} with operands from outside leaves open"),
    (r"unsupported src_prc: string", "OpenVINO's CPU plugin computes on no text"),
    (r"has no tensor '\w+', which the manifest names",
     "an OpenVINO IR keeps one name of a tensor that is both an input and an output"),
    (r"implementation for (\w+\(\d+\))", "ONNX Runtime's CPU provider has no kernel {0} for these types"),
    (r"Failed to find kernel for (\w+\(\d+\))", "ONNX Runtime's CPU provider has no kernel {0} for these types"),
    (r"(\w+) of opset \d+ cannot be written for this engine", "the rewrite to an older opset has no {0} of that form"),
    (r"Error Unrecognized attribute: (\w+)", "ONNX Runtime 1.31 does not know the attribute {0}"),
    (r"INVALID_GRAPH.*Attention", "ONNX Runtime 1.31 does not know the window attributes of Attention"),
    (r"(ai\.onnx\.preview(?:\.training)?:\w+)", "ONNX Runtime 1.31 has no {0}"),
    (r"/rnn/|rnn\.h|lstm_base", "ONNX Runtime's CPU kernels of recurrent layers take layout 0 only"),
    (r"while running (\w+) node", "ONNX Runtime's kernel of {0} refuses these operands when it runs"),
    (r"returned '\w+' with shape", "the runtime gives another shape than the model says"),
    (r"bound to different types", "ONNX Runtime's own definition of the operator mixes its types"),
    (r"largest error .* on (?:float64|u?int64|uint32) values", "the runtime computes numbers of 64 bits in 32"),
    (r"largest error inf|on values up to inf", "the runtime saturates or overflows where the reference does the other"),
    (r"largest error", _TOLERANCE),
    (r"dtype \w+, expected \w+", "the runtime gives another type than the model says"),
    (r"shape \[.*\], expected", "the runtime gives another shape than the model says"),
)  # fmt: skip
_MAY_PASS = ("ONNX Runtime asks the system",)
"""Reasons that lie with the machine: such a case may pass."""


@dataclass(frozen=True)
class Expected:
    """What one engine's release is known to fail: case -> reason. ``compared_with`` names file and release."""

    file: Path
    release: str
    failures: Mapping[str, str]


def release_of(engine: str) -> str:
    """The runtime's version, as its package says."""
    return metadata.version(_RUNTIMES[engine]).split("+")[0]


def load_expected(engine: str) -> Expected:
    """The list for the release that is installed; empty where there is none yet."""
    release = release_of(engine)
    file = FOLDER / f"{engine}-{release}.toml"
    if not file.exists():
        return Expected(file, release, {})
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    failures = {case: group["reason"] for group in document["group"] for case in group["cases"]}
    return Expected(file, release, failures)


def reason_for(outcome: Outcome) -> str:
    """Why a case failed, in words."""
    text = f"crashed: {outcome.reason}" if outcome.stage == "crashed" else outcome.reason
    for pattern, words in _REASONS:
        found = re.search(pattern, text)
        if found:
            return words.format(*(part.strip() for part in found.groups()))
    return re.sub(r"\s+", " ", text)[:140]


def surprises(outcomes: Iterable[Outcome], expected: Expected) -> tuple[list[str], list[str]]:
    """Cases that failed and were not expected to, and cases that passed and were expected to fail."""
    failed, passed = [], []
    for outcome in outcomes:
        known = expected.failures.get(str(outcome.case))
        if not outcome.passed and known is None:
            failed.append(f"{outcome.case}: {outcome.stage}: {outcome.reason}")
        elif outcome.passed and known is not None and not known.startswith(_MAY_PASS):
            passed.append(f"{outcome.case}: expected to fail: {known}")
    return failed, passed


def write_expected(expected: Expected, engine: str, outcomes: Iterable[Outcome]) -> None:
    """Write the list anew from a whole run."""
    groups: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome.passed:
            groups[reason_for(outcome)].append(str(outcome.case))
    lines = [
        f"# What {engine} {expected.release} fails of the suite of onnx {metadata.version('onnx')}, through avsdk.",
        "# Written by `python -m tests.conformance --accept`; read what changed before it is kept.",
        "",
    ]
    for reason, cases in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        listed = "".join(f"    {json.dumps(case)},\n" for case in sorted(cases))
        lines.append(f"[[group]]\nreason = {json.dumps(reason)}\ncases = [\n{listed}]\n")
    FOLDER.mkdir(exist_ok=True)
    expected.file.write_text("\n".join(lines), encoding="utf-8")
