"""The HTML page: one file, everything escaped, and in a real browser sorted, filtered and walked by the keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.bench.chromium import Chromium, chromium_path
from tests.bench.made_up import made_up_report, made_up_row

from avsdk.errors import UsageError
from avsdk_bench.baseline import with_replayed
from avsdk_bench.page import check_page, page_from, write_page
from avsdk_bench.records import Judged
from avsdk_bench.report import Report

HOSTILE = "<script>window.stolen=1</script><img src=x onerror=window.stolen=2>'\"&{{ 7*7 }}$x_1$\x1b[31m"


def rich_report() -> Report:
    """Everything that a page can show: three engines, a pipeline, a replayed and an absent row, a bound, a limit."""
    rows = (
        made_up_row("wave-openvino", roofline={"bound_ms": 8.0, "bound_by": "compute", "flops": 1e9, "bytes": 1e7}),
        made_up_row("wave-onnxruntime", p50_ms=12.0, seed=1, engine="onnxruntime", size_mb=6.7),
        made_up_row(
            "wave-litert", p50_ms=16.5, spread=0.01, seed=2, engine="litert", size_mb=3.4, effective_precision="fp16w",
            parity=replace(made_up_row().parity, snr_db=52.0), placement={"cpu": 0.8, "tpu": 0.2},
        ),
        made_up_row(
            "wave-openvino", p50_ms=15.0, seed=3, graph="pipeline",
            stages_ms={"preprocess": 1.5, "infer": 12.0, "postprocess": 1.5}, includes=("preprocess", "infer"),
        ),
        replace(
            made_up_row("wave-tensorrt", engine="tensorrt", device="cuda"), status="unavailable", p50_ms=None,
            p50_ci_ms=None, p90_ms=None, p99_ms=None, samples_ms=(), reason="no GPU", cold_start_ms=None,
            cold_start=None, runtime=None, throughput_per_s=None, peak_rss_mb=None,
        ),
    )  # fmt: skip
    report = made_up_report(*rows, baseline=(Judged(1, "p50", "p50>+5%", "beyond", 10.0, 12.0, 0.2, (0.19, 0.21)),))
    old = made_up_report(made_up_row("wave-openvino", p50_ms=31.0, seed=4))
    return with_replayed(report, replace(old, host=replace(old.host, cpu="Old CPU")), "old.json")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "r.html"
    write_page(rich_report(), path)
    return path


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    namespaces = r'xmlns(?::xlink)?="http://www\.w3\.org/[^"]+"'
    assert "http:" not in re.sub(namespaces, "", text)
    assert not re.search(r"<(link rel=.stylesheet|iframe|object|img)|@import|@font-face|url\((?!#)", text)
    assert "default-src 'none'" in text
    for heading in (
        "Latency",
        "accuracy and size",
        "Time per stage",
        "Where operations ran",
        "Roofline",
        "Do it again",
    ):
        assert heading in text
    assert "avsdk bench wave --threads 1" in text
    assert "80% reached, bound by compute" in text
    assert "replayed" in text


class Tags(HTMLParser):
    """Which elements and attributes a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def hostile_report() -> Report:
    text = HOSTILE
    row = made_up_row(
        text, graph=text, target=text, engine=text, device=text, settings={text: text}, effective_precision=text,
        placement={text: 1.0}, stages_ms={text: 1.0}, reason=text, roofline={"bound_ms": 5.0, "bound_by": text},
        shapes={text: 3},
    )  # fmt: skip
    report = made_up_report(row, replace(row, precision="x"), command=text, date=text)
    host = replace(report.host, cpu=text, libraries={text: text})
    return replace(report, host=host, noise=replace(report.noise, quiet=False, reasons=(text,)))


def test_a_strangers_text_is_text() -> None:
    tags, plain = Tags(), Tags()
    text = page_from(hostile_report())
    tags.feed(text)
    plain.feed(page_from(rich_report()))
    assert tags.names.count("script") == 1
    assert "img" not in tags.names
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert set(tags.names) <= set(plain.names)
    assert "\x1b" not in text
    assert "{{ 7*7 }}" in text


def test_ids_are_unique(page: Path) -> None:
    tags = Tags()
    tags.feed(page.read_text())
    assert len(tags.ids) == len(set(tags.ids))


def test_without_a_bound_the_page_says_so() -> None:
    assert "No row of this report knows the bound" in page_from(made_up_report())


def test_long_times_are_written_out() -> None:
    slow = made_up_row(cold_start={"spawn_ms": 265.4, "first_output_ms": 1124.6}, cold_start_ms=1390.0)
    text = page_from(made_up_report(slow))
    assert re.search(r"first.output 1125", text)
    assert not re.search(r"\de\+0\d", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))


def test_another_ending_is_refused() -> None:
    with pytest.raises(UsageError, match=r"ends in '\.pdf'"):
        check_page(Path("r.pdf"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if chromium_path() is None:
        pytest.skip("Chromium is not here: apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


COLUMN = "Array.from(document.querySelectorAll('tbody tr')).filter(r => !r.hidden).map(r => r.cells[{}].textContent)"


def test_rows_are_sorted_and_filtered_and_the_address_keeps_it(browser: Chromium, page: Path) -> None:
    browser.open(page, "#sort=p50_ms:descending&filter=net%20wave")
    assert browser.run(COLUMN.format(0)) == ["6", "3", "2", "1", "5"], "what has no median comes last"
    browser.run("document.querySelector('th[data-key=p50_ms] button').click()")
    assert browser.run(COLUMN.format(0)) == ["1", "2", "3", "6", "5"]
    assert browser.run("document.querySelector('th[data-key=p50_ms]').getAttribute('aria-sort')") == "ascending"
    browser.run(
        "(s => { s.value = 'measured'; s.dispatchEvent(new Event('change')); })(document.getElementById('status'))"
    )
    assert browser.run(COLUMN.format(0)) == ["1", "2", "3"]
    assert browser.run("document.getElementById('count').textContent") == "3 of 6 rows"
    assert browser.run("location.hash") == "#sort=p50_ms%3Aascending&filter=net+wave&status=measured"
    assert browser.messages == []
    assert {url.partition(":")[0] for url in browser.requested} <= {"file", "about", "data"}


def test_the_keyboard_reaches_filter_headings_and_rows(browser: Chromium, page: Path) -> None:
    browser.open(page)
    seen = []
    for _ in range(4):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.id || document.activeElement.className"))
    assert seen == ["skip", "filter", "status", "order"]
    browser.run("document.getElementById('filter').focus()")
    for letter in "litert":
        browser.press(letter, letter)
    assert browser.run(COLUMN.format(0)) == ["3"]
    browser.run("location.hash = ''")
    browser.open(page)
    browser.run("document.querySelector('th[data-key=size_mb] button').focus()")
    browser.press("Enter")
    assert browser.run(COLUMN.format(0))[0] == "3"
    browser.run("document.querySelector('tbody tr[tabindex=\"0\"]').focus()")
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 5), ("Home", 0)):
        browser.press(key)
        assert browser.run("document.activeElement.sectionRowIndex") == place


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (375, False), (375, True)])
def test_light_dark_and_a_telephone_look_right(browser: Chromium, page: Path, width: int, dark: bool) -> None:
    browser.look(width=width, dark=dark)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "nothing reaches over the edge"
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 29)" if dark else "rgb(251, 251, 250)")
    ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
    legend = "Array.from(document.querySelectorAll('figure svg text')).find(text => text.textContent === 'infer')"
    assert browser.run(f"getComputedStyle({legend}).fill") == ("rgb(232, 234, 238)" if dark else "rgb(31, 36, 48)")
    assert browser.run(ink) == ("rgb(163, 171, 185)" if dark else "rgb(92, 100, 114)")
    texts = "Array.from(document.querySelectorAll('figure svg text'))"
    smallest = browser.run(f"Math.min(...{texts}.map(text => text.getBoundingClientRect().height))")
    assert smallest >= 9, "the text of figures stays readable"
    assert browser.run("document.querySelector('figure svg').getBoundingClientRect().width") > 0.7 * min(width, 400)
    assert browser.messages == []
    assert browser.screenshot().startswith(b"\x89PNG")


def test_a_hostile_page_runs_nothing(browser: Chromium, tmp_path: Path) -> None:
    write_page(hostile_report(), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert browser.run("window.stolen === undefined")
    assert browser.run("document.querySelectorAll('tbody tr').length") == 2
    assert browser.messages == []
