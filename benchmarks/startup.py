"""Seconds from the start of a process to its first training step: of `kdexp`, and of the imports that any loop needs.

Neither depends on how long a training is, so both have a table of their own in `benchmarks/bench.py`, whose other phases start
in a process that has imported everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from work import Work

IMPORTS = "import time, torch, torchvision; print(time.monotonic())"


def compare(work: Work, turns: int) -> dict[str, Any]:
    """Both, by turns; `turns` of each after one that is not counted, in which the system reads the files."""
    from load import LoadMeter, warning
    from ours import command_of

    words = command_of(replace(work, phase="main"), work.folder / "outputs")
    commands = {"imports": ["-c", IMPORTS], "kdexp": [__file__, *words]}
    seconds: dict[str, list[float]] = {who: [] for who in commands}
    loads: dict[str, list] = {who: [] for who in commands}
    for turn in range(turns + 1):
        for who, command in commands.items():
            meter = LoadMeter()
            taken, load = seconds_of(command), meter.stop()
            if turn:
                seconds[who].append(taken)
                loads[who].append(load)
    rows = {
        who: {
            "seconds": [round(value, 3) for value in seconds[who]],
            "cpu_seconds": [round(load.cpu_seconds, 2) for load in loads[who]],
            "others": [load.others and round(load.others, 3) for load in loads[who]],
        }
        for who in commands
    }
    return {"turns": turns, "warning": warning(load.others for of in loads.values() for load in of), "rows": rows}


def seconds_of(command: list[str]) -> float:
    """Seconds from here until the moment that a Python process prints in its last line; the clock is the same for all."""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}")
    return float(done.stdout.splitlines()[-1]) - begin


def print_table(title: str, results: dict[str, Any]) -> None:
    """Prints a line for each."""
    told = {"imports": "import torch and torchvision", "kdexp": "kdexp, to the first training step"}
    print(title)
    for who, row in results["rows"].items():
        best, middle, cpu = min(row["seconds"]), median(row["seconds"]), min(row["cpu_seconds"])
        print(f"  {told[who]:34}  {best:5.1f} s, median {middle:5.1f} s, {cpu:5.1f} s of CPU")
    if results["warning"]:
        print(f"warning: {results['warning']}")


def until_first_step(words: list[str]) -> None:
    """Runs `kdexp` until its first training step, prints the time and ends the process."""
    from kdexp.commands import main as cli
    from kdexp.training.learner import Learner

    def stop(*_: object) -> None:
        print(time.monotonic(), flush=True)
        os._exit(0)

    Learner.step = stop  # type: ignore[method-assign]
    sys.path.insert(0, str(Path(__file__).parent))  # the data set of the benchmarks
    sys.argv = ["kdexp", *words]
    cli.main()


if __name__ == "__main__":
    until_first_step(sys.argv[1:])
