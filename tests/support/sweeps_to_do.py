"""Sweeps whose jobs are listed and left to workers."""

from collections.abc import Callable
from pathlib import Path

import torch
from experiments import COMPOSER, SHORT

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import claim_sweep
from kdexp.configuration.compose import Composer
from kdexp.configuration.jobs import expand
from kdexp.queue.job_list import SHIPPED, JobList, Source
from kdexp.store.learners import LearnerStore


def listed_sweep(folder: Path, *words: str, source: Source = SHIPPED, short: tuple[str, ...] = SHORT) -> JobList:
    """Lists the jobs of a command whose outputs go to `folder`; nothing is run."""
    overrides = expand([f"output_dir={folder}", *short, *words])
    composer = COMPOSER if source == SHIPPED else Composer(*source)
    jobs = [PlannedJob(number, job, composer.compose(job)) for number, job in enumerate(overrides)]
    return claim_sweep(jobs, ["-m", *words], source, by_workers=True)


def weights_in(store: Path) -> dict[str, dict[str, list]]:
    """The weights of every learner in a store, by key and name."""
    learners = LearnerStore(store, say=lambda _: None)
    keys = sorted(path.name for path in learners.root.iterdir() if path.is_dir())
    return {key: _plain(learners.require(key).tensors("last")) for key in keys}


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def logs(folder: Path) -> str:
    """The logs of all jobs of a sweep, of those that were cut off, too."""
    return "".join(path.read_text() for path in sorted(folder.glob("*/log.txt")))


def wait_for(ready: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something is the case; fails if that takes too long."""
    import time

    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.02)
