"""What a sweep's trackers get of its table: one run of its own, which later reports of the sweep go on with."""

import io
import shutil

import pytest
from crafted_sweeps import CraftedSweep
from fake_tracker import FakeServer
from rich.console import Console
from tracked_sweeps import FIRST, SECOND, reported, tracked_sweep

from kdexp.commands import report as command
from kdexp.store.run_state import INTERRUPTED, write_state
from kdexp.sweep import page
from kdexp.sweep.tracked import shared
from kdexp.trackers.record import RECORD


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(page, "available", lambda: False)  # pictures take a second
    return FakeServer(monkeypatch)


def test_a_sweep_has_a_run_of_its_own_with_table_files_and_the_runs_of_its_jobs(server, tmp_path):
    folder = tracked_sweep(tmp_path)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "curves.png").touch()
    code, printed = reported(folder)
    run = server.only()
    assert code == 0 and printed.endswith("mlflow has this table, too: look here\n")
    assert run["name"] == run["group"] == FIRST and run["state"] == "finished" and run["members"] == ["of-job-0", "of-job-1"]
    assert run["files"] == ["sweep.csv", "sweep.json", "sweep.md", "report.html", "pictures/curves.png"]
    assert run["table"] == (folder / "sweep.md").read_text() and [row["n"] for row in run["rows"]] == [1, 2, 2]
    assert "seed" not in run["config"] and run["config"]["distillation"]["temperature"] == 4.0
    assert run["config"]["output_dir"] == str(tmp_path)


def test_the_same_report_is_sent_once_and_another_one_to_the_same_run(server, tmp_path):
    folder = tracked_sweep(tmp_path, jobs=1)
    assert reported(folder)[0] == 3 and server.only()["state"] == "failed"
    assert "mlflow" not in reported(folder, begin=False)[1] and server.only()["reports"] == 1
    tracked_sweep(tmp_path / "other")
    (tmp_path / "other" / "sweeps" / FIRST / "001").rename(folder / "001")
    shutil.copytree(tmp_path / "other" / "store", tmp_path / "store", dirs_exist_ok=True)
    assert reported(folder, begin=False)[0] == 0
    assert server.only()["state"] == "finished" and server.only()["reports"] == 2 and server.only()["times_opened"] == 2


def test_a_resumed_sweep_goes_on_with_the_run_of_the_one_that_was_cut_off(server, tmp_path):
    first = tracked_sweep(tmp_path, jobs=1)
    reported(first)
    (first / "001").mkdir()
    write_state(first / "001", INTERRUPTED)
    assert reported(tracked_sweep(tmp_path, name=SECOND))[0] == 0
    assert server.only()["name"] == FIRST and server.only()["reports"] == 2


def test_kdexp_report_begins_no_run(server, tmp_path, call_main):
    folder = tracked_sweep(tmp_path)
    assert call_main(command.main, "kdexp-report", folder)[0] == 0 and not server.runs
    assert not (folder / RECORD).exists()


def test_a_tracker_that_fails_is_warned_of_and_gets_the_report_from_kdexp_report(server, tmp_path):
    server.failing = {"mlflow.end"}
    folder = tracked_sweep(tmp_path, loggers=("mlflow", "wandb"))
    code, printed = reported(folder)
    assert code == 0 and "warning: mlflow failed (ConnectionError: no answer to end): it lacks the report" in printed
    assert f"kdexp-report {folder} sends it" in printed and "wandb has this table" in printed
    assert "Traceback" not in printed and "Traceback" in (folder / "log.txt").read_text()
    server.failing = set()
    assert "mlflow has this table" in reported(folder, begin=False)[1]
    assert [run["reports"] for run in server.runs.values()] == [1, 1]


def test_a_tracker_that_could_not_be_opened_gets_the_report_later_too(server, tmp_path):
    server.failing, folder = {"mlflow.open"}, tracked_sweep(tmp_path)
    reported(folder)
    server.failing = set()
    reported(folder, begin=False)
    assert server.only()["reports"] == 1


def test_tables_of_several_folders_and_tables_elsewhere_are_not_sent(server, tmp_path):
    first, second = tracked_sweep(tmp_path), tracked_sweep(tmp_path, name=SECOND)
    for folders, output in (([first, second], first), ([first], tmp_path / "elsewhere"), ([first / "000"], first / "000")):
        command.print_report(folders, output, Console(file=io.StringIO()))
    assert not server.runs


@pytest.mark.parametrize("logger", [[], None, 5, ["another"], {}])
def test_sweeps_without_a_known_tracker_send_nothing(server, tmp_path, logger):
    sweep = CraftedSweep(tmp_path)
    folder = sweep.job("seed=0", logger=logger).parent
    sweep.close()
    assert reported(folder)[0] == 0 and not server.runs and not (folder / RECORD).exists()


def test_a_sweep_has_the_settings_that_all_its_jobs_share():
    one = {"seed": 0, "epochs": 2, "distillation": {"alpha": 0.1, "temperature": 4}, "teacher": {"width": 1}}
    other = {"seed": 1, "epochs": 2, "distillation": {"alpha": 0.1, "temperature": 2}, "teacher": None}
    assert shared([one, other]) == {"epochs": 2, "distillation": {"alpha": 0.1}}
    assert shared([one]) == one
