"""One suite over every toolchain: its file is sound, and where it is installed it holds what its compiler needs."""

from __future__ import annotations

import subprocess

import pytest

from avsdk.errors import ToolchainMissing
from avsdk.toolchains import python_words
from avsdk_targets.compiler import Compiler
from avsdk_targets.compilers.litert import LiteRtCompiler
from avsdk_targets.compilers.openvino_myriad import MyriadCompiler
from avsdk_targets.compilers.tensorrt_rtx import TensorRtRtxCompiler
from avsdk_targets.compilers.xla import XlaCompiler
from avsdk_targets.toolchain import Toolchain, find, installed, list_toolchains, load_toolchain
from avsdk_targets.toolchain_install import install

_COMPILERS = (LiteRtCompiler, MyriadCompiler, TensorRtRtxCompiler, XlaCompiler)
_TOOLCHAINS = pytest.mark.parametrize("toolchain", list_toolchains(), ids=lambda item: item.name)


def _python_of(toolchain: Toolchain) -> str:
    try:
        return str(find(toolchain.name))
    except ToolchainMissing as error:
        pytest.skip(f"{error.failed}; {error.fix}")


@_TOOLCHAINS
def test_every_package_is_pinned_once_and_what_is_provided_is_among_them(toolchain: Toolchain) -> None:
    names = [pin.partition("==")[0].lower().replace("_", "-") for pin in toolchain.packages]
    assert len(names) == len(set(names))
    assert set(toolchain.provides) <= set(names)
    assert "numpy" in names, "arrays travel to and from it"
    assert toolchain.imports
    assert toolchain.size_mb > 0


@_TOOLCHAINS
def test_torch_comes_first_without_a_build_label(toolchain: Toolchain) -> None:
    pins = [pin for pin in toolchain.packages if pin.startswith("torch==")]
    assert not pins or (toolchain.packages[0] == pins[0] and "+" not in pins[0])


@pytest.mark.parametrize("compiler", _COMPILERS)
def test_each_compiler_finds_its_package_in_its_toolchain(compiler: type[Compiler]) -> None:
    assert compiler.toolchain is not None
    toolchain = load_toolchain(compiler.toolchain)
    assert compiler.package.distribution in toolchain.provides
    pins = dict(pin.split("==") for pin in toolchain.packages)
    assert compiler.package.admits(pins[compiler.package.distribution])


@_TOOLCHAINS
def test_an_installed_toolchain_holds_its_pins_and_imports(toolchain: Toolchain) -> None:
    _python_of(toolchain)
    record = installed(toolchain)
    assert record is not None
    found = {name.lower().replace("_", "-"): version.partition("+")[0] for name, version in record.versions.items()}
    pins = dict(pin.lower().replace("_", "-").split("==") for pin in toolchain.packages)
    assert {name: found.get(name) for name in pins} == pins
    subprocess.run([*python_words(toolchain.folder, record), "-I", "-c", f"import {toolchain.imports[-1]}"], check=True)


@pytest.mark.network
@pytest.mark.timeout(1800)
def test_the_toolchain_of_the_demo_installs() -> None:
    toolchain = load_toolchain("litert")
    assert install(toolchain, lambda line: None).name == "litert"
    assert find("litert").exists()
