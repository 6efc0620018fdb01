"""The models that come with avsdk: ``<family>/<name>/`` beside this file. Listing imports no torch.

card.md               data, licence, settings, loss curve, example
zoo.json              hashes of the files below
weights.safetensors   fp16
targets.safetensors   (style transfer) Gram matrices of the painting
spec.json recipe.toml loss.png example.png
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import CheckpointRefused, UnknownName
from avsdk.files import safe_join, sha256_file
from avsdk.schema import check_schema, decode
from avsdk_train.run import read_json

ZOO = Path(__file__).parent
ENTRY = "zoo.json"


@dataclass(frozen=True)
class ZooFile:
    """``zoo.json``: what the model is, and the hashes of its files."""

    summary: str
    licence: str
    data: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo: ``name`` is ``family/name``."""

    name: str
    folder: Path
    content: ZooFile

    def to_json(self) -> dict[str, object]:
        """One row of ``avsdk zoo list --json``."""
        size = sum((self.folder / file).stat().st_size for file in self.content.files)
        return {
            "name": self.name,
            "family": self.name.partition("/")[0],
            "summary": self.content.summary,
            "licence": self.content.licence,
            "size_mb": round(size / 1e6, 2),
            "path": str(self.folder),
        }


def list_zoo() -> tuple[ZooModel, ...]:
    """Every model of the zoo; hashes are checked when one is loaded, not here."""
    return tuple(_read_entry(file.parent) for file in sorted(ZOO.glob(f"*/*/{ENTRY}")))


def zoo_folder(model: str) -> Path:
    """The folder of ``zoo:NAME`` (or ``NAME``), unchecked."""
    name = model.removeprefix("zoo:")
    known = [file.parent.relative_to(ZOO).as_posix() for file in ZOO.glob(f"*/*/{ENTRY}")]
    if name not in known:
        raise UnknownName.among("zoo model", name, known, fix="avsdk zoo list")
    return ZOO / name


def load_zoo(model: str) -> ZooModel:
    """A model of the zoo by ``zoo:NAME``, all its hashes checked; ``CheckpointRefused`` where a file was changed."""
    entry = _read_entry(zoo_folder(model))
    for name, digest in entry.content.files.items():
        found = sha256_file(safe_join(entry.folder, name, refused=CheckpointRefused))
        if found != digest:
            raise CheckpointRefused(
                f"{name} of zoo:{entry.name} has SHA-256 {found[:12]}...",
                expected=f"{digest[:12]}..., as its {ENTRY} says",
                fix="install avsdk again, or publish the model again",
            )
    return entry


def _read_entry(folder: Path) -> ZooModel:
    file = folder / ENTRY
    content = check_schema(read_json(file), where=str(file), refused=CheckpointRefused)
    return ZooModel(
        name=folder.relative_to(ZOO).as_posix(),
        folder=folder,
        content=decode(ZooFile, content, where=str(file), refused=CheckpointRefused),
    )
