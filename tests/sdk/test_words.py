"""Words to vectors around the graphs: padding, batches and windows change nothing of what each word alone gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.errors import AvsdkError, BundleRefused, SizeNotBuilt, UnknownName, UnusableInput, UsageError
from avsdk.predictors.words import WordFile, WordViews, read_word_file
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec

FILE = WordFile(phones=("AY", "ER", "N", "S"), lexicon={"iron": "AY ER N", "nice": "N AY S"})
LENGTH = TensorSpec("length", "int32", ("batch",))
ANSWER = (TensorSpec("embedding", "float32", ("batch", 3)),)
BATCH = AxisRange(min=1, max=8, default=1)
SPEC = ModelSpec(
    "word_embedding/test",
    "word_embedding",
    (
        GraphSpec(
            "acoustic", (TensorSpec("features", "float32", ("batch", "frames", 3)), LENGTH), ANSWER,
            {"batch": BATCH, "frames": AxisRange(min=2, max=120, default=50)},
        ),
        GraphSpec(
            "phone", (TensorSpec("phones", "int32", ("batch", "phones")), LENGTH), ANSWER,
            {"batch": BATCH, "phones": AxisRange(min=1, max=16, default=8)},
        ),
    ),
)  # fmt: skip


class Runtime:
    """Sums over what is there, by hand; notes the shapes that it was run at, and may be built at fixed sizes only."""

    def __init__(self, **built: Sequence[dict[str, int]]) -> None:
        self.built: Mapping[str, Sequence[dict[str, int]]] = built
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, graph: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = feeds["features" if graph == "acoustic" else "phones"].astype(np.float32)
        self.shapes.append(given.shape)
        if graph == "phone":
            given = given[:, :, None] * np.array([1.0, 2.0, 3.0], np.float32)
        there = np.arange(given.shape[1])[None, :, None] < feeds["length"][:, None, None]
        total = (given * there).sum(axis=1)
        return {"embedding": total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-9)}

    def views(self, file: WordFile = FILE) -> WordViews:
        return WordViews(SPEC, file, self.infer, lambda graph: self.built.get(graph, ()))


def words(*lengths: int) -> list[Any]:
    random = np.random.default_rng(0)
    return [random.standard_normal((length, 3)).astype(np.float32) for length in lengths]


def alone(word: Any) -> Any:
    total = word.sum(axis=0)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize(
    "built",
    [
        {},
        {"acoustic": [{"batch": 1, "frames": 60}, {"batch": 1, "frames": 100}]},
        {"acoustic": [{"batch": 4, "frames": 100}]},
    ],
    ids=["free", "single", "four at once"],
)
def test_every_word_gives_what_it_gives_alone(built: dict[str, Any]) -> None:
    runtime = Runtime(**built)
    given = words(50, 3, 99, 20, 61, 2, 7, 8, 9, 10, 11)
    found = runtime.views().spoken(given)
    np.testing.assert_allclose(found, np.stack([alone(word) for word in given]), atol=1e-6)
    allowed = {(sizes["batch"], sizes["frames"], 3) for sizes in built.get("acoustic", ())}
    assert not allowed or set(runtime.shapes) <= allowed
    assert all(shape[0] <= 8 for shape in runtime.shapes)


def test_words_of_like_length_go_together() -> None:
    runtime = Runtime()
    runtime.views().spoken(words(*[10] * 8, *[100] * 8))
    assert runtime.shapes == [(8, 10, 3), (8, 100, 3)]


@pytest.mark.parametrize(
    ("built", "length", "kind", "text"),
    [
        ({}, 1, UnusableInput, "0.01 s, 1 frames"),
        ({}, 121, SizeNotBuilt, "a word of 121 frames"),
        ({"acoustic": [{"batch": 1, "frames": 60}]}, 61, SizeNotBuilt, "acoustic.frames=61"),
    ],
)
def test_a_word_too_short_or_too_long_is_refused(
    built: dict[str, Any], length: int, kind: type[AvsdkError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        Runtime(**built).views().spoken(words(20, length))


def test_pronunciations_come_from_the_lexicon_or_from_between_slashes() -> None:
    views = Runtime().views()
    assert views.pronunciations("Iron nice") == ["AY", "ER", "N", "N", "AY", "S"]
    assert views.pronunciations("nice /s ay/") == ["N", "AY", "S", "S", "AY"]
    assert views.pronunciations("ice", {"ice": "AY S"}) == ["AY", "S"]
    found = views.written([["AY", "ER", "N"], ["N"]])
    expected = np.array([1.0, 2.0, 3.0]) / np.linalg.norm([1.0, 2.0, 3.0])
    np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("irom", UnknownName, "unknown word 'irom'"),
        ("", UsageError, "the text is empty"),
        ("/AY ER", UsageError, "a slash without another"),
    ],
)
def test_a_text_that_says_nothing_is_refused(text: str, kind: type[AvsdkError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Runtime().views().pronunciations(text)


def test_an_unknown_phone_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown phone 'XX'"):
        Runtime().views().written([["AY", "XX"]])
    with pytest.raises(UsageError, match="without any phone"):
        Runtime().views().written([[]])


def test_windows_cover_a_recording_to_its_end() -> None:
    features = words(100)[0]
    found = Runtime().views().windows(features)
    spans = {(round(start, 2), round(end, 2)) for start, end in found.places.tolist()}
    assert {(0.0, 0.3), (0.1, 0.4), (0.7, 1.0), (0.0, 0.5), (0.5, 1.0), (0.0, 0.8), (0.1, 0.9), (0.2, 1.0)} <= spans
    assert max(end for _, end in spans) == 1.0
    for vector, (start, end) in zip(found.vectors, found.places, strict=True):
        piece = features[round(start * 100) : round(end * 100)]
        np.testing.assert_allclose(vector, alone(piece), atol=1e-5)
    short = Runtime().views().windows(features[:20])
    assert short.places.tolist() == [[0.0, 0.2]]
    with pytest.raises(UnusableInput, match="the recording has 1 frames"):
        Runtime().views().windows(features[:1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": 2}, "has schema 2"),
        ({"phones": ["AY", "AY"]}, "2 phones"),
        ({"phones": []}, "0 phones"),
        ({"hop_s": 0}, "frames of 0.0 s"),
        ({"windows_s": [0.001]}, "windows of"),
        ({"windows_s": []}, "windows of"),
        ({"step_s": 0.001}, "every 0.001 s"),
        ({"more": 1}, "unknown key"),
    ],
)
def test_a_damaged_word_file_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    document = {"schema": 1, "phones": list(FILE.phones), "lexicon": dict(FILE.lexicon)}
    path = tmp_path / "words.json"
    path.write_text(json.dumps(document))
    assert read_word_file(path) == FILE
    path.write_text(json.dumps({**document, **change}))
    with pytest.raises(BundleRefused, match=text):
        read_word_file(path)
