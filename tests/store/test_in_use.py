"""Several processes on one store: entries in use stay, and remains of killed processes are reported and removed."""

import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Timer

import pytest
import torch
from experiments import COMPOSER, SHORT, compose_command, said
from rich.console import Console

from kdexp.commands import multirun
from kdexp.commands import store as inventory
from kdexp.commands.command import PlannedJob
from kdexp.commands.run import run
from kdexp.configuration.compose import as_yaml
from kdexp.deployment.export import draft
from kdexp.errors import LearnerLost
from kdexp.experiment.obtain import obtain, train_group
from kdexp.files import abandoned, draft_of, remove_drafts, write_whole
from kdexp.processes import Process
from kdexp.store import items, pruning
from kdexp.store.in_use import Claim, settle_killed, user_of
from kdexp.store.learners import LearnerStore
from kdexp.store.locks import fcntl, hold, holder
from kdexp.store.outputs import OutputStore
from kdexp.store.run_state import settle, write_state
from kdexp.store.spec import key_of
from kdexp.sweep import read

KEY = "0123456789abcdef"
HERE = Process.this().host
HOLD = "from pathlib import Path\nfrom contextlib import ExitStack\nfrom kdexp.store.locks import hold\nstack = ExitStack()\n"
GONE = 4_000_000
"""A process number that no process has: larger than Linux allows."""


@contextmanager
def another(code):
    """A process that runs some lines and then waits until it is killed at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()"], **pipes)
    try:
        assert process.stdout.readline() == "ready\n"
        yield f"process {process.pid} on {HERE}"
    finally:
        process.kill()
        process.communicate()


def claims(root, keys, run=None):
    """Lines that need those keys of a store, for `another`."""
    first = "from pathlib import Path\nfrom kdexp.store.in_use import Claim\n"
    return f"{first}claim = Claim(Path({str(root)!r}))\nclaim.add({keys!r}, {run})"


@pytest.fixture
def root(tmp_path):
    """A store of one learner, of which one more is unfinished."""
    store = LearnerStore(tmp_path / "store", say=print)
    store.save(key_of({}), {"trained_at": "now", "spec": {}}, {"last": {"w": torch.zeros(2)}}, {})
    store.keep_progress(KEY, {"history": []})
    return tmp_path / "store"


@pytest.fixture
def kdexp_store(root, call_main):
    return lambda *words: call_main(inventory.main, "kdexp-store", *words, "--store", root, columns=200)


def there(root):
    return sorted(path.name for path in root.rglob("*") if path.parent.name in ("learner", "outputs", "summaries"))


@pytest.mark.parametrize("key", [KEY, key_of({})], ids=["progress", "learner"])
def test_prune_leaves_what_a_living_process_needs(root, kdexp_store, key):
    before = there(root)
    with another(claims(root, [key])) as process:
        for words in (["prune", "--all"], ["prune", "--all", key[:5]]):
            code, shown = kdexp_store(*words)
            assert code == 0 and f"kept: in use by {process}" in shown and "--yes removes 1 of these 2" in shown
        code, shown = kdexp_store("prune", "--all", "--yes")
        assert code == 0 and f"kept: in use by {process}" in shown and "removed 1 of these 2" in shown
        assert [name for name in before if name.startswith(key)] == [name for name in there(root) if name[0] != "."]
    assert "removed these 1" in kdexp_store("prune", "--all", "--yes")[1]
    assert there(root) == [] and [path.name for path in (root / "in_use").iterdir()] == ["registry.lock"]


def test_outputs_are_claimed_before_they_are_looked_for(root):
    claim = Claim(root)
    outputs = OutputStore(root, {"teacher": KEY}, {"model": "m", "dataset": "d"}, print, claim.add)
    assert outputs.read("", (4, 3)) is None
    (key,) = json.loads(claim.path.read_text())["keys"]
    assert user_of(root, key) == str(Process.this())
    claim.release()
    assert outputs.write("", torch.zeros(4, 3)) and user_of(root, key) == str(Process.this())
    claim.release()


def test_a_run_claims_all_that_it_needs_and_lets_go_of_it(make_experiment):
    experiment = make_experiment()
    experiment.make_ready()
    keys = [experiment.spec(role).key for role in experiment.needed]
    root = experiment.store.root.parent
    assert len(keys) == 3 and {user_of(root, key) for key in keys} == {str(Process.this())}
    experiment.session.close()
    assert {user_of(root, key) for key in keys} == {""}


@pytest.mark.slow
def test_what_is_removed_just_before_it_is_claimed_is_trained(make_experiment, monkeypatch):
    first = make_experiment()
    obtain(first)
    add = Claim.add

    def too_late(self, *words, **more):
        shutil.rmtree(first.store.root / first.spec("teacher").key)
        return add(self, *words, **more)

    monkeypatch.setattr(Claim, "add", too_late)
    again = make_experiment()
    again.make_ready()
    monkeypatch.undo()
    assert len(again.session.starts) == 1, "it was looked at as what is trained"
    with closing(again.session):
        assert [entry.reused for entry in obtain(again)] == [False, True, True]


@pytest.mark.slow
def test_the_first_job_of_a_sweep_keeps_what_the_last_one_needs(tmp_path, monkeypatch):
    configs = [compose_command([f"output_dir={tmp_path}", *SHORT, f"seed={seed}"]) for seed in (0, 1)]
    jobs = [PlannedJob(number, [f"seed={number}"], config) for number, config in enumerate(configs)]
    seen = []

    def look(job, folder, journal, session):
        (claim,) = session.claims.values()
        seen.append(set(json.loads(claim.path.read_text())["keys"]))
        return "done"

    monkeypatch.setattr(multirun, "run_job", look)
    multirun.run_jobs(jobs, [], None)
    assert len(seen[0]) == 5 and seen[0] == seen[1]
    assert not list((tmp_path / "store" / "in_use").glob("*.json"))


def test_a_store_without_claims_says_so_unless_nothing_can_be_removed(make_experiment, monkeypatch):
    def refuse(number):
        def add(*_, **_more):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Claim, "add", add)

    for number, warned in ((errno.EROFS, False), (errno.ENOSPC, True)):
        refuse(number)
        experiment = make_experiment()
        experiment.make_ready()
        assert ("No space left on device" in said(experiment)) is warned


def test_a_learner_that_vanishes_in_a_run_is_named(make_experiment):
    experiment = make_experiment()
    (teacher,) = obtain(experiment, ["teacher"])
    shutil.rmtree(teacher.stored.path)
    with pytest.raises(LearnerLost, match="was removed or damaged while this run needed it"):
        train_group([experiment.entry("distilled")], experiment)


def test_unreadable_progress_is_reported_and_counts_as_missing(root, monkeypatch, capsys):
    def gone(self):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "read_bytes", gone)
    assert LearnerStore(root.parent / "store", say=print).progress(KEY) is None
    assert "can't be read (No such file or directory); its epochs will be trained again" in capsys.readouterr().out


def test_two_prunes_at_once_remove_everything_once(root, kdexp_store, monkeypatch):
    keep = pruning.reason_to_keep

    def slower(root, path):
        shutil.rmtree(path) if path.is_dir() else path.unlink()  # by the other one
        return keep(root, path)

    monkeypatch.setattr(pruning, "reason_to_keep", slower)
    assert kdexp_store("prune", "--all", "--yes")[0] == 0
    assert there(root) == []


def test_entries_that_vanish_while_a_store_is_listed_are_left_out(root, kdexp_store, monkeypatch):
    read = items._read

    def vanishing(path, verified):
        shutil.rmtree(path)
        return read(path, verified)

    monkeypatch.setattr(items, "_read", vanishing)
    code, shown = kdexp_store("list")
    assert code == 0 and "1 in" in shown and "unfinished" in shown


def test_a_store_that_is_a_file(tmp_path, kdexp_store, root):
    shutil.rmtree(root)
    root.write_text("mine")
    code, shown = kdexp_store("prune", "--all", "--yes")
    assert code == 2 and f"'{root}' is a file, not the folder of a store; choose one with --store FOLDER" in shown


def test_without_locks_the_process_named_in_a_file_is_looked_up(tmp_path, monkeypatch):
    def no_locks(_file, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    claim = Claim(tmp_path)
    claim.add([KEY])
    assert user_of(tmp_path, KEY) == str(Process.this())
    claim.path.with_suffix(".lock").write_text(f"process {GONE} on {HERE}")
    assert user_of(tmp_path, KEY) == ""
    claim.path.with_suffix(".lock").write_text("process 1 on elsewhere")
    assert user_of(tmp_path, KEY) == "process 1 on elsewhere"
    claim.release()
    assert user_of(tmp_path, KEY) == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"keys": 3}', '{"keys": [1], "runs": {"a": 1}}', "\0"])
def test_a_damaged_claim_protects_nothing(tmp_path, content):
    claim = Claim(tmp_path)
    claim.add([KEY])
    claim.path.write_text(content)
    assert user_of(tmp_path, KEY) == ""
    claim.release()
    claim.path.write_text(content)
    settle_killed(tmp_path)
    assert [path.name for path in (tmp_path / "in_use").iterdir()] == ["registry.lock"]


def test_a_missing_file_has_no_holder(tmp_path):
    assert holder(tmp_path / "nowhere.lock") == ""


@pytest.mark.parametrize(
    ("mark", "days", "left"),
    [
        (f"12345678-{os.getpid()}-{HERE}", 9, False),
        (f"12345678-{GONE}-{HERE}", 0, True),
        (f"12345678-{GONE}-{HERE}.onnx", 0, True),
        ("12345678-1-elsewhere", 0, False),
        ("12345678-1-elsewhere", 2, True),
        ("2", 9, False),
        ("of my thesis", 9, False),
    ],
    ids=["running", "gone", "gone with suffix", "other machine today", "other machine", "a number", "words"],
)
def test_a_draft_is_abandoned_when_its_writer_is_gone(tmp_path, mark, days, left):
    path = tmp_path / f".student.draft-{mark}"
    path.write_text("half")
    os.utime(path, (time.time() - days * 86_400,) * 2)
    assert abandoned(path) is left
    remove_drafts(tmp_path)
    assert path.exists() is not left


def test_a_name_of_our_own_is_recognised():
    assert not abandoned(draft_of(Path("x.progress")))
    assert Process.read(str(Process.this())) == Process.this() and Process.read("nobody") is None
    assert "." not in HERE and socket.gethostname().startswith(HERE)


def left_by(number, path):
    """A draft next to a path by the process with that number."""
    return path.with_name(f"{path.name}.draft-12345678-{number}-{HERE}")


def test_prune_removes_only_drafts_of_dead_processes(root, kdexp_store):
    places = [root / "learner" / KEY, root / "outputs" / KEY, root / "summaries" / f"{KEY}.json"]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        for number in (os.getpid(), GONE):
            left_by(number, place).write_text("half")
    code, shown = kdexp_store("prune", "--damaged", "--yes")
    assert code == 0 and shown.count(f"kept: {Process.this()} is writing it") == 3
    assert all(left_by(os.getpid(), place).exists() and not left_by(GONE, place).exists() for place in places)


def test_an_export_removes_what_a_killed_one_left(tmp_path):
    dead, alive = (tmp_path / f".student.draft-12345678-{number}-{HERE}.onnx" for number in (GONE, os.getpid()))
    for path in (dead, alive):
        path.write_text("half")
    with draft(tmp_path / "teacher.onnx") as path:
        path.write_text("whole")
        assert not abandoned(path) and path.suffix == ".onnx"
    assert list(tmp_path.iterdir()) == [alive]


def killed_run(folder):
    """The folder of a run whose process was killed while it wrote."""
    folder.mkdir(parents=True)
    write_whole(folder / "config.yaml", as_yaml(COMPOSER.compose([])))
    write_state(folder, "running")
    (folder / "run.lock").write_text(f"process {GONE} on {HERE}")
    left_by(GONE, folder / "table.csv").write_text("half")
    return folder


def test_a_killed_run_is_reported_as_killed(tmp_path):
    folder = killed_run(tmp_path / "runs" / "a")
    (job,) = read([tmp_path]).jobs
    assert (job.state, job.reason) == ("killed", "the same command will resume it")
    settle(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "status.json"]
    assert json.loads((folder / "status.json").read_text())["state"] == "killed"
    assert read([tmp_path]).jobs[0].state == "killed"


def test_a_running_run_is_reported_as_running_and_left_alone(tmp_path):
    folder = killed_run(tmp_path / "runs" / "a")
    with another(f"{HOLD}hold(Path({str(folder / 'run.lock')!r}), stack)") as process:
        (job,) = read([tmp_path]).jobs
        assert (job.state, job.reason) == ("still running", process)
        settle(folder)
        assert json.loads((folder / "status.json").read_text())["state"] == "running"
    assert read([tmp_path]).jobs[0].state == "killed"


def test_a_job_that_is_still_waiting_is_not_reported_as_dropped(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    sweep.mkdir(parents=True)
    jobs = [{"number": 0, "overrides": ["seed=0"], "folder": "000"}]
    (sweep / "jobs.json").write_text(json.dumps({"command": [], "jobs": jobs}))
    assert read([sweep]).jobs[0].reason == "the sweep ended before this job started"
    with another(f"{HOLD}hold(Path({str(sweep / 'run.lock')!r}), stack)") as process:
        assert read([sweep]).jobs[0].reason == f"{process} has not started it yet"
        (sweep / "000").mkdir()
        assert read([sweep]).jobs[0].state == "still running"


@pytest.mark.parametrize("how", ["the next run", "prune"])
def test_the_next_command_settles_a_killed_run(root, tmp_path, kdexp_store, how):
    folder = killed_run(tmp_path / "runs" / "a")
    with another(claims(root, [KEY], f"Path({str(folder)!r})")):
        settle_killed(root)
        assert json.loads((folder / "status.json").read_text())["state"] == "running", "its process lives"
    if how == "prune":
        kdexp_store("prune", "--outputs", "--yes")
    else:
        Claim(root).add(["anything"])
    assert json.loads((folder / "status.json").read_text())["state"] == "killed"
    assert not (folder / "run.lock").exists() and user_of(root, KEY) == ""


@pytest.mark.slow
def test_a_finished_run_leaves_no_lock(tmp_path):
    config = compose_command([f"output_dir={tmp_path}", *SHORT, "~teacher", "distillation=none"])
    assert run(config, (), Console(file=io.StringIO()))
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "run.lock").exists() and json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert [path.name for path in (tmp_path / "store" / "in_use").iterdir()] == ["registry.lock"]


@pytest.fixture
def changes(monkeypatch):
    """Names of flushed and moved files, in order."""
    happened, named, sync = [], {}, os.fsync
    opened = os.open

    def open_(path, *words, **more):
        number = opened(path, *words, **more)
        named[number] = Path(path).name.partition(".draft-")[0]
        return number

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", lambda number: (happened.append(f"sync {named[number]}"), sync(number)))
    for name in ("rename", "replace"):
        real = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda self, to, real=real: (happened.append(f"move {to.name}"), real(self, to))[1])
    return happened


def test_a_learner_is_flushed_before_its_move_and_the_move_before_it_counts(tmp_path, changes):
    store = LearnerStore(tmp_path, say=print)
    store.save(KEY, {"spec": {}}, {"last": {}, "logits": {}}, {})
    files = {"last.safetensors", "logits.safetensors", "training.pt", "result.json"}
    assert set(changes[:4]) == {f"sync {name}" for name in files}
    assert changes[4:] == [f"sync {KEY}", f"move {KEY}", "sync learner"]


def test_a_table_is_flushed_and_the_log_of_epochs_is_not(tmp_path, changes):
    write_whole(tmp_path / "table.json", "{}", lasting=True)
    assert changes == ["sync table.json", "move table.json", f"sync {tmp_path.name}"]
    changes.clear()
    write_whole(tmp_path / "table.md", "")
    assert changes == ["move table.md"]


def test_progress_is_flushed(tmp_path, changes):
    store = LearnerStore(tmp_path, say=print)
    store.require_writable()
    changes.clear()
    store.keep_progress(KEY, {})
    assert changes == [f"sync {KEY}.progress", f"move {KEY}.progress", "sync learner"]


@pytest.mark.parametrize(("number", "told"), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, True)])
def test_a_failing_flush_is_reported(tmp_path, monkeypatch, number, told):
    def fails(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    if not told:
        write_whole(tmp_path / "file", "whole", lasting=True)
        return
    with pytest.raises(OSError, match=os.strerror(number)):
        write_whole(tmp_path / "file", "whole", lasting=True)
    assert list(tmp_path.iterdir()) == []


def test_who_only_looks_whether_a_file_is_locked_takes_it_from_nobody(tmp_path):
    path = tmp_path / "worker.lock"
    path.touch()
    with path.open("rb") as looking, ExitStack() as until:
        fcntl.flock(looking, fcntl.LOCK_SH)
        Timer(0.02, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        hold(path, until)
        assert holder(path) == str(Process.this())


def test_the_lock_of_a_process_that_was_killed_before_its_first_claim_is_removed(tmp_path):
    folder = tmp_path / "in_use"
    with ExitStack() as until:
        folder.mkdir()
        hold(folder / f"{'a' * 32}.lock", until)
        (folder / f"{'b' * 32}.lock").write_text(f"process {GONE} on {HERE}")
        settle_killed(tmp_path)
        assert [path.stem for path in folder.iterdir()] == ["a" * 32]
