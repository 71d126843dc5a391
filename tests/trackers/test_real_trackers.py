"""The trackers themselves, read back with their own means: event files, a database, an offline run."""

import json
import logging
import shutil
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from experiments import SHORT
from tracked_sweeps import FIRST, reported, tracked_sweep

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = (*SHORT, "teacher_epochs=3", "optimizer.lr=0.002")
TAGS = {
    f"{role}/{name}"
    for role in ("teacher", "baseline", "distilled")
    for name in ("loss", "ce", "train_accuracy", "validation_accuracy", *(["kd"] if role == "distilled" else []))
}


@pytest.fixture
def cut(monkeypatch):
    """Interrupts a run after so many epochs were sent to a class of trackers."""

    def after(owner, epochs):
        left, real = [epochs], owner.epoch

        def epoch(self, *given):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            real(self, *given)

        monkeypatch.setattr(owner, "epoch", epoch)

    return after


def check_history(values: dict[str, list[tuple[int, float]]], tmp_path) -> None:
    """Every epoch of every learner once, with the numbers of `metrics.csv`."""
    *_, metrics = sorted(tmp_path.glob("outputs/*s/**/metrics.csv"))
    names, *lines = (line.split(",") for line in metrics.read_text().splitlines())
    expected = defaultdict(list)
    for line in lines:
        row = dict(zip(names, line, strict=True))
        for name in set(names) - {"role", "model", "epoch"}:
            if row[name]:
                expected[f"{row['role']}/{name}"].append((int(row["epoch"]), float(row[name])))
    assert set(expected) == TAGS
    for tag, points in expected.items():
        np.testing.assert_allclose(values[tag], points, rtol=1e-6, err_msg=tag)


def test_tensorboard_reads_a_run_that_was_interrupted_back_as_one(here, cut, tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from kdexp.trackers.tensorboard import TensorBoard

    cut(TensorBoard, 4)
    assert here(*WORDS, "logger=[tensorboard]")[0] == 130
    code, printed = here(*WORDS, "logger=[tensorboard]")
    assert code == 0 and "tensorboard --logdir outputs/tensorboard shows it" in printed.out
    (folder,) = (tmp_path / "outputs" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    values = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    check_history(values, tmp_path)
    assert {"teacher/test_top1", "distilled/test_top1", "distilled/difference"} < set(tags["scalars"])
    assert tags["images"] == ["curves"] and events.Images("curves")[0].width > 100
    (table,) = events.Tensors("table/text_summary")
    assert b"| distilled | mlp_small |" in table.tensor_proto.string_val[0]
    (configuration,) = events.Tensors("configuration/text_summary")
    assert b"    teacher_epochs: 3" in configuration.tensor_proto.string_val[0]
    session = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in session and b"batch_size" not in session


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    level = logging.getLogger("mlflow").level
    yield lambda: __import__("mlflow").MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    logging.getLogger("mlflow").setLevel(level)


def runs_of(client, name="kdexp"):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id], order_by=["attributes.start_time ASC"])


def test_mlflow_reads_a_run_that_was_interrupted_back_as_one(here, cut, tmp_path, mlflow_client):
    from kdexp.trackers.mlflow import MLflow

    cut(MLflow, 4)
    assert here(*WORDS, "logger=[mlflow]")[0] == 130
    assert [run.info.status for run in runs_of(mlflow_client())] == ["KILLED"]
    code, printed = here(*WORDS, "logger=[mlflow]")
    assert code == 0 and "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db shows it" in printed.out
    assert "INFO" not in printed.out + printed.err
    client = mlflow_client()
    (run,) = runs_of(client)
    id = run.info.run_id
    history = {tag: [(m.step, m.value) for m in client.get_metric_history(id, tag)] for tag in TAGS}
    check_history(history, tmp_path)
    assert run.info.status == "FINISHED" and run.info.run_name == sorted((tmp_path / "outputs" / "runs").iterdir())[0].name
    assert {"dataset": "digits", "distillation": "kd", "optimizer.lr": "0.002"}.items() <= run.data.params.items()
    assert 0 < run.data.metrics["distilled/test_top1"] < 1
    assert "| distilled | mlp_small |" in run.data.tags["mlflow.note.content"]
    assert {"table.csv", "report.html", "config.yaml"} < {file.path for file in client.list_artifacts(id)}


def test_mlflow_begins_another_run_where_the_earlier_one_was_deleted(here, cut, tmp_path, mlflow_client):
    from kdexp.trackers.mlflow import MLflow

    cut(MLflow, 4)
    assert here(*WORDS, "logger=[mlflow]")[0] == 130
    (lost,) = runs_of(mlflow_client())
    mlflow_client().delete_run(lost.info.run_id)
    assert here(*WORDS, "logger=[mlflow]")[0] == 0
    client = mlflow_client()
    (run,) = runs_of(client)
    check_history({t: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, t)] for t in TAGS}, tmp_path)


def test_mlflow_has_a_run_for_each_job_of_a_sweep(here, tmp_path, mlflow_client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert here("-m", *WORDS, "logger=[mlflow]", "seed=0,1", "hydra/launcher=lockstep")[0] == 0
    *runs, own = runs_of(mlflow_client(), "mine")
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert [(run.data.tags["sweep"], run.info.run_name) for run in runs] == [
        (sweep.name, f"{sweep.name}/00{job}") for job in (0, 1)
    ]
    assert [run.data.params["seed"] for run in runs] == ["0", "1"]
    assert own.info.run_name == sweep.name and {run.data.tags["mlflow.parentRunId"] for run in runs} == {own.info.run_id}
    assert "| distilled |" in own.data.tags["mlflow.note.content"] and "seed" not in own.data.params


def add_a_job(folder, tmp_path, **more):
    """Finishes the second job of a sweep."""
    tracked_sweep(tmp_path / "other", **more)
    (tmp_path / "other" / "sweeps" / FIRST / "001").rename(folder / "001")
    shutil.copytree(tmp_path / "other" / "store", tmp_path / "outputs" / "store", dirs_exist_ok=True)


def test_mlflow_has_one_run_for_a_sweep_that_is_reported_twice(tmp_path, mlflow_client):
    folder = tracked_sweep(tmp_path / "outputs", jobs=1)  # whose job has a run that MLflow has lost
    assert reported(folder)[0] == 3
    (run,) = runs_of(mlflow_client())
    assert run.info.status == "FAILED" and "never started" in run.data.tags["mlflow.note.content"]
    add_a_job(folder, tmp_path)
    code, printed = reported(folder, begin=False)
    assert code == 0 and "mlflow has this table" in printed
    client = mlflow_client()
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED" and "never started" not in run.data.tags["mlflow.note.content"]
    assert {"sweep.csv", "report.html", "pictures"} < {file.path for file in client.list_artifacts(run.info.run_id)}
    drawn = {file.path for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert drawn == {f"pictures/{path.name}" for path in (folder / "pictures").glob("*.png")}


def test_workers_that_begin_a_database_at_once_share_it(tmp_path, mlflow_client):
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        begun = [workers.submit(begin_run, tmp_path / "outputs", f"run-{number}") for number in range(2)]
        ids = {each.result() for each in begun}
    assert {run.info.run_id for run in runs_of(mlflow_client())} == ids and len(ids) == 2


def begin_run(outputs, name):
    """Begins a run in MLflow; returns its id."""
    from kdexp.trackers.mlflow import MLflow

    return MLflow().open({"output_dir": str(outputs)}, name, outputs, group="", earlier="").id


def test_tensorboard_has_one_table_for_a_sweep_that_is_reported_twice(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tracked_sweep(tmp_path / "outputs", jobs=1, loggers=["tensorboard"])
    assert reported(folder)[0] == 3
    add_a_job(folder, tmp_path, loggers=["tensorboard"])
    code, printed = reported(folder, begin=False)
    assert code == 0 and "tensorboard has this table" in printed
    events = EventAccumulator(str(tmp_path / "outputs" / "tensorboard" / FIRST)).Reload()
    (table,) = events.Tensors("table/text_summary")
    assert table.tensor_proto.string_val[0] == (folder / "sweep.md").read_bytes()
    drawn = {path.stem for path in (folder / "pictures").glob("*.png")}
    assert set(events.Tags()["images"]) == drawn and {len(events.Images(name)) for name in drawn} == {1}


def test_a_server_that_is_not_there_is_one_warning(here, mlflow_client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, printed = here(*WORDS, "logger=[mlflow]")
    assert code == 0 and printed.out.count("warning: mlflow failed (MlflowException") == 1


def test_wandb_writes_an_offline_run(here, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, printed = here(*WORDS, "logger=[wandb]")
    assert code == 0 and "wandb sync outputs/wandb/offline-run-* sends it" in printed.out
    assert "warning" not in printed.out
    (file,) = (tmp_path / "outputs" / "wandb").glob("offline-run-*/*.wandb")
    check_history(wandb_history(file), tmp_path)


def test_wandb_goes_on_with_the_run_of_a_sweep(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tracked_sweep(tmp_path / "outputs", jobs=1, loggers=["wandb"])
    assert reported(folder)[0] == 3
    add_a_job(folder, tmp_path, loggers=["wandb"])
    assert "wandb has this table" in reported(folder, begin=False)[1]
    first, second = sorted((tmp_path / "outputs" / "wandb").glob("offline-run-*"))
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]
    assert (second / "files" / "sweep.md").read_text() == (folder / "sweep.md").read_text()
    assert {path.name for path in (second / "files" / "pictures").iterdir()} == {
        path.name for path in (folder / "pictures").glob("*.png")
    }
    (table,) = (second / "files" / "media" / "table").glob("table_*.json")
    found = json.loads(table.read_text())
    assert [row[found["columns"].index("n")] for row in found["data"]] == [1, 2, 2]


def wandb_history(file):
    """The epochs in the file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    values = defaultdict(list)
    for content in records(file.read_bytes()):
        (record := Record()).ParseFromString(content)
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for tag in TAGS & row.keys():
            values[tag].append((row[f"{tag.partition('/')[0]}/epoch"], row[tag]))
    return values


def records(log: bytes, block=2**15, header=7, last=(1, 4)):
    """The records of a log in LevelDB's format, after wandb's own seven bytes: chunks with checksum, length and type."""
    place, content = header, b""
    while place + header <= len(log):
        if block - place % block < header:  # the rest of a block is padding
            place += block - place % block
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        content += log[place + header : place + header + length]
        place += header + length
        if kind in last:
            yield content
            content = b""
