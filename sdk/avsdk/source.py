"""What the entry-point group ``avsdk.sources`` gives: MODEL -> ONNX files, spec, programs, golden samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from avsdk.spec import ModelSpec


@dataclass(frozen=True)
class SourceFiles:
    """What a source made, one file per graph, all beneath the folder it was given.

    ``programs`` are ExportedPrograms (.pt2), for compilers that prefer them; they hold pickled parts, so they never
    leave this host. ``golden`` are .npz files as in a bundle. ``origin`` says where the model came from: kind,
    name, sha256.
    """

    spec: ModelSpec
    onnx: Mapping[str, Path]
    golden: Mapping[str, Path]
    programs: Mapping[str, Path] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


class ModelSource(Protocol):
    """One kind of MODEL that ``avsdk export`` takes."""

    def claims(self, model: str) -> bool:
        """Whether ``model`` is of this kind; cheap, reads at most a few bytes."""

    def fingerprint(self, model: str, options: Mapping[str, str]) -> str:
        """A hash of everything that decides the result; fast, so that a build cache can answer without torch."""

    def materialise(self, model: str, out: Path, options: Mapping[str, str]) -> SourceFiles:
        """Make the files beneath ``out``."""
