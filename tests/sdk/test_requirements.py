"""An artifact for another machine is refused before its runtime sees it, with the two values and the rebuild line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from avsdk import requirements
from avsdk.errors import BundleRefused, NotAvailable
from avsdk.requirements import Machine, Requirements, installed_release, require
from avsdk.session import Array, Artifact, Availability, Execution, Session
from avsdk.spec import GraphSpec, TensorSpec

GRAPH = GraphSpec("g", (TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),))
HERE = Machine(lambda: "x86_64", lambda: ["sm86"], lambda: "550.54.14", lambda name: "2026.4.1")


def not_looked_up(*_: str) -> str:
    pytest.fail("looked up without being asked for")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"arch": "x86_64"},
        {"arch": "sm86"},
        {"arch": "sm80+"},
        {"driver": "525"},
        {"driver": "550.54"},
        {"engine": "openvino", "minimum": "2026.4"},
        {"engine": "openvino", "minimum": "2026.4.1", "below": "2027"},
        {"engine": "openvino", "exact": "2026.4.1"},
    ],
)
def test_what_fits_is_let_through(options: Mapping[str, str]) -> None:
    require(Requirements.of({"requires": options}), HERE, what="it", rebuild="again")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"arch": "aarch64"}, "built for the architecture aarch64, here is x86_64"),
        ({"arch": "sm89"}, "built for a GPU of sm89, here is sm86"),
        ({"arch": "sm90+"}, "built for a GPU of sm90 or newer, here is sm86"),
        ({"driver": "560.28"}, "built for the GPU driver >= 560.28, here is 550.54.14"),
        ({"engine": "openvino", "minimum": "2026.5"}, "built for openvino >= 2026.5, here is 2026.4.1"),
        ({"engine": "openvino", "minimum": "2026.10"}, "built for openvino >= 2026.10, here is 2026.4.1"),
        ({"engine": "openvino", "below": "2026.4"}, "built for openvino < 2026.4, here is 2026.4.1"),
        ({"engine": "openvino", "exact": "2026.4"}, "built for openvino == 2026.4, here is 2026.4.1"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values_and_the_fix(options: Mapping[str, str], text: str) -> None:
    with pytest.raises(NotAvailable) as caught:
        require(Requirements.of({"requires": options}), HERE, what="it", rebuild="avsdk export b --target t")
    assert text in caught.value.failed
    assert caught.value.fix == "avsdk export b --target t"
    assert caught.value.exit_code == 3


def test_a_machine_without_a_gpu_says_none() -> None:
    bare = Machine(lambda: "x86_64", lambda: [], lambda: "", not_looked_up)
    with pytest.raises(NotAvailable, match="a GPU of sm86, here is none"):
        require(Requirements(arch="sm86"), bare, what="it", rebuild="")
    with pytest.raises(NotAvailable, match="the GPU driver >= 525, here is none"):
        require(Requirements(driver="525"), bare, what="it", rebuild="")


def test_only_what_is_asked_for_is_looked_up() -> None:
    closed = Machine(not_looked_up, lambda: [not_looked_up()], not_looked_up, not_looked_up)
    require(Requirements(), closed, what="it", rebuild="")


@pytest.mark.parametrize(
    "found",
    [
        {"architecture": "arm"},
        {"arch": 86},
        "sm86",
        {"arch": "../x86"},
        {"engine": "../../openvino", "exact": "1"},
        {"engine": "openvino", "minimum": "newest"},
        {"engine": "openvino", "exact": "9" * 5000},
        {"driver": "v550"},
        {"below": "1.2.3.4.5.6.7"},
    ],
)
def test_a_manifest_that_asks_for_nonsense_is_refused(found: object) -> None:
    with pytest.raises(BundleRefused, match="requires"):
        Requirements.of({"requires": found})


def test_the_release_of_a_package_is_found_by_its_engines_name() -> None:
    assert installed_release("pytest") == pytest.__version__
    assert installed_release("no_such_package_here") == ""


class Careless(Session):
    """A session whose runtime would be harmed by a foreign artifact."""

    engine = "careless"

    @classmethod
    def availability(cls, device: str) -> Availability:
        return Availability(True)

    @classmethod
    def release(cls, name: str) -> str:
        return "1.0" if name == "careless" else ""

    def _open(self) -> None:
        pytest.fail("the runtime saw an artifact for another machine")

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {}

    def _execution(self) -> Execution:
        return Execution("cpu", {}, {})

    def _close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"arch": "aarch64"}, "the architecture aarch64, here is x86_64"),
        ({"arch": "sm75"}, "a GPU of sm75, here is sm86"),
        ({"engine": "careless", "exact": "1.1"}, "careless == 1.1, here is 1.0"),
    ],
)
def test_a_session_checks_before_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Mapping[str, str], text: str
) -> None:
    monkeypatch.setattr(requirements.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(requirements, "_gpus", lambda: (["sm86"], "550.54"))
    artifact = Artifact("g", "careless", "cpu", "fp32", ("g.bin",), options={"requires": dict(options)})
    with pytest.raises(NotAvailable) as caught:
        Careless.open(tmp_path, artifact, GRAPH, 1)
    assert text in caught.value.failed
    assert f"avsdk export {tmp_path} --target careless:cpu" in caught.value.fix
