"""Runs and sweeps with a tracker: what it gets, and that nothing else depends on it."""

import json

import pytest
from experiments import SHORT
from fake_tracker import FakeServer, sent

from kdexp.report.published import departures
from kdexp.validation import settings

LEARNERS = ("teacher", "baseline", "distilled")
TRACKED = ("logger=[mlflow]", *SHORT)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(settings, "is_installed", lambda name: True)
    return FakeServer(monkeypatch)


def stored(tmp_path) -> dict[str, bytes]:
    store = tmp_path / "outputs" / "store" / "learner"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*.safetensors")}


def epochs(number, learners=LEARNERS):
    return sorted((learner, epoch + 1) for learner in learners for epoch in range(number))


@pytest.mark.slow
def test_a_run_sends_its_epochs_table_and_files_and_stored_learners_replay_theirs(server, here, tmp_path):
    assert here(*TRACKED)[0] == 0 and here(*TRACKED)[0] == 0
    first, second = server.runs.values()
    assert sorted(sent(first)) == sorted(sent(second)) == epochs(2)
    assert {frozenset(row) for _, _, row in first["epochs"]} == {
        frozenset(("epoch", "loss", "ce", *more, "train_accuracy", "validation_accuracy")) for more in ((), ("kd",))
    }
    assert sorted(map(str, first["epochs"])) == sorted(map(str, second["epochs"]))
    assert [row["role"] for row in first["rows"]] == list(LEARNERS) and first["rows"][0]["test_top1"] > 0
    assert {"config.yaml", "table.csv", "table.md", "metrics.csv", "report.html"} < set(first["files"])
    assert first["config"]["choices"]["dataset"] == "digits" and first["group"] == "" and first["state"] == "finished"


@pytest.mark.slow
def test_a_single_tracker_needs_no_list(server, here, tmp_path):
    assert here("logger=mlflow", *SHORT)[0] == 0 and sorted(sent(server.only())) == epochs(2)


@pytest.mark.slow
def test_trackers_change_neither_keys_nor_weights(server, here, tmp_path):
    assert here(*SHORT)[0] == 0
    plain = stored(tmp_path)
    assert here(*TRACKED)[0] == 0 and stored(tmp_path) == plain
    assert here(*TRACKED, "force=true")[0] == 0 and stored(tmp_path) == plain


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_the_same_run_of_the_tracker(server, here, tmp_path):
    server.interrupt_after = 5  # in the students' second epoch
    assert here(*TRACKED, "epochs=4")[0] == 130
    assert server.only()["state"] == "interrupted"
    assert here(*TRACKED, "epochs=4")[0] == 0
    assert sorted(sent(server.only())) == sorted([*epochs(2, ["teacher"]), *epochs(4, ["baseline", "distilled"])])
    assert server.only()["state"] == "finished" and server.only()["times_opened"] == 2
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/runs/*/trackers.json"))]
    assert records[0]["ids"] == records[1]["ids"] == {"mlflow": "mlflow-0"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "lockstep"])
def test_each_job_of_a_sweep_is_a_run_of_its_own_in_one_group(server, here, tmp_path, launcher):
    assert here("-m", *TRACKED, "seed=0,1", f"hydra/launcher={launcher}")[0] == 0
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    *jobs, own = server.runs.values()
    assert [run["name"] for run in (*jobs, own)] == [f"{folder.name}/000", f"{folder.name}/001", folder.name]
    assert {run["group"] for run in server.runs.values()} == {folder.name}
    assert all(sorted(sent(run)) == epochs(2) and run["state"] == "finished" for run in jobs)
    assert own["members"] == [*server.runs][:2] and own["state"] == "finished" and "report.html" in own["files"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["open", "epoch", "end"])
def test_a_run_whose_tracker_fails_warns_once_and_succeeds(server, here, tmp_path, method):
    server.failing = {f"mlflow.{method}"}
    code, printed = here(*TRACKED)
    assert code == 0 and printed.out.count("warning: mlflow failed (ConnectionError") == 1
    assert "Traceback" not in printed.out + printed.err
    (log,) = tmp_path.glob("outputs/runs/*/log.txt")
    assert "Traceback" in log.read_text()


@pytest.mark.slow
def test_a_diverged_learner_is_a_failed_run_with_the_epochs_that_it_had(server, here, tmp_path):
    assert here(*TRACKED, "optimizer.lr=1e30", "optimizer=sgd", "teacher_optimizer.lr=0.01")[0] == 3
    assert server.only()["state"] == "failed" and ("baseline", 1) in sent(server.only())


REFUSED = [
    ("logger=[tensorbord]", "each entry must be one of tensorboard, mlflow, wandb"),
    ("logger=tensorbord", "logger='tensorbord': must be one of tensorboard, mlflow, wandb"),
    ("logger=true", "logger=True: must be one of tensorboard, mlflow, wandb"),
    ("logger=mlflow,wandb", "a list is written 'logger=[mlflow,wandb]'"),
    ("logger=[mlflow,mlflow]", "logger=mlflow: given more than once; keep one"),
    ("trackers=[mlflow]", "did you mean logger?"),
]


@pytest.mark.parametrize(("word", "sentence"), REFUSED)
def test_mistakes_are_refused_with_what_would_be_right(server, refused, word, sentence):
    assert sentence in refused(word)


def test_trackers_are_not_swept(server, refused):
    assert "logger=mlflow,wandb: all jobs have the same trackers" in refused("-m", "logger=mlflow,wandb")


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(refused, monkeypatch):
    monkeypatch.setattr(settings, "is_installed", lambda name: name != "wandb")
    printed = refused("logger=[mlflow,wandb]")
    assert 'logger=wandb: the package wandb is not installed; pip install "kdexp[wandb]" adds it' in printed
    assert "logger=mlflow" not in printed


def test_a_published_experiment_with_a_tracker_is_still_the_published_one():
    assert not list(departures(["logger=[mlflow]"])) and list(departures(["optimizer.lr=1"]))


def test_a_folder_named_like_a_package_is_no_package(tmp_path, monkeypatch):
    from kdexp.trackers.names import is_installed

    (tmp_path / "a_tracker_of_no_one").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("a_tracker_of_no_one") and not is_installed("another_one") and is_installed("json")
