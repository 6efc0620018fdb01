from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from avsdk.bundle import open_bundle
from avsdk.errors import ToolchainCrashed
from avsdk.files import cache_home
from avsdk.opening import compiling, watched
from avsdk_bench import cell
from avsdk_bench.bench import cold_starts_of, run_bench
from avsdk_bench.plan import plans_for
from avsdk_bench.rounds import Settings


def open_caching(spawned_ns: int, **arguments: object) -> object:
    """A cell that tells as a phase whether its cache was there, and fills it."""
    del arguments

    def prepare(cold: cell.ColdStart) -> cell.Prepared:
        kept = cache_home() / "kept"
        cold.phases["found_ms"] = float(kept.exists())
        kept.write_text("compiled")
        return cell.Prepared(lambda: None, dict, lambda: None, "nothing")

    return cell.CellWorker(spawned_ns, prepare)


def open_failing(spawned_ns: int, **arguments: object) -> object:
    raise ToolchainCrashed("no such luck")


def test_caches_are_empty_first_and_then_what_the_first_start_left(make_bundle) -> None:  # type: ignore[no-untyped-def]
    plan = replace(plans_for(open_bundle(make_bundle("a")), [], 1)[0], factory=open_caching)
    found = cold_starts_of(plan)
    assert found is not None
    assert [found[caches]["found_ms"] for caches in ("cold", "warm")] == [0.0, 1.0]
    assert not (cache_home() / "kept").exists()  # the user's own caches were not used
    for phases in found.values():
        total = phases.pop("total_ms")
        assert total == pytest.approx(sum(phases.values()), abs=0.1)


def test_a_cell_that_cannot_start_has_none(make_bundle) -> None:  # type: ignore[no-untyped-def]
    plan = plans_for(open_bundle(make_bundle("a")), [], 1)[0]
    assert cold_starts_of(replace(plan, factory=open_failing)) is None


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_row_tells_loading_from_compiling_with_caches_cold_and_warm(make_bundle, engine: str) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip(engine, reason=f"pip install 'avsdk[{engine}]'")
    plans = plans_for(open_bundle(make_bundle("a", engine=engine)), [], 1, pipeline=False)
    report, errors = run_bench(plans, Settings(budget_s=0.5), cold=True)
    assert not errors
    starts = report.rows[0].cold_starts
    assert starts is not None
    assert list(starts) == ["cold", "warm"]
    for start in starts.values():
        assert set(start) == {
            "total_ms", "spawn_ms", "import_ms", "verify_ms", "load_ms", "compile_ms", "first_output_ms",
        }  # fmt: skip
        assert start["compile_ms"] > 0
        assert start["load_ms"] > 0


def test_compiling_is_seen_by_who_watches_and_by_nobody_else() -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def watcher() -> Iterator[None]:
        seen.append("start")
        yield
        seen.append("end")

    with compiling():
        pass
    with watched(watcher), compiling():
        seen.append("compile")
    with compiling():
        pass
    assert seen == ["start", "compile", "end"]


def test_pages_of_a_bundle_are_given_up_and_can_be_read_again(tmp_path: Path) -> None:
    from avsdk_bench.cold_start import forget_pages

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "net").write_bytes(b"x" * 10_000)
    forget_pages(tmp_path)
    assert (tmp_path / "model" / "net").read_bytes() == b"x" * 10_000
