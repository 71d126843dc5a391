"""The page in a real browser: sorting, copying, choosing columns, and no request or complaint. Skipped without a Chromium."""

import re

import numpy as np
import pytest
from browser import Browser, program
from crafted_sweeps import CraftedSweep, right_first
from pages import Page

from kdexp.commands.report import write_report
from kdexp.sweep import fold, pictures, read

pytestmark = [pytest.mark.slow, pytest.mark.skipif(program() is None, reason="no Chromium on this machine")]
COLUMN = "(heading) => [...document.querySelectorAll('.data thead th')].findIndex((th) => th.textContent === heading)"
CELLS = f"((column) => [...document.querySelectorAll('.data tbody tr')].map((row) => row.cells[column].textContent))(({COLUMN})"
SUMMARY = "document.querySelector('.columns summary').textContent"
CLIPBOARD = """window.copied = [];
    Object.defineProperty(navigator, "clipboard", { value: { writeText: async (text) => { copied.push(text); } } })"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a sweep over temperature and alpha."""
    sweep = CraftedSweep(tmp_path_factory.mktemp("sweep"))
    for temperature in (1.0, 4.0, 20.0):
        for alpha in (0.1, 0.5):
            for seed in (0, 1):
                told = {"distillation__temperature": temperature, "distillation__alpha": alpha, "seed": seed}
                words = (f"distillation.temperature={temperature:g}", f"distillation.alpha={alpha}", f"seed={seed}")
                right = right_first(int(80 + temperature - 10 * alpha + seed))
                sweep.job(*words, distilled=right, validation=temperature / 100, **told)
    return page_of(sweep)


def page_of(sweep):
    """Writes the page of a crafted sweep."""
    found = read([sweep.close()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "find_spec", lambda name: None)
        write_report(fold(found), found, sweep.folder)
    return sweep.folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser for all tests of this file."""
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(browser, written):
    """The browser with the page open."""
    browser.open(written)
    yield browser
    assert browser.errors == []
    assert {address for address in browser.requests if not address.startswith("data:")} == {written.as_uri()}


def cells(page, heading):
    """The texts of a column from top to bottom."""
    return page.run(f"{CELLS}('{heading}'))")


def press(page, heading):
    """Clicks on the heading of a column."""
    page.run(f"document.querySelectorAll('.data thead th')[({COLUMN})('{heading}')].querySelector('button').click()")


def test_a_click_sorts_by_numbers_and_keeps_the_empty_cells_last(page):
    original = cells(page, "temperature")
    press(page, "temperature")
    assert cells(page, "temperature") == ["20", "20", "4", "4", "1", "1", "–", "–"]
    press(page, "temperature")
    assert cells(page, "temperature") == ["1", "1", "4", "4", "20", "20", "–", "–"]
    assert page.run("document.querySelector('.data th[aria-sort]').ariaSort") == "ascending"
    press(page, "temperature")
    assert cells(page, "temperature") == original
    press(page, "vs base")
    found = [float(text.replace("−", "-")) for text in cells(page, "vs base") if text != "–"]
    assert found == sorted(found, reverse=True) and len(found) == 6
    press(page, "role")
    assert cells(page, "role") == sorted(cells(page, "role"))


def test_a_click_copies_the_command_of_a_row(page):
    page.run(CLIPBOARD)
    page.run("document.querySelectorAll('.copy')[2].click()")
    assert page.run("copied") == ["kdexp -m distillation.temperature=1 distillation.alpha=0.1 seed=0,1"]
    assert page.run("new Promise((done) => setTimeout(() => done(said.textContent), 50))") == "copied"
    page.run("document.querySelector('li code.command').click()")
    assert page.run("copied.at(-1)").startswith("kdexp -m distillation.temperature=20")


def test_where_there_is_no_clipboard_the_older_command_copies(page):
    page.run("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.run("window.taken = []; document.execCommand = (name) => taken.push(name, document.activeElement.value) > 0")
    page.run("document.querySelectorAll('.copy')[1].click()")
    page.run("new Promise((done) => setTimeout(done, 50))")
    assert page.run("taken")[0] == "copy" and page.run("taken")[1].startswith("kdexp ")


def test_columns_can_be_left_out(page):
    visible = f"getComputedStyle(document.querySelectorAll('.data thead th')[({COLUMN})('params')]).display"
    assert page.run(visible) == "table-cell"
    page.run("[...document.querySelectorAll('.columns label')].find((label) => label.textContent === ' params').click()")
    assert page.run(visible) == "none"


def test_hovering_shows_the_numbers_of_the_seeds(page):
    page.run(
        "[...document.querySelectorAll('td[data-tip]')].at(-1)"
        ".dispatchEvent(new PointerEvent('pointerover', { bubbles: true, clientX: 50, clientY: 50 }))"
    )
    text = page.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "seed 0: " in text and "seed 1: " in text


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window(browser, written, width, dark):
    browser.open(written, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark
    assert browser.run(
        "[...document.querySelectorAll('.name, .number, .plot, figcaption')]"
        ".every((each) => each.getBoundingClientRect().right <= innerWidth && each.getBoundingClientRect().left >= 0)"
    )


def test_a_phone_shows_the_numbers_that_matter_and_the_whole_axis(browser, written):
    browser.open(written, width=390)
    right = f"document.querySelectorAll('.data thead th')[({COLUMN})('vs base')].getBoundingClientRect().right"
    assert browser.run(right) <= 390
    assert browser.run(
        "[...document.querySelectorAll('.differences .ticks text')]"
        ".every((each) => each.getBoundingClientRect().right <= innerWidth && each.getBoundingClientRect().left >= 0)"
    )
    shown, number = map(int, re.match(r"(\d+) of (\d+) columns", browser.run(SUMMARY)).groups())
    assert 3 < shown < number


def test_what_is_wider_than_the_screen_fades_out_until_its_end(browser, written):
    browser.open(written, width=200)
    faded = "document.querySelector('.data').parentElement.classList.contains('more')"
    assert browser.run(f"new Promise((done) => setTimeout(() => done({faded}), 50))")
    browser.run("document.querySelector('.data').parentElement.scrollLeft = 10000")
    assert not browser.run(f"new Promise((done) => setTimeout(() => done({faded}), 50))")


def test_what_the_columns_mean_is_printed(page):
    is_open = "document.querySelector('details.meanings').open"
    assert not page.run(is_open)
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(is_open)
    page.run("dispatchEvent(new Event('afterprint'))")
    assert not page.run(is_open) and page.run(SUMMARY) == "Choose columns"


def test_the_table_is_printed_with_all_columns(page):
    page.call("Emulation.setDeviceMetricsOverride", width=1047, height=700, deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.run("[...document.querySelectorAll('.data th')].every((th) => getComputedStyle(th).display !== 'none')")
        assert page.run("document.querySelector('.data').getBoundingClientRect().right <= innerWidth")
        assert page.run("getComputedStyle(document.querySelector('.copy')).display") == "none"
    finally:
        page.call("Emulation.setEmulatedMedia", media="")


def test_a_script_in_a_name_does_not_run(browser, tmp_path):
    sweep, bad = CraftedSweep(tmp_path), '<img src=x onerror="window.bad=1"><script>window.bad=1</script>'
    sweep.job(f"student.name={bad}", choices={**sweep.config()["choices"], "student": bad}, distillation__note=bad)
    browser.open(page_of(sweep))
    assert browser.run("window.bad === undefined") and browser.errors == []


@pytest.mark.alone
def test_three_hundred_rows_open_within_a_second(browser, tmp_path):
    sweep, draws = CraftedSweep(tmp_path), np.random.default_rng(0)
    for number in range(300):
        right = (draws.random(100) < 0.8).astype(np.int64)
        words = {"distillation__temperature": 1.0 + number // 15, "distillation__alpha": number % 15 / 20}
        sweep.job(*(f"{key.replace('__', '.')}={value}" for key, value in words.items()), distilled=right, **words)
    path = page_of(sweep)
    assert path.stat().st_size < 2_000_000
    assert len([tag for tag, _ in Page(path.read_text()).tags if tag == "tr"]) > 300
    browser.open(path)
    assert browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd") < 1000
