"""Searches end to end: trials judged on validation images, resumed, pruned, and ended by one table with fresh seeds."""

import csv
import json
import re

import pytest
from experiments import COMPOSER, SHORT
from searches import ALPHA, SEEDS, planned, run_search, trials_in

from kdexp.commands import multirun, search, search_final, search_trials
from kdexp.commands.search_trials import SearchStopped
from kdexp.errors import Unwritable
from kdexp.queue.job_list import SHIPPED
from kdexp.report.rows import ON_TEST_IMAGES
from kdexp.search.pruning import MedianPruner
from kdexp.search.trial import FAILED, FINISHED, PRUNED
from kdexp.sweep.comparison import fold
from kdexp.sweep.formats import formatted
from kdexp.sweep.origins import Origins
from kdexp.sweep.read import NothingToReport, read
from kdexp.sweep.remarks import remarks
from kdexp.sweep.table import columns_of
from kdexp.sweep.write import csv_of
from kdexp.training.learner import Learner

RANDOM = ("search=random", "search.trials=2", ALPHA)


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leaves out the pictures, which take longer than these searches, except in the test of them."""
    if "pictures" not in request.node.name:
        request.getfixturevalue("without_pictures")
        monkeypatch.setattr(search_final, "draw_search", lambda *rest: "no pictures")


@pytest.fixture
def trained(monkeypatch):
    """The number of epochs that learners have trained."""
    epochs = []
    real = Learner.record_epoch
    monkeypatch.setattr(
        Learner, "record_epoch", lambda self, *words, **named: epochs.append(self.name) or real(self, *words, **named)
    )
    return epochs


def interrupted_after(count, monkeypatch):
    """Ctrl-C in the middle of a job, once this many epochs have been trained."""
    real, done = Learner.record_epoch, []

    def counted(self, *words, **named):
        done.append(self.name)
        if len(done) == count:
            raise KeyboardInterrupt
        return real(self, *words, **named)

    monkeypatch.setattr(Learner, "record_epoch", counted)


@pytest.mark.slow
def test_no_test_accuracy_is_shown_before_the_final_training(tmp_path):
    folder, printed = run_search(tmp_path, *RANDOM, "distillation=kd,mse_logits")
    before, after = printed.split("final training with seed 7\n")
    assert len(re.findall(r"trial \d/4  (kd|mse_logits)  distillation.alpha=\S+: validation \d+\.\d\d %", before)) == 4
    assert "distilled" not in before and "teacher" not in before
    assert len(re.findall(r"\d/2  distillation=(kd|mse_logits).*: teacher .*, distilled", after)) == 2
    assert [job["overrides"][-1] for job in json.loads((folder / "jobs.json").read_text())["jobs"]] == ["seed=7"] * 2
    lines = list(csv.DictReader((folder / "search.csv").read_text().splitlines()))
    assert [line["method"] for line in lines] == ["kd", "mse_logits"] * 2
    assert all("test" not in name for name in lines[0]) and float(lines[0]["validation"]) > 0
    tables = [json.loads(path.read_text())["rows"] for path in folder.glob("trials/*/table.json")]
    assert len(tables) == 8 and {row[name] for rows in tables for row in rows for name in ON_TEST_IMAGES} == {None}
    told = "".join(path.read_text() for name in ("log.txt", "table.md") for path in folder.glob(f"trials/*/{name}"))
    assert told.count("A trial of a search") == 16 and "test %" not in told and "n = 1" not in told


@pytest.mark.slow
def test_the_best_trials_are_in_the_table_with_their_number_and_origin(tmp_path):
    folder, _ = run_search(tmp_path, *RANDOM, "distillation=kd,mse_logits", "optimizer.lr=tag(log,interval(0.0001,0.1))")
    (table,) = fold(read([folder])).tables
    best = {
        method: max((t for t in trials_in(folder) if t.method == method), key=lambda t: t.value)
        for method in ("kd", "mse_logits")
    }
    distilled = {row.option: row for row in table.rows if row.role == "distilled"}
    for method, row in distilled.items():
        (job,) = row.jobs
        assert set(best[method].words) < set(read([job]).jobs[0].overrides)
        assert row.trials == 2 and row.seeds == [7] and not row.mark
    assert max(row.trials or 0 for row in table.rows if row.role == "baseline") == 2, "both methods tried the same rates"
    assert "trials" in {column.heading for column in columns_of(table)}
    text = " ".join(remarks(table))
    assert "Search (random): kd 2 trials; mse_logits 2 trials; 2 distinct baselines next to them." in text
    assert "mean validation accuracy with seeds 0, 1, never by test accuracy; this table has fresh ones: seed 7." in text
    assert "Configurations tried" not in text
    caption = formatted(fold(sweep := read([folder])), Origins(sweep), "latex")
    assert "Search (random): kd 2 trials" in caption and "all that were run are listed" not in caption


@pytest.mark.slow
def test_an_interrupted_search_goes_on_where_it_was(tmp_path, monkeypatch, trained):
    """With 2 epochs of teacher, then of baseline and 2 students for 2 seeds, then of the final baseline and student."""
    whole, _ = run_search(tmp_path / "whole", *RANDOM)
    everything = len(trained)
    assert everything == 2 * (1 + 2 * (1 + 2) + 2)
    for place, epochs in (("early", 5), ("late", 17)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupted_after(epochs, patch)
            run_search(tmp_path / place, *RANDOM)
        trained.clear()
        resumed, _ = run_search(tmp_path / place, *RANDOM)
        assert len(list((tmp_path / place / "sweeps").iterdir())) == 1
        assert len(trained) <= everything - epochs + 1, "what was trained before is not trained again"
        assert trials_in(resumed) == trials_in(whole)
        assert csv_of(fold(read([resumed]))) == csv_of(fold(read([whole])))


@pytest.mark.slow
def test_the_same_command_trains_nothing_after_the_end(tmp_path, trained):
    first, _ = run_search(tmp_path, *RANDOM)
    trained.clear()
    second, _ = run_search(tmp_path, *RANDOM)
    assert second != first and trained == [] and trials_in(second) == trials_in(first)


@pytest.mark.slow
def test_pruned_trials_end_early_and_are_counted(tmp_path, monkeypatch, trained):
    real, pruned = MedianPruner.check, []

    def check(self, curve):
        if self.curves and not pruned:  # the second trial is told that it is below
            self.first, self.curves = 0, [[2.0]] * 5
            pruned.append(curve)
        real(self, curve)

    monkeypatch.setattr(MedianPruner, "check", check)
    folder, printed = run_search(tmp_path, "search=random", "search.trials=3", ALPHA, "search.pruner=median")
    states = [trial.state for trial in trials_in(folder)]
    assert states == [FINISHED, PRUNED, FINISHED]
    assert "trial 2/3" in printed and "pruned: below the median of the other trials after epoch 1 of seed 0" in printed
    assert trials_in(folder)[1].scores == {} and len(trials_in(folder)[1].partial) == 1
    assert json.loads((folder / "trials" / "001-0" / "status.json").read_text())["state"] == "interrupted"
    (table,) = fold(read([folder])).tables
    assert "kd 3 trials (1 pruned)" in " ".join(remarks(table))


@pytest.mark.slow
def test_a_trial_whose_loss_diverges_has_failed_and_is_not_chosen(tmp_path):
    folder, printed = run_search(tmp_path, "search=grid", "optimizer=sgd", "optimizer.lr=1e20,0.1", "teacher_optimizer.lr=0.1")
    first, second = trials_in(folder)
    assert (first.state, second.state) == (FAILED, FINISHED) and "loss became" in first.reason
    assert f"failed: {first.reason}" in printed
    assert all("optimizer.lr=0.1" in job["overrides"] for job in json.loads((folder / "jobs.json").read_text())["jobs"])


@pytest.mark.slow
def test_a_search_without_a_finished_trial_ends_in_words(tmp_path):
    with pytest.raises(SearchStopped, match="no trial finished; the first: .*loss became"):
        run_search(tmp_path, "search=grid", "optimizer=sgd", "optimizer.lr=1e20,1e21", "teacher_optimizer.lr=0.1")


@pytest.mark.slow
def test_tpe_runs_with_its_pictures(tmp_path):
    pytest.importorskip("optuna")
    folder, printed = run_search(tmp_path, "search=tpe", "search.trials=3", ALPHA)
    assert "search_*.png in pictures/ show them" in printed
    assert {path.name for path in (folder / "pictures").iterdir()} >= {"search_kd_history.png", "search_kd_slices.png"}


def test_data_that_cant_be_read_stop_the_search_and_the_same_command_goes_on(tmp_path, monkeypatch):
    def fail(job, folder, *rest, **named):
        folder.mkdir()
        return "failed: no such data"

    monkeypatch.setattr(search_trials, "run_job", fail)
    for _ in range(2):
        with pytest.raises(SearchStopped, match="no such data; fix that and run the same command to go on"):
            run_search(tmp_path, *RANDOM)
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert [path.name for path in sorted((folder / "trials").glob("0*"))] == ["000-0", "000-0_2"]
    assert len(trials_in(folder)) == 1
    with pytest.raises(NothingToReport, match="this search has not finished its trials"):
        read([folder])


def test_a_search_that_runs_elsewhere_is_left_alone(tmp_path, monkeypatch):
    plan = planned(f"output_dir={tmp_path}", *SHORT, *SEEDS, *RANDOM)
    folder = search.begin_search(plan, ["search"], SHIPPED).folder
    assert search.find_search(plan).folder == folder.resolve()
    monkeypatch.setattr(search, "runner", lambda place: "process 7 on laptop" if place == folder else "")
    with pytest.raises(Unwritable, match=f"process 7 on laptop is working on this search in {folder}"):
        search.run_search(plan, COMPOSER, ["search"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-m", ALPHA], "search=tpe (or search=random) searches an interval"),
        ([ALPHA], "search=tpe (or search=random) searches an interval: kdexp search=tpe 'distillation.alpha=interval(0,1)'"),
        (["search.trials=3"], "is a setting of a search; add search=tpe"),
        (["search=tpee", ALPHA], "did you mean tpe?"),
        (["search=random", ALPHA, "hydra/launcher=lockstep"], "a search runs its jobs one by one"),
        (["search=random", ALPHA, "distillation.alpha=0.3"], "given 2 times"),
        (["search=random", ALPHA, "optimizer=adm"], "did you mean adam?"),
    ],
)
def test_a_mistake_names_the_way_out(refused, words, named):
    assert named in refused(*words)


def test_a_dry_run_shows_the_values_and_the_jobs(here, tmp_path):
    words = ("distillation=none,kd", ALPHA, "optimizer.lr=tag(log,interval(0.001,0.1))", "dry_run=true")
    code, printed = here("search=random", "search.trials=4", *words)
    assert code == 0 and list(tmp_path.iterdir()) == []
    assert "none: 4 trials (random), optimizer.lr from 0.001 to 0.1, logarithmic\n" in printed.out
    assert "24 jobs on validation images, with seeds 0, 1, 2; then the best trial of each method" in printed.out
    assert "one trial of kd, distillation.alpha=0, optimizer.lr=0.001:" in printed.out


@pytest.mark.parametrize("words", [("search=null", "search=grid"), ("~search", "search=grid.yaml")])
def test_the_last_word_on_the_search_counts(here, words):
    code, printed = here(*words, "distillation.alpha=0.1,0.5", "dry_run=true")
    assert code == 0 and "kd: 2 trials (grid)" in printed.out
    assert f"{words[0]} is not used, {words[1]} comes after it" in printed.err


def test_no_search_is_a_plain_run(here):
    for words in (["search=null"], ["search=none"], ["search=random", "~search"]):
        code, printed = here(*words, "dry_run=true")
        assert code == 0 and "one trial" not in printed.out


def test_a_file_can_choose_the_search_and_its_values(here, tmp_path, monkeypatch):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    lines = ["# @package _global_", "defaults:", "  - override /search: random", "hydra: {sweeper: {params: {}}}"]
    text = "\n".join(lines).replace("{}", "{distillation.alpha: 'interval(0,1)', seed: '0,1'}")
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(text)
    code, printed = here("--config-dir", str(tmp_path / "own"), "experiment=mine", "dry_run=true")
    assert code == 0 and "kd: 20 trials (random), distillation.alpha from 0 to 1" in printed.out
    assert COMPOSER.compose([]).get("search") is None


def test_a_journal_that_is_damaged_meanwhile_stops_the_search_in_words(tmp_path, monkeypatch):
    def damage(_job, folder, *rest, **named):
        with (folder.parent.parent / "search.journal").open("a") as journal:
            journal.write("x\n")
        folder.mkdir()
        (folder / "traceback.txt").touch()
        return "failed: x"

    monkeypatch.setattr(search_trials, "run_job", damage)
    with pytest.raises(SearchStopped, match=r"search\.journal is damaged"):
        run_search(tmp_path, *RANDOM)


@pytest.mark.parametrize("place", ["obtain", "Experiment"])
def test_a_trial_that_an_unexpected_error_ends_has_failed(tmp_path, monkeypatch, place):
    def fail(*_, **__):
        raise ZeroDivisionError("an unexpected error")

    monkeypatch.setattr(multirun, place, fail)
    with pytest.raises(SearchStopped, match="no trial finished; the first: ZeroDivisionError: an unexpected error"):
        run_search(tmp_path, *RANDOM)
