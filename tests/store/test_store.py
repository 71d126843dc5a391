"""The store: learners are found again, trained once, never incomplete, and not used if damaged."""

import json
from pathlib import Path

import pytest
import torch
from crafted import as_run, craft, result_of, rewrite, spec_of
from experiments import said
from processes import command

import kdexp
from kdexp.distillation.vid import VariationalInformation
from kdexp.errors import CorruptEntry
from kdexp.experiment.obtain import obtain
from kdexp.files import file_digest
from kdexp.store.learners import LearnerStore
from kdexp.store.spec import FORMAT, _files, key_of
from kdexp.store.stored import read_entry


@pytest.fixture
def store(tmp_path):
    said_so = []
    made = LearnerStore(tmp_path / "store", say=said_so.append)
    made.heard = said_so
    return made


SPEC = spec_of()
KEY = key_of(SPEC)


def save(store, key=KEY, value=1.0):
    weights = {"model.weight": torch.full((2, 2), value)}
    return store.save(key, result_of(SPEC, trained_at="now"), {"last": weights}, {"optimizer": {}})


def test_what_is_saved_is_found(store):
    save(store, value=3.0)
    found = store.find(KEY)
    assert found.result["trained_at"] == "now"
    assert torch.equal(found.tensors("last")["model.weight"], torch.full((2, 2), 3.0))
    assert store.find("4567") is None


@pytest.mark.parametrize("measures", [{"top5": None}, {"balanced_accuracy": None, "class_accuracies": None, "majority": None}])
def test_a_learner_whose_classifier_is_untrained_has_no_measures_and_is_found(tmp_path, measures):
    learner = craft(tmp_path)
    rewrite(learner, test={"last": dict.fromkeys(("top1", "nll", "ece")) | measures})
    assert LearnerStore(tmp_path).find(learner.name) is not None


def test_saving_again_replaces(store):
    save(store, value=1.0)
    save(store, value=2.0)
    assert store.find(KEY).tensors("last")["model.weight"][0, 0] == 2.0
    assert [path.name for path in store.root.iterdir()] == [KEY]


def test_a_draft_that_a_killed_process_left_is_not_taken_for_a_learner(store):
    saved = save(store)
    saved.path.rename(store.root / f"{KEY}.draft-999")
    assert store.find(KEY) is None


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_file_is_reported_and_the_learner_counts_as_missing(store, damage):
    weights = save(store).path / "last.safetensors"
    content = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"x")
    assert store.find(KEY) is None
    assert str(weights) in store.heard[0] and "trained again" in store.heard[0]


def test_an_unreadable_result_is_corrupt(store):
    saved = save(store)
    (saved.path / "result.json").write_text("{")
    with pytest.raises(CorruptEntry, match="result.json is damaged: Expecting property name"):
        read_entry(saved.path)


@pytest.mark.slow
def test_a_second_run_reuses_everything_and_says_so(make_experiment):
    first = obtain(make_experiment())
    again = make_experiment()
    entries = obtain(again)
    assert [entry.reused for entry in entries] == [True, True, True]
    assert [e.stored.key for e in entries] == [e.stored.key for e in first]
    assert said(again).count("force=true trains again") == 3


@pytest.mark.slow
def test_force_trains_again(make_experiment):
    first = obtain(make_experiment())
    again = obtain(make_experiment("force=true"))
    assert not any(entry.reused for entry in again)
    assert [e.stored.result["history"] for e in again] == [e.stored.result["history"] for e in first]


@pytest.mark.slow
def test_a_damaged_learner_is_trained_again(make_experiment):
    entry = obtain(make_experiment())[1]
    (entry.stored.path / "last.safetensors").write_bytes(b"")
    again = make_experiment()
    entries = obtain(again)
    assert [entry.reused for entry in entries] == [True, False, True]
    assert "missing or damaged" in said(again)


SAME_KEY = ["device=cpu", "output_dir=elsewhere", "num_threads=1", "latency=true", "memory=ram", "workers=3"]
OTHER_KEY = ["seed=1", "epochs=3", "batch_size=16", "precision=bf16", "fast=true", "optimizer.lr=0.1", "schedule=cosine"]
OTHER_KEY += ["student.hidden=[8]", "dataset.student_fraction=0.5", "dataset.split_seed=1", "dataset.val_fraction=0.2"]
OTHER_KEY += ["dataset.flip=true", "limit_batches=1", "class_weights=balanced"]


@pytest.mark.parametrize("override", SAME_KEY)
def test_where_it_runs_is_not_part_of_the_key(make_experiment, override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_experiment(override).spec("baseline").key == make_experiment().spec("baseline").key


def test_a_number_has_one_key_however_it_is_written(make_experiment):
    keys = {make_experiment(f"distillation.temperature={written}").spec("distilled").key for written in ("4", "4.0", "4e0")}
    assert len(keys) == 1


@pytest.mark.parametrize("override", OTHER_KEY)
def test_everything_that_decides_the_weights_is_part_of_the_key(make_experiment, override):
    assert make_experiment(override).spec("baseline").key != make_experiment().spec("baseline").key


def test_the_method_and_the_teacher_are_part_of_the_distilled_key_alone(make_experiment):
    base = make_experiment()
    for override in ("distillation.temperature=2", "teacher_seed=1", "teacher.hidden=[32]", "teacher_optimizer.lr=0.1"):
        other = make_experiment(override)
        assert other.spec("distilled").key != base.spec("distilled").key
        assert other.spec("baseline").key == base.spec("baseline").key


def test_students_seeds_share_the_teacher(make_experiment):
    assert make_experiment("seed=5").spec("teacher").key == make_experiment().spec("teacher").key


OWN_LOSS = """
from kdexp.distillation.base import Distiller
class Mine(Distiller):
    def transfer(self, batch, student, teacher, progress):
        return {"mine": FACTOR * (student.logits - teacher.logits).abs().mean()}
"""


def test_a_result_of_an_older_loss_is_not_used_for_an_edited_one(make_experiment, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "own_loss.py"
    source.write_text(OWN_LOSS.replace("FACTOR", "1"))
    first = make_experiment("distillation._target_=own_loss.Mine").spec("distilled").key
    source.write_text(OWN_LOSS.replace("FACTOR", "2"))
    assert make_experiment("distillation._target_=own_loss.Mine").spec("distilled").key != first


@pytest.mark.slow
def test_two_processes_train_a_learner_once(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    both = [command(folder, [f"output_dir={tmp_path}", "epochs=3", "teacher_epochs=3", "device=cpu"]) for folder in folders]
    for process in both:
        process.join(timeout=120)
    said_by = [(folder / "printed.txt").read_text() for folder in folders]
    assert [process.exitcode for process in both] == [0, 0], said_by
    for role in ("training teacher", "training baseline"):
        assert sum(role in text for text in said_by) == 1, said_by
    assert len([path for path in (tmp_path / "store" / "learner").iterdir() if path.is_dir()]) == 3
    runs = list((tmp_path / "runs").iterdir())
    tables = [json.loads(Path(run, "table.json").read_text()) for run in runs]
    assert len(runs) == 2 and tables[0]["rows"] == tables[1]["rows"]


def test_a_learner_under_another_key_is_not_used(store):
    save(store).path.rename(store.root / "0123456789abcdef")
    assert store.find("0123456789abcdef") is None
    assert "has a name that is not its key" in store.heard[0]


def test_an_edited_neighbour_that_a_method_imports_is_another_learner(tmp_path, monkeypatch, make_experiment):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_distance.py").write_text("FACTOR = 1.0\n")
    text = "import own_distance\n" + OWN_LOSS.replace("FACTOR", "own_distance.FACTOR")
    (tmp_path / "own_neighbourly.py").write_text(text)
    words = ("distillation._target_=own_neighbourly.Mine",)
    before = make_experiment(*words).spec("distilled")
    first, sources = before.key, set(before.identity()["sources"])
    assert sources >= {"own_neighbourly", "own_distance", "kdexp.distillation.base.distiller"}
    assert not any(name.startswith("torch") for name in sources)
    (tmp_path / "own_distance.py").write_text("FACTOR = 2.00\n")
    assert make_experiment(*words).spec("distilled").key != first


def test_modules_that_methods_share_are_hashed():
    assert {name for name, _ in _files(VariationalInformation)} >= {
        "kdexp.distillation.vid",
        "kdexp.distillation.maps",
        "kdexp.distillation.base.features",
    }


@pytest.mark.parametrize(
    ("edited", "another"),
    [
        ("distillation/base/distiller.py", True),
        ("training/optimization.py", True),
        ("models/mlp.py", True),
        ("configuration/arguments.py", False),
        ("errors.py", False),
    ],
)
def test_only_sources_that_decide_weights_make_another_learner(edited, another, make_experiment, monkeypatch):
    package = Path(kdexp.__file__).parent
    before = make_experiment().spec("distilled").key
    monkeypatch.setattr("kdexp.store.spec.file_digest", lambda path: file_digest(path) + "x" * (path == package / edited))
    assert (make_experiment().spec("distilled").key != before) is another


def test_a_run_of_an_older_format_is_still_loaded(tmp_path):
    key = craft(tmp_path / "store", format=FORMAT - 1).name
    student = kdexp.load(as_run(tmp_path, ("distilled", key)))
    assert student(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)
