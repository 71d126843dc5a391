"""Real processes that run kdexp, forked from a process that has imported it, so that they start quickly."""

import importlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from experiments import compose_command
from rich.console import Console

from kdexp.commands.run import run
from kdexp.experiment import progress
from kdexp.training.learner import Learner

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["kdexp.commands.run", "kdexp.validation.validator", "matplotlib.figure", "torchvision"])
WRITES = ("write_bytes", "write_text", "replace", "rename", "unlink", "mkdir")


def start(folder: Path, overrides: list[str], kill: tuple[str, int] | None = None):
    """A process that runs a command with its output in `folder`.

    It saves progress after every epoch. `kill` is a pattern and a number: the process kills itself at that one of the matching
    changes of the disk (`rename PATH`).
    """
    process = CONTEXT.Process(target=_job, args=(str(folder), overrides, kill))
    process.start()
    return process


def _job(folder: str, overrides: list[str], kill: tuple[str, int] | None) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    progress.INTERVAL = 0
    _note_epochs()
    left = _kill_at(*kill) if kill is not None else []
    config = compose_command(["output_dir=outputs", "device=cpu", *overrides])
    with Path(f"screen-{os.getpid()}.txt").open("w", buffering=1) as screen:
        finished = run(config, console=Console(file=screen, width=80))
    if left:  # it got away
        Path("left.txt").write_text(str(left[0]))
    os._exit(0 if finished else 3)


def command(
    folder: Path,
    words: list[str],
    program: str = "main",
    printed: str = "printed.txt",
    prepare: Callable[[], None] | None = None,
):
    """A process that runs the command line itself, or another command of `kdexp.commands`, its output in `folder`/`printed`.

    It calls `prepare` first.
    """
    process = CONTEXT.Process(target=_command, args=(str(folder), words, program, printed, prepare))
    process.start()
    return process


def _command(folder: str, words: list[str], program: str, output: str, prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    os.chdir(folder)
    torch.set_num_threads(1)
    # Where the tests themselves run in the background, SIGINT is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if program == "work":
        progress.INTERVAL = 0
    with Path(output).open("w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    sys.argv = ["kdexp", *words]
    importlib.import_module(f"kdexp.commands.{program}").main()


def _note_epochs() -> None:
    """Writes a line `PID NAME EPOCH` to epochs.txt after each epoch of a learner."""
    record = Learner.record_epoch

    def noted(self, *words, **named):
        record(self, *words, **named)
        with Path("epochs.txt").open("a") as file:
            file.write(f"{os.getpid()} {self.name} {len(self.history)}\n")

    Learner.record_epoch = noted


def _kill_at(pattern: str, number: int) -> list[int]:
    """SIGKILL in the middle of the `number`-th matching change: a write is left half done, a move is not made.

    The one number in what is returned says how many such changes are left till then.
    """
    left = [number]

    def dying(owner, name):
        real = getattr(owner, name)

        def change(*words, **named):
            left[0] -= bool(re.search(pattern, f"{name} {words[0]}"))
            if left[0] == 0:
                if name in ("write_bytes", "write_text"):
                    real(words[0], words[1][: len(words[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **named)

        setattr(owner, name, change)

    for name in WRITES:
        dying(Path, name)
    dying(shutil, "rmtree")
    return left


def screens(folder: Path) -> list[str]:
    """The output of a folder's processes, by process number."""
    return [path.read_text() for path in sorted(folder.glob("screen-*.txt"))]
