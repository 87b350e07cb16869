"""The pages in a real browser: no complaint, no request, no overflow, colours that change, numbers under the pointer."""

from __future__ import annotations

import pytest
from reports_browser import CHROMIUM, Browser
from reports_runs import hostile_rollouts, two_arms
from runs_rows import row

from erpo_verl.reports.compare import read_report
from erpo_verl.reports.inspection import page as inspection_page
from erpo_verl.reports.page import page as comparison_page
from erpo_verl.reports.selection import select
from erpo_verl.runs.rollouts import write_rollouts

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
WIDTHS = (360, 400, 900, 1600)


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("websockets", reason="the DevTools protocol needs websockets")
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "compare.html").write_text(comparison_page(read_report(two_arms(folder))))
    (folder / "hostile.html").write_text(inspection_page("hostile", select(hostile_rollouts(folder / "h.parquet"))))
    return folder


@pytest.mark.parametrize("name", ["compare.html", "hostile.html"])
@pytest.mark.parametrize("dark", [False, True])
def test_no_complaint_no_request_no_overflow(browser, pages, name, dark):
    backgrounds = set()
    for width in WIDTHS:
        browser.open(pages / name, width=width, dark=dark)
        assert browser.complaints() == [] and browser.requests() == [(pages / name).as_uri()]
        assert browser.js("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than {width} pixels"
        backgrounds.add(browser.js("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == ({"rgb(21, 23, 26)"} if dark else {"rgb(252, 252, 250)"})
    assert browser.js("typeof window.broken") == "undefined"


def test_labels_of_charts_are_not_clipped(browser, pages):
    browser.open(pages / "compare.html", width=400)
    outside = """[...document.querySelectorAll("figure svg[role=img] text")].filter((t) => {
        const box = t.getBoundingClientRect(), whole = t.ownerSVGElement.getBoundingClientRect();
        return box.left < whole.left - 1 || box.right > whole.right + 1 || box.bottom > whole.bottom + 1;
    }).map((t) => t.textContent)"""
    assert browser.js(outside) == []
    assert browser.js("document.querySelectorAll('figure svg[role=img] [data-arm] path').length") > 20


def test_numbers_of_a_chart_and_hidden_arms(browser, pages):
    browser.open(pages / "compare.html")
    plot = "document.querySelector('#accuracy-arithmetic-steps .plot')"
    for _ in range(2):  # to the second step with a validation, by keyboard
        browser.js(f"{plot}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowRight', bubbles: true}}))")
    assert browser.js(f"[...{plot}.querySelectorAll('.tip div')].map((d) => d.textContent)") == ["step 4", "grpo 0.6", "erpo 0.63"]
    browser.js("document.querySelector('.legend input[value=\"0\"]').click()")
    assert browser.js(f"{plot}.querySelector('[data-arm=\"0\"]').getBoundingClientRect().width") == 0
    assert browser.js(f"{plot}.querySelector('[data-arm=\"1\"]').getBoundingClientRect().width") > 100


def test_colours_and_numbers_of_tokens(browser, tmp_path):
    rows = [row("u", 0, tokens=["a", "b"], advantage=[2.0, -2.0], gate=[0.0, 1.0]), row("u", 1, right=False, tokens=["c", "d"], advantage=[0.0, 0.1])]
    path = tmp_path / "page.html"
    path.write_text(inspection_page("two", select(write_rollouts(tmp_path / "r.parquet", rows))))
    browser.open(path)
    classes = "[...document.querySelectorAll('span[data-i]')].map((s) => [...s.classList].filter((c) => /^[pn]\\d$/.test(c)).join())"
    assert browser.js(classes) == ["p7", "n7", "", "p1"]
    browser.js("document.querySelector('[data-mode=gate]').click()")
    assert browser.js(classes) == ["", "p7", "p2", "p2"]
    browser.js("document.querySelector('[data-mode=none]').click()")
    assert browser.js(classes) == ["", "", "", ""]
    browser.js("document.querySelectorAll('span[data-i]')[1].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
    told = browser.js("document.querySelector('.tip').innerText.split('\\n').filter((t) => t.trim())")
    pairs = dict(zip(told[1::2], told[2::2], strict=False))
    assert told[0] == "b" and pairs["token"] == "2 of 2, id 1"
    assert (pairs["advantage"], pairs["gate"], pairs["entropy (nats)"], pairs["pivot"]) == ("-2", "1", "0.5", "yes")
    marked = "getComputedStyle(document.querySelectorAll('span[data-i]')[1]).borderBottomStyle + getComputedStyle(document.querySelectorAll('span[data-i]')[1]).borderBottomColor"
    with_marks = browser.js(marked)
    browser.js("document.getElementById('marks').click()")
    assert browser.js(marked) != with_marks
    assert browser.complaints() == []


def test_thousands_of_tokens(browser, tmp_path):
    rows = [row(f"u{i // 2}", i % 2, right=i % 2 == 0, tokens=["Ġtoken"] * 5000) for i in range(8)]
    path = tmp_path / "page.html"
    path.write_text(inspection_page("many", select(write_rollouts(tmp_path / "r.parquet", rows))))
    browser.open(path)
    assert browser.js("document.querySelectorAll('span[data-i]').length") == 40_000
    browser.js("document.querySelector('[data-mode=entropy]').click()")
    assert browser.js("document.querySelectorAll('span.p7').length") > 0 and browser.complaints() == []
