"""Killed runs: a listing names them with the command that resumes them, and prune tidies what they left."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from crafted import KEY, craft

from kdexp.commands import store as inventory
from kdexp.files import write_whole
from kdexp.processes import Process
from kdexp.store.in_use import Claim, killed_runs, settle_killed
from kdexp.store.run_state import write_state

GONE = 4_000_000
"""A process number that no process has: larger than Linux allows."""


@pytest.fixture
def kdexp_store(tmp_path, call_main):
    (tmp_path / "store" / "learner").mkdir(parents=True)
    return lambda *words: call_main(inventory.main, "kdexp-store", *words, "--store", tmp_path / "store", columns=80)


def folder_of(path, *, sweep=False):
    """A folder as the process of a run or sweep leaves it when it is killed."""
    path.mkdir(parents=True)
    (path / "run.lock").write_text(f"process {GONE} on {Process.this().host}")
    if sweep:
        write_whole(path / "jobs.json", json.dumps({"command": ["-m", "seed=0,1"], "jobs": []}))
    else:
        write_whole(path / "command.txt", f"kdexp seed=3 {path.name}=1 {'x' * 80}\n")
        write_state(path, "running")
    return path


def claim_of(root, keys, *folders):
    """The claim of a killed process: its lock is not held."""
    claim = Claim(root)
    for folder in folders:
        claim.add(keys, folder)
    content = claim.path.read_text()
    claim.release()
    claim.path.write_text(content)
    return claim.path


def test_a_killed_run_is_named_with_its_command_until_it_is_resumed(tmp_path, kdexp_store):
    root, run = tmp_path / "store", folder_of(tmp_path / "runs" / "a")
    claim_of(root, [KEY], run)
    before = kdexp_store("list")
    command = (run / "command.txt").read_text().strip()
    assert before[0] == 0 and "1 run was killed; its command resumes it" in before[1]
    assert f"{run}\n    {command}\n" in before[1], "not wrapped"
    assert (run / "run.lock").exists(), "a listing changes nothing"
    settle_killed(root)
    assert not (run / "run.lock").exists() and killed_runs(root) == [run]
    craft(root)
    assert killed_runs(root) == [], "its learner is there"
    settle_killed(root)
    assert [path.name for path in (root / "in_use").iterdir()] == ["registry.lock"]


def test_outputs_that_a_run_looked_for_need_not_be_there(tmp_path):
    root, run = tmp_path / "store", folder_of(tmp_path / "runs" / "a")
    claim = Claim(root)
    claim.add([KEY], run)
    claim.add(["0" * 16], learners=False)
    content = claim.path.read_text()
    claim.release()
    claim.path.write_text(content)
    assert killed_runs(root) == [run]
    craft(root)
    assert killed_runs(root) == []


def test_a_killed_sweep_is_named_once(tmp_path, kdexp_store):
    sweep = folder_of(tmp_path / "sweeps" / "s", sweep=True)
    done = tmp_path / "sweeps" / "s" / "000"
    done.mkdir()
    write_state(done, "finished")
    claim_of(tmp_path / "store", [KEY], sweep, done, folder_of(sweep / "001"))
    for _ in range(2):
        assert killed_runs(tmp_path / "store") == [sweep]
        assert "    kdexp -m seed=0,1\n" in kdexp_store("list")[1]
        settle_killed(tmp_path / "store")


@pytest.mark.parametrize("how", ["folder removed", "forgotten"])
def test_a_killed_run_can_be_given_up(tmp_path, kdexp_store, how):
    run = folder_of(tmp_path / "runs" / "a")
    claim_of(tmp_path / "store", [KEY], run)
    assert kdexp_store("prune", "--outputs", "--yes")[0] == 0 and "was killed" in kdexp_store("list")[1]
    if how == "forgotten":
        kdexp_store("prune", "--unfinished")
        assert "was killed" in kdexp_store("list")[1], "only shown"
        kdexp_store("prune", "--unfinished", "--yes")
    else:
        shutil.rmtree(run)
    assert "was killed" not in kdexp_store("list")[1]


def test_a_run_that_goes_on_or_ended_otherwise_is_not_named(tmp_path):
    root, ended, alive = tmp_path / "store", tmp_path / "runs" / "a", folder_of(tmp_path / "runs" / "b")
    ended.mkdir()
    write_state(ended, "interrupted")
    claim_of(root, [KEY], ended)
    code = f"from pathlib import Path\nfrom kdexp.store.in_use import Claim\nclaim = Claim(Path({str(root)!r}))\n"
    code += f"claim.add([{KEY!r}], Path({str(alive)!r}))\nprint('ready', flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n" and killed_runs(root) == []
    finally:
        process.kill()
        process.communicate()
    assert killed_runs(root) == [alive]


def test_every_prune_removes_what_killed_processes_left_half_written(tmp_path, kdexp_store):
    learners = tmp_path / "store" / "learner"
    drafts = {name: learners / f"{KEY}.draft-{name}-{number}-{Process.this().host}" for name, number in MARKS.items()}
    for draft in drafts.values():
        draft.mkdir()
    (drafts["22222222"] / "result.json").write_text("{}")
    assert "1 leftover" not in kdexp_store("prune", "--outputs")[1] and all(map(os.path.isdir, drafts.values()))
    assert kdexp_store("prune", "--outputs", "--yes")[0] == 0
    left = {name for name, draft in drafts.items() if draft.is_dir()}
    assert left == {"22222222", "33333333"}, "a complete learner, and what a living process writes"


MARKS = {"11111111": GONE, "22222222": GONE, "33333333": os.getpid()}
"""The first digits of drafts, and their writers."""
