"""The cases of ``onnx.backend.test``: nobody here wrote them. Groups ``node``, ``simple`` and the two from PyTorch.

The group ``real`` is left out: its models are downloaded. Making the node cases takes eight seconds, so they are made
once, in a child process, and written to a folder that every engine's worker reads.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GROUPS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class CaseName:
    """A case: its group, its name, and the opset of ONNX's own operators that it uses (0 where it uses none)."""

    group: str
    name: str
    opset: int

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"


def write_cases(folder: str, share: int) -> list[dict[str, Any]]:
    """Write every case, or one of ``share``, into ``folder``; returns their names. Call it in a child process.

    A sample takes the cases whose name's hash falls into the share: fixed, and spread over all operators.
    """
    warnings.simplefilter("ignore")  # the suite's own numpy overflows, on purpose
    import onnx
    from onnx.backend.test.loader import load_model_tests

    listed = []
    for group in GROUPS:
        for case in load_model_tests(kind=group):
            if share > 1 and int(hashlib.sha256(case.name.encode()).hexdigest(), 16) % share:
                continue
            place = Path(folder, group, case.name)
            place.mkdir(parents=True)
            model = case.model or onnx.load(Path(str(case.model_dir)) / "model.onnx")
            samples = case.data_sets or list(_stored_samples(model, Path(str(case.model_dir))))
            onnx.save(model, place / "model.onnx")
            plain = [[[_plain(item) for item in side] for side in sample] for sample in samples]
            content = {"samples": plain, "rtol": case.rtol, "atol": case.atol}
            (place / "samples.pickle").write_bytes(pickle.dumps(content))
            opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
            listed.append({"group": group, "name": case.name, "opset": opset})
    Path(folder, "cases.json").write_text(json.dumps(listed))
    return listed


def read_case(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The model's file, and the samples with their tolerances. The pickle is this suite's own."""
    place = folder / name
    content: dict[str, Any] = pickle.loads((place / "samples.pickle").read_bytes())
    return place / "model.onnx", content


def _stored_samples(model: Any, folder: Path) -> Iterator[tuple[list[Any], list[Any]]]:
    for place in sorted(folder.glob("test_data_set*")):
        sides = []
        for word, values in (("input", model.graph.input), ("output", model.graph.output)):
            files = sorted(place.glob(f"{word}_*.pb"), key=lambda file: int(file.stem.partition("_")[2]))
            sides.append([_stored_value(file, value.type) for file, value in zip(files, values, strict=False)])
        yield sides[0], sides[1]


def _stored_value(file: Path, kind: Any) -> Any:
    import onnx

    content = file.read_bytes()
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.TensorProto.FromString(content)


def _plain(item: Any) -> Any:
    """Tensors as arrays; lists and None as they are."""
    import onnx

    if isinstance(item, onnx.TensorProto):
        return onnx.numpy_helper.to_array(item)
    if isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
        return [_plain(part) for part in item]
    return None if item is None else np.asarray(item)
