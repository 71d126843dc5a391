"""The `kdexp-work` command: takes jobs of a sweep, one after another, until none is left. Several may work on one folder."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.commands.learner import expanded
from kdexp.commands.process import BAD_CONFIG, SOME_FAILED, code_of, set_up
from kdexp.device.garbage import importing_torch
from kdexp.errors import BadFile, NotHere, Unwritable
from kdexp.files import is_folder
from kdexp.queue.job_list import JobList, read_jobs
from kdexp.queue.parent import end_with_parent
from kdexp.store.run_files import JOBS
from kdexp.text.characters import one_line
from kdexp.text.console import print_error, printing
from kdexp.version import __version__

if TYPE_CHECKING:
    from kdexp.queue.roster import Registration

EPILOG = """\
examples:
  kdexp -m seed=0,1,2 hydra/launcher=local                     starts workers itself, one per GPU or core
  kdexp-work outputs/sweeps/SWEEP                              one more worker, here or on another machine with the same disk
  CUDA_VISIBLE_DEVICES=1 kdexp-work outputs/sweeps/SWEEP       on the second GPU

Exit codes: 2 this machine can't run these jobs, 3 a job failed, 130 interrupted, 143 terminated."""


@printing("kdexp-work")
def main() -> None:
    """The `kdexp-work` command.

    Exit codes: 2 refused, 3 a job failed or the sweep's folder was lost, 130 interrupted, 143 terminated.
    """
    arguments = _parser().parse_args()
    set_up()
    try:
        if arguments.with_parent:
            end_with_parent()
        sys.exit(start(Path(arguments.folder), arguments.workers, arguments.per_gpu))
    except KeyboardInterrupt as stop:
        why = str(stop) or "interrupted"
        print(f"{why}; finished epochs are saved, and another worker goes on with this job", file=sys.stderr)
        sys.exit(code_of(stop))


def start(folder: Path, workers: int = 1, per_gpu: int = 1, starter: str = "") -> int:
    """Works on a sweep as one of so many `workers` on this machine, and `per_gpu` on its GPU; returns the exit code.

    `starter` is what the program that started this process calls it.
    """
    try:
        listed = read_jobs(folder)
    except BadFile as error:
        lacks = "" if (folder / JOBS).exists() else f"has no {JOBS}" if folder.is_dir() else "is no folder"
        return _refuse(f"{folder} {lacks}: name the folder of a sweep, as kdexp -m prints it" if lacks else str(error))
    if why := _why_not_here(listed) or _move_to(listed):
        return _refuse(why)
    if workers > 1:  # read when torch is imported
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // workers)))
    from kdexp.device.sharing import share_with
    from kdexp.queue.roster import Registration, started_as

    share_with(workers, per_gpu)
    return _work_as(Registration(listed.folder, starter or started_as()), listed)


def _work_as(worker: Registration, listed: JobList) -> int:
    """Takes jobs as a registered worker; tells all others why it stops, if anything stops it. Returns the exit code."""
    with importing_torch():
        from kdexp.commands.working import work
        from kdexp.device.ranks import RankLost
    with ExitStack() as until:
        try:
            until.enter_context(worker)
            return work(listed, worker)
        except NotHere as error:
            return _refuse(str(error), worker)
        except (Unwritable, OSError) as error:
            worker.tell(f"{worker.state.process} stopped: {one_line(str(error))}")
            print_error("kdexp-work", f"{error}; every finished learner is in the store")
            return SOME_FAILED
        except RankLost as lost:
            worker.tell(f"{worker.state.process} stopped: {one_line(str(lost))}; its job goes on from the last finished epoch")
            raise


def _move_to(listed: JobList) -> str:
    """Has this process find files and modules where the sweep's command did; returns why it can't, or an empty string."""
    try:
        os.chdir(listed.cwd)
    except OSError as error:
        return f"this machine has no way into the folder that the sweep was started in: {error}"
    if listed.source.config_dir:  # a user's own modules lie next to the folder of their YAML files
        sys.path.insert(0, str(Path(listed.source.config_dir).parent))
    return ""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _why_not_here(listed: JobList) -> str:
    """Why this machine can't work on a sweep, or an empty string."""
    if not listed.cwd:
        return f"{listed.folder / JOBS} names no folder to work in: an older kdexp wrote it, or the folder's name is not UTF-8"
    named = {
        "the folder that the sweep was started in": [listed.cwd],
        "the folder of its YAML files": filter(None, [listed.source.config_dir]),
        "its store": listed.stores,
    }
    for what, paths in named.items():
        for path in paths:
            if not is_folder(path):
                return f"this machine has no {path}, {what}: all workers of a sweep need the same disk at the same place"
    return ""


def _refuse(why: str, worker: Registration | None = None) -> int:
    if worker is not None:
        worker.tell(f"{worker.state.process} can't work on this sweep: {one_line(why)}")
    print_error("kdexp-work", why)
    return BAD_CONFIG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "kdexp-work",
        description="Takes jobs of a sweep, one after another, until none is left; the last worker prints the table.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdexp {__version__}")
    parser.add_argument("folder", metavar="SWEEP", type=expanded, help="the folder of a sweep, as kdexp -m prints it")
    parser.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="how many of them share this machine's cores and memory (1)"
    )
    parser.add_argument("--per-gpu", type=_count, default=1, metavar="N", help="how many of them share a GPU's memory (1)")
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


if __name__ == "__main__":
    main()
