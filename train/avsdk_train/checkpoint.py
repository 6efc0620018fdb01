"""Checkpoints: a folder per step, whole or absent, hashed, and free of pickle.

    checkpoints/step-00000250/weights.safetensors     the network
                              optimiser.safetensors   the tensors of the optimiser's state, and torch's generators
                              state.json              all else: step, hashes, python's and numpy's generators
                latest                                the name of the newest
                best/weights.safetensors, best.json   the weights that ship, of the best stretch so far

Each is written to a temporary folder, flushed and renamed; then ``latest`` is replaced the same way; then all but the
last two are removed. So a kill at any point leaves at least one whole checkpoint once the first was written.

The order of the data and the learning rate are functions of the seed and the step, and need no state of their own.
The random generators of every process are kept.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avsdk.errors import CheckpointRefused
from avsdk.files import atomic_folder, safe_join, sha256_file, write_atomic
from avsdk.schema import SCHEMA, check_schema, decode, encode
from avsdk_train.run import BEST, LATEST, WEIGHTS, read_json
from avsdk_train.weights import write_weights

_STATE, _OPTIMISER, _BEST_FILE = "state.json", "optimiser.safetensors", "best.json"
_NAME = re.compile(r"step-(\d{8})")
_KEPT = 2
_RESUME = "avsdk train FAMILY --out RUN --resume falls back to an older checkpoint where there is one"


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` batches.

    ``weights`` are those that ship. ``extra`` is any state beside, of JSON values and tensors (a gradient scaler's).
    """

    step: int
    recipe_sha256: str
    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    extra: dict[str, Any]


@dataclass(frozen=True)
class Best:
    """``best.json``: the mean of the loss ``key`` over the stretch that ended at ``step``, and its parts' names."""

    step: int
    key: str
    mean: float
    parts: tuple[str, ...]


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, generators: Sequence[dict[str, Any]] = (), *, keep_all: bool = False
) -> Path:
    """Write a checkpoint, and remove all but the last two unless ``keep_all``.

    ``generators`` holds ``random_state()`` of every process, in their order; by default that of this one alone. A full
    disk raises ``DiskFull`` and leaves the older checkpoints as they are.
    """
    name = f"step-{checkpoint.step:08d}"
    tensors: dict[str, Tensor] = {}
    drawn = [*generators] or [random_state()]
    packed = _pack({"optimiser": checkpoint.optimiser, "random": drawn, "extra": checkpoint.extra}, tensors)
    with atomic_folder(folder / name) as temporary:
        write_weights(temporary / WEIGHTS, checkpoint.weights)
        write_weights(temporary / _OPTIMISER, tensors)
        files = {file: sha256_file(temporary / file) for file in (WEIGHTS, _OPTIMISER)}
        document = {
            "schema": SCHEMA,
            "step": checkpoint.step,
            "recipe_sha256": checkpoint.recipe_sha256,
            "files": files,
            "state": packed,
        }
        (temporary / _STATE).write_text(json.dumps({**document, "sha256": _digest(document)}), encoding="utf-8")
    write_atomic(folder / LATEST, name + "\n")
    _remove_old(folder, keep=checkpoint.step, keep_all=keep_all)
    return folder / name


def write_best(folder: Path, weights: dict[str, Tensor], best: Best) -> bool:
    """Keep these weights as the best ones if they are better than those that are kept; whether they were.

    Stretches whose losses have other parts cannot be compared; the newer one then is the better.
    """
    known = read_best(folder)
    comparable = known is not None and (known.key, known.parts) == (best.key, best.parts)
    if known is not None and comparable and known.step != best.step and known.mean <= best.mean:
        return False
    with atomic_folder(folder / BEST) as temporary:
        write_weights(temporary / WEIGHTS, weights)
        document = {"schema": SCHEMA, **encode(best)}
        (temporary / _BEST_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return True


def read_best(folder: Path) -> Best | None:
    """What is known of the best weights; ``None`` where none were kept."""
    file = folder / BEST / _BEST_FILE
    if not file.is_file():
        return None
    content = check_schema(read_json(file), where=str(file), refused=CheckpointRefused)
    return decode(Best, content, where=str(file), refused=CheckpointRefused)


def read_checkpoint(path: Path, process: int = 0) -> Checkpoint:
    """Read and check a checkpoint, and set all random generators to its state for that process.

    Raises ``CheckpointRefused`` for one that is damaged, of a newer schema, or not ours.
    """
    document = _read_state(path)
    for name, digest in document["files"].items():
        found = sha256_file(safe_join(path, name, refused=CheckpointRefused))
        if found != digest:
            raise CheckpointRefused(
                f"{name} of {path} has SHA-256 {found[:12]}...", expected=f"{str(digest)[:12]}...", fix=_RESUME
            )
    try:
        weights, tensors = load_file(path / WEIGHTS), load_file(path / _OPTIMISER)
        state = _unpack(document["state"], tensors)
        generators = state["random"]  # older ones hold those of one process
        _set_random_state(generators[process] if isinstance(generators, list) else generators)
    except (SafetensorError, LookupError, TypeError, ValueError, OSError) as error:
        raise CheckpointRefused(
            f"{path} cannot be read: {error}", expected="a whole checkpoint", fix=_RESUME
        ) from error
    return Checkpoint(document["step"], document["recipe_sha256"], weights, state["optimiser"], state["extra"])


def load_newest(folder: Path, notice: Callable[[str], None], process: int = 0) -> Checkpoint | None:
    """The newest checkpoint that is whole; ``None`` where none was written yet.

    Each damaged one is named by ``notice`` and passed over; raises ``CheckpointRefused`` when none is left.
    """
    names = _names(folder)
    _remove_leftovers(folder)
    last: CheckpointRefused | None = None
    for name in names:
        try:
            return read_checkpoint(folder / name, process)
        except CheckpointRefused as error:
            notice(f"checkpoint {name} is passed over: {error.failed}")
            last = error
    if last is None:
        return None
    raise CheckpointRefused(
        f"no checkpoint in {folder} is whole; the newest: {last.failed}",
        expected=last.expected,
        fix="train again into a new folder, from a copy's weights with --set init=FILE if you have one",
    ) from last


def _names(folder: Path) -> list[str]:
    """Newest first."""
    found = [path.name for path in folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def _remove_old(folder: Path, *, keep: int, keep_all: bool) -> None:
    """Steps beyond ``keep`` are left from a run that went further and was damaged; they go as well."""
    older = [name for name in _names(folder) if int(name[5:]) <= keep]
    for name in {*_names(folder)} - {*(older if keep_all else older[:_KEPT])}:
        aside = folder / f".{name}.old"  # a kill while it is removed must leave nothing half under its own name
        (folder / name).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Temporary files and folders of a run that was killed while it wrote."""
    for pattern in (".step-*", f".{BEST}.*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)
    for file in folder.glob(f".{LATEST}.*"):
        file.unlink(missing_ok=True)


def _read_state(path: Path) -> dict[str, Any]:
    file = safe_join(path, _STATE, refused=CheckpointRefused)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{file} is not JSON: {error}", expected="a whole checkpoint", fix=_RESUME) from error
    content = check_schema(document, where=str(file), refused=CheckpointRefused)
    digest = content.pop("sha256", None)
    if digest != _digest({"schema": SCHEMA, **content}) or set(content.get("files", {})) != {WEIGHTS, _OPTIMISER}:
        raise CheckpointRefused(f"{file} was changed after it was written", expected="a whole checkpoint", fix=_RESUME)
    return content


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process."""
    # The legacy generator is what third-party code that calls np.random.* draws from.
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    name, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, np.asarray(keys, np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """JSON with every tensor moved to ``tensors``; tuples and dicts with other than text keys are marked."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
        return {"$tensor": path}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(item, tensors, f"{path}.{key}") for key, item in value.items()}
        return {"$items": [[_pack(k, tensors, path), _pack(v, tensors, f"{path}.{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, tensors, f"{path}.{i}") for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    message = f"{path} is a {type(value).__name__}, which a checkpoint cannot hold"
    raise TypeError(message)


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["$items"]}
    return {key: _unpack(item, tensors) for key, item in value.items()}
