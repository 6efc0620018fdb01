"""One suite over every device of the catalogue: what a profile owes, whoever wrote it."""

from __future__ import annotations

import re

import pytest

from avsdk import host, plugins
from avsdk.precision import PRECISIONS
from avsdk_targets.device import ARCHITECTURES, Device, Figure, Served, list_devices, load_device
from avsdk_targets.target import resolve
from avsdk_targets.toolchain import load_toolchain

CATALOGUE = """tpu-v2 tpu-v3 tpu-v4 tpu-v5e tpu-v6e coral-edge-tpu
    quadro-rtx-6000 quadro-gv100 tesla-v100 t4 a100 h100 h200 rtx-3090 rtx-4090 rtx-5090
    jetson-agx-orin jetson-orin-nano jetson-nano
    xeon-8180 xeon-8280 xeon-8380 xeon-8480 myriad-x npu-3720 npu-4000 arria10-gx1150 nervana-nnp-t nervana-nnp-i
    raspberry-pi-4 raspberry-pi-5 android-arm64 this-cpu this-gpu""".split()
HERE = {"host", "host-gpu"}
DEVICES = pytest.mark.parametrize("device", list_devices(), ids=lambda item: item.name)
MARKS = {"datasheet", "computed", "unconfirmed"}
NUMBER = re.compile(r"[0-9]")


def test_the_catalogue_holds_what_was_promised() -> None:
    assert {device.name for device in list_devices()} >= set(CATALOGUE)


def test_no_name_or_alias_is_given_twice_or_is_an_engine() -> None:
    names = [name for device in list_devices() for name in device.names]
    assert len(names) == len(set(names))
    assert not set(names) & set(plugins.list_names("compilers"))


@DEVICES
def test_it_is_found_by_every_name(device: Device) -> None:
    assert all(load_device(name) is device for name in device.names)


@DEVICES
def test_it_is_described_in_plain_english(device: Device) -> None:
    assert len(device.description.split()) >= 3
    assert not device.description.endswith(".")
    assert device.vendor or device.arch in HERE


@DEVICES
def test_its_engines_and_precisions_are_known(device: Device) -> None:
    assert set(device.engines) <= set(plugins.list_names("engines"))
    assert len(set(device.engines)) == len(device.engines)
    assert device.engines or device.withdrawn
    assert set(device.precisions) <= set(PRECISIONS)
    assert set(device.engine_devices) <= set(device.engines)


@DEVICES
def test_its_architecture_and_instruction_sets_are_known(device: Device) -> None:
    assert device.arch in ARCHITECTURES or re.fullmatch(r"sm[0-9]{2,3}", device.arch)
    assert set(device.isa) <= set(host._ISA_FLAGS)


@DEVICES
def test_every_figure_has_its_source_and_its_mark(device: Device) -> None:
    assert any(device.figures.values()) or device.arch in HERE or device.name == "android-arm64"
    for label, figure in device.figures.items():
        if figure is None:
            continue
        assert isinstance(figure, Figure)
        assert figure.value > 0, label
        assert figure.mark in MARKS, label
        assert len(figure.source) > 8, label


@DEVICES
def test_a_computed_figure_says_how_and_a_datasheet_figure_where(device: Device) -> None:
    for label, figure in device.figures.items():
        if figure is None:
            continue
        if figure.mark == "computed":
            words = {"twice", "half", "quarter", "rate"} & set(re.findall(r"[a-z]+", figure.source))
            assert words or (NUMBER.search(figure.source) and " x " in figure.source) or "per watt" in figure.source, (
                label
            )
        if figure.mark == "datasheet":
            assert re.search(r"https?://|as quoted by|its name", figure.source), label


@DEVICES
def test_a_sparse_rate_is_never_given_as_a_dense_one(device: Device) -> None:
    for name, figure in device.peaks.items():
        if name != "int8_sparse":
            assert not figure.source.startswith("sparse"), name
    if "int8_sparse" in device.peaks:
        assert device.peaks["int8_sparse"].value == pytest.approx(2 * device.peaks["int8"].value, rel=0.01)


@DEVICES
def test_every_engine_says_which_releases_serve_it(device: Device) -> None:
    assert set(device.served) == set(device.engines)
    for served in device.served.values():
        assert isinstance(served, Served)
        assert served.mark in MARKS
        assert all(not end or re.fullmatch(r"\d+(\.\d+)*", end) for end in (served.first, served.last))
        assert len(served.source) > 8


@DEVICES
def test_its_emulator_is_a_toolchain_of_ours(device: Device) -> None:
    if device.emulation is None:
        assert device.vendor != "Raspberry Pi"
        return
    assert load_toolchain(device.emulation.toolchain).name == "arm64"
    assert device.emulation.cpu == device.arch


@DEVICES
def test_a_processor_can_be_told_from_this_one(device: Device) -> None:
    """Its engines run on any processor, so only its name says whether it is here."""
    if device.called_by(device.engines[0] if device.engines else "") == "cpu" and device.arch not in HERE:
        assert device.seen_as


def test_a_withdrawn_device_says_why_and_where_that_is_written() -> None:
    withdrawn = [device for device in list_devices() if device.withdrawn]
    assert {device.name for device in withdrawn} == {"nervana-nnp-t", "nervana-nnp-i"}
    assert all(not device.engines and "https://" in device.withdrawn for device in withdrawn)


@pytest.mark.parametrize(("name", "platform"), [("npu-3720", "3720"), ("npu-4000", "4000")])
def test_an_npu_tells_its_compiler_the_platform(name: str, platform: str) -> None:
    assert load_device(name).options["npu_platform"] == platform


def test_a_myriad_tells_its_compiler_how_many_vector_processors() -> None:
    assert load_device("ncs2").options["shaves"] == 6


@pytest.mark.parametrize("engine", plugins.list_names("compilers"))
def test_what_a_compiler_takes_beside_the_catalogue_resolves(engine: str) -> None:
    own = plugins.load("compilers", engine).devices
    assert set(own.values()) <= set(ARCHITECTURES)
    for unit in own:
        assert resolve(f"{engine}:{unit}").candidates[0].device == unit
