"""What a sweep's folder costs as the queue of its jobs.

    python benchmarks/sweep_queue.py claims      milliseconds to claim a job of 10,000
    python benchmarks/sweep_queue.py table       seconds and memory of the table of 10,000 jobs
    python benchmarks/sweep_queue.py workers     16 jobs of the digits: in one process, by one worker and by two
    python benchmarks/sweep_queue.py overhead    milliseconds that a job takes longer in a worker than in one process

The last two compare times: run them on a quiet machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
JOBS = 10_000
WORDS = ["device=cpu", "num_threads=1", "distillation.temperature=1,2,4,8", "seed=0,1,2,3"]
TURNS = 3


def claims(folder: Path) -> None:
    """Claims and ends every job of a folder, none of which runs; the time of writing its state is not counted."""
    from kdexp.queue.job_list import JobList, ListedJob
    from kdexp.queue.queue import Queue
    from kdexp.store.run_state import FINISHED, write_state

    listed = JobList(folder, tuple(ListedJob(number, (f"seed={number}",), f"{number:03}") for number in range(JOBS)))
    (folder / "jobs.json").write_text("{}")
    taken = []
    with Queue(listed) as queue:
        while True:
            begin = time.perf_counter()
            job = queue.take()
            taken.append(time.perf_counter() - begin)
            if job is None:
                break
            listed.folder_of(job).mkdir()
            write_state(listed.folder_of(job), FINISHED)
            queue.end(job)
    late = []
    for _ in range(TURNS):
        with Queue(listed) as queue:
            begin = time.perf_counter()
            queue.take()
            late.append(time.perf_counter() - begin)
    print(f"{JOBS:,} jobs: {1e3 * sum(taken) / JOBS:.3f} ms a claim, at most {1e3 * max(taken):.1f} ms")
    print(f"a worker that comes when all are over: {median(late):.2f} s until it knows")


def table(folder: Path) -> None:
    """Writes a sweep of 1,000 configurations with 10 seeds each, without training, and has its table made."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from crafted_sweeps import CraftedSweep, right_first

    sweep = CraftedSweep(folder)
    for temperature, rate, seed in product(range(1, 101), range(1, 11), range(10)):
        words = (f"distillation.temperature={temperature}", f"optimizer.lr={rate / 1000:g}", f"seed={seed}")
        right = right_first(50 + (7 * temperature + 3 * rate + seed) % 40)
        values = {"distillation__temperature": float(temperature), "optimizer__lr": rate / 1000, "seed": seed}
        sweep.job(*words, distilled=right, validation=float(right.mean()), **values)
    made = sweep.close()
    for what, words in {"text": ["--format", "csv"], "everything": []}.items():
        seconds, memory = cost([sys.executable, "-m", "kdexp.commands.report", str(made), *words])
        print(f"kdexp-report of {len(sweep.jobs):,} jobs, {what}: {seconds:.1f} s, {memory / 1e9:.2f} GB")


def cost(command: list[str]) -> tuple[float, int]:
    """Seconds and the most memory in bytes that a command takes."""
    code = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.returncode)"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    memory, failed = map(int, done.stdout.split())
    if failed:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - begin, memory * 1024


def workers(folder: Path) -> None:
    """Times 16 jobs in one process, by one worker and by two: the whole command, and its jobs alone."""
    ways = {"in one process": [], "by one worker": by_workers(1), "by two workers": by_workers(2)}
    runs = timed(folder, {way: [*WORDS, *more] for way, more in ways.items()})
    for way, taken in runs.items():
        print(f"16 jobs {way}: {taken}")
    _, one, two = runs.values()
    whole, jobs = one.whole / two.whole, one.jobs / two.jobs
    print(f"two workers are {whole:.2f} times as fast as one, {jobs:.2f} times without start and table")


def overhead(folder: Path) -> None:
    """Compares what a further job takes in one process with what it takes by one worker; start and table fall out."""
    few, many = 20, 100
    short = ["device=cpu", "num_threads=1", "epochs=1", "teacher_epochs=1"]
    numbers = {f"{count} jobs": [*short, f"seed=range({count})"] for count in (few, many)}
    ways = {"in one process": [], "by one worker": by_workers(1)}
    commands = {(way, jobs): [*words, *more] for way, more in ways.items() for jobs, words in numbers.items()}
    runs = timed(folder, {f"{jobs} {way}": words for (way, jobs), words in commands.items()})
    a_job = {way: (runs[f"{many} jobs {way}"].jobs - runs[f"{few} jobs {way}"].jobs) / (many - few) for way in ways}
    for way, seconds in a_job.items():
        print(f"a short job {way}: {1e3 * seconds:.0f} ms")
    alone, one = a_job.values()
    print(f"a worker takes {1e3 * (one - alone):+.0f} ms a job more than one process")


def by_workers(number: int) -> list[str]:
    """The words that leave a multirun to so many workers."""
    return ["hydra/launcher=local", f"hydra.launcher.workers={number}"]


@dataclass(frozen=True)
class Seconds:
    """Medians over several runs: of the whole command, and from the start of its first job to the end of its last."""

    whole: float
    jobs: float

    def __str__(self) -> str:
        return f"{self.whole:.1f} s, {self.jobs:.1f} s from the first job's start to the last one's end"


def timed(folder: Path, commands: Mapping[str, Sequence[str]]) -> dict[str, Seconds]:
    """Runs multiruns in turns, each time in a new folder, whose store is empty."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn, (name, words) in product(range(TURNS), commands.items()):
        place = folder / f"{turn}-{name}"
        place.mkdir()
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kdexp", "-m", *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - begin
        started = min(path.stat().st_mtime for path in place.glob("outputs/sweeps/*/*/command.txt"))
        ended = max(path.stat().st_mtime for path in place.glob("outputs/sweeps/*/*/status.json"))
        taken[name].append((whole, ended - started))
    return {name: Seconds(*(median(column) for column in zip(*runs, strict=True))) for name, runs in taken.items()}


PARTS = {"claims": claims, "table": table, "workers": workers, "overhead": overhead}


def main() -> None:
    """Measures the named part in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args().part
    with TemporaryDirectory() as folder:
        PARTS[part](Path(folder))
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
