from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from avsdk.overlap import DEPTH, done_behind, drawn_ahead


def threads() -> int:
    return threading.active_count()


def test_all_items_pass_in_order_and_no_thread_is_left() -> None:
    before, done = threads(), []
    with drawn_ahead(range(50)) as items, done_behind(done.append) as hand_over:
        for item in items:
            hand_over(item)
    assert done == list(range(50))
    assert threads() == before


def test_the_three_parts_work_at_the_same_time() -> None:
    """Each waits for the two others, which a plain loop never could."""
    meeting = threading.Barrier(3, timeout=10)

    def items() -> Iterator[int]:
        for item in range(6):
            if item == DEPTH + 2:  # the last that is drawn while the first is at work
                meeting.wait()
            yield item

    def work(item: int) -> None:
        if item == 0:
            meeting.wait()

    with drawn_ahead(items()) as given, done_behind(work) as hand_over:
        for item in given:
            hand_over(item)
            if item == 1:
                meeting.wait()


def test_no_more_is_drawn_than_may_wait() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            drawn.append(item)
            yield item

    with drawn_ahead(items()) as given:
        for item in given:
            assert len(drawn) <= item + DEPTH + 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_before_is_raised(error: type[BaseException]) -> None:
    before = threads()

    def items() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(error), drawn_ahead(items()) as given, done_behind(lambda item: None) as hand_over:
        for item in given:
            hand_over(item)
    assert threads() == before


def test_what_fails_behind_is_raised_while_the_caller_goes_on() -> None:
    before = threads()

    def work(item: int) -> None:
        if item == 3:
            message = "three"
            raise ValueError(message)

    def endless() -> Iterator[int]:
        item = 0
        while True:
            yield item
            item += 1

    with pytest.raises(ValueError, match="three"), drawn_ahead(endless()) as given, done_behind(work) as hand_over:
        for item in given:
            hand_over(item)
    assert threads() == before


def test_what_fails_behind_at_the_very_end_is_raised() -> None:
    def work(item: int) -> None:
        raise ValueError(item)

    with pytest.raises(ValueError, match="7"), done_behind(work) as hand_over:
        hand_over(7)


def test_an_interrupted_caller_ends_both_threads() -> None:
    before, done = threads(), []
    with (
        pytest.raises(KeyboardInterrupt),
        drawn_ahead(iter(int, 1)) as given,
        done_behind(done.append) as hand_over,
    ):
        for item in given:
            hand_over(item)
            raise KeyboardInterrupt
    assert threads() == before
    assert len(done) <= 1
