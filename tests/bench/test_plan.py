from __future__ import annotations

import pytest

from avsdk.bundle import open_bundle
from avsdk.errors import SizeNotBuilt, UsageError
from avsdk_bench.plan import plans_for, sizes_from_text, sizes_text


def test_a_cell_per_graph_and_one_for_the_pipeline_per_size(make_bundle) -> None:  # type: ignore[no-untyped-def]
    bundle = open_bundle(make_bundle("a"))
    plans = plans_for(bundle, [{"height": 32}, {"height": 16, "width": 24}], 2)
    assert [(plan.graph, sizes_text(plan.sizes), plan.threads) for plan in plans] == [
        ("net", "32x16", 2), ("net", "16x24", 2), ("pipeline", "32x16", 2), ("pipeline", "16x24", 2),
    ]  # fmt: skip
    assert all(plan.size_mb > 0 and plan.target == "onnxruntime:cpu" for plan in plans)
    assert plans[0].group == plans_for(bundle, [{"height": 32}], 2)[0].group != plans[1].group


def test_without_axis_the_sizes_are_those_that_were_built(make_bundle) -> None:  # type: ignore[no-untyped-def]
    built = open_bundle(make_bundle("fixed", shapes={"batch": 1, "height": 64, "width": 32}))
    assert {sizes_text(plan.sizes) for plan in plans_for(built, [], 1)} == {"64x32"}
    dynamic = open_bundle(make_bundle("dynamic"))
    assert {sizes_text(plan.sizes) for plan in plans_for(dynamic, [], 1)} == {"16x16"}


def test_the_same_size_twice_is_one_cell(make_bundle) -> None:  # type: ignore[no-untyped-def]
    bundle = open_bundle(make_bundle("a"))
    assert len(plans_for(bundle, [{"height": 16}, {"height": 16}], 1)) == 2


@pytest.mark.parametrize(
    ("sizes", "error", "text"),
    [
        ({"hieght": 16}, UsageError, "hieght"),
        ({"height": 18}, SizeNotBuilt, "multiple of 4"),
        ({"height": 4}, SizeNotBuilt, "8..256"),
    ],
)
def test_sizes_that_the_model_does_not_take_are_refused(make_bundle, sizes, error, text) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=text):
        plans_for(open_bundle(make_bundle("a")), [sizes], 1)


def test_axis_texts_are_parsed() -> None:
    assert sizes_from_text("height=400, width=600") == {"height": 400, "width": 600}
    assert sizes_text({"batch": 2, "height": 4, "width": 8}) == "4x8 batch=2"


@pytest.mark.parametrize("text", ["", "height", "height=", "height=-4", "height=0", "=4", "height=4,", "height=1e3"])
def test_axis_texts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="AXIS=SIZE"):
        sizes_from_text(text)
