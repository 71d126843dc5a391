"""Whether a task of a SLURM array queues itself again when it is asked to end."""

import os
import signal
import subprocess

import pytest

from kdexp.commands import slurm_task
from kdexp.queue.roster import Registration, Tail, own_state


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Runs a task that gets a signal while its worker's state is `state`; returns what it asked of SLURM and told others."""

    def end(number, restarts="0", listed="", broken="", **state):
        asked, tail = [], Tail(tmp_path)

        def run(words, **_):
            if words[0] == broken:
                raise FileNotFoundError(f"no {broken} here")
            asked.append(words[:2])
            return subprocess.CompletedProcess(words, 0, listed)

        def start(folder):
            if state:
                with Registration(folder, "7_1") as worker:
                    worker.note(**state)
            os.kill(os.getpid(), number)

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(slurm_task, "start", start)
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        (tmp_path / "workers").mkdir(exist_ok=True)
        handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR2)}
        try:
            assert slurm_task.take_jobs(str(tmp_path)) == 143
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
        return ["scontrol", "requeue"] in asked, [line.text for line in tail.lines()]

    return end


@pytest.mark.parametrize("state", [{"trained": 1}, {"jobs": 1}, {"waiting": "waiting for the teacher"}])
def test_a_task_at_its_time_limit_is_queued_again_while_it_gets_on(ended, state):
    assert ended(signal.SIGUSR2, restarts="9", **state) == (True, [])


@pytest.mark.parametrize("state", [{}, {"job": 3, "learners": "teacher"}])
def test_a_limit_too_short_for_an_epoch_ends_the_second_try(ended, state):
    assert ended(signal.SIGUSR2, restarts="0", **state) == (True, [])
    again, said = ended(signal.SIGUSR2, restarts="1", **state)
    assert not again and said[0].startswith("SLURM task 7_1 reached its time limit before the end of an epoch")


def test_a_preempted_task_is_queued_again_and_a_cancelled_one_is_not(ended):
    assert ended(signal.SIGTERM, restarts="9", listed="RUNNING\n") == (True, [])
    assert ended(signal.SIGTERM, restarts="9", listed="COMPLETING\n") == (False, [])


@pytest.mark.parametrize("broken", ["scontrol", "squeue"])
def test_a_task_that_can_not_ask_slurm_says_so_to_all(ended, broken):
    again, said = ended(signal.SIGTERM if broken == "squeue" else signal.SIGUSR2, broken=broken, trained=1)
    assert not again and "7_1" in said[0] and "is not queued again" in said[0] and f"no {broken} here" in said[0]


def test_the_last_registration_of_a_process_counts(tmp_path):
    workers = tmp_path / "workers"
    with Registration(tmp_path) as worker:
        worker.note(jobs=1)
    earlier = workers / "0-earlier.json"
    earlier.write_text((workers / f"{worker.state.name}.json").read_text().replace('"jobs": 1', '"jobs": 7'))
    os.utime(earlier, (1, 1))
    assert own_state(tmp_path).jobs == 1
    os.utime(earlier)
    assert own_state(tmp_path).jobs == 7
