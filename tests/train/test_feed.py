"""Reading ahead: the same batches from a thread and from worker processes, corrupt items, workers that die."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.numbers import Numbers

from avsdk.errors import AvsdkError, NotAvailable, UnusableInput
from avsdk_train import commands
from avsdk_train.data import ImageFolder
from avsdk_train.family import Batch
from avsdk_train.feed import Feed
from avsdk_train.order import Order, samples_of_step
from avsdk_train.watch import read_log


def drawn(data: Any, order: Order, **settings: Any) -> list[Batch]:
    with Feed(data, order, **settings) as feed:
        return list(feed)


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_worker_processes_give_what_the_thread_gives_corrupt_items_replaced_alike() -> None:
    data, order = Numbers(7, bad=(2, 5)), Order(3, 11, 2, 9)
    said: list[str] = []
    by_thread = drawn(data, order, max_corrupt=2, notice=said.append)
    by_workers = drawn(data, order, max_corrupt=2, workers=2)
    assert_same(by_thread, by_workers)
    assert sorted(said) == [f"passed over, and replaced by another: item {i} is truncated" for i in (2, 5)]
    assert not {2, 5} & {int(index) for batch in by_thread for index in batch["index"]}


def test_what_is_known_of_corrupt_items_changes_no_batch() -> None:
    data = Numbers(7, bad=(2, 5))
    whole = drawn(data, Order(3, 11, 0, 9), max_corrupt=2)
    known = {2: "item 2 is truncated"}
    assert_same(whole[6:], drawn(data, Order(3, 11, 6, 9), max_corrupt=2, corrupt=known))
    assert set(known) <= {2, 5}


def test_a_replacement_is_the_next_of_the_epoch_with_the_augmentation_of_its_place() -> None:
    plain = samples_of_step(5, 5, 0, 0)
    order = [sample.index for sample in plain]
    replaced = samples_of_step(5, 5, 0, 0, corrupt={order[1], order[2]})
    assert [sample.index for sample in replaced] == [order[0], order[3], order[3], order[3], order[4]]
    assert [sample.random.random() for sample in replaced] == [sample.random.random() for sample in plain]


@pytest.mark.parametrize("workers", [0, 1])
def test_more_corrupt_items_than_allowed_are_named_and_end_it(workers: int) -> None:
    with pytest.raises(UnusableInput, match=r"2 items cannot be read: item 2 .*item 5(.|\n)*max_corrupt=2") as caught:
        drawn(Numbers(7, bad=(2, 5)), Order(3, 11, 0, 9), max_corrupt=1, workers=workers)
    assert caught.value.exit_code == 2


def test_by_default_the_first_corrupt_item_ends_it_with_its_own_words() -> None:
    with pytest.raises(UnusableInput, match=r"^item 2 is truncated$"):
        drawn(Numbers(7, bad=(2,)), Order(3, 11, 0, 9))


def test_nothing_but_corrupt_items_is_an_error_and_no_endless_search() -> None:
    with pytest.raises(UnusableInput, match="3 items cannot be read"):
        drawn(Numbers(3, bad=(0, 1, 2)), Order(2, 0, 0, 4), max_corrupt=9)


def test_a_worker_that_is_killed_is_a_typed_error_and_no_hang() -> None:
    with pytest.raises(NotAvailable, match=r"data worker data-\d \(process \d+\) ended by signal 9 before"):
        drawn(Numbers(7, deadly=3), Order(3, 11, 0, 9), workers=1)


def test_a_bug_in_a_worker_is_shown_with_its_traceback() -> None:
    with pytest.raises(AvsdkError, match=r"ZeroDivisionError: a bug") as caught:
        drawn(Numbers(7, buggy=3), Order(3, 11, 0, 9), workers=1)
    assert caught.value.exit_code == 1


def test_a_feed_that_is_left_early_leaves_no_process() -> None:
    with Feed(Numbers(50), Order(2, 0, 0, 20), workers=1) as feed:
        next(iter(feed))
        (worker,) = feed._reading._workers  # type: ignore[attr-defined]
    assert worker.process.exitcode is not None


def test_pictures_travel_to_a_worker_without_what_was_decoded(tiny: Any) -> None:
    images = ImageFolder([tiny.data])
    first = images.read(0)
    copy = pickle.loads(pickle.dumps(images))
    assert not copy._kept
    assert (copy.read(0) == first).all()
    assert copy.fingerprint() == images.fingerprint()


def test_a_run_passes_over_corrupt_pictures_and_resumes_exactly(
    tiny: Any, tmp_path: Path, fresh_accelerate: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.png", "b.jpg", "grey.png"):
        (data / name).write_bytes((tiny.data / name).read_bytes())
    (data / "cut.jpg").write_bytes((tiny.data / "b.jpg").read_bytes()[:900])
    runs = []
    for workers in (0, 1):
        out = tmp_path / f"run{workers}"
        settings = tiny.settings(max_corrupt=1, workers=workers, steps=4)
        commands.train_new("style_transfer", [data], out, "", "", settings)
        assert capsys.readouterr().err.count("passed over, and replaced by another") == 1
        runs.append(read_log(out / "metrics.jsonl"))
    assert [line["loss"] for line in runs[0]] == [line["loss"] for line in runs[1]]
    with pytest.raises(UnusableInput, match=r"cut.jpg is truncated"):
        commands.train_new("style_transfer", [data], tmp_path / "strict", "", "", tiny.settings(steps=4))
