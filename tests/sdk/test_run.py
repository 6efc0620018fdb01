from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk import media
from avsdk.cli import main

MakeBundle = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(bundle, photo, "--out", out)`` -> exit code, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["run", *map(str, arguments)])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two pictures, and a text that is no medium."""
    folder = tmp_path / "photos"
    for index, name in enumerate(("a.png", "b.png")):
        media.write_image(folder / name, np.full((33, 50, 3), 10 * index, np.uint8))
    (folder / "README.txt").write_text("about these pictures")
    return folder


def test_a_photo(make_bundle: MakeBundle, photograph: Path, tmp_path: Path, run: Run) -> None:
    small = tmp_path / "small.png"
    media.write_image(small, media.resized(media.read_image(photograph), 101, 150))
    code, said, aside = run(make_bundle(), small, "--out", tmp_path / "styled.png")
    assert code == 0
    assert (media.read_image(tmp_path / "styled.png") == 255 - media.read_image(small)).all()
    assert "transform: onnxruntime on cpu, fp32" in said
    assert "infer" in said
    assert aside.startswith("next: avsdk bench ")


def test_the_json_document(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.png"
    code, said, _ = run(make_bundle(), photos / "a.png", "--out", out, "--json", "--threads", "1")
    document = json.loads(said)
    assert code == 0
    assert document["outputs"] == [str(out)]
    assert document["graphs"] == [
        {"graph": "transform", "engine": "onnxruntime", "device": "cpu", "effective_precision": "fp32"}
    ]
    assert sorted(document["latency_ms"]) == ["infer", "postprocess", "preprocess"]
    assert document["failed"] == []


def test_a_folder(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    code, _, aside = run(make_bundle(), photos, "--out", tmp_path / "out")
    assert code == 0
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert "1 files of other kinds were left out" in aside


def test_a_folder_as_out_for_one_input(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "out").mkdir()
    assert run(make_bundle(), photos / "a.png", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "a.png").is_file()


def test_equal_names_stay_apart(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(photos, tmp_path / "more")
    assert run(make_bundle(), photos, tmp_path / "more", "--out", tmp_path / "out")[0] == 0
    names = sorted(item.name for item in (tmp_path / "out").iterdir())
    assert names == ["a-2.png", "a.png", "b-2.png", "b.png"]


def test_one_bad_file_does_not_stop_the_others(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    (photos / "aa.png").write_bytes(b"")
    media.write_image(photos / "tiny.png", np.zeros((3, 3, 3), np.uint8))
    code, said, aside = run(make_bundle(), photos, "--out", tmp_path / "out", "--json")
    document = json.loads(said)
    assert code == 2
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert [(Path(item["input"]).name, item["error"]) for item in document["failed"]] == [
        ("aa.png", "UnusableInput"),
        ("tiny.png", "SizeNotBuilt"),
    ]
    assert "is empty (0 bytes)" in aside


def test_a_video_with_a_clear_word_on_its_sound(
    make_bundle: MakeBundle, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with media.video_writer(tmp_path / "a.mp4", 25, 48, 64) as writer:
        writer.write(np.zeros((20, 48, 64, 3), np.uint8))
        writer.finish()
    monkeypatch.setattr(media, "can_copy_sound", lambda: False)
    code, said, aside = run(make_bundle(), tmp_path / "a.mp4", "--out", tmp_path / "b.mp4")
    assert code == 0
    assert "20 frames" in said
    assert "note:" in aside
    assert "pip install 'avsdk[video]'" in aside
    assert media.VideoReader(tmp_path / "b.mp4").info()["frames"] == 20


def empty(folder: Path) -> Path:
    (folder / "empty.png").write_bytes(b"")
    return folder / "empty.png"


def text(folder: Path) -> Path:
    (folder / "text.jpg").write_text("not a picture, whatever its name says")
    return folder / "text.jpg"


def tiny(folder: Path) -> Path:
    media.write_image(folder / "tiny.png", np.zeros((3, 3, 3), np.uint8))
    return folder / "tiny.png"


def huge(folder: Path) -> Path:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    (folder / "huge.png").write_bytes(head + bytes(100))
    return folder / "huge.png"


def cut_video(folder: Path) -> Path:
    with media.video_writer(folder / "whole.mp4", 25, 48, 64) as writer:
        writer.write(np.zeros((20, 48, 64, 3), np.uint8))
        writer.finish()
    (folder / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:-900])
    return folder / "cut.mp4"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "is empty (0 bytes)"),
        (text, "is neither a picture nor a video"),
        (tiny, "the picture has 3x3 pixels"),
        (huge, "has 20000 x 20000 pixels"),
        (cut_video, "truncated before its index"),
        (lambda folder: folder / "none.png", "does not exist"),
    ],
)
def test_unusable_input(
    make_bundle: MakeBundle, tmp_path: Path, run: Run, make: Callable[[Path], Path], message: str
) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "out" / f"a{make(tmp_path / 'in').suffix}"
    out.parent.mkdir()
    code, said, aside = run(make_bundle(), make(tmp_path / "in"), "--out", out, "--json")
    document = json.loads(said)
    assert code == document["code"] == 2
    assert message in document["reason"]
    assert document["expected"]
    assert f"error: {document['reason']}" in aside
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{bundle}", "{photos}/a.png"], "run got no --out"),
        (["{bundle}", "--out", "x"], "run got no input"),
        (["{photos}", "{photos}/a.png", "--out", "x"], "is no bundle"),
        (["{bundle}", "{photos}/a.png", "--out", "{photos}/a.png"], "would replace an input"),
        (["{bundle}", "{photos}", "--out", "{photos}"], "would replace an input"),
        (["{bundle}", "{photos}", "--out", "{photos}/README.txt"], "is a file"),
        (["{bundle}", "{photos}/a.png", "--out", "x.txt"], "cannot be written as 'x.txt'"),
        (["{bundle}", "{photos}/a.png", "--out", "x.png", "--set", "fit"], "--set got 'fit'"),
        (["{bundle}", "{photos}/a.png", "--out", "x.png", "--set", "ift=resize"], "unknown setting 'ift'"),
        (["{bundle}", "{photos}/a.png", "--out", "x.png", "--threads", "0"], "--threads"),
        (["{bundle}", "{photos}/a.png", "--otu", "x.png"], "No such option"),
        (["{bundle}", "{bundle}", "--out", "x"], "holds nothing that this model takes"),
    ],
)
def test_wrong_usage(
    make_bundle: MakeBundle,
    photos: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: Any,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle()
    before = sorted(photos.iterdir())
    code, said, aside = run(*(item.format(bundle=bundle, photos=photos) for item in arguments))
    assert code == 2
    assert said == ""
    assert message in aside
    assert sorted(photos.iterdir()) == before
    assert not list(tmp_path.glob("x*"))


def test_another_precision_than_promised_is_exit_code_4(
    make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run
) -> None:
    code, said, _ = run(make_bundle(precision="int8"), photos, "--out", tmp_path / "out", "--json")
    assert code == 4
    assert json.loads(said)["error"] == "SilentFallback"
    assert not (tmp_path / "out").exists()


def test_a_runtime_that_is_not_here_is_exit_code_3(
    make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run
) -> None:
    code, said, _ = run(make_bundle(device="npu"), photos / "a.png", "--out", tmp_path / "out.png", "--json")
    assert code == 3
    assert json.loads(said)["fix"]


def test_a_damaged_bundle_is_exit_code_5(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    bundle = make_bundle()
    with (bundle / "model" / "transform.onnx").open("ab") as stream:
        stream.write(b"x")
    code, said, _ = run(bundle, photos / "a.png", "--out", tmp_path / "out.png", "--json")
    assert code == 5
    assert json.loads(said)["error"] == "BundleRefused"


def test_no_torch_and_no_onnx_is_imported(make_bundle: MakeBundle, photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from avsdk.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'onnx', 'rich'}))\n"
    )
    command = [sys.executable, "-c", program, "run", make_bundle(), photos, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def peak_rss_kb(bundle: Path, video: Path, out: Path) -> int:
    """Peak resident memory of one run, in a process of its own."""
    program = (
        "import resource\nfrom avsdk.cli import main\n"
        "try: main()\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", program, "run", bundle, video, "--out", out, "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_memory_does_not_grow_with_the_length_of_a_video(make_bundle: MakeBundle, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3), np.uint8)
    for name, times in (("short.mp4", 5), ("long.mp4", 50)):
        with media.video_writer(tmp_path / name, 25, 240, 320) as writer:
            for _ in range(times):
                writer.write(noise)
            writer.finish()
    bundle = make_bundle()
    short = peak_rss_kb(bundle, tmp_path / "short.mp4", tmp_path / "a.mp4")
    long = peak_rss_kb(bundle, tmp_path / "long.mp4", tmp_path / "b.mp4")
    assert long <= 1.05 * short, f"{short} kB for 50 frames, {long} kB for 500"


def test_photos_of_one_size_run_together(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    random = np.random.default_rng(0)
    sizes = {"c": (33, 50), "d": (20, 30), "e": (33, 50), "f": (33, 50)}
    for name, size in sizes.items():
        media.write_image(photos / f"{name}.png", random.integers(0, 256, (*size, 3), np.uint8))
    (photos / "aa.png").write_bytes(b"")
    code, said, _ = run(make_bundle(), photos, "--out", tmp_path / "out", "--set", "batch=3", "--json")
    files = {Path(item["input"]).name: item.get("batch") for item in json.loads(said)["files"]}
    assert code == 2  # the empty file
    assert files == {"a.png": 3, "b.png": 3, "c.png": 3, "d.png": None, "e.png": 2, "f.png": 2}
    for name in files:
        assert (media.read_image(tmp_path / "out" / name) == 255 - media.read_image(photos / name)).all()


def test_a_bad_photo_does_not_stop_its_batch(make_bundle: MakeBundle, photos: Path, tmp_path: Path, run: Run) -> None:
    """Its header is sound, so it lands in the batch; its data is not."""
    noise = np.random.default_rng(0).integers(0, 256, (33, 50, 3), np.uint8)
    media.write_image(photos / "c.png", noise)
    damaged = bytearray((photos / "c.png").read_bytes())
    start = damaged.index(b"IDAT") + 4
    damaged[start : start + 200] = b"\xff" * 200  # no zlib stream begins so
    (photos / "c.png").write_bytes(bytes(damaged))
    code, said, _ = run(make_bundle(), photos, "--out", tmp_path / "out", "--set", "batch=8", "--json")
    done = sorted(Path(item).name for item in json.loads(said)["outputs"])
    assert done == ["a.png", "b.png"]
    assert code == 2


def test_ctrl_c_during_a_video_leaves_no_file_and_no_process(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """The terminal sends the signal while frames are decoded, inferred and encoded, each in a thread or process."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3), np.uint8)
    with media.video_writer(tmp_path / "in.mp4", 25, 240, 320) as writer:
        for _ in range(60):
            writer.write(noise)
        writer.finish()
    out = tmp_path / "out"
    out.mkdir()
    # A shell may start what it puts in the background without the signal.
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program = f"{heard}from avsdk.cli import main\nmain()"
    command = [sys.executable, "-c", program, "run", make_bundle(), tmp_path / "in.mp4", "--out", out / "a.mp4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(item.stat().st_size > 10_000 for item in out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    known = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGINT)
    _, aside = process.communicate(timeout=60)
    assert process.returncode == 130, aside.decode()
    assert not list(out.iterdir())
    assert not [pid for pid in known if Path(f"/proc/{pid}").exists()]
