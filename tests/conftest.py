"""What all tests share: real photographs, real data where it is at hand, and a build cache that is not the user's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("AVSDK_SHARED_DATA", ROOT.parent / "shared" / "data"))

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real data sets where they are not."""
    if SHARED_DATA.is_dir():
        return
    absent = pytest.mark.skip(reason=f"no real data at {SHARED_DATA}: set AVSDK_SHARED_DATA")
    for item in items:
        if "shared_data" in item.keywords:
            item.add_marker(absent)


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Point AVSDK_HOME at an empty folder, so that no test reads or fills the user's build cache.

    The user's toolchains are linked into it: a test of a compiler uses the one that is installed, or is skipped.
    """
    from avsdk.files import cache_home

    toolchains = cache_home() / "toolchains"
    home = tmp_path_factory.mktemp("avsdk_home")
    if toolchains.is_dir():
        (home / "toolchains").symlink_to(toolchains.resolve(), target_is_directory=True)
    os.environ["AVSDK_HOME"] = str(home)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder of pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets; a test that asks for them carries the marker ``shared_data``."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def photograph() -> Path:
    """The photograph china.jpg that scikit-learn ships: 640 wide, 427 high."""
    return _photographs() / "china.jpg"


@pytest.fixture(scope="session")
def second_photograph() -> Path:
    """The photograph flower.jpg that scikit-learn ships: 640 wide, 427 high."""
    return _photographs() / "flower.jpg"


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a file or folder belong to the user number 12345: really, or, where none may, for whoever asks."""

    def give(path: Path) -> None:
        with contextlib.suppress(OSError):
            os.chown(path, 12345, 12345)
            return
        lstat = Path.lstat

        def told(self: Path) -> os.stat_result:
            found = lstat(self)
            return os.stat_result((*found[:4], 12345, *found[5:])) if self == path and path.exists() else found

        monkeypatch.setattr(Path, "lstat", told)

    return give


def _photographs() -> Path:
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip("scikit-learn, which ships the photographs, is not installed: pip install 'avsdk[export]'")
    return Path(found.origin).parent / "datasets" / "images"
