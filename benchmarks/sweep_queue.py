"""What a sweep's folder costs as the queue of its jobs.

    python benchmarks/sweep_queue.py claims      milliseconds to claim a job of 10,000
    python benchmarks/sweep_queue.py table       seconds and memory of the table of 10,000 jobs
    python benchmarks/sweep_queue.py workers     16 jobs of the digits: in one process, by one worker and by two

The last compares times: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
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
    """Times the jobs in one process, by one worker and by two, in turns; each in a folder of its own."""
    ways = {"in one process": [], "one worker": ["hydra.launcher.workers=1"], "two workers": ["hydra.launcher.workers=2"]}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    in_jobs: dict[str, list[float]] = {way: [] for way in ways}
    for turn, (way, more) in product(range(TURNS), ways.items()):
        place = folder / f"{turn}-{way}"
        place.mkdir()
        words = ["-m", *WORDS, *(["hydra/launcher=local", *more] if more else [])]
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kdexp", *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
        seconds[way].append(time.perf_counter() - begin)
        states = [json.loads(path.read_text()) for path in place.glob("outputs/sweeps/*/workers/*.json")]
        in_jobs[way].append(sum(state["busy"] for state in states))
    jobs = 16
    for way, taken in seconds.items():
        busy = f", {median(in_jobs[way]) / jobs:.2f} s a job in the workers" if any(in_jobs[way]) else ""
        print(f"{jobs} jobs {way}: {median(taken):.1f} s ({', '.join(f'{value:.1f}' for value in taken)}){busy}")
    alone, one, two = (median(taken) for taken in seconds.values())
    print(f"one worker takes {(one - alone) / jobs:.2f} s a job more than one process, its start included")
    print(f"two workers are {one / two:.2f} times as fast as one; load of the machine now: {os.getloadavg()[0]:.1f}")


PARTS = {"claims": claims, "table": table, "workers": workers}


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
