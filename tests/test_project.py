"""Tests of the project itself: what `import avsdk` costs, what the distribution declares, and what it ships."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import avsdk

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [ROOT / package for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
EXTRAS = """onnxruntime onnxruntime-gpu onnxruntime-rtx openvino litert tflite-runtime tensorrt tensorrt-rtx tpu media
video text search train mlflow export quantise bench ray dev""".split()
MAX_CODE_MB = 2  # of the wheel, compressed, without the zoo
MAX_MODEL_MB = 5  # of one model of the zoo


def in_python(code: str, python: str = sys.executable, **environment: str) -> Any:
    """Run the code in a bare interpreter and return the JSON that it prints."""
    done = subprocess.run(
        [python, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def foreign_modules_after(statement: str) -> set[str]:
    """The top-level modules, other than avsdk's and Python's own, that the statement imports."""
    return set(
        in_python(f"""
        import json, sys
        before = set(sys.modules)
        {statement}
        new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
        print(json.dumps(sorted(new - set(sys.stdlib_module_names) - {{"avsdk"}})))
        """)
    )


# -- what an import costs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["import avsdk", *(f"from avsdk import {name}" for name in avsdk.__all__)])
def test_the_public_api_loads_numpy_and_the_standard_library_only(statement: str) -> None:
    assert foreign_modules_after(statement) <= {"numpy"}


def test_the_command_line_loads_no_runtime_before_a_command_needs_it() -> None:
    heavy = {
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "cv2",
        "av",
        "soundfile",
        "sklearn",
        "matplotlib",
        "tensorrt_rtx",
    }
    assert not foreign_modules_after("import avsdk.cli") & heavy


def test_all_is_what_can_be_imported() -> None:
    defined = {
        name for name, value in vars(avsdk).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("avsdk")
    }  # fmt: skip
    assert defined <= set(avsdk.__all__)
    for name in avsdk.__all__:
        assert getattr(avsdk, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = avsdk.nothing_of_that_name


def _python39() -> str | None:
    candidates = [shutil.which("python3.9"), *map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python3.9"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 9))"],
                          capture_output=True, check=False).returncode == 0:  # fmt: skip
            return candidate
    return None


def test_every_module_of_the_device_half_can_be_imported_by_python_3_9() -> None:
    """Third-party packages are stood in for, since only our own code is on trial: X | Y at run time, newer imports."""
    python = _python39()
    if python is None:
        pytest.skip("no Python 3.9 on PATH or in pyenv's versions folder")
    sdk = ROOT / "sdk"
    modules = [".".join(path.relative_to(sdk).with_suffix("").parts) for path in sorted(sdk.rglob("*.py"))]
    failed = in_python(
        f"""
        import importlib, json, sys
        from unittest.mock import MagicMock
        for name in {sorted(_third_party_modules())!r}:
            sys.modules[name] = MagicMock()
        sys.modules["typer"].BadParameter = OverflowError  # the command line asks for the second ancestor of this one
        failed = {{}}
        for name in {modules!r}:
            try:
                importlib.import_module(name)
            except Exception as error:
                failed[name] = repr(error)
        print(json.dumps(failed))
        """,
        python, PYTHONPATH=str(sdk), PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    assert failed == {}


def _third_party_modules() -> set[str]:
    names = "numpy typer rich cv2 soundfile soxr av"
    submodules = "numpy.typing numpy.lib numpy.lib.format rich.console rich.table rich.text rich.progress"
    return {*names.split(), *submodules.split()}


# -- what the distribution declares ------------------------------------------------------------------------------------


def test_the_extras_are_those_that_the_documentation_names() -> None:
    assert list(PROJECT["project"]["optional-dependencies"]) == EXTRAS


def test_every_requirement_has_a_lower_bound() -> None:
    requirements = [*PROJECT["project"]["dependencies"], *sum(PROJECT["project"]["optional-dependencies"].values(), [])]
    for requirement in map(Requirement, requirements):
        assert requirement.name == "avsdk" or ">=" in str(requirement.specifier), str(requirement)


def test_the_core_needs_numpy_and_what_draws_the_command_line() -> None:
    assert {Requirement(text).name for text in PROJECT["project"]["dependencies"]} == {"numpy", "typer", "rich"}


def test_the_constraints_pin_what_make_installs_within_the_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"{line!r} is no exact pin without a local label"
        pins[match[1].lower().replace("_", "-")] = match[2]
    assert pins["torch"] == "2.13.0"
    extras = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert extras
    declared = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + sum((declared[name] for name in extras[1].split(",")), [])
    for requirement in map(Requirement, wanted):
        if requirement.name != "avsdk":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), str(requirement)


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert avsdk.__version__ == version
    assert re.search(
        rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )


ENTRY_POINTS = [
    pytest.param(value, id=f"{group}:{name}")
    for group, entries in {"scripts": PROJECT["project"]["scripts"], **PROJECT["project"]["entry-points"]}.items()
    for name, value in entries.items()
]


@pytest.mark.parametrize("value", ENTRY_POINTS)
@pytest.mark.filterwarnings("default")  # what third parties warn of when they are imported is not on trial here
def test_every_entry_point_leads_somewhere(value: str) -> None:
    module, _, attribute = value.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_continuous_integration_runs_what_the_documentation_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make check test device-test")


# -- what it ships -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install 'avsdk[dev]'")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return zipfile.Path(path)


def test_the_wheel_holds_every_file_of_the_five_packages_and_nothing_else(wheel: zipfile.Path) -> None:
    shipped = {name for name in wheel.root.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    own = {
        str(path.relative_to(package.parent))
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == own
    assert {f"{package.name}/py.typed" for package in PACKAGES} <= shipped
    assert any(name.endswith("licenses/LICENSE") for name in wheel.root.namelist())


@pytest.mark.parametrize(
    "needed",
    [
        r"avsdk_train/zoo/style_transfer/wave/weights\.safetensors",
        r"avsdk_train/zoo/style_transfer/wave/card\.md",
        r"avsdk_train/families/style_transfer/recipes/small\.toml",
        r"avsdk_train/zoo/unit_discovery/libri-grid-s1/units\.json",
        r"avsdk_train/families/unit_discovery/recipes/small-inverter\.toml",
        r"avsdk_targets/devices/this-cpu\.toml",
        r"avsdk_targets/toolchains/litert\.toml",
    ],
)
def test_the_wheel_ships_data(wheel: zipfile.Path, needed: str) -> None:
    assert [name for name in wheel.root.namelist() if re.fullmatch(needed, name)]


def test_the_wheel_is_small_but_for_the_zoo_and_so_is_every_model_of_it(wheel: zipfile.Path) -> None:
    sizes: dict[str, int] = {}
    for item in wheel.root.infolist():
        model = re.match(r"avsdk_train/zoo/(\w+/[\w-]+)/", item.filename)
        owner = model[1] if model else "code"
        sizes[owner] = sizes.get(owner, 0) + item.compress_size
    assert sizes.pop("code") < MAX_CODE_MB * 1_000_000
    assert max(sizes.values()) < MAX_MODEL_MB * 1_000_000
