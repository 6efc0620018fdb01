"""The house rules that no linter knows: sizes, names, third-party imports, and what may not stand in a text."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sdk", "train", "export", "targets", "bench")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("avsdk*/**/*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
NOT_NAMES = {"backend", "manager", "handler", "helper", "processor", "wrapper", "util", "utils", "common", "misc"}

# The table of CONTRIBUTING.md, for third parties: the first line whose pattern fits the file decides.
# import-linter guards the named ones; this list lets nothing in that was never decided on.
ALLOWED = (
    ("sdk/avsdk/engines/onnxruntime.py", "onnxruntime"),
    ("sdk/avsdk/engines/openvino*.py", "openvino"),
    ("sdk/avsdk/myriad_stick.py", "openvino"),
    ("sdk/avsdk/openvino_*.py", "openvino"),
    ("sdk/avsdk/engines/litert.py", "ai_edge_litert tflite_runtime"),
    ("sdk/avsdk/engines/tensorrt.py", "tensorrt"),
    ("sdk/avsdk/engines/tensorrt_rtx.py", "tensorrt_rtx"),
    ("sdk/avsdk/engines/torch.py", "torch"),
    ("sdk/avsdk/engines/xla.py", "torch torch_xla jaxlib"),
    ("sdk/avsdk/media.py", "cv2 av"),
    ("sdk/avsdk/sound.py", "soundfile soxr"),
    ("sdk/avsdk/dtypes.py", "ml_dtypes"),
    ("sdk/avsdk/cli.py", "typer rich"),
    ("sdk/avsdk/console.py", "typer rich"),
    ("sdk/avsdk/ops/text.py", "tokenizers"),
    ("sdk/avsdk/index.py", "usearch"),
    ("sdk/*", ""),
    ("train/avsdk_train/distributed.py", "torch accelerate torch_xla"),
    ("train/avsdk_train/metrics/intelligibility.py", "pystoi pesq"),
    ("train/*", "torch accelerate safetensors librosa cv2 typer tensorboard matplotlib sklearn rich"),
    ("export/avsdk_export/check.py", "onnx"),
    ("export/*", "torch onnx onnxscript safetensors sklearn typer"),
    ("targets/avsdk_targets/compilers/litert.py", "litert_torch ai_edge_litert onnx2tf torch"),
    ("targets/avsdk_targets/litert_quantiser.py", "ai_edge_quantizer"),
    ("targets/avsdk_targets/compilers/onnxruntime.py", "onnx onnxruntime"),
    ("targets/avsdk_targets/compilers/openvino*.py", "onnx openvino nncf"),
    ("targets/avsdk_targets/compilers/tensorrt.py", "onnx tensorrt"),
    ("targets/avsdk_targets/compilers/tensorrt_rtx.py", "onnx tensorrt_rtx"),
    ("targets/avsdk_targets/compilers/xla.py", "torch torch_xla"),
    ("targets/avsdk_targets/myriad_blob.py", "openvino"),
    ("targets/*", "onnx typer"),
    ("bench/avsdk_bench/vendors/onnxruntime.py", "onnxruntime"),
    ("bench/*", "psutil onnx optuna mlperf_loadgen matplotlib jinja2 ray typer rich"),
)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def definitions(path: Path) -> Iterator[Definition]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Definition))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{name_of(path)} has {lines} lines: split it by subject"
    long = {
        node.name: length
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long, f"functions of {name_of(path)} with more than {MAX_FUNCTION_LINES} lines"


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_say_what_a_thing_is(path: Path) -> None:
    names = [path.stem, *(node.name for node in definitions(path))]
    empty = [name for name in names if words_of(name) & NOT_NAMES or name.lower().startswith("base_")]
    assert not empty, f"{name_of(path)}: these names say nothing of what the thing is"


def imported_packages(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_third_party_packages_are_imported_where_they_belong(path: Path) -> None:
    allowed = next(packages for pattern, packages in ALLOWED if fnmatch(name_of(path), pattern)).split()
    foreign = imported_packages(tree_of(path)) - set(sys.stdlib_module_names)
    foreign -= {"numpy", "avsdk", "avsdk_train", "avsdk_export", "avsdk_targets", "avsdk_bench"}
    assert foreign <= set(allowed), f"{name_of(path)} may import {allowed or 'numpy and the standard library only'}"


def _runs_on_python_39(path: Path) -> bool:
    return name_of(path).startswith(
        ("sdk/", "targets/avsdk_targets/compilers/", "targets/avsdk_targets/myriad_blob.py")
    )


@pytest.mark.parametrize("path", [path for path in SOURCES if _runs_on_python_39(path)], ids=name_of)
def test_what_runs_on_a_device_or_in_a_toolchain_parses_as_python_3_9(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, name_of(path), feature_version=(3, 9))
    annotated = any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(tree))
    assert not annotated or "from __future__ import annotations" in text


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_an_exception_of_python_takes_its_message_from_a_variable(path: Path) -> None:
    """Else the traceback prints the text twice. Our own errors are exempt: their first argument says what failed."""
    own_text = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in vars(builtins)
        and node.exc.args
        and (isinstance(node.exc.args[0], ast.JoinedStr | ast.Constant))
    ]
    assert not own_text, f"lines of {name_of(path)} that raise a built-in exception with a literal text"


# -- texts -------------------------------------------------------------------------------------------------------------

REGISTRIES = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "download.py" + "torch.org",
    "pypi.nv" + "idia.com",
    "npm" + "js.org",
)
HOME_PATH = re.compile(r"(?<![\w.~>}$-])/(?:root|work|home/\w+|Users/\w+)/\w")


def tracked_texts() -> list[Path]:
    """The text files of the repository: those that git knows of, or would, were they added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git repository, so what belongs to the project is not known")
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def test_no_text_names_a_package_registry_or_a_home_folder() -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path in tracked_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if HOME_PATH.search(line) or any(host in line for host in REGISTRIES)
    ]
    assert not found
