"""Hostile .npz files are refused before anything is allocated or unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from avsdk.arrays import read_arrays
from avsdk.errors import UnusableInput
from avsdk.golden import read_golden


def wrong(reason: str) -> UnusableInput:
    return UnusableInput(reason)


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_reads_what_numpy_writes(tmp_path: Path) -> None:
    wanted = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.eye(3)),
        "empty": np.zeros((0, 4), np.int64),
        "scalar": np.array(7),
    }
    np.savez_compressed(tmp_path / "x.npz", **wanted)
    found = read_arrays(tmp_path / "x.npz", wrong)
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    found["a"][0, 0] = 5  # an answer of ours, so it may be written to


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.npy", b"")], "magic|EOF|zero"),
        ([("a.npy", b"no array")], "magic"),
        ([("a.txt", b"text")], "is no array"),
        ([("a.npy", npy_bytes(np.zeros(3))[:-4])], "another length"),
        ([("a.npy", npy_bytes(np.zeros(3)) + b"more")], "another length"),
        ([("a.npy", npy_bytes(np.zeros(3)).replace(b"(3,)", b"(9,)"))], "another length"),
        ([("a.npy", npy_bytes(np.zeros(3)).replace(b"(3,), ", b"(-3,),"))], "another length"),
        ([("a.npy", npy_bytes(np.zeros(1 << 16)))], "unpacks to"),
    ],
)
def test_a_malformed_archive_is_refused(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    path = archive_of(tmp_path / "x.npz", members)
    with pytest.raises(UnusableInput, match=reason):
        read_arrays(path, wrong, max_bytes=100_000)


def test_pickled_objects_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Trap(trap)], dtype=object), allow_pickle=True)
    assert pickle.dumps(Trap(trap))
    with pytest.raises(UnusableInput, match="pickled"):
        read_arrays(archive_of(tmp_path / "x.npz", [("a.npy", stream.getvalue())]), wrong)
    assert not trap.exists()


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    data = npy_bytes(np.zeros(2))
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive_of(tmp_path / "x.npz", [("a.npy", data), ("a.npy", data)])
    with pytest.raises(UnusableInput, match="two members"):
        read_arrays(path, wrong)


@pytest.mark.parametrize("cut", [0, 1, 30, 100])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(100))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:cut])
    with pytest.raises(UnusableInput):
        read_arrays(tmp_path / "cut.npz", wrong)


def test_mutated_archives_never_raise_anything_else(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.arange(40, dtype=np.float32), b=np.ones((3, 3)))
    sound = (tmp_path / "x.npz").read_bytes()
    random = np.random.default_rng(5)
    for _ in range(300):
        mutated = bytearray(sound)
        for place in random.integers(0, len(sound), 3):
            mutated[place] = random.integers(256)
        (tmp_path / "m.npz").write_bytes(mutated)
        try:
            read_arrays(tmp_path / "m.npz", wrong, max_bytes=1 << 20)
        except UnusableInput:
            continue


def test_golden_files_are_read_with_the_same_care(tmp_path: Path) -> None:
    from avsdk.errors import BundleRefused

    (tmp_path / "g.npz").write_bytes(b"PK")
    with pytest.raises(BundleRefused, match="no golden samples"):
        read_golden(tmp_path / "g.npz")
    np.savez(tmp_path / "h.npz", odd=np.zeros(1))
    with pytest.raises(BundleRefused, match="no golden samples"):
        read_golden(tmp_path / "h.npz")
