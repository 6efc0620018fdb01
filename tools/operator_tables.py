"""Write targets/avsdk_targets/operators/<engine>.toml from what the runtimes themselves say that they know.

    python tools/operator_tables.py onnxruntime openvino tensorrt_rtx litert openvino_myriad

onnxruntime: the registry of kernels of its CPU provider, with opsets and types. tensorrt_rtx: its parser's own list;
tensorrt shares the parser and gets the same. openvino and openvino_myriad: a model of one node per operator and opset
of ONNX is given to their readers, and their message about unknown operators is read. litert: onnx2tf's own list of
operators. Each is asked in the environment or toolchain that holds it. The hand-written `[[limits]]` of a table, which
say what the lists do not, stay as they are; each gives its source.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from avsdk.toolchains import installed_python

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "targets" / "avsdk_targets" / "operators"
_MARK = "# What the lists do not say"

_ONNXRUNTIME = """
import json, onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def
print(json.dumps({"version": "onnxruntime " + onnxruntime.__version__, "kernels": [
    [item.domain, item.op_name, list(item.version_range), item.type_constraints]
    for item in get_all_opkernel_def() if item.provider == "CPUExecutionProvider"]}))
"""
_TENSORRT = """
import json, sys, tensorrt_rtx as trt
log = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(log).create_network(0)
parser = trt.OnnxParser(network, log)
print(json.dumps({"version": "tensorrt-rtx " + trt.__version__,
    "known": [op for op in json.load(sys.stdin) if parser.supports_operator(op)]}))
"""
_ONNX2TF = """
import json, sys
from importlib import metadata
from pathlib import Path
import onnx2tf
folder = Path(onnx2tf.__file__).parent
text = "".join(file.read_text() for file in sorted(folder.glob("tflite_builder/**/*.py")))
print(json.dumps({"version": "onnx2tf " + metadata.version("onnx2tf"), "known": [op for op in json.load(sys.stdin)
    if '"' + op + '":' in text or "'" + op + "':" in text]}))
"""
_OPENVINO = """
import json, re, sys, openvino
core = openvino.Core()
unknown = []
for index, (domain, op, since, file) in enumerate(json.load(sys.stdin)):
    try:
        core.read_model(file)
    except RuntimeError as error:
        text = str(error)
        if "No conversion rule found" in text and re.search(r"found for operations:.*(?<!::)\\b" + op + r"\\b", text):
            unknown.append(index)
print(json.dumps({"version": "openvino " + openvino.__version__.split("-")[0], "unknown": unknown}))
"""
_MYRIAD = """
import json, os, sys
from openvino.inference_engine import IECore
core = IECore()
unknown = []
for index, (domain, op, since, file) in enumerate(json.load(sys.stdin)):
    child = os.fork()  # its reader dies by a signal on some of them, which says nothing of the operator's name
    if child == 0:
        told = ""
        try:
            core.read_network(file)
        except Exception as error:
            told = str(error)
        os._exit(1 if "does not support the following ONNX operations" in told else 0)
    if os.waitpid(child, 0)[1] == 256:
        unknown.append(index)
print(json.dumps({"version": "openvino 2021.4.2", "unknown": unknown}))
"""


def main(engines: list[str]) -> None:
    for engine in engines:
        {
            "onnxruntime": _onnxruntime,
            "openvino": lambda: _by_reading("openvino", [sys.executable], _OPENVINO, 99),
            "openvino_myriad": lambda: _by_reading("openvino_myriad", _python("myriad"), _MYRIAD, 13),
            "tensorrt_rtx": _tensorrt,
            "litert": _litert,
        }[engine]()


def _onnxruntime() -> None:
    answer = _ask([sys.executable], _ONNXRUNTIME, None)
    found: dict[tuple[str, str], dict[tuple[int, int], dict[str, set[str]]]] = defaultdict(lambda: defaultdict(dict))
    for domain, op, (since, until), types in answer["kernels"]:
        last = since if until > 10_000 else until  # an open end covers the version that it names, and no later one
        kept = found[domain, op][since, last]
        for name, kinds in types.items():
            kept.setdefault(name, set()).update(re.sub(r"^tensor\((.*)\)$", r"\1", kind) for kind in kinds)
    entries: dict[tuple[str, str], Any] = {("", "Constant"): [{"since": 1}]}  # folded before kernels are looked up
    entries |= {
        key: [
            {"since": since, "until": until, "types": {name: sorted(kinds) for name, kinds in sorted(types.items())}}
            for (since, until), types in sorted(versions.items())
        ]
        for key, versions in found.items()
        if not key[0].startswith("com.microsoft.nchwc")
    }
    _write("onnxruntime", answer["version"], "the registry of kernels of its CPU provider", entries, expands=True)


def _tensorrt() -> None:
    answer = _ask(_python("tensorrt_rtx"), _TENSORRT, sorted({op for domain, op, _ in _schemas() if not domain}))
    entries = {("", op): [{"since": 1}] for op in answer["known"]}
    _write("tensorrt_rtx", answer["version"], "its parser's supports_operator, asked for each operator", entries)
    told = "the parser of TensorRT for RTX, whose source it shares; not asked itself, as no wheel of it can be had"
    _write("tensorrt", answer["version"], told, entries)


def _litert() -> None:
    answer = _ask(_python("onnx2tf"), _ONNX2TF, sorted({op for domain, op, _ in _schemas() if not domain}))
    entries = {("", op): [{"since": 1}] for op in answer["known"]}
    _write("litert", answer["version"], "the dispatch tables of its direct flatbuffer writer", entries)


def _by_reading(engine: str, python: list[str], script: str, newest: int) -> None:
    from tempfile import TemporaryDirectory

    schemas = [item for item in _schemas() if item[0] not in ("ai.onnx.preview.training",) and item[2] <= newest]
    with TemporaryDirectory() as folder:
        asked = []
        for index, (domain, op, since) in enumerate(schemas):
            file = Path(folder, f"{index}.onnx")
            file.write_bytes(_one_node(domain, op, since))
            asked.append([domain, op, since, str(file)])
        answer = _ask(python, script, asked)
    known: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, (domain, op, since) in enumerate(schemas):
        if index not in set(answer["unknown"]):
            known[domain, op].append(since)
    entries = {key: _spans(key, versions, schemas) for key, versions in known.items()}
    _write(engine, answer["version"], "a model of one node per operator and opset, given to its reader", entries)


def _spans(key: tuple[str, str], known: list[int], schemas: list[tuple[str, str, int]]) -> list[dict[str, int]]:
    """One span where all versions are known; else one per version."""
    every = [since for domain, op, since in schemas if (domain, op) == key]
    if sorted(known) == sorted(every):
        return [{"since": min(every)}]
    return [{"since": since, "until": since} for since in sorted(known)]


def _schemas() -> list[tuple[str, str, int]]:
    import onnx

    found = onnx.defs.get_all_schemas_with_history()
    return sorted({(item.domain, item.name, item.since_version) for item in found if not item.deprecated})


def _one_node(domain: str, op: str, since: int) -> bytes:
    """A model of this one node, its operands four-dimensional floats: enough for a reader to look its name up."""
    import onnx
    from onnx import helper

    schema = onnx.defs.get_schema(op, since, domain)
    inputs = [f"x{index}" for index in range(max(schema.min_input, 1 if schema.max_input else 0))]
    outputs = [f"y{index}" for index in range(max(schema.min_output, 1))]
    node = helper.make_node(op, inputs, outputs, domain=domain)
    values = [
        helper.make_value_info(name, _type(schema.inputs[min(place, len(schema.inputs) - 1)].types))
        for place, name in enumerate(inputs)
    ]
    results = [
        helper.make_value_info(name, _type(schema.outputs[min(place, len(schema.outputs) - 1)].types, []))
        for place, name in enumerate(outputs)
    ]
    graph = helper.make_graph([node], "one", values, results)
    opsets = [helper.make_opsetid(domain, since)] + ([helper.make_opsetid("", 13)] if domain else [])
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _type(admitted: set[str], shape: list[int] | None = None) -> Any:
    """Of the types that an operand may have, the plainest; a tensor before a sequence."""
    import onnx
    from onnx import helper

    order = ("tensor(float)", "tensor(int64)", "tensor(bool)", "tensor(string)")
    chosen = next((name for name in order if name in admitted), min(admitted))
    wrapped = re.fullmatch(r"(seq|optional)\((.*)\)", chosen)
    if wrapped:
        inner = _type({wrapped[2]}, shape)
        make = helper.make_sequence_type_proto if wrapped[1] == "seq" else helper.make_optional_type_proto
        return make(inner)
    element = re.sub(r"^tensor\((.*)\)$", r"\1", chosen)
    kind = dict(onnx.TensorProto.DataType.items()).get(element.upper(), onnx.TensorProto.FLOAT)
    return helper.make_tensor_type_proto(kind, [1, 2, 4, 4] if shape is None else None)


def _python(toolchain: str) -> list[str]:
    words = list(installed_python(toolchain))
    if not words:
        raise SystemExit(f"the toolchain {toolchain} is not installed: avsdk toolchain install {toolchain}")
    return words


def _ask(python: list[str], script: str, given: Any) -> Any:
    done = subprocess.run([*python, "-c", script], input=json.dumps(given), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _write(
    engine: str, version: str, obtained: str, entries: dict[tuple[str, str], Any], *, expands: bool = False
) -> None:
    file = FOLDER / f"{engine}.toml"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    limits = old[old.index(_MARK) :] if _MARK in old else ""
    lines = [
        "# Written by tools/operator_tables.py; what is beneath the line of limits is kept.",
        "schema = 1",
        f'engine = "{engine}"',
        f'toolchain = "{version}"',
        f'obtained = "{obtained}"',
        f"expands = {'true' if expands else 'false'}",
        *(['widens = {float16 = "float"}  # it inserts casts: its CPU has few kernels for fp16'] if expands else []),
        "",
        "[operators]",
    ]
    for (domain, op), spans in sorted(entries.items()):
        name = f"{domain}:{op}" if domain else op
        lines.append(f'"{name}" = [{", ".join(_toml(span) for span in spans)}]')
    file.write_text("\n".join(lines) + "\n" + ("\n" + limits if limits else ""), encoding="utf-8")
    print(f"{file.relative_to(ROOT)}: {len(entries)} operators of {version}")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items() if item != {}) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    main(sys.argv[1:])
