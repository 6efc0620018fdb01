"""A spec file: what a foreign model takes and gives, as TOML, and the steps before and after it.

    schema = 1
    model = "bird-sounds"                  # the bundle's name
    predictor = "audio"                    # tensor, image or audio

    [inputs.frames]                        # a tensor of the model; a name makes an axis dynamic
    shape = ["batch", 80, "time"]

    [axes.time]
    min = 50
    max = 2000
    default = 400                          # what engines without dynamic axes are built at

    [[preprocess]]                         # operations of avsdk.ops with their parameters
    op = "sound_mono"
    sample_rate_hz = 16000

    [[postprocess]]
    op = "top_k"
    labels = "labels.txt"

    [assets]
    "labels.txt" = "words/labels.txt"      # its name in the bundle, and the file, from this file on

Every key is checked; an error names the file and the line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomllib

from avsdk import plugins
from avsdk.errors import Refused, UnknownName, UsageError
from avsdk.ops import known_operations, pipelines_for
from avsdk.schema import check_schema, decode
from avsdk.spec import ModelSpec, Step
from avsdk.spec_request import SpecRequest

_MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}(/[A-Za-z0-9][A-Za-z0-9._-]{0,79})?")
_DIRECTIONS = ("preprocess", "postprocess")


@dataclass(frozen=True)
class SpecFile:
    """A parsed spec file; ``assets`` by their names in the bundle."""

    request: SpecRequest = field(default_factory=SpecRequest)
    assets: Mapping[str, Path] = field(default_factory=dict)


def read_spec_file(path: Path) -> SpecFile:
    """Parse and check a spec file. Raises ``UsageError`` with the line of what is wrong."""
    text = _text_of(path)
    try:
        document = check_schema(tomllib.loads(text), where=str(path))
        assets = _assets(path, document.pop("assets", {}))
        before, after = (_steps(path, name, document) for name in _DIRECTIONS)
        request = replace(decode(SpecRequest, document, where=str(path)), preprocess=before, postprocess=after)
    except (tomllib.TOMLDecodeError, Refused) as error:
        reason = error.failed if isinstance(error, Refused) else f"{path} is no TOML: {error}"
        expected = error.expected if isinstance(error, Refused) else "a spec file"
        fix = _near_key(reason) or getattr(error, "fix", "")
        raise UsageError(_located(path, text, reason), expected=expected, fix=fix) from error
    _check_names(path, text, request)
    _check_steps(path, text, request, assets)
    return SpecFile(request, assets)


def require_labels_fit(spec: ModelSpec, assets: Mapping[str, Path]) -> None:
    """Raise ``UsageError`` where the labels of the last step are not as many as the scores of the model."""
    last = spec.postprocess[-1] if spec.postprocess else Step("")
    name, size = str(last.params.get("labels", "")), spec.graphs[0].outputs[0].shape[-1]
    if name in assets and isinstance(size, int):
        count = len(assets[name].read_text(encoding="utf-8").splitlines())
        if count != size:
            raise UsageError(
                f"{assets[name]} has {count} lines, the output {spec.graphs[0].outputs[0].name!r} has {size} scores",
                expected="one label per line and score",
                fix="give the labels that the model was trained with",
            )


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size} bytes", expected=f"at most {_MAX_BYTES}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"the spec file {path} cannot be read: {reason}", expected="a TOML file") from error


def _assets(path: Path, listed: object) -> dict[str, Path]:
    """The files to ship, by name; a list names files that lie beside the spec file."""
    if isinstance(listed, list):
        listed = {Path(str(name)).name: name for name in listed}
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise Refused(f"{path}.assets is {listed!r}", expected='names with files, as "labels.txt" = "labels.txt"')
    found = {}
    for name, file in listed.items():
        if not _NAME.fullmatch(name) or "/" in name:
            raise Refused(f"{path}.assets has the name {name!r}", expected="letters, digits, . _ -")
        found[name] = path.parent / file
        if not found[name].is_file():
            raise Refused(
                f"{path}.assets.{name}: no file {found[name]}", expected="a file, named from the spec file on"
            )
    return found


def _steps(path: Path, direction: str, document: dict[str, Any]) -> tuple[Step, ...]:
    """The steps of one direction: ``op`` and, beside it, its parameters."""
    listed = document.pop(direction, [])
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise Refused(f"{path}.{direction} is {listed!r}", expected=f"tables [[{direction}]]")
    steps = []
    for index, item in enumerate(listed):
        if not isinstance(item.get("op"), str):
            raise Refused(f"{path}.{direction}[{index}] has no 'op'", expected="the name of an operation")
        steps.append(Step(item["op"], {key: value for key, value in item.items() if key != "op"}))
    return tuple(steps)


def _check_names(path: Path, text: str, request: SpecRequest) -> None:
    if request.model and not _NAME.fullmatch(request.model):
        raise UsageError(
            _located(path, text, f"{path}.model is {request.model!r}"), expected="letters, digits, . _ - and one /"
        )
    known = plugins.list_names("predictors")
    if request.predictor and request.predictor not in known:
        raise _at(path, text, f"{path}.predictor", UnknownName.among("predictor", request.predictor, known))
    if (request.preprocess or request.postprocess) and not request.predictor:
        raise UsageError(
            f"{path} has steps and no predictor", expected=f"one of: {', '.join(known)}", fix='predictor = "image"'
        )


def _check_steps(path: Path, text: str, request: SpecRequest, assets: Mapping[str, Path]) -> None:
    """Every operation and parameter by name, then the values, as the device will check them."""
    operations = known_operations(request.predictor)
    for direction in _DIRECTIONS:
        for index, step in enumerate(getattr(request, direction)):
            where = f"{path}.{direction}[{index}]"
            if step.op not in operations:
                kind = f"operation of the predictor {request.predictor!r}:"
                raise _at(path, text, where, UnknownName.among(kind, step.op, operations))
            known = list(inspect.signature(operations[step.op]).parameters)[2:]
            for name in step.params:
                if name not in known:
                    raise _at(path, text, where, UnknownName.among(f"parameter of {step.op}", name, known))
    try:
        pipelines_for(request.predictor, request.preprocess, request.postprocess, assets)
    except Refused as error:
        raise UsageError(
            _located(path, text, f"{path}.{error.failed}"), expected=error.expected, fix=error.fix
        ) from error


def _at(path: Path, text: str, where: str, error: UsageError) -> UsageError:
    return type(error)(_located(path, text, f"{where}: {error.failed}"), expected=error.expected, fix=error.fix)


def _near_key(reason: str) -> str:
    """The known key nearest to an unknown one that the reason names."""
    unknown = re.search(r"unknown key '([^']*)'", reason)
    known = [*(item.name for item in fields(SpecRequest)), "assets", "shape", "min", "max", "multiple_of", "default"]
    return UnknownName.among("key", unknown[1], known, fix="remove the key").fix if unknown else ""


def _located(path: Path, text: str, reason: str) -> str:
    """The reason with ``line N`` for the place that it names after the file: ``.axes.time`` or ``.preprocess[1]``."""
    match = re.match(re.escape(str(path)) + r"\.([\w.\[\]\"-]+)", reason)
    if match is None:
        return reason
    keys = match[1].strip(".").split(".")
    unknown = re.search(r"unknown key '([^']*)'", reason)
    line = _line_of(text, [*keys, *([unknown[1]] if unknown else [])])
    return f"{reason.replace(str(path) + '.', f'{path}, line {line}: ', 1)}" if line else reason


def _line_of(text: str, keys: list[str]) -> int:
    """The line of the last of the nested keys that the text spells out; 0 where it spells none."""
    section, counts, best, depth = "", dict.fromkeys(_DIRECTIONS, -1), 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line)
        if header:
            section = header[1].replace('"', "")
            if section in counts:
                counts[section] += 1
                section = f"{section}[{counts[section]}]"
            here = section
        else:
            key = re.match(r"\s*\"?([\w.-]+)\"?\s*=", line)
            here = ".".join(filter(None, (section, key[1]))) if key else ""
        for length in range(len(keys), depth, -1):
            if here == ".".join(keys[:length]):
                best, depth = number, length
    return best
