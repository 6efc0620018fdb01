from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import pytest

from avsdk.errors import BundleRefused, Refused
from avsdk.schema import check_schema, decode, encode


@dataclass(frozen=True)
class Inner:
    count: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    parts: tuple[Inner, ...] = ()
    axes: Mapping[str, int | str] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"
    maybe: Optional[bool] = None  # noqa: UP045  (both spellings are read)
    free: Any = None


WHOLE = {
    "name": "n",
    "inner": {"count": 1, "share": 2},
    "parts": [{"count": 3}],
    "axes": {"h": 4, "w": "width"},
    "kind": "b",
    "maybe": True,
    "free": {"x": [1]},
}


def test_there_and_back() -> None:
    value = decode(Outer, WHOLE, where="file")
    assert value == Outer("n", Inner(1, 2.0), (Inner(3),), {"h": 4, "w": "width"}, "b", True, {"x": [1]})
    assert isinstance(value.inner.share, float)
    assert decode(Outer, encode(value), where="file") == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "file.name is 1"),
        ({"name": None}, "file.name is None"),
        ({"inner": []}, r"file.inner is \[\]"),
        ({"inner": {"count": True}}, "file.inner.count is True"),
        ({"inner": {"count": 1.5}}, "file.inner.count is 1.5"),
        ({"inner": {"count": "1"}}, "file.inner.count is '1'"),
        ({"inner": {"count": 1, "share": True}}, "file.inner.share is True"),
        ({"inner": {}}, "file.inner lacks the key 'count'"),
        ({"inner": {"count": 1, "extra": 2}}, "file.inner has the unknown key 'extra'"),
        ({"parts": {}}, "file.parts is {}"),
        ({"parts": [{"count": 1}, {"count": "x"}]}, r"file.parts\[1\].count is 'x'"),
        ({"axes": []}, r"file.axes is \[\]"),
        ({"axes": {"h": 1.5}}, "file.axes.h is 1.5"),
        ({"kind": "c"}, "file.kind is 'c'"),
        ({"maybe": 1}, "file.maybe is 1"),
        ({"unknown": 1}, "file has the unknown key 'unknown'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleRefused, match=message) as caught:
        decode(Outer, {**WHOLE, **change}, where="file", refused=BundleRefused)
    assert caught.value.expected


def test_missing_keys_are_refused() -> None:
    with pytest.raises(Refused, match="file lacks the key 'inner'"):
        decode(Outer, {"name": "n"}, where="file")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "holds a list"),
        (None, "holds a NoneType"),
        ({}, "has schema None"),
        ({"schema": 0}, "has schema 0"),
        ({"schema": 2}, "has schema 2"),
        ({"schema": True}, "has schema True"),
        ({"schema": "1"}, "has schema '1'"),
    ],
)
def test_other_schemas_are_refused(document: object, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        check_schema(document, where="file")
    assert caught.value.expected


def test_a_newer_schema_asks_for_a_newer_avsdk() -> None:
    with pytest.raises(Refused) as caught:
        check_schema({"schema": 7}, where="file")
    assert caught.value.fix == "upgrade avsdk"


def test_check_schema_takes_the_key_off() -> None:
    assert check_schema({"schema": 1, "a": 2}, where="file") == {"a": 2}
