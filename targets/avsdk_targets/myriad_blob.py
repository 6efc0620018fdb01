"""ONNX -> Myriad X blob with OpenVINO 2021.4.2; runs in the toolchain ``myriad`` (Python 3.9, numpy 1.19), no stick.

This release can only load a network, which wants a stick, and not write a blob from Python. But it writes its model
cache before it looks for the stick, and the cached file is the blob behind one line of XML. So the load is let fail
with the one text that says that only the stick is missing, and the blob is checked by its magic and size. The way is
not documented: it holds for this very release, which is why the toolchain pins it.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from avsdk.errors import NotAvailable, UsageError
from avsdk.myriad_stick import HEADER_BYTES, blob_fault

_ONLY_THE_STICK_IS_MISSING = "there is no available devices with platform"
_MAX_HEADER_BYTES = 4096
_OF_16 = "1 to 16: Myriad X has 16"
_PRECISIONS = {"fp16": "FP16", "fp32": "FP32", "u8": "U8"}
_DEFAULT_PLATFORM = "VPU_MYRIAD_2480"
_OTHER_TARGET = "avsdk check MODEL --target myriad-x, or choose another target: avsdk devices"

_KNOWN_FAILURES = (
    (r'unsupported layer type "FakeQuantize"', "the model is quantised (int8), and Myriad X computes in fp16",
     "export the fp32 model"),
    (r'unsupported layer type "([^"]+)"', "Myriad X has no operation {0}", _OTHER_TARGET),
    (r"nGraph does not support the following ONNX operations:\s*([^\n]+)", "OpenVINO 2021.4 cannot read {0}",
     _OTHER_TARGET),
    (r"Dynamic dimension cannot be resolved", "a size is not fixed", "--axis with a size for every axis"),
    (r"AssertionFailed: (\S.*)", "the Myriad compiler failed in one of its own checks ({0}), as it does on LSTM",
     _OTHER_TARGET),
    (r"number of biases must equal", "the Myriad compiler takes 2-D convolutions only, no Conv3D", _OTHER_TARGET),
    (r"Can not init Myriad device: NC_ERROR", "the compiler asked for a stick, as no platform was named",
     "--set openvino_myriad.platform=VPU_MYRIAD_2480"),
    (r'Unsupported value "([^"]*)" for key (\S+)', "the value {0!r} of {1} is unknown to this release",
     "leave the setting out"),
    (r"(\S+) key is not supported for VPU", "the setting {0} is unknown to this release", "leave the setting out"),
    (r"Cannot load library .*?(libusb[^:']*): ", "the system library {0} is missing", "apt-get install libusb-1.0-0"),
    (r"Unknown model format", "OpenVINO 2021.4 cannot read the file", "give an ONNX model of opset 13 or older"),
    (r"not enough memory|Cannot allocate|CMX memory", "the network needs more memory than the device has",
     "a smaller --axis size"),
)  # fmt: skip
"""Texts of OpenVINO 2021.4.2 -> what they mean -> what to do."""


_PLACE_IN_SOURCE = re.compile(r"^/\S+:\d+:?\s*")


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Compile one graph at fixed sizes. Raises ``NotAvailable`` for what Myriad X or its compiler cannot take."""
    from openvino.inference_engine import IECore, get_version

    options = request["options"]
    shaves, slices = shave_count(options), cmx_count(options)
    core = IECore()
    try:
        network = core.read_network(request["onnx"])
        inputs, outputs = _typed(network, request, options)
    except RuntimeError as error:
        raise _refusal(error, request) from error
    settings = {
        "VPU_MYRIAD_PLATFORM": str(options.get("platform", _DEFAULT_PLATFORM)),
        "MYRIAD_NUMBER_OF_SHAVES": str(shaves),
        "MYRIAD_NUMBER_OF_CMX_SLICES": str(slices),
        "MYRIAD_THROUGHPUT_STREAMS": str(stream_count(options)),
    }
    blob = _compiled(core, network, settings, request)
    name = f"{request['graph']['name']}.blob"
    Path(request["out"], name).write_bytes(blob)
    version = str(get_version()).split("-")[0]
    return {
        "files": [name],
        "options": {
            "inputs": inputs,
            "outputs": outputs,
            "shaves": shaves,
            "cmx_slices": slices,
            "size": len(blob),
            "requires": {"engine": "openvino", "exact": "2021.4.2"},
        },
        "built_with": {"openvino": version, "openvino-build": str(get_version())},
    }


def shave_count(options: dict[str, Any]) -> int:
    """How many vector processors the network gets."""
    return _count("shaves", options.get("shaves", 6), 16, _OF_16)


def cmx_count(options: dict[str, Any]) -> int:
    """How many slices of on-chip memory the network gets; as many as vector processors where not said."""
    return _count("cmx_slices", options.get("cmx_slices", options.get("shaves", 6)), 16, _OF_16)


def stream_count(options: dict[str, Any]) -> int:
    """How many copies of the network run at a time."""
    return _count("streams", options.get("streams", 1), 3, "1 to 3 networks at a time")


def _count(name: str, value: Any, most: int, expected: str) -> int:
    text = str(value)
    if not (re.fullmatch("[0-9]{1,2}", text) and 1 <= int(text) <= most):
        raise UsageError(
            f"openvino_myriad.{name} is {text!r}", expected=expected, fix=f"leave openvino_myriad.{name} out"
        )
    return int(text)


def _typed(network: Any, request: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set the precisions at the blob's borders; per tensor of the graph: its name and type in the blob."""
    asked = str(options.get("input", "fp16"))
    if asked not in _PRECISIONS:
        raise UsageError(f"openvino_myriad.input is {asked!r}", expected="fp16, fp32 or u8")
    inputs, outputs = {}, {}
    for tensor in request["graph"]["inputs"]:
        name = tensor["name"]
        if name not in network.input_info:
            raise NotAvailable(
                f"OpenVINO 2021.4 dropped the input {name!r}: nothing is computed from it",
                expected=f"a use of every input; it kept {sorted(network.input_info)}",
                fix="leave the input out of the model",
            )
        floating = tensor["dtype"].startswith("float")
        precision = _PRECISIONS[asked] if floating else {"uint8": "U8"}.get(tensor["dtype"], "I32")
        network.input_info[name].precision = precision
        inputs[name] = {"name": name, "precision": precision}
    for tensor in request["graph"]["outputs"]:
        name = network.get_ov_name_for_tensor(tensor["name"])
        floating = tensor["dtype"].startswith("float")
        network.outputs[name].precision = "FP16" if floating else "I32"
        outputs[tensor["name"]] = {"name": name, "precision": "FP16" if floating else "I32"}
    return inputs, outputs


def _compiled(core: Any, network: Any, settings: dict[str, str], request: dict[str, Any]) -> bytes:
    """The blob out of the cache. With a stick at hand the load succeeds, and the cache is written all the same."""
    with TemporaryDirectory(prefix="avsdk-myriad-") as cache:
        core.set_config({"CACHE_DIR": cache}, "")  # of the core itself: the plugin does not know the key
        try:
            core.load_network(network, "MYRIAD", settings)
        except RuntimeError as error:
            if _ONLY_THE_STICK_IS_MISSING not in str(error):
                raise _refusal(error, request) from error
        found = sorted(Path(cache).glob("*.blob"))
        if len(found) != 1:
            raise NotAvailable(
                f"the Myriad compiler left {len(found)} blobs where one is expected",
                expected="openvino 2021.4.2, whose cache holds the blob",
                fix="avsdk toolchain remove myriad, then avsdk toolchain install myriad",
            )
        return checked_blob(found[0].read_bytes())


def checked_blob(cached: bytes) -> bytes:
    """The blob behind the cache's line of XML. Raises ``NotAvailable`` where it is no Myriad blob."""
    header, newline, blob = cached[:_MAX_HEADER_BYTES].partition(b"\n")
    blob = cached[len(header) + 1 :]
    framed = newline and b"<compiled_blob" in header
    fault = blob_fault(blob[:HEADER_BYTES], len(blob)) if framed else f"it begins with {cached[:16]!r}"
    if fault:
        raise NotAvailable(
            f"the Myriad compiler wrote {len(cached)} bytes that are no blob: {fault}",
            expected="a line of XML, then a blob of the size that it says",
            fix="avsdk toolchain remove myriad, then avsdk toolchain install myriad",
        )
    return blob


def _refusal(error: RuntimeError, request: dict[str, Any]) -> NotAvailable:
    """The typed reason for what the compiler said."""
    text = str(error)
    meaning, fix = _meaning(text)
    return NotAvailable(
        f"Myriad X cannot be compiled for: {meaning} (graph {request['graph']['name']!r})",
        expected="a network of operations that Myriad X has, at fixed sizes, in fp16",
        fix=fix,
    )


def _meaning(text: str) -> tuple[str, str]:
    for pattern, meaning, fix in _KNOWN_FAILURES:
        match = re.search(pattern, text)
        if match:
            return meaning.format(*match.groups()), fix
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _PLACE_IN_SOURCE.sub("", lines[-1]) if lines else "it gave no reason", _OTHER_TARGET
