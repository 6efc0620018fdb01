"""The Edge TPU: what its compiler will take, checked without it, and the compiler's run where it is on PATH.

``edgetpu_compiler`` is a closed program for Debian on x86-64. It takes a .tflite file that computes in 8-bit integers
at fixed sizes and maps it up to the first operation that the Edge TPU lacks; the rest stays on the processor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable, ToolchainCrashed
from avsdk_targets.compiler import Compiled, CompileJob

COMPILER = "edgetpu_compiler"
INSTALL = "install the package edgetpu-compiler from the Debian archive of its vendor (x86-64), so that it is on PATH"
_MAPPED = "Mapped to Edge TPU"
_INTEGERS = {"int8", "uint8", "int16", "int32", "int64", "bool"}
_TIMEOUT_S = 600.0
_ROW = re.compile(r"^([A-Z][A-Z0-9_]*)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")


@dataclass(frozen=True)
class Placement:
    """How the compiler placed a model: operations mapped, and those that were not, each with its count and reason."""

    version: str
    mapped: int
    left: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of operations that the Edge TPU runs."""
        return self.mapped / max(1, self.mapped + sum(int(line.split()[1]) for line in self.left))


def unfit_operations(operations: Sequence[Mapping[str, Any]], tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the Edge TPU cannot take a model; empty when it may. One line per kind of operation, and per tensor.

    ``operations``: ``name`` and the ``kinds`` of their tensors; ``tensors``: the inputs and outputs, with ``name``,
    ``kind`` and ``shape`` (-1 for a size that is not fixed).
    """
    foreign = Counter(
        (item["name"], ", ".join(sorted(set(item["kinds"]) - _INTEGERS)))
        for item in operations
        if set(item["kinds"]) - _INTEGERS
    )
    lines = [f"{count} x {name} computes in {kinds}, not int8" for (name, kinds), count in foreign.items()]
    lines += [f"{item['name']} is {item['kind']}, not int8" for item in tensors if item["kind"] not in _INTEGERS]
    return lines + [f"{item['name']} has sizes that are not fixed" for item in tensors if min(item["shape"]) < 1]


def placed(job: CompileJob, compiled: Compiled) -> Compiled:
    """Refuse what the check finds unfit, run the Edge TPU's compiler, and refuse what it left to the processor."""
    model = job.out / compiled.artifact.files[0]
    unfit = list(compiled.artifact.options.get("edgetpu_unfit", ()))
    count = compiled.artifact.options.get("operations", 0)
    if unfit:
        raise NotAvailable(
            "\n  ".join([f"graph {job.graph.name!r} is not fit for the Edge TPU ({count} operations):", *unfit]),
            expected="8-bit integers in every operation and tensor, and fixed sizes",
            fix="choose another target, or a network whose every operation can be quantised",
        )
    if shutil.which(COMPILER) is None:
        line = " ".join(command_line(Path(model.name), Path()))
        raise NotAvailable(
            f"graph {job.graph.name!r} is fit for the Edge TPU by what can be checked without {COMPILER}, which is not "
            f"on PATH: {count} operations, all of them in integers, every size fixed",
            expected=f"{COMPILER}; what then runs is: {line}",
            fix=f"{INSTALL}, then export again",
        )
    result, placement = compile_model(model)
    if placement.left and job.options.get("edgetpu_partial") != "allow":
        raise NotAvailable(
            "\n  ".join(
                [f"the Edge TPU runs {placement.share:.0%} of graph {job.graph.name!r}; not:", *placement.left]
            ),
            expected="every operation mapped to the Edge TPU",
            fix="--set litert.edgetpu_partial=allow, to run the others on the processor",
        )
    model.unlink()
    record = {"edgetpu": {"mapped": placement.mapped, "left": list(placement.left)}}
    artifact = compiled.artifact
    return Compiled(
        replace(artifact, files=(result.name,), options={**artifact.options, **record}),
        {**compiled.built_with, COMPILER: placement.version},
    )


def command_line(model: Path, folder: Path) -> list[str]:
    """The compiler's command for a model; its result is ``<model>_edgetpu.tflite`` in ``folder``."""
    return [COMPILER, "-s", "-o", str(folder), str(model)]


def compile_model(model: Path) -> tuple[Path, Placement]:
    """Run the compiler beside the model.

    Raises ``NotAvailable`` where it is absent, ``ToolchainCrashed`` with the last lines of its log.
    """
    program = shutil.which(COMPILER)
    if program is None:
        raise NotAvailable(f"{COMPILER} is not on PATH", fix=INSTALL)
    command = [program, *command_line(model, model.parent)[1:]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainCrashed(f"{COMPILER} did not end: {error}") from error
    log = done.stdout + done.stderr
    result = model.with_name(f"{model.stem}_edgetpu.tflite")
    result.with_suffix(".log").unlink(missing_ok=True)  # it says the same again, beside the file that ships
    if done.returncode or not result.is_file():
        raise ToolchainCrashed(
            f"{COMPILER} ended with exit code {done.returncode} and no {result.name}:\n"
            + "\n".join(log.splitlines()[-20:]),
            expected="a model that is all int8 at fixed sizes, in operations that the Edge TPU has",
        )
    return result, mapping_from_log(log)


def mapping_from_log(log: str) -> Placement:
    """Read the table of operations that ``-s`` prints. Raises ``ToolchainCrashed`` where there is none."""
    rows = _ROW.findall(log)
    if not rows:
        raise ToolchainCrashed(
            f"{COMPILER} printed no table of operations, so where they run is not known:\n"
            + "\n".join(log.splitlines()[-20:]),
            expected=f"lines as: CONV_2D   13   {_MAPPED}",
        )
    version = _VERSION.search(log)
    return Placement(
        version=version.group(1) if version else "unknown",
        mapped=sum(int(count) for _, count, status in rows if status == _MAPPED),
        left=tuple(f"{name} {count} {status}" for name, count, status in rows if status != _MAPPED),
    )
