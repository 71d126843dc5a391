"""What is sent to trackers: every epoch once, after interruptions too, and nothing to one that fails."""

import json
from types import SimpleNamespace

import pytest
from fake_tracker import FakeServer, sent

from kdexp.store.run_state import FAILED, FINISHED, INTERRUPTED, KILLED, RUNNING, write_state
from kdexp.trackers import tracking as module
from kdexp.trackers.record import RECORD
from kdexp.trackers.tracker import flat, results, terms
from kdexp.trackers.tracking import Failures, Tracking, tracking

CONFIG = {"force": False, "output_dir": "outputs"}


@pytest.fixture
def server(monkeypatch):
    return FakeServer(monkeypatch)


class Journal:
    def __init__(self):
        self.warnings, self.remarks, self.notes = [], [], []
        self.warn, self.remark, self.note = self.warnings.append, self.remarks.append, self.notes.append


class Run:
    """A run folder whose trackers are followed."""

    def __init__(self, folder, names=("mlflow",), journal=None, failures=None, **config):
        folder.mkdir(parents=True)
        self.folder, self.journal = folder, journal or Journal()
        write_state(folder, RUNNING)
        self._inside = tracking(names, CONFIG | config, folder, self.journal, failures or Failures())
        self.tracking = self._inside.__enter__()

    def train(self, learner, epochs, first=1):
        for epoch in range(first, epochs + 1):
            self.tracking.epoch([SimpleNamespace(name=learner, history=rows(epoch))])

    def stop(self, state):
        """Ends as a run does that finishes, fails or is interrupted; a killed one ends nothing."""
        if state == FINISHED:
            self.tracking.end(FINISHED, [{"role": "teacher", "test_top1": 0.5}])
        elif state in (FAILED, INTERRUPTED):
            error = RuntimeError() if state == FAILED else KeyboardInterrupt()
            assert not self._inside.__exit__(type(error), error, None), "the error is raised again"
        elif state in (KILLED, RUNNING):
            self.tracking._flush()
        write_state(self.folder, state)


def rows(epochs):
    return [{"epoch": epoch, "loss": 1 / epoch, "ce": 1 / epoch, "train_accuracy": 0.5} for epoch in range(1, epochs + 1)]


def test_every_epoch_is_sent_once_in_order(server, tmp_path):
    run = Run(tmp_path / "runs" / "a")
    run.train("teacher", 3)
    run.tracking.follow("teacher", rows(3))
    run.tracking.follow("baseline", rows(2))
    run.stop(FINISHED)
    assert sent(server.only()) == [("teacher", 1), ("teacher", 2), ("teacher", 3), ("baseline", 1), ("baseline", 2)]
    assert server.only()["state"] == FINISHED and server.only()["rows"] == [{"role": "teacher", "test_top1": 0.5}]


def test_files_of_the_run_are_handed_over_at_the_end(server, tmp_path):
    run = Run(tmp_path / "runs" / "a")
    for name in ("table.csv", "curves.png", "run.lock", "log.txt"):
        (run.folder / name).touch()
    run.stop(FINISHED)
    assert server.only()["files"] == ["table.csv", "curves.png"]


@pytest.mark.parametrize("state", [INTERRUPTED, KILLED, RUNNING])
def test_a_run_that_was_cut_off_is_continued(server, tmp_path, state):
    first = Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef")
    first.train("teacher", 3)
    first.stop(state)
    second = Run(tmp_path / "runs" / "2026-01-01_11-00-00_abcdef_2")
    second.train("teacher", 5, first=3)  # an epoch is trained again
    second.stop(FINISHED)
    assert server.only()["name"] == first.folder.name and server.only()["times_opened"] == 2
    assert sent(server.only()) == [("teacher", epoch) for epoch in range(1, 6)]


@pytest.mark.parametrize("state", [FINISHED, FAILED])
def test_a_run_that_came_to_its_end_is_not(server, tmp_path, state):
    first = Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef")
    first.train("teacher", 2)
    first.stop(state)
    second = Run(tmp_path / "runs" / "2026-01-01_11-00-00_abcdef")
    second.tracking.follow("teacher", rows(2))
    second.stop(FINISHED)
    assert [sent(run) for run in server.runs.values()] == [[("teacher", 1), ("teacher", 2)]] * 2
    assert [run["state"] for run in server.runs.values()] == [state, FINISHED]


@pytest.mark.parametrize(
    ("name", "config"),
    [("2026-01-01_11-00-00_123456", {}), ("2026-01-01_09-00-00_abcdef", {}), ("2026-01-01_11-00-00_abcdef", {"force": True})],
)
def test_another_configuration_a_later_run_and_force_begin_anew(server, tmp_path, name, config):
    Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef").stop(INTERRUPTED)
    Run(tmp_path / "runs" / name, **config)
    assert len(server.runs) == 2


@pytest.mark.parametrize(
    "text", ["{", "[]", json.dumps({"name": "../../x", "group": "", "ids": {}, "epochs": {}}), json.dumps({"name": "a"})]
)
def test_a_damaged_record_is_no_record(server, tmp_path, text):
    first = Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef")
    first.stop(INTERRUPTED)
    (first.folder / RECORD).write_text(text)
    Run(tmp_path / "runs" / "2026-01-01_11-00-00_abcdef")
    assert [run["name"] for run in server.runs.values()] == ["2026-01-01_10-00-00_abcdef"] * 2


def test_a_record_that_lacks_a_trackers_epochs_sends_them_all(server, tmp_path):
    first = Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef")
    first.stop(INTERRUPTED)
    record = json.loads((first.folder / RECORD).read_text())
    (first.folder / RECORD).write_text(json.dumps(record | {"epochs": {}}))
    second = Run(tmp_path / "runs" / "2026-01-01_11-00-00_abcdef")
    second.train("teacher", 2)
    second.stop(FINISHED)
    assert sent(server.only()) == [("teacher", 1), ("teacher", 2)]


def test_a_tracker_that_has_lost_the_run_gets_all_of_it_again(server, tmp_path):
    first = Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef")
    first.train("teacher", 2)
    first.stop(INTERRUPTED)
    server.forgets = True
    second = Run(tmp_path / "runs" / "2026-01-01_11-00-00_abcdef")
    second.train("teacher", 3, first=3)
    second.stop(FINISHED)
    assert [len(run["epochs"]) for run in server.runs.values()] == [2, 3]


def sweep(folder, overrides=("seed=0", "seed=1", "seed=2")):
    folder.mkdir(parents=True)
    jobs = [{"overrides": [text], "folder": f"{number:03d}"} for number, text in enumerate(overrides)]
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    return folder


def test_a_sweep_that_was_cut_off_twice_has_one_group_and_one_run_per_job(server, tmp_path):
    names = [f"2026-01-01_1{hour}-00-00_abcdef" for hour in range(3)]
    first, second, third = (sweep(tmp_path / "sweeps" / name) for name in names)
    for folder, jobs, state in ((first, 2, INTERRUPTED), (second, 1, KILLED), (third, 3, FINISHED)):
        for number in range(jobs):
            run = Run(folder / f"{number:03d}")
            run.train("teacher", 2)
            run.stop(state if number == jobs - 1 else FINISHED)
    assert [run["name"] for run in server.runs.values()] == [f"{names[0]}/{number:03d}" for number in range(3)]
    assert {run["group"] for run in server.runs.values()} == {names[0]}
    assert all(sent(run) == [("teacher", 1), ("teacher", 2)] for run in server.runs.values())


@pytest.mark.parametrize(
    ("name", "aside"), [("000", "000.killed-1"), ("000", "000-cut-off"), ("trials/000-1_2", "trials/000-1")]
)
def test_a_job_that_its_sweep_begins_again_goes_on_in_the_same_run(server, tmp_path, name, aside):
    folder = sweep(tmp_path / "sweeps" / "a")
    first = Run(folder / name.partition("_")[0])
    first.train("teacher", 2)
    first.stop(KILLED)
    if first.folder != folder / aside:
        first.folder.rename(folder / aside)
    again = Run(folder / name)
    again.train("teacher", 3, first=3)
    again.stop(FINISHED)
    assert sent(server.only()) == [("teacher", 1), ("teacher", 2), ("teacher", 3)]
    assert server.only()["name"] == f"a/{name.partition('_')[0]}" and server.only()["group"] == "a"
    Run(folder / "001")
    Run(folder / "trials" / "000-0")
    assert len(server.runs) == 3


def test_a_finished_sweep_and_one_of_other_jobs_are_not_continued(server, tmp_path):
    first = sweep(tmp_path / "sweeps" / "2026-01-01_10-00-00_abcdef", ("seed=0",))
    Run(first / "000").stop(FINISHED)
    other = sweep(tmp_path / "sweeps" / "2026-01-01_11-00-00_abcdef", ("seed=0", "seed=1"))
    Run(other / "000").stop(INTERRUPTED)
    Run(sweep(tmp_path / "sweeps" / "2026-01-01_12-00-00_abcdef", ("seed=0",)) / "000")
    assert len(server.runs) == 3


@pytest.mark.parametrize("method", ["open", "epoch", "flush", "end"])
def test_a_tracker_that_fails_warns_once_and_the_others_go_on(server, tmp_path, monkeypatch, method):
    monkeypatch.setattr(module, "INTERVAL", 0)
    server.failing = {f"wandb.{method}"}
    journal, failures = Journal(), Failures()
    for number in range(2):
        run = Run(tmp_path / "runs" / str(number), ("wandb", "mlflow"), journal, failures)
        run.train("teacher", 2)
        run.stop(FINISHED)
    (warning,) = journal.warnings
    assert warning.startswith(f"wandb failed (ConnectionError: no answer to {method}): this run goes on without it")
    assert "ConnectionError" in journal.notes[0] and "Traceback" in journal.notes[0]
    assert [len(run["epochs"]) for id, run in server.runs.items() if id.startswith("mlflow")] == [2, 2]
    assert server.opened.count("wandb") == 1


def test_a_tracker_that_failed_gets_another_try_after_a_pause(server, tmp_path, monkeypatch):
    server.failing, journal, failures = {"mlflow.open"}, Journal(), Failures()
    Run(tmp_path / "runs" / "0", journal=journal, failures=failures)
    monkeypatch.setattr(module, "PAUSE", 0)
    server.failing = set()
    Run(tmp_path / "runs" / "1", journal=journal, failures=failures).train("teacher", 2)
    assert len(server.runs) == 1 and len(journal.warnings) == 1


def test_epochs_that_a_failed_tracker_did_not_send_are_sent_by_the_run_that_continues(server, tmp_path):
    first = Run(tmp_path / "runs" / "2026-01-01_10-00-00_abcdef", ("mlflow", "wandb"))
    first.train("teacher", 2)
    first.tracking._flush()
    first.train("teacher", 4, first=3)
    server.failing = {"mlflow.flush"}
    first.stop(INTERRUPTED)
    server.failing = set()
    second = Run(tmp_path / "runs" / "2026-01-01_11-00-00_abcdef", ("mlflow", "wandb"))
    second.train("teacher", 5, first=5)
    second.stop(FINISHED)
    assert len(server.runs) == 2
    assert all(sent(run) == [("teacher", epoch) for epoch in range(1, 6)] for run in server.runs.values())


def test_a_run_without_trackers_writes_no_record(server, tmp_path):
    run = Run(tmp_path / "runs" / "a", ())
    run.train("teacher", 2)
    run.stop(FINISHED)
    assert not (run.folder / RECORD).exists() and not server.runs


def test_a_configuration_becomes_dotted_keys_with_options_under_the_names_of_groups():
    config = {"seed": 1, "published": {"a": 1}, "student": {"hidden": [4], "deep": {"x": None}}, "choices": {"student": "mlp"}}
    assert flat(config) == {"student": "mlp", "seed": 1, "student.hidden": [4], "student.deep.x": None}


def test_tags_name_learner_and_number():
    assert terms("distilled", {"epoch": 2, "ce": 0.5}) == {"distilled/ce": 0.5}
    row = {"role": "teacher", "n": 1, "test_top1": 0.9, "parameters": 7, "difference": None, "nll": float("nan"), "model": "m"}
    assert results([row]) == {"teacher/test_top1": 0.9, "teacher/parameters": 7.0}


def test_ctrl_c_while_a_tracker_is_opened_ends_those_before_it(server, tmp_path, monkeypatch):
    real = Tracking.open

    def opened(self, name, config):
        if name == "wandb":
            raise KeyboardInterrupt
        real(self, name, config)

    monkeypatch.setattr(Tracking, "open", opened)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "runs" / "a", ("mlflow", "wandb"))
    assert server.only()["state"] == INTERRUPTED
