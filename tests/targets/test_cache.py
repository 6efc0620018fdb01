"""The build cache answers only with what is whole and ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from avsdk_targets.cache import FolderCache, cache_key, copy_content


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderCache:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    return FolderCache("bundles")


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.bin").write_bytes(b"abc")
    (folder / "b.txt").write_text("b")
    return folder


def test_what_is_put_is_got_without_its_seal(cache: FolderCache, content: Path, tmp_path: Path) -> None:
    assert cache.get("key") is None
    folder = cache.put("key", content)
    assert cache.get("key") == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    out = tmp_path / "out"
    out.mkdir()
    copy_content(folder, out)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == ["b.txt", "deep", "deep/a.bin"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "seal", "link"])
def test_a_damaged_entry_is_removed_and_not_answered(cache: FolderCache, content: Path, damage: str) -> None:
    folder = cache.put("key", content)
    file = folder / "deep" / "a.bin"
    if damage == "flip":
        file.write_bytes(b"abd")
    elif damage == "truncate":
        file.write_bytes(b"")
    elif damage == "remove":
        file.unlink()
    elif damage == "seal":
        (folder / "seal.json").write_text("[]")
    else:
        file.unlink()
        file.symlink_to(content / "deep" / "a.bin")
    assert cache.get("key") is None
    assert not folder.exists()
    assert cache.put("key", content) == cache.get("key")


def test_the_key_depends_on_every_part_and_on_no_order() -> None:
    assert cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1})
    assert cache_key({"a": 1, "b": 2}) != cache_key({"a": 1, "b": 3})
