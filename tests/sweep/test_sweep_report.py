"""kdexp-report: the table on the screen, its files, its exit codes, and its speed."""

import csv
import io
import json
import resource
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from crafted import METRICS, rewrite
from crafted_sweeps import CraftedSweep, right_first
from experiments import COMPOSER, SHORT
from rich.console import Console

from kdexp.commands import report as command
from kdexp.commands.run import run
from kdexp.sweep import fold, read, show, write


@pytest.fixture
def grid(tmp_path):
    """Two temperatures, two alphas and three seeds; the images that are right differ by seed."""
    sweep, draws = CraftedSweep(tmp_path), np.random.default_rng(0)
    for temperature in (1.0, 20.0):
        for alpha in (0.1, 0.5):
            for seed in range(3):
                right = (draws.random(200) < 0.8 + temperature / 200).astype(int)
                words = (f"distillation.temperature={temperature:g}", f"distillation.alpha={alpha}", f"seed={seed}")
                changes = {"distillation__temperature": temperature, "distillation__alpha": alpha, "seed": seed}
                base = right_first(150 + seed, 200)
                sweep.job(*words, distilled=right, baseline=base, teacher=base, validation=temperature / 100, **changes)
    return sweep


@pytest.fixture(autouse=True)
def undrawn(request):
    """Leaves out the pictures, except where the lines about them are looked at."""
    if "eighty" not in request.node.name:
        request.getfixturevalue("without_pictures")


@pytest.fixture
def kdexp_report(call_main):
    return lambda *words, width=80: call_main(command.main, "kdexp-report", *words, columns=width)


@pytest.mark.slow
def test_a_grid_fits_eighty_columns(grid, kdexp_report):
    code, shown = kdexp_report(grid.close())
    assert code == 0 and max(map(len, shown.replace(str(grid.folder), "").splitlines())) <= 80
    assert shown.splitlines()[0].strip() == "digits: big teaches small"
    (heading,) = [line for line in shown.splitlines() if " role " in line]
    assert heading.split()[:4] == ["role", "method", "temperature", "alpha"]
    rows = [line.split() for line in shown.splitlines() if line.lstrip("★ ").startswith(("teacher", "baseline", "distilled"))]
    assert rows[1][:4] == ["baseline", "CE", "–", "–"] and rows[2][:4] == ["distilled", "kd", "1", "0.1"]
    assert [row[0] for row in rows].count("★") == 1 and len(rows) == 6


@pytest.mark.slow
def test_imbalanced_classes_have_a_column_and_a_remark(tmp_path, kdexp_report):
    sweep = CraftedSweep(tmp_path)
    for seed, balanced in enumerate((0.25, 0.35)):
        sweep.job(f"seed={seed}", baseline=right_first(80 + seed), seed=seed)
        measures = {**METRICS, "balanced_accuracy": balanced, "majority": 0.8}
        rewrite(sweep.store / sweep.keys["baseline"], test={"last": measures})
    code, shown = kdexp_report(sweep.close())
    assert code == 0 and "30.00 ± 7.07" in shown
    assert "always naming the largest class has 80.00 %; balanced % is the mean" in " ".join(shown.split())
    lines = {line["role"]: line for line in csv.DictReader((sweep.folder / "sweep.csv").read_text().splitlines())}
    assert float(lines["baseline"]["balanced_mean"]) == pytest.approx(0.3) and not lines["distilled"]["balanced_mean"]


@pytest.mark.slow
def test_equal_classes_have_neither(grid, kdexp_report):
    assert "balanced" not in kdexp_report(grid.close())[1]


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 60, 80])
def test_text_that_does_not_fit_is_wrapped_and_not_cut(grid, kdexp_report, width):
    grid.job("another", controls=["self_teacher"], student__hidden_units_of_every_layer=[64, 64], optimizer__lr=0.125)
    grid.job("third", student__hidden_units_of_every_layer=[32, 32], optimizer__lr=0.25, student__norm=True)
    shown = kdexp_report(grid.close(), width=width)[1].replace(str(grid.folder), "")
    assert "…" not in shown.replace(" … ", " ") or width < 80
    assert max(map(len, shown.splitlines()[:30])) <= max(width, 70)


@pytest.mark.slow
def test_a_wide_terminal_shows_more(grid, kdexp_report):
    narrow, wide = (kdexp_report(grid.close(), width=width)[1] for width in (80, 150))
    for heading in ("params", "over seeds alone", "n needed"):
        assert heading not in narrow and heading in wide


@pytest.mark.slow
def test_the_files_say_the_same(grid, kdexp_report):
    grid.job("late", seed=9, state="interrupted", reason="Ctrl-C")
    assert kdexp_report(grid.close())[0] == command.INCOMPLETE
    told = json.loads((grid.folder / "sweep.json").read_text())
    with (grid.folder / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    text = (grid.folder / "sweep.md").read_text()
    (table,) = told["tables"]
    for row, line in zip(table["rows"], lines, strict=True):
        assert float(line["test_mean"]) == row["test_mean"] == pytest.approx(np.mean(row["test"]))
        assert f"{100 * row['test_mean']:.2f}" in text
        assert line["seeds"].split() == [str(seed) for seed in row["seeds"]]
        assert len(row["keys"]) == len(row["test"]) == len(row["seeds"])
    (chosen,) = [row for row in table["rows"] if row["mark"]]
    (line,) = [line for line in lines if line["mark"]]
    found = chosen["difference"]
    assert float(line["difference"]) == found["mean"] and line["temperature"] == "20"
    assert float(line["over_seeds_low"]) == found["over_seeds"]["low"]
    assert line["over_seeds_and_images_sufficient_n"] == str(found["over_seeds_and_images"]["sufficient_n"] or "")
    assert found["within_noise"] in (True, False) and found["correlation"] is not None and len(found["baselines"]) == 3
    assert all(f"- {remark}" in text for remark in table["remarks"])
    assert told["unfinished"][0]["reason"] == "Ctrl-C" and told["unfinished"][0]["state"] == "interrupted"
    assert "- 12 of 13 jobs are finished" in text and "012 late: interrupted: Ctrl-C" in text


@pytest.mark.slow
def test_several_folders_are_written_on_request(tmp_path, kdexp_report):
    folders = []
    for seed in range(2):
        sweep = CraftedSweep(tmp_path, f"sweep{seed}")
        sweep.job(f"seed={seed}", seed=seed)
        folders.append(sweep.close())
    code, shown = kdexp_report(*folders)
    assert code == 0 and "Nothing was written; --output FOLDER" in shown
    assert not list(tmp_path.rglob("sweep.json"))
    assert kdexp_report(*folders, "--output", tmp_path / "merged" / "here")[0] == 0
    assert (tmp_path / "merged" / "here" / "sweep.json").is_file()


@pytest.mark.parametrize("inside", ["trials", "trials/000-0"])
def test_trials_of_a_search_have_no_table_of_test_accuracies(tmp_path, kdexp_report, inside):
    search = CraftedSweep(tmp_path, "trials")
    search.job("000-0")
    (tmp_path / "sweeps" / "search.journal").write_text("")
    trials = search.close()
    (trials / "jobs.json").unlink()
    (trials / "000").rename(trials / "000-0")
    code, shown = kdexp_report(tmp_path / "sweeps" / inside)
    assert code == 2 and "test %" not in shown and f"kdexp-report {tmp_path}/sweeps shows the final training" in shown


def test_a_request_that_can_not_be_met(tmp_path, grid, kdexp_report):
    assert kdexp_report(tmp_path / "nowhere") == (2, f"kdexp-report: '{tmp_path}/nowhere': no such folder\n")
    (tmp_path / "file").write_text("")
    assert kdexp_report(tmp_path / "file") == (2, f"kdexp-report: '{tmp_path}/file': is a file; name a folder\n")
    code, shown = kdexp_report(grid.close(), "--output", tmp_path / "file")
    assert code == 2 and f"kdexp-report: '{tmp_path}/file' can't be written: " in shown
    assert "choose another folder with --output FOLDER" in shown


@pytest.mark.slow
def test_many_unfinished_jobs_are_listed_in_full_in_the_file(grid, kdexp_report):
    for seed in range(30):
        grid.job(f"seed={seed}", seed=100 + seed, state="running")
    _, shown = kdexp_report(grid.close())
    assert "  and 11 more, all in sweep.md" in shown and "seed=29" not in shown
    assert "seed=29" in (grid.folder / "sweep.md").read_text()


@pytest.mark.alone
def test_a_thousand_results_are_reported_in_three_seconds(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for seed in range(334):
        temperature = 1.0 + seed // 3
        changes = {"distillation__temperature": temperature, "seed": seed, "teacher_seed": seed}
        sweep.job(f"{seed}", validation=1 / temperature, **changes)
    folder, before = sweep.close(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "kdexp.commands.report", str(folder)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, so that it holds where other work goes on.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4
    assert len(list(sweep.store.iterdir())) == 1002


@pytest.mark.slow
def test_it_imports_neither_torch_nor_hydra():
    code = "import sys, kdexp.commands.report; assert not {'torch', 'hydra', 'omegaconf'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_real_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("kdexp.commands.run.draw_curves", lambda *_: None)
    for temperature in (1, 4):
        for seed in range(3):
            words = [f"output_dir={tmp_path}", *SHORT, f"distillation.temperature={temperature}", f"seed={seed}"]
            words.append("controls=[random_teacher,label_smoothing]")
            assert run(COMPOSER.compose(words), words, Console(file=io.StringIO()))
    comparison = fold(read([tmp_path]))
    assert comparison.complete
    (table,) = comparison.tables
    rows = [(row.role, row.settings.get("distillation.temperature"), row.n) for row in table.rows]
    students = [(role, temperature, 3) for role in ("distilled", "random_teacher") for temperature in (1, 4)]
    # Runs that began in the same second stand in the order of their hashes.
    assert Counter(rows) == Counter([("teacher", None, 1), ("baseline", None, 3), *students, ("label_smoothing", None, 3)])
    assert table.columns == ["distillation.temperature"] and table.tried == {"mlp_small": {"baseline": 1, "kd": 2}}
    assert [row.difference.level for row in table.compared] == pytest.approx([0.95, 0.975, 0.975])
    (chosen,) = [row for row in table.rows if row.mark == "★"]
    assert chosen.difference.test_images == 797 and len(chosen.difference.intervals) == 2
    tables = [json.loads(path.read_text())["rows"] for path in (tmp_path / "runs").glob("*/table.json")]
    of_runs = {row["key"]: row["difference"] for rows in tables for row in rows}
    assert chosen.difference.points == pytest.approx([of_runs[key] for key in chosen.keys])
    screen = io.StringIO()
    show(comparison, Console(file=screen, width=80))
    assert "mlp_wide teaches mlp_small" in screen.getvalue()
    write(comparison, tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"sweep.csv", "sweep.json", "sweep.md"}
