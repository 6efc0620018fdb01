"""``--axis``: sizes to build and ranges of axes."""

from __future__ import annotations

import pytest

from avsdk.errors import UsageError
from avsdk.spec_request import AskedRange
from avsdk_targets.axis_option import asked_axes


def test_sizes_are_one_set_per_option() -> None:
    asked = asked_axes(["height=400, width=600", "height=200"])
    assert asked.sizes == ({"height": 400, "width": 600}, {"height": 200})
    assert asked.ranges == {}


def test_ranges_join_and_build_no_size() -> None:
    asked = asked_axes(["frames=50:2000,batch=1:8", "encoder.samples=64:2048:64"])
    assert asked.sizes == ()
    assert asked.ranges == {
        "frames": AskedRange(50, 2000),
        "batch": AskedRange(1, 8),
        "encoder.samples": AskedRange(64, 2048, 64),
    }


def test_a_range_and_the_size_to_build_stand_side_by_side() -> None:
    asked = asked_axes(["frames=50:2000,batch=1", "frames=400"])
    assert asked.sizes == ({"batch": 1}, {"frames": 400})
    assert asked.ranges == {"frames": AskedRange(50, 2000)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("height", "is no set of sizes"),
        ("height=", "is no set of sizes"),
        ("=4", "is no set of sizes"),
        ("height=-4", "is no set of sizes"),
        ("height=²", "is no set of sizes"),
        ("height=" + "9" * 5000, "is no set of sizes"),
        ("height=1:2:3:4", "is no set of sizes"),
        ("height=1:", "is no set of sizes"),
        ("height=64,height=128", "gives height twice"),
        ("height=64,height=1:128", "gives height twice"),
        ("height=128:64", "leaves no size for height"),
        ("height=0:64", "leaves no size for height"),
        ("height=65:100:64", "leaves no size for height"),
        ("height=1:64:0", "leaves no size for height"),
    ],
)
def test_a_bad_axis_is_wrong_usage(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        asked_axes([text])
    assert caught.value.expected
    assert caught.value.fix


def test_one_range_per_axis() -> None:
    with pytest.raises(UsageError, match="gives height twice") as caught:
        asked_axes(["height=1:64", "height=1:128"])
    assert caught.value.expected == "one range for height"
