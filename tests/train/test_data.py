"""Training data: which files are read, and that the order is a function of seed and step alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from avsdk.errors import UnusableInput, UsageError
from avsdk_train.data import ImageFolder, random_crop, resized_short_side
from avsdk_train.families.style_transfer.data import PhotoCrops, image_from_tensor, tensor_from_image
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.feed import Feed
from avsdk_train.order import Order, samples_of_step


def drawn(data: Any, order: Order, **settings: Any) -> list[Any]:
    with Feed(data, order, **settings) as feed:
        return list(feed)


def test_pictures_are_found_at_any_depth_in_a_fixed_order(tiny: Any) -> None:
    images = ImageFolder([tiny.data])
    assert [file.relative_to(tiny.data).as_posix() for file in images.files] == [
        "a.png", "b.jpg", "deeper/c.PNG", "grey.png",
    ]  # fmt: skip


def test_grey_pictures_become_rgb(tiny: Any) -> None:
    grey = ImageFolder([tiny.data]).read(3)
    assert grey.shape == (44, 36, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_channels_come_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((40, 40, 3), (0, 0, 200), np.uint8))
    assert ImageFolder([tmp_path]).read(0)[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bad.jpg is empty|bad.jpg has 0 bytes|bad.jpg.*(empty|0)"),
        (b"<html>not here</html>", r"bad.jpg is not a picture, whatever its name says"),
    ],
)
def test_bad_pictures_are_named_when_the_run_starts(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UnusableInput, match=message):
        ImageFolder([tmp_path])


def test_a_truncated_picture_is_named_when_it_is_read(tiny: Any, tmp_path: Path) -> None:
    whole = (tiny.data / "b.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableInput, match=r"cut.jpg is truncated"):
        ImageFolder([tmp_path]).read(0)


def test_no_folder_and_no_picture_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a folder(.|\n)*--data DIR"):
        ImageFolder([tmp_path / "no"])
    with pytest.raises(UsageError, match=r"no picture beneath"):
        ImageFolder([tmp_path])


def test_the_fingerprint_follows_names_and_sizes_not_places(tiny: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes((tiny.data / "a.png").read_bytes())
    before = ImageFolder([tmp_path / "one"]).fingerprint()
    assert before == ImageFolder([tmp_path / "two"]).fingerprint()
    (tmp_path / "two" / "b.png").write_bytes((tiny.data / "a.png").read_bytes())
    assert before != ImageFolder([tmp_path / "two"]).fingerprint()


def test_each_epoch_is_a_new_permutation_and_batches_run_across_its_end() -> None:
    drawn = [sample.index for step in range(5) for sample in samples_of_step(10, 4, 7, step)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_a_step_is_the_same_whatever_came_before_it(tiny: Any) -> None:
    data = PhotoCrops(StyleSettings(crop_px=32, late_crop_px=36, late_crop_from=0.5), [tiny.data])
    whole, late, (other, *_) = (drawn(data, Order(3, seed, start, 6)) for seed, start in ((4, 0), (4, 4), (5, 0)))
    assert [batch["image"].shape[-1] for batch in whole] == [32, 32, 32, 36, 36, 36]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(whole[4:], late, strict=True))
    assert not torch.equal(whole[0]["image"], other["image"])


def test_processes_share_the_data_out(tiny: Any) -> None:
    class Indices:
        def __len__(self) -> int:
            return 8

        def fingerprint(self) -> str:
            return ""

        def files(self) -> list[Path]:
            return []

        def batch(self, samples: Any, progress: float) -> Any:
            return {"index": torch.tensor([sample.index for sample in samples])}

    parts = [drawn(Indices(), Order(2, 0, 0, 2, process, 2)) for process in (0, 1)]
    whole = drawn(Indices(), Order(4, 0, 0, 2))
    for step in (0, 1):
        both = torch.cat([part[step]["index"] for part in parts])
        assert torch.equal(both, whole[step]["index"])
    assert sorted(torch.cat([batch["index"] for batch in whole]).tolist()) == list(range(8))


def test_a_crop_is_taken_at_one_to_two_crops_of_the_short_side() -> None:
    wide = np.zeros((100, 300, 3), np.uint8)
    assert resized_short_side(wide, 50).shape == (50, 150, 3)
    for seed in range(20):
        assert random_crop(wide, 64, np.random.default_rng(seed)).shape == (64, 64, 3)


def test_tensors_and_pictures_convert_both_ways() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (image_from_tensor(tensor_from_image(picture)) == picture).all()
    assert image_from_tensor(torch.full((1, 3, 1, 1), 300.6)).max() == 255
