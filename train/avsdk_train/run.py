"""The folder of a training run: what lies where. Imports no torch, so that listing and fingerprints stay fast.

RUN/recipe.toml            every key written out
    spec.json              ModelSpec
    run.json               data folders, hashes of the data, versions, commit of the code
    data.sha256            a hash for every file of the data, as sha256sum --check reads it
    targets.safetensors    (style transfer) Gram matrices of the painting
    units.json             (unit discovery) names of speakers and voices, and what a unit depends on
    checkpoints/           step-NNNNNNNN/, latest, best/
    previews/              NNNNNNNN.png or .wav
    metrics.jsonl          one line per logged step
    stopped/               step-NNNNNNNN/, where a loss was not finite or exploded
    weights.safetensors    once the training has finished
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from avsdk.errors import CheckpointRefused, UsageError
from avsdk.files import write_atomic
from avsdk.schema import SCHEMA, check_schema, decode, encode
from avsdk.spec import ModelSpec

RECIPE, SPEC, RUN_FILE, WEIGHTS, METRICS = (
    "recipe.toml",
    "spec.json",
    "run.json",
    "weights.safetensors",
    "metrics.jsonl",
)
CHECKPOINTS, PREVIEWS, TENSORBOARD, LATEST, BEST = "checkpoints", "previews", "tensorboard", "latest", "best"
STOPPED, DATA_LISTING = "stopped", "data.sha256"
ASSETS = ("targets.safetensors", "units.json")
"""Files beside the weights that a model carries along."""


@dataclass(frozen=True)
class RunFile:
    """``run.json``: where the data and the code came from.

    ``data_sha256`` is over names and sizes, which a resume compares; ``content_sha256`` over what the files hold.
    ``code`` is the commit, with ``-dirty`` where files were changed, and empty for an installed package.
    """

    data: tuple[str, ...]
    data_sha256: str
    recipe_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict)
    files: int = 0
    content_sha256: str = ""
    code: str = ""
    processes: int = 1


def is_run(path: Path) -> bool:
    """Whether the folder is a training run (or a zoo entry, which has the same two files)."""
    return (path / RECIPE).is_file() and (path / SPEC).is_file()


def write_run_file(folder: Path, content: RunFile) -> None:
    """Write ``run.json``."""
    write_atomic(folder / RUN_FILE, json.dumps({"schema": SCHEMA, **encode(content)}, indent=1) + "\n")


def read_run_file(folder: Path) -> RunFile:
    """Read ``run.json`` strictly."""
    file = folder / RUN_FILE
    return decode(RunFile, check_schema(read_json(file), where=str(file), refused=CheckpointRefused),
                  where=RUN_FILE, refused=CheckpointRefused)  # fmt: skip


def write_spec(folder: Path, spec: ModelSpec) -> None:
    """Write ``spec.json``."""
    write_atomic(folder / SPEC, json.dumps(spec.to_json(), indent=1) + "\n")


def read_spec(folder: Path) -> ModelSpec:
    """Read ``spec.json`` strictly."""
    return ModelSpec.from_json(read_json(folder / SPEC), where=str(folder / SPEC), refused=CheckpointRefused)


def read_json(file: Path) -> object:
    """Parse a JSON file of a run; damage is ``CheckpointRefused``."""
    try:
        document: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointRefused(f"{file} is missing", expected="a whole run folder", fix="train again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{file} is not JSON: {error}", expected="the file as avsdk wrote it") from error
    return document


def weights_file(folder: Path) -> Path:
    """The run's weights: the final ones, else those of the latest checkpoint."""
    final = folder / WEIGHTS
    if final.is_file():
        return final
    pointer = folder / CHECKPOINTS / LATEST
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    latest = folder / CHECKPOINTS / name / WEIGHTS
    if not name or "/" in name or not latest.is_file():
        raise UsageError(
            f"the run {folder} has no weights yet",
            expected="a finished run, or one with a checkpoint",
            fix=f"avsdk train FAMILY --out {folder} --resume",
        )
    return latest


def asset_files(folder: Path) -> dict[str, Path]:
    """The files that the model carries beside its weights, by stem: ``{"targets": .../targets.safetensors}``."""
    return {Path(name).stem: folder / name for name in ASSETS if (folder / name).is_file()}
