"""report.html: a sweep on one self-contained page, and the error if it can't be written."""

import base64
import hashlib
import io
import json
import re
import shlex
import sys
import time
from dataclasses import replace
from html import unescape

import pytest
import yaml
from crafted import signed
from crafted_sweeps import CraftedSweep, right_first
from experiments import SHORT, compose_command
from pages import Page
from rich.console import Console

from kdexp.commands import main as cli
from kdexp.commands import report as command
from kdexp.configuration.jobs import expand
from kdexp.report.table import signed as signed_number
from kdexp.sweep import fold, page, pictures, read
from kdexp.sweep.estimates import explained
from kdexp.sweep.lead import lead
from kdexp.sweep.read import Job
from kdexp.sweep.remarks import number_of, remarks
from kdexp.sweep.repeat import commands


@pytest.fixture
def bare(monkeypatch):
    """As if matplotlib were not installed."""
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)


def report(folder):
    """Runs the report; returns the page and what was printed."""
    console = Console(file=io.StringIO(), width=100)
    command.print_report([folder], folder, console)
    html = (folder / "report.html").read_text()
    return Page(html), html, console.file.getvalue()


def grid(root, **changes):
    """Two alphas and two seeds; the last job failed, and one never started."""
    sweep = CraftedSweep(root)
    for alpha in (0.1, 0.5):
        for seed in (0, 1):
            told = {"distillation__alpha": alpha, "seed": seed, "validation": alpha, **changes}
            sweep.job("epochs=2", f"distillation.alpha={alpha}", f"seed={seed}", **told)
    sweep.job("seed=7", seed=7, state="interrupted", reason="Ctrl-C <b>")
    sweep.close(["seed=8"])
    return sweep


def test_every_row_and_remark_is_on_the_page(tmp_path, bare):
    sweep = grid(tmp_path)
    page, html, _ = report(sweep.folder)
    (table,) = fold(read([sweep.folder])).tables
    assert len(table.rows) == 4
    links = [told["href"].removeprefix("#") for tag, told in page.tags if tag == "a"]
    parts = [told["id"] for tag, told in page.tags if tag == "details" and "id" in told]
    assert links == parts == ["1-1", "1-2", "1-3", "1-4"]
    copied = [told["data-copy"] for tag, told in page.tags if "data-copy" in told]
    assert len(copied) == 4 and copied[-1] == "kdexp -m epochs=2 distillation.alpha=0.5 seed=0,1"
    cells = page.all("td")
    for row in table.rows:
        assert any(f"{100 * row.test_mean:.2f}" in cell for cell in cells)
        assert all(key in html for key in row.keys)
    headings = {text for tag in ("th", "button") for text in page.all(tag)}
    assert {"alpha", "vs base", "test %"} <= headings and "temperature" not in headings


def test_the_configuration_is_complete_and_exact(tmp_path, bare):
    sweep = grid(tmp_path)
    page, _, _ = report(sweep.folder)
    configs = [yaml.safe_load(text) for text in page.all("pre")[1::2]]
    assert [config["distillation"]["alpha"] for config in configs] == [0.1, 0.1, 0.1, 0.5]
    assert configs[0] == yaml.safe_load((sweep.folder / "000" / "config.yaml").read_text())


def test_unfinished_jobs_have_their_reason_and_command(tmp_path, bare):
    page, html, _ = report(grid(tmp_path).folder)
    assert "Ctrl-C &lt;b&gt;" in html and "Ctrl-C <b>" not in html
    assert {"kdexp seed=7", "kdexp seed=8"} <= set(page.all("code"))
    assert "4 of 6 jobs are finished." in page.all("p")


@pytest.mark.slow
def test_every_command_can_be_run(tmp_path, bare):
    page, _, _ = report(grid(tmp_path).folder)
    found = [text for text in page.all("code") if text.startswith("kdexp ")]
    assert "kdexp -m epochs=2 distillation.alpha=0.5 seed=0,1" in found
    for text in found:
        words = shlex.split(text)[1:]
        for job in expand([word for word in words if word != "-m"]):
            compose_command(job)


def test_a_command_per_seed_where_more_than_the_seed_differs(tmp_path):
    jobs = [Job(tmp_path / str(seed), (f"seed={seed}", f"epochs={seed}"), "finished", "") for seed in (1, 2)]
    assert commands(jobs) == ["kdexp seed=1 epochs=1", "kdexp seed=2 epochs=2"]


def test_a_command_names_the_folder_of_the_users_own_files(tmp_path):
    (tmp_path / "jobs.json").write_text('{"command": ["--config-dir", "my conf", "-m", "seed=1,2"], "jobs": []}')
    jobs = [Job(tmp_path / str(seed), (f"seed={seed}", "~teacher"), "finished", "") for seed in (1, 2)]
    assert commands(jobs) == ["kdexp '--config-dir=my conf' -m '~teacher' seed=1,2"]


def test_nothing_is_fetched_and_only_the_script_of_the_page_may_run(tmp_path, bare):
    page, html, _ = report(grid(tmp_path).folder)
    for _, told in page.tags:
        assert not [name for name in told if name.startswith("on") or name in ("srcset", "action")]
        assert told.get("src", "data:").startswith("data:") and told.get("href", "#").startswith("#")
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    (policy,) = (told["content"] for tag, told in page.tags if told.get("http-equiv"))
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_title_and_the_result_are_those_of_a_person(tmp_path, bare):
    page, _, _ = report(grid(tmp_path).folder)
    (heading,) = page.all("h1")
    assert page.all("title") == [heading] and re.fullmatch(r"digits: big → small, \d+ \w+ 20\d\d", heading)
    lead = page.of_class("lead")
    assert lead.startswith("Distilled with 0.1 CE + 0.9 KD, T=4 alpha=0.5, small reaches 85.00 ± 0.00 % on the test images, ")
    assert "5.00 points more than its baseline, the same student without distillation (95 % interval −" in lead
    assert "It was chosen on validation data from 2 configurations; the teacher big has 95.00 %" in lead
    assert lead.count(". ") == 1


def test_the_differences_come_first_with_the_numbers_of_the_table(tmp_path, bare):
    sweep = grid(tmp_path)
    page, html, _ = report(sweep.folder)
    (table,) = fold(read([sweep.folder])).tables
    (row,) = table.compared
    assert signed_number(row.difference.mean) in page.all("b")
    assert html.index('class="differences"') < html.index('class="plot"') < html.index('class="data"')


def test_every_column_is_explained_below_its_table(tmp_path, bare):
    page, _, _ = report(grid(tmp_path).folder)
    headings = [text for text in page.all("button") if text]
    assert page.all("dt") == [*headings, "–"] and "★" in headings and "alpha" in headings
    assert len(page.all("dd")) == len(headings) + 1 and all(page.all("dd"))


def test_the_job_of_each_seed_is_named_by_its_last_folders(tmp_path, bare):
    _, html, _ = report(grid(tmp_path).folder)
    assert str(tmp_path) not in html and "sweep/000" in html


def test_a_method_has_one_name_in_all_charts(tmp_path, bare):
    page, _, _ = report(grid(tmp_path).folder)
    name = "★ 0.1 CE + 0.9 KD, T=4 alpha=0.5"
    assert [text.strip() for text in page.all("span") if text.strip() == name] == [name], "the differences"
    assert [text.strip() for text in page.all("li") if text.strip() == name] == [name] * 2, "against parameters, over epochs"


def test_charts_of_several_students_name_them(tmp_path, bare):
    sweep = CraftedSweep(tmp_path)
    for width in (1, 2):
        for temperature in (1.0, 4.0):
            names = {**sweep.config()["choices"], "student": f"net{width}"}
            sweep.job("x", choices=names, student__width=width, distillation__temperature=temperature)
    for path in sweep.store.glob("*/result.json"):
        result = json.loads(path.read_text())
        width = result["spec"]["model"].get("width")
        path.write_text(json.dumps(signed({**result, "model": f"net{width}"} if width else result)))
    page, _, _ = report(sweep.close())
    captions = [text for text in page.all("figcaption") if " over temperature" in text]
    assert [re.search(r"of (\w+) kd over", text)[1] for text in captions] == ["net1", "net2"]
    assert {"baseline, 2 rows", "kd, 2 rows"} <= {text.strip() for text in page.all("li")}


def test_an_image_folder_has_its_own_name_in_the_title(tmp_path, bare):
    sweep = CraftedSweep(tmp_path)
    sweep.job("seed=0", dataset__root="/elsewhere/flowers/", choices={**sweep.config()["choices"], "dataset": "image_folder"})
    for path in sweep.store.glob("*/result.json"):
        path.write_text(json.dumps(signed({**json.loads(path.read_text()), "dataset": "image_folder"})))
    page, _, _ = report(sweep.close())
    assert page.all("h1")[0].startswith("flowers (image_folder): big → small, ")


def test_a_shortened_sweep_says_so_in_its_title(tmp_path, bare):
    page, _, _ = report(grid(tmp_path, limit_batches=3).folder)
    assert "big → small (shortened), " in page.all("h1")[0]


def test_each_family_of_intervals_is_told_by_itself(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for number, note in enumerate("abc"):
        sweep.job(note, distillation__note=note, validation=None, seed=number)
    (table,) = fold(read([sweep.close()])).tables
    assert "The intervals of the 3 differences hold together with 95 % (Bonferroni)." in explained(table)
    distilled = [row for row in table.rows if row.role == "distilled"]
    control = replace(distilled[0], role="int8")
    table.rows.append(control)
    assert "The intervals of the 3 distilled students hold together with 95 % (Bonferroni)." in explained(table)
    table.rows.append(control)
    sentence = "hold together with 95 %, those of the 3 distilled students and those of the 2 controls for themselves"
    assert sentence in explained(table)


@pytest.mark.parametrize("others", [1, 9])
def test_what_stands_out_is_told_with_its_difference(tmp_path, others):
    sweep = CraftedSweep(tmp_path)
    for note in range(others + 1):
        for seed in range(5):
            right = {"distilled": right_first(80 if note else 18 + seed), "baseline": right_first(80)}
            sweep.job(f"{note} {seed}", distillation__note=note, validation=None, seed=seed, **right)
    (table,) = fold(read([sweep.close()])).tables
    assert "1 stands out: 0.1 CE + 0.9 KD, T=4 note=0 (−60.00 points)." in lead(table)
    if others > 1:
        assert "1 stands out (0.1 CE + 0.9 KD, T=4 note=0: −60.00), 9 are within noise" in " ".join(remarks(table))


@pytest.mark.parametrize(("count", "words"), [(0, "none stands out"), (1, "1 stands out"), (2, "2 stand out")])
def test_verbs_agree_with_their_numbers(count, words):
    assert number_of(count, "stands out", "stand out") == words


@pytest.mark.slow
def test_the_pictures_are_files_beside_the_page(tmp_path):
    sweep = grid(tmp_path)
    _, _, printed = report(sweep.folder)
    assert {path.name for path in (sweep.folder / "pictures").iterdir()} == {
        f"{name}.{kind}" for name in ("differences", "line_kd", "parameters", "curves") for kind in ("png", "svg")
    }
    assert "report.html and pictures/ are next to them" in printed


def test_the_page_of_a_run_is_kept(tmp_path, bare):
    run = grid(tmp_path).folder / "000"
    (run / "report.html").write_text("the run's own")
    console = Console(file=io.StringIO(), width=100)
    command.print_report([run], run, console)
    assert (run / "report.html").read_text() == "the run's own" and (run / "sweep.html").exists()
    assert "sweep.html is next to them" in console.file.getvalue()


def test_names_are_escaped(tmp_path, bare):
    bad = '<script>alert("&")</script>'
    sweep = CraftedSweep(tmp_path)
    sweep.job(f"student.name={bad}", choices={**sweep.config()["choices"], "student": bad}, distillation__note=bad)
    for path in sweep.store.glob("*/result.json"):
        path.write_text(json.dumps(signed(json.loads(path.read_text().replace('"small"', '"<script>x</script>"')))))
    _, html, _ = report(sweep.close())
    assert html.count("<script") == 1 and "&lt;script&gt;x" in html
    assert bad in unescape(html)


def test_without_matplotlib_the_page_has_its_charts(tmp_path, bare):
    sweep = grid(tmp_path)
    page, _, printed = report(sweep.folder)
    assert 'report.html is next to them; pip install "kdexp[plot]" adds its pictures as files' in printed
    assert not (sweep.folder / "pictures").exists()
    charts = [told["aria-label"] for tag, told in page.tags if told.get("role") == "img"]
    assert charts == [
        "0.1 CE + 0.9 KD, T=4 over distillation.alpha",
        "Test accuracy against parameters.",
        "Validation accuracy of small over the epochs",
    ]


def test_a_sweep_without_finished_jobs(tmp_path):
    sweep = CraftedSweep(tmp_path)
    sweep.job("seed=1", state="failed", reason="out of luck", failed=("teacher", "baseline", "distilled"))
    page, _, _ = report(sweep.close())
    assert "out of luck" in page.all("td") and "kdexp seed=1" in page.all("code")
    assert page.all("h1") == ["Nothing finished yet"]


@pytest.mark.slow
def test_a_folder_for_pictures_that_can_not_be_made_is_named(tmp_path, monkeypatch, capsys):
    sweep = grid(tmp_path)
    (sweep.folder / "pictures").write_text("in the way")
    monkeypatch.setattr(sys, "argv", ["kdexp-report", str(sweep.folder)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert "can't be written: File exists; choose another folder with --output FOLDER" in capsys.readouterr().err


@pytest.mark.slow
def test_many_rows_are_fast_and_small(tmp_path, bare):
    sweep = CraftedSweep(tmp_path)
    for number in range(300):
        sweep.job(f"distillation.temperature={number + 1}", distillation__temperature=1.0 + number, validation=number / 1000)
    found = read([sweep.close()])
    comparison, began = fold(found), time.process_time()
    page.illustrate(comparison, found, sweep.folder)
    assert time.process_time() - began < 3
    assert (sweep.folder / "report.html").stat().st_size < 2_000_000


@pytest.mark.slow
def test_a_multirun_ends_with_its_page(tmp_path, monkeypatch, capsys):
    words = [f"output_dir={tmp_path}", *SHORT, "-m", "distillation.temperature=1,4"]
    monkeypatch.setattr(sys, "argv", ["kdexp", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert {path.stem for path in (folder / "pictures").iterdir()} == {"differences", "line_kd", "parameters", "curves"}
    html = (folder / "report.html").read_text()
    for text in re.findall(r'<code class="command">kdexp ([^<]*)</code>', html):
        for job in expand([word for word in shlex.split(unescape(text)) if word != "-m"]):
            assert compose_command(job)["output_dir"] == str(tmp_path)
