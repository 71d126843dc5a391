"""Several ranks, each with a part of every batch, train what one process trains."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import forked_ranks
import processes
import pytest
import torch
from each_method import METHODS, PAIR, class_of
from hypothesis import given
from hypothesis import strategies as st
from sweeps_to_do import weights_in

from kdexp.device import ranks
from kdexp.network.whole_batch_norm import share_norms
from kdexp.processes import Process
from kdexp.training.loop import rank_seed

BRIEF = ("epochs=2", "teacher_epochs=1", "batch_size=16", "device=cpu", "num_threads=1", "diagnosis=never", "dataset.flip=true")
"""Of 90 images, the last batch has ten; flipped, so that the teacher is asked in every step of some learners."""
ONE_BY_ONE = [method for method in METHODS if class_of(method).per_image]
NOISE = 2e-3
"""Sums of parts round differently, and Adam's first steps amplify that."""


def command(folder, *words):
    pair = () if any(word.startswith("teacher=") for word in words) else PAIR
    return [sys.executable, "-m", "kdexp", *pair, *BRIEF, f"output_dir={folder}", *words]


def run(folder, *words, start=(), env=None):
    done = subprocess.run([*start, *command(folder, *words)], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return histories(folder)


def forked(folder, *words, prepare=forked_ranks.fork_ranks):
    """A process that runs a command, forked like the other ranks that it starts; it prints to `folder`/printed.txt."""
    folder.mkdir(exist_ok=True)
    return processes.command(folder, command(folder, *words)[3:], prepare=prepare)


def run_forked(folder, *words):
    process = forked(folder, *words)
    process.join(300)
    assert process.exitcode == 0, printed(folder)
    return histories(folder)


def printed(folder):
    path = folder / "printed.txt"
    return path.read_text() if path.is_file() else ""


def histories(folder):
    """The epochs of every stored learner, by its network and method."""
    found = {}
    for path in Path(folder, "store", "learner").glob("*/result.json"):
        result = json.loads(path.read_text())
        found[json.dumps([result["spec"]["model"], result["spec"]["method"]], sort_keys=True)] = result["history"]
    return found


def assert_alike(ours, theirs):
    assert ours.keys() == theirs.keys() and theirs
    for key, history in theirs.items():
        for mine, other in zip(ours[key], history, strict=True):
            losses = {name: value for name, value in other.items() if "accuracy" not in name}
            assert {name: mine[name] for name in losses} == pytest.approx(losses, rel=NOISE), key


@pytest.mark.slow
def test_two_ranks_train_a_student_as_one_process_does(tmp_path):
    words = ("teacher=mlp_wide", "student=resnet8", "student.widths=[4,4,6,8]", "epochs=1")
    assert_alike(run(tmp_path / "2", *words, "devices=2"), run_forked(tmp_path / "1", *words))


@pytest.mark.exhaustive
def test_two_ranks_train_every_method_that_they_may_as_one_process_does(tmp_path):
    words = ("-m", f"distillation={','.join(ONE_BY_ONE)}", "hydra/launcher=lockstep")
    alone, together = run(tmp_path / "1", *words), run(tmp_path / "2", *words, "devices=2")
    assert len(alone) >= len(ONE_BY_ONE)
    assert_alike(together, alone)


@pytest.mark.exhaustive
def test_three_ranks_and_those_of_torchrun(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    alone = run(tmp_path / "1")
    assert_alike(run(tmp_path / "3", "devices=3"), alone)
    assert_alike(run(tmp_path / "2", "devices=auto", start=torchrun), alone)


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(tmp_path):
    words = ("teacher=mlp_wide", "student=mlp_small", "devices=2", "teacher_epochs=3", "epochs=1")
    whole, killed = run_forked(tmp_path / "whole", *words), tmp_path / "killed"
    first = forked(killed, *words, prepare=forked_ranks.fork_killed_ranks)
    first.join(30)
    assert first.exitcode == 3 and "another process of this training has ended" in printed(killed)
    resumed = run_forked(killed, *words)
    assert "resuming after epoch" in printed(killed)
    for key, history in whole.items():
        assert [row["loss"] for row in resumed[key]] == [row["loss"] for row in history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive)]
)
def test_an_interrupted_training_ends_its_other_ranks(tmp_path, number, code):
    words = ("teacher=mlp_wide", "student=mlp_small", "devices=2", "teacher_epochs=100000", "epochs=1")
    first = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        next(line for line in first.stdout if "cached" in line or "training teacher" in line)
        time.sleep(1)  # into the training, where the other rank waits for this one
        other = subprocess.run(["pgrep", "-P", str(first.pid), "-f", "kdexp.commands.rank"], capture_output=True, text=True)
        first.send_signal(number)
        told = first.communicate(timeout=60)[0]
    finally:
        first.kill()
    assert first.returncode == code and "interrupted; finished epochs are saved" in told
    assert not Path(f"/proc/{other.stdout.split()[0]}").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_jobs_of_a_sweep_may_have_other_numbers_of_ranks(tmp_path):
    pair = ("teacher=mlp_wide", "student=mlp_small", "epochs=1", "limit_batches=2")
    run(tmp_path / "both", "-m", "devices=2,1", *pair)
    run(tmp_path / "one", *pair)
    both, one = (weights_in(tmp_path / name / "store") for name in ("both", "one"))
    assert len(both) == 6 and one.items() <= both.items()


SRUN = ("srun", "-N2", "-n2")


@pytest.mark.slurm
@pytest.mark.exhaustive
def test_the_tasks_of_srun_train_as_one_process_does_and_end_with_the_first(user, tmp_path):
    words = ("teacher=mlp_wide", "student=resnet8", "student.widths=[4,4,6,8]", "epochs=1")
    (tmp_path / "2").mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = json.dumps({"host": "localhost", "port": 9, "process": str(Process.this()._replace(number=gone.pid))})
    (tmp_path / "2" / ".ranks_1_0_0").write_text(left)
    ranks_of_srun = run(tmp_path / "2", *words, "devices=auto", start=SRUN, env=user.env)
    assert_alike(ranks_of_srun, run(tmp_path / "1", *words))
    run(tmp_path / "2", *words, "devices=auto", start=SRUN, env=user.env)  # nothing is to be trained
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["runs", "store"]
    refused = subprocess.run(
        [*SRUN, *command(tmp_path / "2", *words, "devices=3")], capture_output=True, text=True, env=user.env
    )
    assert "devices=3: torchrun or srun has started 2 processes; devices=auto trains with these" in refused.stderr


@pytest.mark.slurm
def test_a_killed_task_of_srun_ends_all_and_the_same_command_goes_on(user, tmp_path):
    words = ("teacher=mlp_wide", "student=mlp_small", "devices=auto", "teacher_epochs=12", "epochs=1")
    whole = run(tmp_path / "whole", *words, start=SRUN, env=user.env)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    step = subprocess.Popen([*SRUN, *command(tmp_path / "killed", *words)], env=user.env, **pipes)
    while "epoch " not in (line := step.stdout.readline()):
        assert line
    os.kill(task_of_srun(1, tmp_path / "killed"), signal.SIGKILL)
    told = step.communicate(timeout=120)[0]
    assert step.returncode == 137 and "another process of this training has ended; finished epochs are saved" in told
    assert [path.name for path in (tmp_path / "killed").glob(".*")] == []
    resumed = run(tmp_path / "killed", *words, start=SRUN, env=user.env)
    assert "resuming after epoch" in "".join(path.read_text() for path in (tmp_path / "killed").glob("runs/*/log.txt"))
    for key, history in whole.items():
        assert [row["loss"] for row in resumed[key]] == [row["loss"] for row in history]


def task_of_srun(number, folder):
    """The process that is that task of a step with this output folder."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words, variables = ((place / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if f"output_dir={folder}".encode() in words and f"SLURM_PROCID={number}".encode() in variables:
                return int(place.name)
    raise LookupError(f"no task {number}")


@given(st.integers(1, 50), st.integers(1, 50))
def test_parts_are_all_of_a_batch(size, count):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranks, "count", lambda: count)
        parts = []
        for rank in range(count):
            patched.setattr(ranks, "number", lambda rank=rank: rank)
            parts += list(range(size))[ranks.own_part(size)]
        assert parts == list(range(size))
        assert ranks.largest_part(size) == -(-size // count)


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm1d, torch.nn.BatchNorm2d])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_norm_of_the_whole_batch_is_torchs_where_there_is_one_part(monkeypatch, kind, momentum):
    torch.manual_seed(0)
    plain, ours = (torch.nn.Sequential(kind(3, momentum=momentum)) for _ in range(2))
    share_norms(ours)
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "add_up", lambda values: values)
    image = torch.randn(5, 3, *(4, 4) * (kind is torch.nn.BatchNorm2d), requires_grad=True)
    weight = torch.randn_like(image)
    expected, found = plain(image), ours(image)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((out * weight).sum(), image)[0] for out in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    assert torch.equal(ours.eval()(image), plain.eval()(image)) or torch.allclose(ours(image), plain(image))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("distillation=rkd",), "rkd: is not known to treat each image of a batch by itself"),
        (("class_weights=balanced",), "weighs the images of a whole batch"),
        (("distillation.student_view=mixed",), "learns labels of mixed images"),
        (("devices=0",), "devices=0: must be at least 1"),
        (("graph=true",), "steps of several processes exchange gradients and are not recorded; leave graph=auto"),
    ],
)
def test_what_ranks_can_not_train_is_refused(here, words, sentence):
    code, printed = here("devices=2", *words, columns=400)
    assert code == 2 and sentence in printed.err


def test_a_last_batch_smaller_than_the_ranks_is_refused(here):
    code, printed = here("devices=4", "batch_size=29", "epochs=1", "teacher_epochs=1", columns=400)
    assert code == 2 and "the last batch has 1 of 900 images, fewer than devices=4" in printed.err


def test_the_number_of_ranks_is_part_of_the_key(make_experiment):
    specs = [make_experiment(f"devices={number}").spec("baseline") for number in (1, 2, 3)]
    assert [spec.precision for spec in specs] == ["fp32", "fp32 2 ranks", "fp32 3 ranks"]
    assert len({spec.key for spec in specs}) == 3


def test_every_rank_drops_other_units_in_every_epoch():
    seeds = [rank_seed(seed, rank, epoch) for seed in range(3) for rank in range(1, 9) for epoch in range(200)]
    assert len(set(seeds)) == len(seeds)
