"""Several ranks, each with a part of every batch, train what one process trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from each_method import METHODS, PAIR, class_of
from hypothesis import given
from hypothesis import strategies as st

from kdexp.device import ranks
from kdexp.network.whole_batch_norm import share_norms

BRIEF = ("epochs=2", "teacher_epochs=1", "batch_size=16", "device=cpu", "num_threads=1", "diagnosis=never", "dataset.flip=true")
"""Of 90 images, the last batch has ten; flipped, so that the teacher is asked in every step of some learners."""
ONE_BY_ONE = [method for method in METHODS if class_of(method).per_image]
NOISE = 2e-3
"""Sums of parts round differently, and Adam's first steps amplify that."""


def command(folder, *words):
    pair = () if any(word.startswith("teacher=") for word in words) else PAIR
    return [sys.executable, "-m", "kdexp", *pair, *BRIEF, f"output_dir={folder}", *words]


def run(folder, *words, start=()):
    done = subprocess.run([*start, *command(folder, *words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return histories(folder)


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
    assert_alike(run(tmp_path / "2", *words, "devices=2"), run(tmp_path / "1", *words))


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
    words = ("teacher=mlp_wide", "student=mlp_small", "devices=2", "teacher_epochs=12", "epochs=1")
    whole = run(tmp_path / "whole", *words)
    first = subprocess.Popen(command(tmp_path / "killed", *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in first.stdout:
        if "epoch " in line:
            break
    other = subprocess.run(["pgrep", "-P", str(first.pid), "-f", "kdexp.commands.rank"], capture_output=True, text=True)
    os.kill(int(other.stdout.split()[0]), signal.SIGKILL)
    begin = time.monotonic()
    told = first.communicate(timeout=60)[0]
    assert first.returncode == 3 and "another process of this training has ended" in told
    assert time.monotonic() - begin < 30
    done = subprocess.run(command(tmp_path / "killed", *words), capture_output=True, text=True, timeout=300)
    assert "resuming after epoch" in done.stdout
    resumed = histories(tmp_path / "killed")
    for key, history in whole.items():
        assert [row["loss"] for row in resumed[key]] == [row["loss"] for row in history]


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
    ],
)
def test_what_ranks_can_not_train_is_refused(here, words, sentence):
    code, printed = here("devices=2", *words, columns=400)
    assert code == 2 and sentence in printed.err


def test_a_last_batch_smaller_than_the_ranks_is_refused(here):
    code, printed = here("devices=4", "batch_size=29", "epochs=1", "teacher_epochs=1", columns=400)
    assert code == 2 and "the last batch has 1 of 900 images, fewer than devices=4" in printed.err
