"""A spec file is checked to the last key; every error names the line and, for a misspelt name, the nearest one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from avsdk.errors import UsageError
from avsdk.ops import known_operations
from avsdk.spec import Step
from avsdk.spec_request import AskedRange, AskedTensor
from avsdk_targets.spec_file import read_spec_file

GOOD = """\
schema = 1
model = "zoo/animals"
predictor = "image"

[inputs.image]
shape = ["batch", 3, 64, 64]

[axes.batch]
min = 1
max = 8

[assets]
"labels.txt" = "words/animals.txt"

[[preprocess]]
op = "image_rgb"

[[preprocess]]
op = "resize"
height = 64
width = 64

[[preprocess]]
op = "to_nchw_float"
scale = 0.00392156862745098

[[postprocess]]
op = "softmax"

[[postprocess]]
op = "top_k"
k = 2
labels = "labels.txt"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "animals.txt").write_text("cat\ndog\n")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_spec_file_gives_a_request_and_its_assets(folder: Path) -> None:
    found = read_spec_file(written(folder, GOOD))
    request = found.request
    assert (request.model, request.predictor) == ("zoo/animals", "image")
    assert request.inputs == {"image": AskedTensor(("batch", 3, 64, 64))}
    assert request.axes == {"batch": AskedRange(1, 8)}
    assert request.preprocess[1] == Step("resize", {"height": 64, "width": 64})
    assert request.postprocess[-1] == Step("top_k", {"k": 2, "labels": "labels.txt"})
    assert found.assets == {"labels.txt": folder / "words" / "animals.txt"}


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ("schema = 1", "schema = 2", ["has schema 2", "upgrade avsdk"]),
        ("schema = 1", "schema =", ["is no TOML", "line 1"]),
        ('model = "zoo/animals"', 'model = "../evil"', ["line 2: model is '../evil'"]),
        ('predictor = "image"', 'predictor = "imag"', ["line 3: predictor: unknown predictor", "'image'"]),
        ('predictor = "image"', "", ["has steps and no predictor"]),
        ('predictor = "image"', 'predictr = "image"', ["unknown key 'predictr'", "did you mean 'predictor'?"]),
        ("max = 8", "maks = 8", ["line 10: axes.batch has the unknown key 'maks'", "did you mean 'max'?"]),
        ("max = 8", 'max = "8"', ["line 10: axes.batch.max is '8'", "of type int"]),
        ("max = 8", "", ["line 8: axes.batch lacks the key 'max'"]),
        ('shape = ["batch", 3, 64, 64]', "shape = 3", ["line 6: inputs.image.shape is 3", "a list"]),
        ("words/animals.txt", "words/animal.txt", ["line 13: assets.labels.txt: no file"]),
        ('"labels.txt" = "words', '"../l.txt" = "words', ["assets has the name '../l.txt'"]),
        ('op = "resize"', 'op = "resise"', ["line 18: preprocess[1]: unknown operation", "did you mean 'resize'?"]),
        ('op = "resize"', 'ob = "resize"', ["preprocess[1] has no 'op'"]),
        ("width = 64", "widht = 64", ["line 18: preprocess[1]: unknown parameter of resize 'widht'", "'width'"]),
        ("width = 64", "width = 0", ["line 18: preprocess[1]: resize got", "height and width 1..16384"]),
        ("width = 64", "", ["line 18: preprocess[1]: resize does not take"]),
        ("k = 2", "k = true", ["line 30: postprocess[1]: top_k got", "k 1..1000"]),
        ('labels = "labels.txt"', 'labels = "label.txt"', ["names the asset 'label.txt'", "one of the assets: labels"]),
        ('op = "softmax"', 'op = "sound_out"', ["unknown operation of the predictor 'image': 'sound_out'"]),
    ],
)
def test_an_error_names_the_line_and_the_fix(folder: Path, old: str, new: str, texts: list[str]) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(UsageError) as caught:
        read_spec_file(written(folder, GOOD.replace(old, new, 1)))
    assert "my.toml" in str(caught.value)
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"\xff\xfe", b""])
def test_what_is_no_text_or_says_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "my.toml").write_bytes(content)
    with pytest.raises(UsageError, match="my.toml"):
        read_spec_file(tmp_path / "my.toml")
    with pytest.raises(UsageError, match="none.toml cannot be read: No such file"):
        read_spec_file(tmp_path / "none.toml")


def test_the_pages_spec_file_is_one_and_its_table_names_every_operation(folder: Path, project_root: Path) -> None:
    page = (project_root / "docs" / "any-model.md").read_text(encoding="utf-8")
    (folder / "words" / "labels.txt").write_text("cat\ndog\n")
    found = read_spec_file(written(folder, page.split("```toml\n")[1].split("```")[0]))
    assert (found.request.model, len(found.request.preprocess)) == ("animals", 5)
    for media in ("image", "audio"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{media}`"))
        assert set(re.findall(r"`(\w+)`", row)) == {media, *known_operations(media)}
