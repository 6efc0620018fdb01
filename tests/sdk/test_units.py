"""Windows over long recordings, padding to built sizes, sounds in pieces, and what units are written as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.errors import BundleRefused, SizeNotBuilt, UnknownName, UsageError
from avsdk.ops.spectrum import magnitude
from avsdk.predictors.unit_discovery import text_from_units
from avsdk.predictors.units import (
    RATE_HZ,
    SPECTRUM,
    SpeechUnits,
    UnitFile,
    Units,
    read_unit_file,
    sound_from_magnitudes,
    windows,
)
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec

FILE = UnitFile(stride=4, context=8, speakers=("ann", "bob"), voices=("eve",))


def spec() -> ModelSpec:
    frames, units = AxisRange(4, 64, 4, 32), AxisRange(1, 16, 1, 8)
    floats, codes = TensorSpec("features", "float32", (1, "frames", 2)), TensorSpec("codes", "int32", (1, "units"))
    return ModelSpec(
        "unit_discovery/test", "unit_discovery",
        (
            GraphSpec("encoder", (floats,), (codes,), {"frames": frames}),
            GraphSpec("decoder", (codes,), (floats,), {"units": units}),
            GraphSpec("inverter", (codes,), (floats,), {"units": units}),
        ),
    )  # fmt: skip


class Graphs:
    """An encoder whose unit is a weighted sum over its frames and two units to either side; a decoder that repeats."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, graph: str, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        if graph == "encoder":
            (features,), (length,) = feeds["features"], feeds["length"]
            self.sizes.append(len(features))
            assert not features[length:].any()
            means = features.reshape(-1, 4, 2).sum(axis=1)
            padded = np.pad(means, ((2, 2), (0, 0)))
            vectors = sum((k + 1) * padded[k : k + len(means)] for k in range(5))
            codes = np.floor(vectors[:, 0]).astype(np.int32)
            return {"codes": codes[None], "vectors": vectors[None], "entries": vectors[None]}
        who = feeds["speaker" if graph == "decoder" else "voice"]
        self.sizes.append(feeds["codes"].shape[1])
        made = np.repeat(feeds["codes"][0], 4)[:, None] + np.array([0, 100 * who[0]])
        return {"features" if graph == "decoder" else "magnitudes": made[None].astype(np.float32)}


def speech(built: Mapping[str, tuple[int, ...]] | None = None) -> tuple[SpeechUnits, Graphs]:
    graphs = Graphs()
    return SpeechUnits(spec(), FILE, graphs, lambda name: (built or {}).get(name, ())), graphs


def features(count: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 4, 31, 64, 65, 200, 1001])
@pytest.mark.parametrize("built", [{}, {"encoder": (32,)}, {"encoder": (24, 40, 64)}])
def test_units_of_windows_are_those_of_the_whole(count: int, built: dict[str, tuple[int, ...]]) -> None:
    made, graphs = speech(built)
    found = made.units(features(count), 160 * count)
    padded = np.pad(features(count), ((0, -count % 4), (0, 0)))
    whole = Graphs()("encoder", {"features": padded[None], "length": np.array([count])})
    np.testing.assert_allclose(found.vectors, whole["vectors"][0], atol=1e-5)
    np.testing.assert_array_equal(found.codes, whole["codes"][0])
    assert len(found.codes) == -(-count // 4)
    assert found.unit_s == 0.04
    assert set(graphs.sizes) <= set(built.get("encoder", range(4, 65, 4)))


def test_the_least_built_size_that_holds_a_recording_is_taken() -> None:
    made, graphs = speech({"encoder": (24, 40, 64)})
    made.units(features(39), 0)
    assert graphs.sizes == [40]


@pytest.mark.parametrize("count", [1, 16, 17, 50])
def test_codes_become_features_in_windows_too(count: int) -> None:
    made, graphs = speech({"decoder": (8,), "inverter": (8, 16)})
    codes = np.arange(count, dtype=np.int32)
    np.testing.assert_array_equal(made.features(codes, "bob")[:, 0], np.repeat(codes, 4))
    assert set(graphs.sizes) == {8}
    assert (made.features(codes, "bob")[:, 1] - np.repeat(codes, 4) == 100).all()
    np.testing.assert_array_equal(made.magnitudes(codes, "eve")[:, 0], np.repeat(codes, 4))
    np.testing.assert_array_equal(made.features(codes, "1"), made.features(codes, "bob"))


def test_who_is_not_there_is_refused_with_the_nearest() -> None:
    made, _ = speech()
    with pytest.raises(UnknownName, match="bop"):
        made.features(np.zeros(4, np.int32), "bop")
    none = SpeechUnits(spec(), UnitFile(4, 8), Graphs(), lambda name: ())
    with pytest.raises(UsageError, match="no voice 'eve'"):
        none.magnitudes(np.zeros(4, np.int32), "eve")


def test_windows_that_keep_nothing_are_refused_with_what_would_help() -> None:
    made, _ = speech({"encoder": (16,)})
    with pytest.raises(SizeNotBuilt, match=r"17 steps do not fit into 16") as caught:
        made.units(features(17), 0)
    assert "--axis encoder.frames=" in caught.value.fix


@pytest.mark.parametrize(
    ("count", "greatest", "context", "multiple"), [(100, 30, 5, 1), (101, 32, 4, 4), (7, 8, 50, 1)]
)
def test_windows_cover_everything_once_with_context_at_hand(
    count: int, greatest: int, context: int, multiple: int
) -> None:
    kept = []
    for window in windows(count, greatest, context, multiple):
        assert window.stop - window.start <= greatest
        assert window.start == max(0, window.keep_start - context)
        assert window.stop == min(count, window.keep_stop + context)
        assert window.keep_start % multiple == window.start % multiple == 0
        kept += range(window.keep_start, window.keep_stop)
    assert kept == list(range(count))


def test_a_long_sound_is_made_in_pieces_that_join() -> None:
    time = np.arange(40 * RATE_HZ) / RATE_HZ
    sound = (0.3 * np.sin(2 * np.pi * 200 * time) * (1 + 0.3 * np.sin(time))).astype(np.float32)
    magnitudes = magnitude(sound, SPECTRUM)
    assert len(magnitudes) > 3000
    found = sound_from_magnitudes(magnitudes, len(sound))
    assert found.shape == sound.shape
    again = magnitude(found, SPECTRUM)
    for part in (slice(100, 900), slice(2850, 3050)):  # away from the join, and around it
        assert np.linalg.norm(again[part] - magnitudes[part]) < 0.35 * np.linalg.norm(magnitudes[part])


def test_lines_of_text() -> None:
    entries = np.array([[0.5, -1.0], [0.1, 2.0]], np.float32)
    units = Units(np.array([7, 3], np.int32), entries, entries, 0.04, 1280)
    assert text_from_units(units, "codes") == "7\n3\n"
    assert text_from_units(units, "times") == "0.000 0.040 7\n0.040 0.080 3\n"
    rows = [[float(value) for value in line.split()] for line in text_from_units(units, "vectors").splitlines()]
    np.testing.assert_array_equal(np.array(rows, np.float32), entries)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read"),
        (json.dumps({"schema": 1, "stride": 4}), "context"),
        (json.dumps({"schema": 1, "stride": 0, "context": 8}), "stride 0"),
        (json.dumps({"schema": 1, "stride": 4, "context": 9}), "context 9"),
        (json.dumps({"schema": 1, "stride": 4, "context": 8, "speakers": [1]}), "speakers"),
        (json.dumps({"schema": 9, "stride": 4, "context": 8}), "schema"),
    ],
)
def test_a_damaged_asset_is_refused(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "units").write_text(content)
    with pytest.raises(BundleRefused, match=text):
        read_unit_file(tmp_path / "units")
