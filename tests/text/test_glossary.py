"""Every column that any table can print or any file can have is explained, on the screen and on the page."""

import re
from pathlib import Path

import pytest
from crafted_sweeps import CraftedSweep, right_first

from kdexp.commands import dry_run, store_table
from kdexp.experiment.obtain import obtain
from kdexp.report.rows import Row
from kdexp.report.table import COLUMNS
from kdexp.sweep import fold, read
from kdexp.sweep.axes import headings
from kdexp.sweep.origins import Origins
from kdexp.sweep.page import page as html
from kdexp.sweep.table import columns_of
from kdexp.sweep.write import _line
from kdexp.text import glossary
from kdexp.text.glossary import DRY_RUNS, EPOCHS, PAGES, RUNS, STORE, SWEEPS

ROOT = Path(__file__).parents[2]


def headings_of(entries):
    return {entry.heading for entry in entries}


def names_of(entries):
    return {name for entry in entries for name in entry.names.split()}


def explained(heading):
    """The heading as the glossary has it: intervals have their level in front."""
    return re.sub(r"^([\d.]+ % )?interval$", "NN % interval", heading)


@pytest.fixture
def tables(tmp_path):
    """Sweeps that differ in one setting, in networks, in the specs only, and in whether they have validation data."""
    one, models, variants, unvalidated = (CraftedSweep(tmp_path, name) for name in "abcd")
    for seed in range(3):
        for temperature in (1.0, 2.0):
            given = {"baseline": right_first(80 + seed), "distilled": right_first(85 - seed), "seed": seed}
            one.job(f"{temperature} {seed}", distillation__temperature=temperature, **given)
            unvalidated.job(f"{temperature} {seed}", distillation__temperature=temperature, validation=None, **given)
    for width in (1, 2):
        models.job(f"{width}", student__width=width)
        variants.job(f"{width}", source="ab"[width - 1])
    return [table for sweep in (one, models, variants, unvalidated) for table in fold(read([sweep.close()])).tables]


def test_the_columns_of_a_run():
    assert {column.heading for column in COLUMNS} <= headings_of(RUNS)
    assert set(Row("distilled", "net", "kd", "key").plain()) == names_of(RUNS)


def test_the_columns_of_sweeps(tables):
    for table in tables:
        settings = set(headings(table.columns).values())
        shown = {column.heading for narrow in (False, True) for column in columns_of(table, narrow=narrow)}
        assert {explained(heading) for heading in shown} - settings <= headings_of(SWEEPS)
        names = {name for row in table.rows for name in _line(row, table)} - settings
        assert names <= names_of(SWEEPS)


def test_the_columns_of_the_page(tmp_path):
    sweep = CraftedSweep(tmp_path)
    sweep.job("a")
    sweep.job("b", state="interrupted", reason="Ctrl-C")
    found = read([sweep.close()])
    page = html(fold(found), Origins(found))
    shown = {explained(heading) for heading in re.findall(r"<th[^>]*>([^<]*)</th>", page)}
    assert shown <= headings_of(PAGES) | headings_of(SWEEPS)


def test_the_columns_of_the_store_and_of_dry_runs():
    assert {column.heading for column in store_table._all_columns(None, False)} == headings_of(STORE)
    assert {*dry_run.HEADINGS, *dry_run.HEADINGS_OF_JOBS} == headings_of(DRY_RUNS)


@pytest.mark.slow
def test_the_columns_of_the_epochs(make_experiment, tmp_path):
    entries = obtain(make_experiment("epochs=1"))
    names = {name for entry in entries for name in entry.stored.result["history"][0]}
    terms = {"ce", "kd"}
    assert names - terms == names_of(EPOCHS) - {"ce,", "kd,", "..."}


def test_the_page_is_current():
    assert (ROOT / "docs" / "columns.md").read_text() == glossary.page(), "run python docs/make_columns.py"


def test_every_entry_is_shown_on_the_screen(here):
    code, printed = here("--help", "columns")
    assert code == 0 and printed.err == "" and max(map(len, printed.out.splitlines())) <= 118
    for entry in (entry for table in glossary.TABLES for entry in table.entries):
        assert entry.label in printed.out and " ".join(entry.meaning.split()[:3]) in printed.out
        assert entry.group in printed.out


def test_every_heading_is_found_by_its_name_and_leads_to_its_tables():
    text = glossary.page()
    index = next(line for line in text.splitlines() if line.startswith("**"))
    found = dict(re.findall(r"\*\*([^*]+)\*\* ([^;]+)[;.]", index))
    assert set(found) == {entry.heading for table in glossary.TABLES for entry in table.entries} - {""}
    assert list(found) == sorted(found, key=str.casefold)
    titles = {re.sub(r"[^\w -]", "", line[3:].lower()).replace(" ", "-") for line in text.splitlines() if line[:3] == "## "}
    links = {link for tables in found.values() for link in re.findall(r"\(#([^)]*)\)", tables)}
    assert links < titles and found["teaches"] == "[store](#kdexp-store-list)"


@pytest.mark.parametrize(
    ("heading", "start"),
    [("", "★ highest"), ("97.5 % interval", "confidence interval"), ("interval", "confidence"), ("lr", "a setting")],
)
def test_columns_of_a_sweep_have_a_meaning_whatever_their_heading(heading, start):
    assert glossary.meaning(heading, SWEEPS).startswith(start)
    assert glossary.meaning("no such column", RUNS) == ""


def test_an_unknown_topic_gets_the_help_and_is_named(here):
    code, printed = here("--help", "colums")
    assert code == 0 and "kdexp --help columns" in printed.out and "no help on colums" in printed.err
