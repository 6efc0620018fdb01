"""MODEL -> ONNX, ExportedProgram and golden samples, for models that are PyTorch networks.

Importing this module and asking for a fingerprint loads no torch, so that a build cache answers at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avsdk.errors import AvsdkError, UsageError
from avsdk.files import sha256_file
from avsdk.golden import PIPELINE, write_golden
from avsdk.source import SourceFiles
from avsdk.spec import GraphSpec
from avsdk.spec_request import request_from, requested_spec
from avsdk_train.family import load_trained, model_files
from avsdk_train.run import is_run

if TYPE_CHECKING:
    from avsdk_train.family import TrainedModel

_PACKAGES = ("avsdk", "torch", "onnx", "onnxscript", "numpy", "scikit-learn", "opencv-python-headless")
"""What decides the files beside the model itself; a new version of one makes them anew."""

_CODE = ("avsdk_export", "avsdk_train", "avsdk.ops")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MAX_FILES = 20_000
_SIZES = "sizes"


class TrainedSource:
    """A training run's folder, or ``zoo:NAME``."""

    def claims(self, model: str) -> bool:
        """Whether the name starts with ``zoo:`` or the folder holds a recipe and a spec."""
        return model.startswith("zoo:") or is_run(Path(model))

    def fingerprint(self, model: str, options: Mapping[str, str]) -> str:
        """A hash of the weights, recipe, spec and assets, the options, the packages' versions and this code."""
        files = {file.name: sha256_file(file) for file in model_files(model)}
        return _fingerprint({"model": model, "files": files}, options)

    def materialise(self, model: str, out: Path, options: Mapping[str, str]) -> SourceFiles:
        """Export every graph beneath ``out``. Raises ``ParityFailed`` when the ONNX differs from PyTorch."""
        return materialise(load_trained(model), out, options)


class ModuleSource:
    """``package.module:function``, which returns (module, example inputs) or (module, example inputs, ModelSpec).

    This imports and runs the code that the name stands for, as ``python -m`` would: name only code that you trust.
    The fingerprint sees the module's file and every file beside it or in its package; what the function reads from
    elsewhere it does not see.
    """

    def claims(self, model: str) -> bool:
        """Whether the name has that form; nothing is imported."""
        return not model.startswith("zoo:") and _FUNCTION.fullmatch(model) is not None

    def fingerprint(self, model: str, options: Mapping[str, str]) -> str:
        """A hash of the module's file, of the names, sizes and times of the files beside it, and of versions."""
        (file,) = model_files(model)
        depth = model.partition(":")[0].count(".")
        root = file.parents[depth - 1 if depth else 0]
        content = {"model": model, "file": sha256_file(file), "beside": list(_listing(root, deep=depth > 0))}
        return _fingerprint(content, options)

    def materialise(self, model: str, out: Path, options: Mapping[str, str]) -> SourceFiles:
        """Run the function and export its module. Raises ``UsageError`` with what the user's code raised."""
        try:
            trained = load_trained(model)
        except AvsdkError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(
                f"{model} raised {type(error).__name__}: {error}",
                expected="a function that returns a module and its example inputs",
                fix="call it in Python to see where it fails",
            ) from error
        return materialise(trained, out, options)


def materialise(trained: TrainedModel, out: Path, options: Mapping[str, str]) -> SourceFiles:
    """Write ``<graph>.pt2``, ``<graph>.onnx`` and golden samples of every graph, and copy the assets."""
    requested = requested_sizes(options)
    only_examples = bool(trained.examples) and not any(graph.axes for graph in trained.spec.graphs)
    trained = replace(trained, spec=requested_spec(trained.spec, request_from(options), free=only_examples))
    for graph in trained.spec.graphs:  # the cheapest refusal first
        for sizes in requested:
            trained.spec.sizes_for(graph, sizes)
    out.mkdir(parents=True, exist_ok=True)
    files = SourceFiles(
        spec=replace(trained.spec, assets={name: f"assets/{name}" for name in trained.assets}),
        onnx={graph.name: out / f"{graph.name}.onnx" for graph in trained.spec.graphs},
        programs={graph.name: out / f"{graph.name}.pt2" for graph in trained.spec.graphs},
        golden={graph.name: out / f"{graph.name}.npz" for graph in trained.spec.graphs},
        assets={name: out / "assets" / name for name in trained.assets},
        origin={**trained.origin, "reference": "PyTorch fp32"},
    )
    for graph in trained.spec.graphs:
        _export_graph(trained, graph, files, [trained.spec.sizes_for(graph, sizes) for sizes in requested])
    pipeline = _write_pipeline(trained, out, requested)
    for name, file in trained.assets.items():
        files.assets[name].parent.mkdir(exist_ok=True)
        shutil.copyfile(file, files.assets[name])
    return replace(files, golden={**files.golden, **pipeline})


def requested_sizes(options: Mapping[str, str]) -> list[dict[str, int]]:
    """The fixed sizes that will be built: the option ``sizes``, a JSON list of objects."""
    try:
        sizes = json.loads(options.get(_SIZES, "[]"))
    except ValueError:
        sizes = None
    fits = isinstance(sizes, list) and all(
        isinstance(item, dict) and all(type(size) is int for size in item.values()) for item in sizes
    )
    if not fits:
        raise UsageError(f"the sizes are {options[_SIZES]!r}", expected='a JSON list, as [{"height": 400}]')
    return [dict(item) for item in sizes]


def _export_graph(trained: TrainedModel, graph: GraphSpec, files: SourceFiles, requested: list[dict[str, int]]) -> None:
    from avsdk_export.check import require_parity
    from avsdk_export.golden import Reference, golden_samples
    from avsdk_export.program import export_program, save_program
    from avsdk_export.to_onnx import onnx_from_program, write_onnx

    network = trained.networks[graph.name]
    examples = trained.examples.get(graph.name)
    program = export_program(network, graph, examples)
    save_program(program, files.programs[graph.name])
    write_onnx(onnx_from_program(program, graph, replace(trained.spec, assets={})), files.onnx[graph.name])
    arrays = None if examples is None else {name: value.numpy() for name, value in examples.items()}
    inputs = golden_samples(trained.spec, graph, requested, arrays, trained.samples)
    reference = Reference(network, graph)
    write_golden(files.golden[graph.name], [(feeds, reference(feeds)) for feeds in inputs])
    require_parity(files.onnx[graph.name], files.golden[graph.name], graph.name)


def _write_pipeline(trained: TrainedModel, out: Path, requested: list[dict[str, int]]) -> dict[str, Path]:
    """The golden file of the whole way from picture to picture, where the model goes it."""
    from avsdk_export.golden import Reference, golden_answers, golden_pictures, takes_pictures

    graph = trained.spec.graphs[0]
    if not takes_pictures(trained.spec, graph) or not trained.spec.postprocess:
        return {}
    pictures = golden_pictures(graph, requested)
    answers = golden_answers(trained.spec, Reference(trained.networks[graph.name], graph), pictures)
    if not all(isinstance(item["answer"], np.ndarray) for item in answers):
        return {}  # labels are no numbers to compare; the graph's own samples are
    media = [{"media": picture} for picture in pictures]
    write_golden(out / f"{PIPELINE}.npz", list(zip(media, answers, strict=True)))
    return {PIPELINE: out / f"{PIPELINE}.npz"}


def _fingerprint(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    document = {
        **content,
        "options": dict(options),
        "versions": {name: _version(name) for name in _PACKAGES},
        "code": {package: _code_sha256(package) for package in _CODE},
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _code_sha256(package: str) -> str:
    found = importlib.util.find_spec(package)
    digest = hashlib.sha256()
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _listing(root: Path, *, deep: bool) -> Iterable[tuple[str, int, int]]:
    """Name, size and time of the files in ``root``; with ``deep`` of those in its folders too, hidden ones left out."""
    seen = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if deep and not name.startswith((".", "__pycache__")))
        for name in sorted(files):
            status = (Path(folder) / name).lstat()
            yield str(Path(folder, name)), status.st_size, status.st_mtime_ns
            seen += 1
            if seen > _MAX_FILES:
                return
