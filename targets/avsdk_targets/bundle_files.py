"""Where the files of an export lie: in the source cache, in a bundle being made, and in the folder ``--out``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsdk import __version__
from avsdk.bundle import Bundle, Manifest, is_bundle, open_bundle
from avsdk.errors import ModelRefused, NotAvailable, UsageError
from avsdk.files import atomic_folder, copy_file, safe_join, typed_write_errors
from avsdk.onnx_check import check_onnx
from avsdk.schema import SCHEMA
from avsdk.source import SourceFiles
from avsdk.spec import ModelSpec
from avsdk_targets.cache import copy_content
from avsdk_targets.prepared import Prepared

_PREPARED = "prepared.json"
"""Written into a folder of exported ONNX, so that a later export may replace it and nothing else."""


def make_out(out: Path) -> None:
    """Make the folder before the work, so that a wrong ``--out`` does not cost a build."""
    with typed_write_errors(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(
                f"--out {out} cannot be a folder: {error.strerror}",
                expected="a folder, or a path where one can be made",
                fix="--out another folder",
            ) from error


def bundle_name(manifest: Manifest) -> str:
    """``<model>-<target>-<precision>`` with the separators of names and targets as dashes."""
    return f"{_dashed(manifest.spec.model)}-{_dashed(manifest.target)}-{manifest.precision}"


def publish(folder: Path, out: Path) -> Bundle:
    """Copy the verified bundle to its place in ``out``; replaces only what avsdk made."""
    manifest = open_bundle(folder).manifest
    place = out / bundle_name(manifest)
    _require_replaceable(place, "bundle", ours=is_bundle(place))
    with atomic_folder(place) as fresh:
        copy_content(folder, fresh)
    return Bundle(place, manifest)


def leave_onnx(files: SourceFiles, target: str, out: Path, error: NotAvailable) -> Prepared:
    """Leave the exported ONNX where nothing here can compile it; the error, with where it lies.

    ``<out>/<model>-<target>-onnx/<graph>.onnx``, its external data, and what the compiler gives beside it.
    """
    place = out / f"{_dashed(files.spec.model)}-{_dashed(target)}-onnx"
    _require_replaceable(place, "folder of exported ONNX", ours=(place / _PREPARED).is_file())
    texts: dict[str, str | bytes] = error.report if isinstance(error, Prepared) else {}
    with atomic_folder(place) as fresh:
        for graph, file in files.onnx.items():
            for name in check_onnx(file).external:
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                copy_file(safe_join(file.parent, name, refused=ModelRefused), fresh / name)
            copy_file(file, fresh / f"{graph}.onnx")
        for name, text in texts.items():
            (fresh / Path(name).name).write_bytes(text.encode() if isinstance(text, str) else text)
        record = {"schema": SCHEMA, "avsdk": __version__, "target": target, "reason": error.failed}
        (fresh / _PREPARED).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside = f" with {', '.join(sorted(texts))}" if texts else ""
    left = f"the exported ONNX lies in {place}{beside}"
    return Prepared(error.failed, expected=error.expected, fix="; ".join(filter(None, (error.fix, left))), path=place)


def place_files(folder: Path, room: str, files: Mapping[str, Path], suffix: str) -> dict[str, str]:
    """Copy the files into a room of the bundle and return their names in it."""
    placed = {}
    for name, file in files.items():
        relative = f"{room}/{name}{suffix}"
        (folder / room).mkdir(exist_ok=True)
        copy_file(file, folder / relative)
        placed[name] = relative
    return placed


def place_models(folder: Path, onnx: Mapping[str, Path]) -> dict[str, str]:
    """Copy the ONNX files, with the external data that they name, once our own code has looked through them."""
    for file in onnx.values():
        for name in check_onnx(file).external:
            place = folder / "model" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_file(safe_join(file.parent, name, refused=ModelRefused), place)
    return place_files(folder, "model", onnx, ".onnx")


def source_document(files: SourceFiles, root: Path) -> dict[str, Any]:
    """What ``files_from_source`` reads: the spec, the origin, and every file by its name beneath ``root``."""
    rooms = {"onnx": files.onnx, "golden": files.golden, "programs": files.programs, "assets": files.assets}
    return {
        "spec": files.spec.to_json(),
        "origin": dict(files.origin),
        **{
            room: {name: file.relative_to(root).as_posix() for name, file in held.items()}
            for room, held in rooms.items()
        },
    }


def files_from_source(document: Mapping[str, Any], root: Path) -> SourceFiles:
    """The files of a document that ``source_document`` made."""

    def held(room: str) -> dict[str, Path]:
        return {name: root / relative for name, relative in document[room].items()}

    return SourceFiles(
        spec=ModelSpec.from_json(document["spec"], where="source.json"),
        onnx=held("onnx"),
        golden=held("golden"),
        programs=held("programs"),
        assets=held("assets"),
        origin=document["origin"],
    )


def _require_replaceable(place: Path, kind: str, *, ours: bool) -> None:
    if (place.exists() or place.is_symlink()) and not ours:
        raise UsageError(
            f"{place} exists and is no {kind}",
            expected=f"a free name, or a {kind} to replace",
            fix="--out another folder",
        )


def _dashed(name: str) -> str:
    return re.sub("[/:=,]", "-", name)
