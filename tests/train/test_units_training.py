"""Unit discovery from recordings to a bundle: data, training in two stages, export, and what users give it to hear."""

from __future__ import annotations

import contextlib
import io
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.test_units_network import TINY

import avsdk
from avsdk import cli
from avsdk.errors import UnusableInput, UsageError
from avsdk.ops import Trace, pipelines_for
from avsdk.sound import read_sound
from avsdk_train import commands
from avsdk_train.families.unit_discovery import UnitDiscovery
from avsdk_train.families.unit_discovery.data import SpeechPieces
from avsdk_train.families.unit_discovery.features import features_from_sound, magnitudes_from_sound, steps_for
from avsdk_train.families.unit_discovery.settings import UnitSettings
from avsdk_train.families.unit_discovery.variants import SHAPES
from avsdk_train.family import Sample, load_trained

RATE = 16_000
STEPS = 4


def voice(seconds: float, pitch_hz: float, seed: int = 0, rate: int = RATE) -> Any:
    """Harmonics of a voice in syllables, over a little noise."""
    time = np.arange(int(rate * seconds)) / rate
    random = np.random.default_rng(seed)
    loudness = np.interp(
        time,
        np.arange(0, seconds + 0.1, 0.1),
        random.uniform(0, 1, int(seconds * 10) + 2)[: len(np.arange(0, seconds + 0.1, 0.1))],
    )
    tone = sum(np.sin(2 * np.pi * k * pitch_hz * time) / k for k in range(1, 12))
    return (0.2 * loudness * tone + 0.002 * random.standard_normal(len(time))).astype(np.float32)


def write_wav(path: Path, samples: Any, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = (np.clip(np.repeat(samples[:, None], channels, axis=1), -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


@pytest.fixture(scope="module", autouse=True)
def _tiny_variant() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "tiny", TINY)  # type: ignore[arg-type]
        patch.setattr(UnitDiscovery, "variants", (*UnitDiscovery.variants, "tiny"))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for index, (speaker, pitch_hz) in enumerate((("ann", 200), ("bob", 110), ("cid", 140))):
        write_wav(folder / speaker / "one.wav", voice(1.2 + index / 10, pitch_hz, index))
        write_wav(folder / speaker / "two.wav", voice(0.3, pitch_hz, index + 10))
    return folder


def settings(**changes: Any) -> UnitSettings:
    return UnitSettings(**{"crop_frames": 64, **changes})


def samples(*indices: int) -> list[Sample]:
    return [Sample(index, np.random.default_rng(index)) for index in indices]


def words(corpus: Path, out: Path, *more: str, **changes: object) -> list[str]:
    chosen = {
        "variant": "tiny", "steps": STEPS, "batch_size": 3, "crop_frames": 64, "threads": 1, "device": "cpu",
        "checkpoint_every": 2, "preview_every": STEPS, "warm_up_steps": 2, **changes,
    }  # fmt: skip
    return ["--data", str(corpus), "--out", str(out), *(f"--set={key}={value}" for key, value in chosen.items()), *more]


@pytest.fixture(scope="module")
def units_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "units"
    assert exit_code(["train", "unit_discovery", *words(corpus, out)]) == 0
    return out


@pytest.fixture(scope="module")
def voice_run(corpus: Path, units_run: Path) -> Path:
    """The inverter of two of the speakers over the first run's units."""
    out = units_run.parent / "voices"
    more = ["--recipe", "small-inverter"]
    changes = {"init": units_run, "voices": "bob,cid", "warm_up_steps": 0}
    assert exit_code(["train", "unit_discovery", *words(corpus, out, *more, **changes)]) == 0
    return out


@pytest.fixture(scope="module")
def bundle(voice_run: Path) -> Path:
    out = voice_run.parent / "bundles"
    assert exit_code(["export", str(voice_run), "--target", "onnxruntime:cpu", "--out", str(out)]) == 0
    (found,) = out.iterdir()
    return found


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mfcc", "log_mel"])
def test_the_device_makes_the_features_that_training_saw(kind: str) -> None:
    sound = voice(1.0, 150)
    before, _ = pipelines_for("audio", steps_for(kind), ())
    np.testing.assert_array_equal(before(sound, Trace()), features_from_sound(sound, kind))
    warped = features_from_sound(sound, kind, 1.2)
    assert warped.shape == before(sound, Trace()).shape
    assert not np.allclose(warped, before(sound, Trace()), atol=0.1)


def test_batches_are_pieces_with_their_lengths_and_speakers(corpus: Path) -> None:
    data = SpeechPieces(settings(), TINY, [corpus])
    assert (len(data), data.speakers) == (6, ("ann", "bob", "cid"))
    batch = data.batch(samples(0, 1, 4), 0.0)
    assert batch["frames"].shape == (3, 64, 39)
    assert batch["lengths"].tolist() == [64, 31, 64]
    assert batch["speakers"].tolist() == [0, 0, 2]
    assert not batch["frames"][1, 31:].any()
    assert torch.equal(batch["frames"], batch["target"])
    whole = features_from_sound(read_sound(data.utterances[1].path, RATE), "mfcc")
    np.testing.assert_array_equal(batch["frames"][1, :31].numpy(), whole)
    again = SpeechPieces(settings(), TINY, [corpus]).batch(samples(0, 1, 4), 0.5)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_a_warped_input_owes_what_was_said_and_has_a_twin_on_request(corpus: Path) -> None:
    batch = SpeechPieces(settings(warp=0.2, consistency=1.0), TINY, [corpus]).batch(samples(0, 2), 0.0)
    assert batch["frames"].shape == (4, 64, 39)
    assert torch.equal(batch["target"][0], batch["target"][1])
    assert not torch.equal(batch["frames"][0], batch["frames"][1])
    assert batch["speakers"].tolist() == [0, 0, 1, 1]


def test_the_inverter_owes_magnitudes_of_its_voices(corpus: Path) -> None:
    data = SpeechPieces(settings(learns="inverter", voices=("bob",)), TINY, [corpus])
    assert (len(data), data.speakers) == (2, ("bob",))
    batch = data.batch(samples(1), 0.0)
    assert batch["magnitudes"].shape == (1, 64, 513)
    whole = magnitudes_from_sound(read_sound(data.utterances[1].path, RATE))
    np.testing.assert_array_equal(batch["magnitudes"][0, : len(whole)].numpy(), whole)


def test_another_listing_is_another_fingerprint(corpus: Path, tmp_path: Path) -> None:
    one, two = (SpeechPieces(settings(), TINY, [folder]) for folder in (corpus, corpus / "ann"))
    assert one.fingerprint() == SpeechPieces(settings(), TINY, [corpus]).fingerprint() != two.fingerprint()
    assert len(one.files()) == 6


def test_speakers_that_do_not_fit_are_refused(corpus: Path) -> None:
    with pytest.raises(UsageError, match="3 speakers"):
        SpeechPieces(settings(learns="inverter"), TINY, [corpus])
    with pytest.raises(UsageError, match="voice 'eve'"):
        SpeechPieces(settings(learns="inverter", voices=("eve",)), TINY, [corpus])


def test_an_utterance_of_almost_nothing_is_named(tmp_path: Path) -> None:
    write_wav(tmp_path / "ann" / "click.wav", np.zeros(100, np.float32))
    with pytest.raises(UnusableInput, match=r"click\.wav holds 100 samples"):
        SpeechPieces(settings(), TINY, [tmp_path]).batch(samples(0), 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"jitter": 0.5}, {"warp": 0.5}, {"crop_frames": 30}, {"crop_frames": 4}, {"commitment": -1.0},
        {"smoothing": -1.0}, {"warm_up_steps": -1}, {"voices": ("ann",)}, {"consistency": 1.0},
    ],
)  # fmt: skip
def test_settings_that_no_training_can_run_with_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        UnitSettings(**changes)


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_resumed_training_repeats_an_uninterrupted_one(corpus: Path, units_run: Path, tmp_path: Path) -> None:
    overrides = [
        word.removeprefix("--set=") for word in words(corpus, tmp_path, jitter=0.2) if word.startswith("--set=")
    ]
    runs = tmp_path / "whole", tmp_path / "cut"
    for run in runs:
        commands.train_new("unit_discovery", [corpus], run, "", "", overrides)
    newest = runs[1] / "checkpoints" / f"step-{STEPS:08d}"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    (runs[1] / "checkpoints" / "latest").write_text("step-00000002\n")
    (runs[1] / "weights.safetensors").unlink()
    commands.train_on("unit_discovery", [], runs[1], "", "", [])
    first, second = ((run / "weights.safetensors").read_bytes() for run in runs)
    assert first == second


def test_a_run_says_who_speaks_and_shows_what_comes_out(units_run: Path, voice_run: Path) -> None:
    first, second = (json.loads((run / "units.json").read_text()) for run in (units_run, voice_run))
    assert first == {"schema": 1, "stride": 4, "context": TINY.context, "speakers": ["ann", "bob", "cid"], "voices": [],
        "entries": TINY.entries,
    }  # fmt: skip
    assert second == {**first, "voices": ["bob", "cid"]}
    assert [file.suffix for file in (units_run / "previews").iterdir()] == [".png"]
    assert [file.suffix for file in (voice_run / "previews").iterdir()] == [".wav"]


def test_an_inverter_leaves_the_units_as_they_were(units_run: Path, voice_run: Path) -> None:
    before, after = (load_trained(str(run)).network.state_dict() for run in (units_run, voice_run))
    changed = {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"inverter"}


def test_an_inverter_needs_units(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no units are there yet"):
        commands.train_new("unit_discovery", [corpus], tmp_path / "run", "small-inverter", "tiny", ["voices=ann"])


# -- what ships --------------------------------------------------------------------------------------------------------


def test_a_bundle_hears_what_the_network_heard(bundle: Path, voice_run: Path, corpus: Path) -> None:
    apply = UnitDiscovery().apply(load_trained(str(voice_run)).network)
    with avsdk.load(bundle) as predictor:
        for path in sorted(corpus.rglob("*.wav")):
            expected, found = apply(path), predictor(path)
            assert (found.codes == expected.codes).mean() >= 0.999
            np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-4)
            assert len(found.codes) == -(-(1 + expected.samples // 160) // 4)
        again = predictor.resynthesised(expected, "cid")  # type: ignore[attr-defined]
    assert again.shape == (expected.samples,)
    np.testing.assert_allclose(again, apply.resynthesised(expected, "1"), atol=1e-2)


def exit_code(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    return int(left.value.code or 0)


def run(bundle: Path, *words: str | Path) -> tuple[int, Any]:
    """The exit code and the JSON of ``avsdk run``."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = exit_code(["run", str(bundle), *map(str, words), "--json"])
    return code, json.loads(out.getvalue() or "{}")


def test_files_in_files_out(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    code, said = run(bundle, corpus / "ann" / "one.wav", corpus / "bob" / "one.wav", "--out", tmp_path / "units")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == ["one-2.txt", "one.txt"]
    first = said["files"][0]
    assert first["seconds"] == pytest.approx(1.2)
    assert first["units"] == 31 == len((tmp_path / "units" / "one.txt").read_text().splitlines())
    assert set(first["real_time_factor"]) == {"preprocess", "infer", "postprocess", "total"}
    code, _ = run(bundle, corpus / "ann" / "one.wav", "--out", tmp_path / "bob.wav", "--set", "resynthesise=bob")
    assert code == 0
    assert len(read_sound(tmp_path / "bob.wav", RATE)) == int(1.2 * RATE)
    code, _ = run(bundle, corpus / "ann" / "one.wav", "--out", tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "codes": (31,), "vectors": (31, 4), "entries": (31, 4), "unit_s": (),
        }  # fmt: skip


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2), (16_000, 1)])
@pytest.mark.parametrize("seconds", [0.02, 0.5])
def test_any_rate_any_channels_any_length(
    bundle: Path, tmp_path: Path, rate: int, channels: int, seconds: float
) -> None:
    path = write_wav(tmp_path / "x.wav", voice(seconds, 150, rate=rate), rate, channels)
    with avsdk.load(bundle) as predictor:
        units = predictor(path)
        assert units.samples == pytest.approx(seconds * RATE, abs=2)
        assert len(units.codes) == -(-(1 + units.samples // 160) // 4)
        assert np.isfinite(units.vectors).all()


def test_silence_has_units_and_is_said_to_be_silent(bundle: Path, tmp_path: Path) -> None:
    code, said = run(bundle, write_wav(tmp_path / "x.wav", np.zeros(RATE, np.float32)), "--out", tmp_path / "x.txt")
    assert code == 0
    assert any("silent" in notice for notice in said["notices"])


@pytest.mark.parametrize(
    ("media", "text"),
    [
        (np.array([0.1, np.nan], np.float32), "no numbers"),
        (np.zeros((2, 2), np.float32), r"shape \[2, 2\]"),
        (np.zeros(0, np.float32), r"shape \[0\]"),
        (12, "is a int"),
    ],
)
def test_what_is_no_sound_is_refused(bundle: Path, media: Any, text: str) -> None:
    with avsdk.load(bundle) as predictor, pytest.raises(UnusableInput, match=text):
        predictor(media)


def test_a_truncated_flac_is_refused(bundle: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(str(tmp_path / "x.flac"), voice(3, 150), RATE)
    whole = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(whole[: len(whole) // 2])
    assert exit_code(["run", str(bundle), str(tmp_path / "x.flac"), "--out", str(tmp_path / "x.txt")]) == 2
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.parametrize(
    "words",
    [["--set", "resynthesise=eve", "--out", "x.wav"], ["--set", "resynthesise=bob", "--out", "x.txt"],
     ["--set", "format=words", "--out", "x.txt"], ["--out", "x.wav"]],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(bundle: Path, corpus: Path, tmp_path: Path, words: list[str]) -> None:
    place = [str(tmp_path / word) if word.startswith("x.") else word for word in words]
    assert exit_code(["run", str(bundle), str(corpus / "ann" / "one.wav"), *place]) == 2


def test_a_long_recording_in_windows_has_the_codes_of_its_parts(bundle: Path) -> None:
    sound = np.concatenate([voice(5, 100 + 10 * index, index) for index in range(9)])
    with avsdk.load(bundle) as predictor:
        whole = predictor(sound)
    apply = UnitDiscovery().apply(load_trained(str(bundle.parent.parent / "voices")).network)
    features = features_from_sound(sound, "mfcc")
    assert len(features) > 4096
    codes = apply._graphs["encoder"](
        torch.from_numpy(np.pad(features, ((0, -len(features) % 4), (0, 0))))[None], torch.tensor([len(features)])
    )[0][0].numpy()
    assert (whole.codes == codes).mean() >= 0.999
