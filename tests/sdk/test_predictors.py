from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import avsdk
from avsdk import media
from avsdk.bundle import open_bundle
from avsdk.errors import BundleRefused, SilentFallback, SizeNotBuilt, UnknownName, UnusableInput, UsageError
from avsdk.predictor import STAGES, Predictor, predictor_for
from avsdk.predictors.generic import ImagePredictor, TensorPredictor, arrays_from_file
from avsdk.predictors.style_transfer import StyleTransferPredictor
from avsdk.spec import AxisRange, GraphSpec, TensorSpec

MakeBundle = Callable[..., Path]


def picture(height: int, width: int, frames: int | None = None) -> np.ndarray:
    shape = (height, width, 3) if frames is None else (frames, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def opened(bundle: Path, **settings: str) -> Any:
    return predictor_for(open_bundle(bundle), threads=1, settings=settings)


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (13, 16), (17, 512), (512, 511)])
def test_any_size_within_the_axes(make_bundle: MakeBundle, size: tuple[int, int]) -> None:
    with opened(make_bundle()) as predictor:
        assert isinstance(predictor, StyleTransferPredictor)
        shown = picture(*size)
        assert (predictor(shown) == 255 - shown).all()
        assert predictor.accepts(shown)


@pytest.mark.parametrize("frames", [1, 5, 16, 19])
def test_frames_run_in_batches_that_the_axis_admits(make_bundle: MakeBundle, frames: int) -> None:
    with opened(make_bundle()) as predictor:
        shown = picture(20, 30, frames)
        assert (predictor(shown) == 255 - shown).all()


@pytest.mark.parametrize("size", [(3, 3), (12, 64), (513, 64), (64, 517)])
def test_sizes_out_of_range_are_refused_with_what_fits(make_bundle: MakeBundle, size: tuple[int, int]) -> None:
    with opened(make_bundle()) as predictor, pytest.raises(SizeNotBuilt, match=f"{size[1]}x{size[0]} pixels") as caught:
        predictor(picture(*size))
    assert caught.value.exit_code == 2
    assert caught.value.expected == "a width of 16..512 and a height of 16..512 pixels"
    assert "fit=resize" in caught.value.fix


@pytest.mark.parametrize("size", [(3, 3), (12, 64), (513, 64), (3, 600), (1000, 900)])
def test_sizes_out_of_range_can_be_resized(make_bundle: MakeBundle, size: tuple[int, int]) -> None:
    with opened(make_bundle(), fit="resize") as predictor:
        shown = np.full((*size, 3), 200, np.uint8)
        answer = predictor(shown)
        assert answer.shape == shown.shape
        assert (answer == 55).all()
        assert "resized from" in predictor.notices[0]


FIXED = [{"batch": 1, "height": 64, "width": 64}, {"batch": 1, "height": 64, "width": 128}]


def test_a_built_size_runs_exactly_also_after_padding(make_bundle: MakeBundle) -> None:
    with opened(make_bundle(shapes=FIXED)) as predictor:
        for size in ((64, 64), (61, 63), (62, 127)):
            shown = picture(*size)
            assert (predictor(shown) == 255 - shown).all()
        shown = picture(64, 64, 3)  # one by one, since the batch is fixed too
        assert (predictor(shown) == 255 - shown).all()


def test_another_size_is_refused_with_the_line_that_would_build_it(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(shapes=FIXED)
    with opened(bundle) as predictor:
        assert not predictor.accepts(picture(80, 102))
        with pytest.raises(SizeNotBuilt, match="102x80 pixels needs 104x80, which was not built") as caught:
            predictor(picture(80, 102))
    assert caught.value.expected == "one of the built sizes: 64x64; 128x64"
    assert f"avsdk export {bundle} --target onnxruntime --axis height=80,width=104" in caught.value.fix


@pytest.mark.parametrize(("size", "nearest"), [((60, 80), "64x64"), ((300, 700), "128x64"), ((30, 30), "64x64")])
def test_another_size_can_be_resized_to_the_nearest(
    make_bundle: MakeBundle, size: tuple[int, int], nearest: str
) -> None:
    with opened(make_bundle(shapes=FIXED), fit="resize") as predictor:
        shown = np.full((*size, 3), 10, np.uint8)
        answer = predictor(shown)
        assert answer.shape == shown.shape
        assert (answer == 245).all()
        assert predictor.notices == [f"resized from {size[1]}x{size[0]} to {nearest} and back (fit=resize)"]


def test_a_fixed_batch_is_filled_with_the_last_frame(make_bundle: MakeBundle) -> None:
    with opened(make_bundle(shapes=[{"batch": 4, "height": 64, "width": 64}])) as predictor:
        shown = picture(64, 64, 6)
        assert (predictor(shown) == 255 - shown).all()


def test_run_file_gives_the_time_of_each_stage(make_bundle: MakeBundle, photograph: Path, tmp_path: Path) -> None:
    with opened(make_bundle(), fit="resize") as predictor:
        result = predictor.run_file(photograph, tmp_path / "out.png")
    assert tuple(result.latency_ms) == STAGES
    assert all(value > 0 for value in result.latency_ms.values())
    assert result.outputs == (tmp_path / "out.png",)
    assert media.read_image(tmp_path / "out.png").shape == (427, 640, 3)
    assert len(result.notices) == 1


def test_a_video_keeps_rate_size_and_length(make_bundle: MakeBundle, tmp_path: Path) -> None:
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with media.video_writer(source, 12.5, 48, 64) as writer:
        writer.write(np.stack([np.full((48, 64, 3), index * 10, np.uint8) for index in range(21)]))
        writer.finish()
    shown: list[int] = []
    with opened(make_bundle()) as predictor:
        result = predictor.run_file(source, out, recording(shown))
    assert result.items == sum(shown) == 21
    reader = media.VideoReader(out)
    assert reader.info() == {"kind": "mp4", "fps": 12.5, "height": 48, "width": 64, "frames": 21}
    frames = reader.read(21)
    assert frames is not None
    assert [float(frame.mean()) for frame in frames] == pytest.approx([255 - 10 * i for i in range(21)], abs=5)


def recording(seen: list[int]) -> Any:
    """A ``Progress`` that notes every advance."""
    from contextlib import contextmanager

    @contextmanager
    def progress(description: str, total: int | None) -> Any:
        assert (description, total) == ("in.mp4", 21)
        yield seen.append

    return progress


def test_a_truncated_video_leaves_nothing(make_bundle: MakeBundle, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    with media.video_writer(tmp_path / "whole.avi", 25, 48, 64) as writer:
        writer.write(noise)
        writer.finish()
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "out").mkdir()
    with opened(make_bundle()) as predictor, pytest.raises(UnusableInput, match=r"truncated: \d+ of 40 frames"):
        predictor.run_file(tmp_path / "cut.avi", tmp_path / "out" / "a.avi")
    assert not list((tmp_path / "out").iterdir())


def test_an_odd_video_says_what_is_cut(make_bundle: MakeBundle, tmp_path: Path, monkeypatch: Any) -> None:
    with media.video_writer(tmp_path / "a.mp4", 25, 48, 64) as writer:
        writer.write(picture(48, 64, 3))
        writer.finish()
    monkeypatch.setattr(media, "can_copy_sound", lambda: False)
    with opened(make_bundle()) as predictor:
        decoder = predictor.decoder
        monkeypatch.setattr(
            decoder, "open_video", lambda path: {"kind": "mp4", "fps": 25.0, "height": 47, "width": 63, "frames": 3}
        )
        monkeypatch.setattr(decoder, "batches", lambda path, count: iter([picture(47, 63, 3)]))
        result = predictor.run_file(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert result.notices[0] == "cut to 62x46: odd sizes need pip install 'avsdk[video]'"


def test_without_av_the_lost_sound_is_said(make_bundle: MakeBundle, tmp_path: Path, monkeypatch: Any) -> None:
    with media.video_writer(tmp_path / "a.mp4", 25, 48, 64) as writer:
        writer.write(picture(48, 64, 3))
        writer.finish()
    monkeypatch.setattr(media, "can_copy_sound", lambda: False)
    with opened(make_bundle()) as predictor:
        result = predictor.run_file(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert result.notices == ("the sound of the video was not kept: pip install 'avsdk[video]'",)


def test_a_file_of_another_kind_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    with opened(make_bundle()) as predictor, pytest.raises(UnusableInput, match="neither a picture nor a video"):
        predictor.run_file(tmp_path / "a.wav", tmp_path / "b.png")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"fti": "resize"}, UnknownName, "unknown setting 'fti'"),
        ({"fit": "rezise"}, UnknownName, "'rezise'"),
        ({"batch": "many"}, UsageError, "the setting 'batch' is 'many'"),
        ({"batch": "-1"}, UsageError, "the setting 'batch' is '-1'"),
        ({"max_megapixels": "0"}, UsageError, "the setting 'max_megapixels' is '0'"),
    ],
)
def test_settings_are_checked(
    make_bundle: MakeBundle, settings: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened(make_bundle(), **settings)


def test_the_pixel_limit_is_a_setting(make_bundle: MakeBundle, photograph: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    media.write_image(large, media.resized(media.read_image(photograph), 1000, 1100))
    with opened(make_bundle(), max_megapixels="1") as predictor, pytest.raises(UnusableInput, match="1100 x 1000"):
        predictor.run_file(large, tmp_path / "out.png")


def test_a_precision_that_did_not_run_is_an_error_and_writes_nothing(
    make_bundle: MakeBundle, photograph: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(precision="int8", graph=_graph())
    with opened(bundle) as predictor, pytest.raises(SilentFallback, match="asked for int8 and executed fp32"):
        predictor.run_file(photograph, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def _graph() -> GraphSpec:
    shape = ("batch", 3, "height", "width")
    axes = {"batch": AxisRange(1, 4), "height": AxisRange(16, 1024, 4, 64), "width": AxisRange(16, 1024, 4, 64)}
    return GraphSpec(
        "transform", (TensorSpec("image", "float32", shape),), (TensorSpec("styled", "float32", shape),), axes
    )


def test_a_predictor_reads_back_what_executed(make_bundle: MakeBundle) -> None:
    with opened(make_bundle()) as predictor:
        predictor(picture(32, 32))
        assert predictor.executed() == [
            {"graph": "transform", "engine": "onnxruntime", "device": "cpu", "effective_precision": "fp32"}
        ]


def test_load_is_the_public_door(make_bundle: MakeBundle) -> None:
    predictor = avsdk.load(make_bundle(), threads=1, fit="resize")
    shown = picture(32, 32)
    assert (predictor(shown) == 255 - shown).all()
    predictor.close()
    predictor.close()


def test_threads_below_one_are_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        predictor_for(open_bundle(make_bundle()), threads=0)


# -- the generic ones --------------------------------------------------------------------------------------------------


def test_tensors_in_tensors_out(make_bundle: MakeBundle, tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 36)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    with opened(make_bundle(predictor="tensor", preprocess=(), postprocess=())) as predictor:
        assert isinstance(predictor, TensorPredictor)
        predictor.run_file(tmp_path / "in.npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as stored:
        assert stored.files == ["styled"]
        assert np.allclose(stored["styled"], 255 - image)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"no archive", "cannot be read"), (b"PK\x03\x04 broken", "cannot be read")],
)
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UnusableInput, match=message):
        arrays_from_file(tmp_path / "a.npz")


def test_pickles_in_an_npz_are_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "a.npz", image=np.array([Trap()], dtype=object))
    with pytest.raises(UnusableInput, match="cannot be read"):
        arrays_from_file(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_arrays_of_other_names_are_refused(make_bundle: MakeBundle) -> None:
    predictor = opened(make_bundle(predictor="tensor", preprocess=(), postprocess=()))
    with pytest.raises(UnusableInput, match="the input holds \\['photo'\\]") as caught:
        predictor({"photo": np.zeros(3)})
    assert caught.value.expected == "arrays image"


def test_a_picture_in_arrays_out(make_bundle: MakeBundle, photograph: Path, tmp_path: Path) -> None:
    with opened(make_bundle(predictor="image", postprocess=()), fit="resize") as predictor:
        assert isinstance(predictor, ImagePredictor)
        assert predictor.output_name(photograph) == "china.npz"
        predictor.run_file(photograph, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as stored:
        assert stored["styled"].shape[:2] == (1, 3)


@pytest.mark.parametrize("kind", ["image", "style_transfer"])
def test_a_model_that_takes_no_single_picture_is_refused(make_bundle: MakeBundle, kind: str) -> None:
    graph = _graph()
    two = GraphSpec(graph.name, (graph.inputs[0], TensorSpec("mask", "float32", (1,))), graph.outputs, graph.axes)
    with pytest.raises(BundleRefused, match=r"has \[2\] inputs"):
        opened(make_bundle(predictor=kind, graph=two))


def test_an_unknown_predictor_gets_the_nearest(make_bundle: MakeBundle) -> None:
    with pytest.raises(UnknownName, match="did you mean 'style_transfer'"):
        opened(make_bundle(predictor="style_transfr"))


@pytest.mark.parametrize(
    ("name", "expected"), [("a.jpg", "a.jpg"), ("a.gif", "a.png"), ("a.mpg", "a.mp4"), ("a.mkv", "a.mkv")]
)
def test_output_names(make_bundle: MakeBundle, tmp_path: Path, name: str, expected: str) -> None:
    content = b"GIF89a" if name.endswith("gif") else b"\xff\xd8\xff" if name.endswith("jpg") else b"\0\0\x01\xba"
    (tmp_path / name).write_bytes(content)
    predictor: Predictor = opened(make_bundle())
    assert predictor.output_name(tmp_path / name) == expected


def test_a_path_is_read_and_what_is_no_picture_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    predictor = opened(make_bundle())
    photo = np.random.default_rng(3).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    media.write_image(tmp_path / "photo.png", photo)
    np.testing.assert_array_equal(predictor(str(tmp_path / "photo.png")), predictor(photo))
    np.testing.assert_array_equal(predictor(tmp_path / "photo.png"), 255 - photo)
    for wrong in (photo.astype(np.float32), photo[..., :2], photo[0, 0], "no such file.png"):
        with pytest.raises(UnusableInput):
            predictor(wrong)
    predictor.close()


def moving(path: Path, frames: int, size: tuple[int, int] = (48, 64)) -> Path:
    with media.video_writer(path, 25, *size) as writer:
        for index in range(frames):
            writer.write(np.full((1, *size, 3), index * 10 % 256, np.uint8))
        writer.finish()
    return path


@pytest.mark.parametrize(("size", "frames"), [((48, 64), 1), ((33, 61), 3), ((16, 16), 2)])
def test_short_and_odd_videos_keep_their_size(
    make_bundle: MakeBundle, tmp_path: Path, size: tuple[int, int], frames: int
) -> None:
    if size[0] % 2:
        pytest.importorskip("av", reason="pip install 'avsdk[video]'")
    source = moving(tmp_path / "in.mp4", frames, size)
    with opened(make_bundle()) as predictor:
        result = predictor.run_file(source, tmp_path / "out.mp4")
    info = media.VideoReader(tmp_path / "out.mp4").info()
    assert (info["height"], info["width"], info["frames"]) == (*size, frames)
    assert result.items == frames
    assert not [text for text in result.notices if "cut to" in text]


def test_a_video_of_3_rows_is_refused_or_resized(make_bundle: MakeBundle, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'avsdk[video]'")
    source = moving(tmp_path / "in.mp4", 2, (3, 64))
    with opened(make_bundle()) as predictor, pytest.raises(SizeNotBuilt, match="64x3 pixels"):
        predictor.run_file(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    with opened(make_bundle("again"), fit="resize") as predictor:
        predictor.run_file(source, tmp_path / "out.mp4")
    assert media.VideoReader(tmp_path / "out.mp4").info()["height"] == 3


def test_a_video_says_where_its_time_went(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with opened(make_bundle()) as predictor:
        result = predictor.run_file(moving(tmp_path / "in.mp4", 9), tmp_path / "out.mp4")
    assert set(result.latency_ms) == {*STAGES, "decode", "encode"}
    assert result.extra["video"]["frames"] == 9
    assert result.extra["video"]["seconds"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stage", ["_prepared", "_inferred", "_finished"])
def test_a_video_that_is_interrupted_leaves_no_file_and_no_thread(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: type[BaseException]
) -> None:
    source, before = moving(tmp_path / "in.mp4", 40), threading.active_count()
    calls: list[int] = []
    with opened(make_bundle()) as predictor:
        done = getattr(predictor, stage)

        def fails(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise error
            return done(*arguments)

        monkeypatch.setattr(predictor, stage, fails)
        with pytest.raises(error):
            predictor.run_file(source, tmp_path / "out.mp4")
        assert threading.active_count() == before
        assert sorted(item.name for item in tmp_path.iterdir()) == ["bundle", "in.mp4"]
        monkeypatch.undo()
        assert predictor.run_file(source, tmp_path / "out.mp4").items == 40


def test_temporal_reports_the_warping_error(make_bundle: MakeBundle, tmp_path: Path) -> None:
    source = moving(tmp_path / "in.mp4", 4)
    with opened(make_bundle(), temporal="0.5") as predictor:
        found = predictor.run_file(source, tmp_path / "out.mp4").extra["temporal"]
    assert found["strength"] == 0.5
    assert found["warping_error"] < found["warping_error_without"]


@pytest.mark.parametrize("value", ["-0.1", "1.5", "much", "nan"])
def test_temporal_is_a_share(make_bundle: MakeBundle, value: str) -> None:
    with pytest.raises(UsageError, match="the setting 'temporal'"):
        opened(make_bundle(), temporal=value)
