"""Vectors on disk: found again, brought up to date, taken up where it stopped, and refused where they are damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from avsdk import index, index_build
from avsdk.bundle import open_bundle
from avsdk.errors import AvsdkError, IndexRefused, UnusableInput, UsageError
from avsdk.index import DESCRIPTION, GRAPH, PLACES, VECTORS, Owner, open_index, owner_of
from avsdk.index_build import Built, Embedded, build_index

OWNER = Owner("words.bundle", "a" * 64)
SIZE = 4


def embedded(text: str, count: int = 3) -> Embedded:
    """Unit vectors drawn from the content, a second apart."""
    random = np.random.default_rng(sum(text.encode()))
    vectors = random.standard_normal((count, SIZE)).astype(np.float32)
    starts = np.arange(count, dtype=np.float64)
    return Embedded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.stack([starts, starts + 0.5], axis=1))


class Embedder:
    """Embeds by content; notes what it did. A file that holds ``bad`` cannot be read, at ``stop`` the power fails."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, files: Sequence[Path]) -> Iterable[tuple[Path, Embedded | AvsdkError]]:
        for file in files:
            text = file.read_text()
            if text == "stop":
                raise KeyboardInterrupt
            self.done.append(file.name)
            yield file, UnusableInput(f"{file} is no sound") if text == "bad" else embedded(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "sounds"
    (root / "more").mkdir(parents=True)
    for name in ("b.wav", "a.wav", "more/c.WAV"):
        (root / name).write_text(name)
    (root / "notes.txt").write_text("no sound")
    (root / ".hidden.wav").write_text("hidden")
    return root


def built(folder: Path, out: Path, embedder: Embedder, owner: Owner = OWNER) -> Built:
    return build_index(folder, (".wav",), out, owner, embedder)


def test_what_was_put_in_is_found_first(folder: Path, tmp_path: Path) -> None:
    found = built(folder, tmp_path / "x.avidx", Embedder())
    assert (found.embedded, found.kept, found.skipped) == (3, 0, {})
    assert [item.path for item in found.index.description.recordings] == ["a.wav", "b.wav", "more/c.WAV"]
    opened = open_index(tmp_path / "x.avidx")
    assert len(opened) == 9
    wanted = embedded("b.wav").vectors[1]
    hits = opened.search(wanted, 9)
    assert (hits[0].path, hits[0].start_s, hits[0].end_s) == ("b.wav", 1.0, 1.5)
    assert hits[0].score == pytest.approx(1.0, abs=1e-6)
    every = np.concatenate([embedded(name).vectors for name in ("a.wav", "b.wav", "more/c.WAV")]) @ wanted
    assert [hit.score for hit in hits] == pytest.approx(sorted(every.tolist(), reverse=True), abs=1e-6)
    assert len(opened.search(wanted, 100)) == 9
    with pytest.raises(UsageError, match=r"the query has shape \(3,\)"):
        opened.search(wanted[:3])


def test_only_what_changed_is_embedded_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.avidx"
    built(folder, out, Embedder())
    (folder / "a.wav").write_text("other")
    os.utime(folder / "b.wav")  # another time, the same content
    (folder / "more/c.WAV").unlink()
    (folder / "d.wav").write_text("new")
    again = Embedder()
    found = built(folder, out, again)
    assert again.done == ["a.wav", "d.wav"]
    assert (found.embedded, found.kept) == (2, 1)
    assert [item.path for item in found.index.description.recordings] == ["a.wav", "b.wav", "d.wav"]
    assert open_index(out).search(embedded("other").vectors[0], 1)[0].path == "a.wav"
    assert open_index(out).search(embedded("b.wav").vectors[2], 1)[0].start_s == 2.0


def test_another_model_embeds_everything_again(folder: Path, tmp_path: Path) -> None:
    built(folder, tmp_path / "x.avidx", Embedder())
    other = Embedder()
    built(folder, tmp_path / "x.avidx", other, Owner("other.bundle", "b" * 64))
    assert len(other.done) == 3
    assert open_index(tmp_path / "x.avidx").description.owner.path == "other.bundle"


def test_an_interrupted_build_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.avidx"
    (folder / "more/c.WAV").write_text("stop")
    first = Embedder()
    with pytest.raises(KeyboardInterrupt):
        built(folder, out, first)
    assert first.done == ["a.wav", "b.wav"]
    assert not out.exists(), "whole or not at all"
    (folder / "more/c.WAV").write_text("more/c.WAV")
    second = Embedder()
    found = built(folder, out, second)
    assert second.done == ["c.WAV"]
    assert len(found.index) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sounds", "x.avidx"], "nothing is left beside it"


def test_unreadable_recordings_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "b.wav").write_text("bad")
    found = built(folder, tmp_path / "x.avidx", Embedder())
    assert list(found.skipped) == ["b.wav"]
    assert "is no sound" in open_index(tmp_path / "x.avidx").description.skipped["b.wav"]
    assert len(found.index) == 6
    for name in ("a.wav", "more/c.WAV"):
        (folder / name).write_text("bad")
    with pytest.raises(UnusableInput, match="none of the 3 recordings can be used; a.wav: .*is no sound"):
        built(folder, tmp_path / "y.avidx", Embedder())


@pytest.mark.parametrize(
    ("out", "text"), [("x.index", "ends in '.index'"), ("sounds.avidx", "is there and is no index")]
)
def test_an_index_stands_at_a_place_of_its_own(folder: Path, tmp_path: Path, out: str, text: str) -> None:
    (tmp_path / "sounds.avidx").mkdir()
    with pytest.raises(UsageError, match=text):
        built(folder, tmp_path / out, Embedder())


def test_a_folder_without_recordings_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no recording"):
        built(tmp_path, tmp_path / "x.avidx", Embedder())
    with pytest.raises(UsageError, match="is no folder"):
        built(tmp_path / "none", tmp_path / "x.avidx", Embedder())


def test_places_that_overlap_are_one_hit(folder: Path, tmp_path: Path) -> None:
    def windows(files: Sequence[Path]) -> Iterable[tuple[Path, Embedded]]:
        starts = np.array([0.0, 0.1, 0.2, 1.0])
        vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0.6, 0.8]], np.float32)
        for file in files:
            yield file, Embedded(vectors, np.stack([starts, starts + 0.5], axis=1))

    found = build_index(folder, (".wav",), tmp_path / "x.avidx", OWNER, windows).index
    hits = found.search(np.array([1.0, 0.0]), 5)
    assert [(hit.path, hit.start_s) for hit in hits] == [
        ("a.wav", 0.0), ("b.wav", 0.0), ("more/c.WAV", 0.0), ("a.wav", 1.0), ("b.wav", 1.0),
    ]  # fmt: skip


def test_beyond_the_limit_usearch_finds_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch", reason="pip install 'avsdk[search]'")
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3, 700, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    places = np.stack([np.arange(700.0), np.arange(700.0) + 0.5], axis=1)

    def many(files: Sequence[Path]) -> Iterable[tuple[Path, Embedded]]:
        for place, file in enumerate(files):
            yield file, Embedded(vectors[place], places)

    exact = build_index(folder, (".wav",), tmp_path / "exact.avidx", OWNER, many).index
    monkeypatch.setattr(index_build, "EXACT_MOST", 1000)
    near = build_index(folder, (".wav",), tmp_path / "near.avidx", OWNER, many).index
    assert (tmp_path / "near.avidx" / GRAPH).is_file()
    assert not (tmp_path / "exact.avidx" / GRAPH).exists()
    queries = random.standard_normal((20, 8)).astype(np.float32)
    assert sum(near.search(query, 10) == exact.search(query, 10) for query in queries) >= 18


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        (path / name).write_bytes(change((path / name).read_bytes()))

    return apply


def describe(**changes: object) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        document = json.loads((path / DESCRIPTION).read_text())
        document.update(changes)
        (path / DESCRIPTION).write_text(json.dumps(document))

    return apply


def consistent(name: str, array: object) -> Callable[[Path], None]:
    """Another array with its own, right hash: what the description says of it is wrong."""

    def apply(path: Path) -> None:
        np.save(path / name, np.asarray(array))
        document = json.loads((path / DESCRIPTION).read_text())
        document["files"][name] = index.sha256_file(path / name)
        (path / DESCRIPTION).write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (spoil(VECTORS, lambda data: data[:-1] + b"x"), "is damaged"),
        (spoil(PLACES, lambda data: data[:-8]), "is damaged"),
        (spoil(DESCRIPTION, lambda data: data[:40]), "is no JSON"),
        (describe(schema=2), "has schema 2"),
        (describe(count=8), "8 vectors of 4"),
        (describe(surprise=1), "unknown key 'surprise'"),
        (describe(files={"../x": "a"}), "lists"),
        (consistent(VECTORS, np.zeros((9, 5), np.float32)), "holds"),
        (consistent(VECTORS, np.zeros((9, 4), np.float64)), "holds"),
        (consistent(PLACES, np.array([{"a": 1}] * 9, dtype=object)), "holds"),
        (lambda path: ((path / VECTORS).unlink(), (path / VECTORS).symlink_to(path / PLACES)), "symbolic link"),
        (lambda path: (path / PLACES).unlink(), "is missing"),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_index_is_refused(
    folder: Path, tmp_path: Path, harm: Callable[[Path], object], text: str
) -> None:
    built(folder, tmp_path / "x.avidx", Embedder())
    harm(tmp_path / "x.avidx")
    with pytest.raises(IndexRefused, match=text):
        open_index(tmp_path / "x.avidx")


def test_an_index_of_another_bundle_is_refused(make_bundle, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bundle = open_bundle(make_bundle("a"))
    built(folder, tmp_path / "x.avidx", Embedder(), owner_of(bundle))
    assert len(open_index(tmp_path / "x.avidx", bundle)) == 9
    built(folder, tmp_path / "y.avidx", Embedder())
    with pytest.raises(IndexRefused, match="vectors of another model: of words.bundle") as caught:
        open_index(tmp_path / "y.avidx", bundle)
    assert caught.value.exit_code == 5
    assert "avsdk index" in caught.value.fix
    shutil.rmtree(tmp_path / "y.avidx")
    with pytest.raises(UsageError, match="is no index"):
        open_index(tmp_path / "y.avidx")
