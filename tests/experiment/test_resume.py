"""A run that is killed at any moment and started again loses no finished epoch, and ends with the same weights."""

import json
import os
import random
import signal
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from processes import command, screens, start

EPOCHS = 4
NETS = ("teacher=lightnn", "student=lightnn", "student.dropout=0.3", "dataset.crop_padding=1", "schedule=cosine")
METHOD = ("distillation=hint", "distillation._target_=own_methods.Remember")
COMMAND = [*NETS, *METHOD, f"epochs={EPOCHS}", f"teacher_epochs={EPOCHS}", "limit_batches=2", "controls=[self_teacher]"]
LEARNERS = 4


def learners(folder: Path) -> dict[str, dict]:
    """Every stored learner by key: its weights and logits as bytes, and its history."""
    found = {}
    for place in (folder / "outputs" / "store" / "learner").iterdir():
        if (place / "result.json").is_file():
            tensors = {path.name: path.read_bytes() for path in place.glob("*.safetensors")}
            found[place.name] = tensors | {"history": json.loads((place / "result.json").read_text())["history"]}
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The learners of an uninterrupted run, and the seconds it took with everything imported."""
    found = []
    for name in ("first", "second"):
        folder = tmp_path_factory.mktemp(name)
        begin = time.perf_counter()
        finish(folder)
        found.append(learners(folder))
    assert found[0] == found[1]
    return found[0], time.perf_counter() - begin


def finish(folder: Path) -> None:
    process = start(folder, COMMAND)
    process.join()
    assert process.exitcode == 0, screens(folder)


def check_as_if_nothing_had_happened(folder: Path, unbroken) -> None:
    expected, _ = unbroken
    found = learners(folder)
    assert len(expected) == LEARNERS and found.keys() == expected.keys()
    for key, learner in expected.items():
        assert found[key] == learner
    left = {path.suffix for path in (folder / "outputs" / "store" / "learner").iterdir() if path.is_file()}
    assert left == {".lock"}
    check_epochs(folder)
    tables = [json.loads(path.read_text()) for path in (folder / "outputs" / "runs").glob("*/table.json")]
    assert tables and all(row["status"] == "finished" for table in tables for row in table["rows"])


def check_epochs(folder: Path) -> None:
    """A process goes on where the one before it ended, or repeats its last epoch."""
    seen = defaultdict(list)
    for line in (folder / "epochs.txt").read_text().splitlines():
        process, name, epoch = line.split()
        seen[name].append((process, int(epoch)))
    for name, epochs in seen.items():
        for (before, last), (now, following) in pairwise(epochs):
            assert following == last + 1 or (now != before and following == last), (name, epochs)


def kill_at_random(folder: Path, chance: random.Random, seconds: float) -> bool:
    """Whether the run was still alive when it was killed."""
    process = start(folder, COMMAND)
    process.join(timeout=chance.uniform(0, seconds))
    alive = process.exitcode is None
    process.kill()
    process.join()
    return alive


def killed_often(folder: Path, unbroken, kills: int, seed: int) -> None:
    chance, done, attempt = random.Random(seed), 0, 0
    while done < kills:
        attempt += 1
        store = folder / str(attempt)
        store.mkdir()
        for _ in range(min(3, kills - done)):
            done += kill_at_random(store, chance, 0.7 * unbroken[1])
        finish(store)
        check_as_if_nothing_had_happened(store, unbroken)


@pytest.mark.slow
def test_five_kills_at_random_moments(tmp_path, unbroken):
    killed_often(tmp_path, unbroken, kills=5, seed=0)


@pytest.mark.exhaustive
def test_thirty_kills_at_random_moments(tmp_path, unbroken):
    killed_often(tmp_path, unbroken, kills=30, seed=1)


def changes_of_the_disk(folder: Path) -> int:
    """How many changes a run makes to the disk."""
    out_of_reach = 10_000
    process = start(folder, COMMAND, kill=("", out_of_reach))
    process.join()
    assert process.exitcode == 0, screens(folder)
    return out_of_reach - int((folder / "left.txt").read_text())


def killed_at(folder: Path, pattern: str, number: int, unbroken) -> None:
    place = folder / f"at-{number}"
    place.mkdir()
    process = start(place, COMMAND, kill=(pattern, number))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finish(place)
    check_as_if_nothing_had_happened(place, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "number"),
    [("write_bytes .*progress", 3), ("rename .*draft", 1), ("write_text .*result.json", 2), ("replace .*table.json", 1)],
)
def test_killed_while_writing_to_disk(tmp_path, unbroken, pattern, number):
    killed_at(tmp_path, pattern, number, unbroken)


@pytest.mark.exhaustive
def test_killed_at_any_write_to_disk(tmp_path, unbroken):
    there_are = changes_of_the_disk(tmp_path)
    assert there_are > 80
    for number in range(1, there_are + 1, int(os.environ.get("KDEXP_TEST_EVERY", "8"))):
        killed_at(tmp_path, "", number, unbroken)


SECOND_EPOCH = ("replace .*progress", 2)


@pytest.mark.slow
def test_a_resumed_run_says_where_it_goes_on(tmp_path, unbroken):
    start(tmp_path, COMMAND, kill=SECOND_EPOCH).join()
    finish(tmp_path)
    assert "teacher: resuming after epoch" in "".join(screens(tmp_path))
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/store/learner/*/result.json")]
    assert sum(bool(result["continued_after"]) for result in results) >= 1


@pytest.mark.slow
def test_force_starts_from_the_beginning(tmp_path, unbroken):
    start(tmp_path, COMMAND, kill=SECOND_EPOCH).join()
    again = start(tmp_path, [*COMMAND, "force=true"])
    again.join()
    assert again.exitcode == 0
    assert "resuming after epoch" not in "".join(screens(tmp_path))
    assert learners(tmp_path) == unbroken[0]


@pytest.mark.slow
def test_damaged_progress_is_reported_and_not_used(tmp_path, unbroken):
    start(tmp_path, COMMAND, kill=SECOND_EPOCH).join()
    (progress,) = tmp_path.glob("outputs/store/learner/*.progress")
    content = bytearray(progress.read_bytes())
    content[len(content) // 2] ^= 1
    progress.write_bytes(content)
    finish(tmp_path)
    assert f"{progress.name} is damaged; its epochs will be trained again" in "".join(screens(tmp_path)).replace("\n", "")
    assert learners(tmp_path) == unbroken[0]


LONG = ["teacher_epochs=400", "epochs=2", "limit_batches=2"]


def wait_for(condition, seconds: float = 60):
    end = time.perf_counter() + seconds
    while not (found := condition()):
        assert time.perf_counter() < end
        time.sleep(0.05)
    return found


@pytest.mark.alone
def test_eight_processes_train_a_teacher_once_and_outlive_its_trainer(tmp_path):
    runs = [start(tmp_path, LONG) for _ in range(8)]
    try:
        wait_for(lambda: "".join(screens(tmp_path)).count("waiting for process") == 7)
        (lock,) = tmp_path.glob("outputs/store/learner/*.lock")
        trainer = int(lock.read_text().split()[1])
        assert f"waiting for process {trainer} on" in "".join(screens(tmp_path))
        os.kill(trainer, signal.SIGKILL)
        for process in runs:
            process.join(timeout=120)
    finally:
        for process in runs:
            process.kill()
    assert sorted(process.exitcode for process in runs) == [-signal.SIGKILL] + [0] * 7
    printed = "".join(screens(tmp_path))
    assert printed.count("training teacher") == 2 and printed.count("resuming after epoch") == 1
    check_epochs(tmp_path)


@pytest.mark.alone
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", ["run folder", "epoch 40", "training baseline"])
def test_an_interrupted_command_ends_at_once_with_one_sentence_and_goes_on(tmp_path, number, code, after):
    words = ["teacher_epochs=100", "epochs=20", "limit_batches=2", "device=cpu"]
    words[1] = "epochs=100000" if "baseline" in after else words[1]
    process = command(tmp_path, words)
    printed = tmp_path / "printed.txt"
    try:
        wait_for(lambda: printed.exists() and after in printed.read_text())
        begin = time.perf_counter()
        os.kill(process.pid, number)
        process.join(timeout=20)
        assert time.perf_counter() - begin < 2
    finally:
        process.kill()
    assert process.exitcode == code, printed.read_text()
    last = printed.read_text().splitlines()[-1]
    assert last == "interrupted; finished epochs are saved, run the same command to resume"
    assert "Traceback" not in printed.read_text()
    again = command(tmp_path, [*words[:1], "epochs=1", *words[2:]])
    again.join(timeout=60)
    assert again.exitcode == 0
    if after != "run folder":
        assert "teacher: resuming after epoch" in printed.read_text() or "teacher: reused" in printed.read_text()
