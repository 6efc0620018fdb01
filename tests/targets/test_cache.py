"""The build cache answers only with what is whole and ours."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from avsdk_targets.cache import FolderCache, cache_key, copy_content, work_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderCache:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    return FolderCache("bundles")


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return _filled(tmp_path / "content")


def _filled(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "a.bin").write_bytes(b"abc")
    (folder / "b.txt").write_text("b")
    return folder


@pytest.fixture
def notices(cache: FolderCache) -> list[str]:
    told: list[str] = []
    cache.notice = told.append
    return told


def test_what_is_put_is_got_without_its_seal(cache: FolderCache, content: Path, tmp_path: Path) -> None:
    assert cache.get("key") is None
    folder = cache.put("key", content)
    assert cache.get("key") == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    out = tmp_path / "out"
    out.mkdir()
    copy_content(folder, out)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == ["b.txt", "deep", "deep/a.bin"]


def _flip(folder: Path) -> None:
    (folder / "deep" / "a.bin").write_bytes(b"abd")


def _truncate(folder: Path) -> None:
    (folder / "deep" / "a.bin").write_bytes(b"")


def _remove(folder: Path) -> None:
    (folder / "deep" / "a.bin").unlink()


def _add(folder: Path) -> None:
    (folder / "deep" / "stray.bin").write_bytes(b"abc")


def _empty_seal(folder: Path) -> None:
    (folder / "seal.json").write_text("[]")


def _cut_seal(folder: Path) -> None:
    (folder / "seal.json").write_text((folder / "seal.json").read_text()[:20])


def _link_a_file(folder: Path) -> None:
    (folder / "deep" / "a.bin").rename(folder.parent / "elsewhere")
    (folder / "deep" / "a.bin").symlink_to(folder.parent / "elsewhere")


def _dangle(folder: Path) -> None:
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to(folder / "nowhere")


def _let_others_write(folder: Path) -> None:
    folder.chmod(0o777)


def _let_others_write_beside(folder: Path) -> None:
    folder.parent.chmod(0o777)


def _rename(folder: Path) -> None:
    """The entry of another key, put in this one's place: whole, and stale."""
    other = FolderCache("bundles").put("other", _filled(folder.parent.parent / "other"))
    shutil.rmtree(folder)
    other.rename(folder)


def _become_a_link(folder: Path) -> None:
    folder.rename(folder.parent / "moved")
    folder.symlink_to(folder.parent / "moved")


def _become_a_dangling_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


def _become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip, "deep/a.bin has changed"), (_truncate, "deep/a.bin has changed"), (_remove, "deep/a.bin is missing"),
        (_add, "deep/stray.bin is missing or does not belong there"), (_empty_seal, "its seal cannot be read"),
        (_cut_seal, "its seal cannot be read"), (_link_a_file, "symbolic link"), (_dangle, "symbolic link"),
        (_let_others_write, "others may write"), (_let_others_write_beside, "others may write"),
        (_rename, "made for something else"), (_become_a_link, "a link or a file"),
        (_become_a_dangling_link, "a link or a file"), (_become_a_file, "a link or a file"),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_built_again_with_one_notice(
    cache: FolderCache, content: Path, notices: list[str], damage: Callable[[Path], None], reason: str
) -> None:
    damage(cache.put("key", content))
    assert cache.get("key") is None
    assert len(notices) == 1
    assert reason in notices[0]
    again = cache.put("key", _filled(content))
    assert again == cache.root / "key"
    assert cache.get("key") == again
    assert (again / "deep" / "a.bin").read_bytes() == b"abc"
    assert len(notices) == 1
    assert not [item for item in cache.root.iterdir() if item.name.startswith(".")], "nothing half-made is left"


def test_what_another_user_owns_is_never_used(
    cache: FolderCache, content: Path, notices: list[str], give_away: Callable[[Path], None]
) -> None:
    give_away(cache.put("key", content))
    assert cache.get("key") is None
    assert len(notices) == 1
    assert "belongs to another user (number 12345)" in notices[0]


def test_what_cannot_be_kept_is_used_all_the_same(cache: FolderCache, content: Path, notices: list[str]) -> None:
    cache.root.parent.mkdir(parents=True)
    cache.root.write_text("a file where the cache should be")
    assert cache.put("key", content) == content
    assert (content / "deep" / "a.bin").read_bytes() == b"abc"
    assert not (content / "seal.json").exists()
    assert len(notices) == 1
    assert "keeps nothing of this" in notices[0]


def test_a_full_disk_keeps_nothing_and_loses_nothing(
    cache: FolderCache, content: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert cache.put("key", content) == content
    assert (content / "deep" / "a.bin").read_bytes() == b"abc"
    assert "no space left" in notices[0]
    assert not list(cache.root.iterdir())


def test_many_writers_of_one_key_leave_one_whole_entry(cache: FolderCache, tmp_path: Path) -> None:
    contents = [_filled(tmp_path / f"content{index}") for index in range(16)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda content: cache.put("key", content), contents)) == {cache.root / "key"}
    assert cache.get("key") == cache.root / "key"
    assert [item.name for item in cache.root.iterdir()] == ["key"]


def test_work_folders_of_dead_processes_are_swept_and_no_others(cache: FolderCache) -> None:
    with work_folder() as mine:
        here = mine.name.split("-")[2]
        dead, elsewhere = (mine.parent / f"export-{2**22 + 1}-{tag}-x" for tag in (here, "0" * 12))
        foreign = mine.parent / "thesis"
        for folder in (dead, elsewhere, foreign):
            folder.mkdir()
        with work_folder() as second:
            assert second != mine
            assert not dead.exists()
            assert mine.is_dir()
            assert elsewhere.is_dir(), "another machine's processes are not known here"
            assert foreign.is_dir()
    assert not mine.exists()


def test_without_a_home_the_work_is_done_among_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "file"))
    with work_folder() as folder:
        assert folder.is_dir()
        assert not folder.is_relative_to(tmp_path)


def test_the_key_depends_on_every_part_and_on_no_order() -> None:
    assert cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1})
    assert cache_key({"a": 1, "b": 2}) != cache_key({"a": 1, "b": 3})


def test_a_full_cache_disk_still_gives_a_bundle_and_says_so(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(home)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "tiny.onnx"
    )
    code = "from avsdk.cli import main; main()"
    command = ["export", str(tmp_path / "tiny.onnx"), "--target", "onnxruntime", "--out", str(out)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "AVSDK_HOME": str(home)},
        )
        assert done.returncode == 0, done.stderr
        assert "keeps nothing of this: no space left" in done.stderr
        assert (out / "tiny-onnxruntime-fp32" / "manifest.json").is_file()
    finally:
        subprocess.run(["umount", str(home)], check=True)
