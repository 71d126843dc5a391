"""A multirun or a search that is left to workers: lists the jobs, starts the workers, and watches until all is over."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console

from kdexp.commands import ray_task, slurm_task
from kdexp.commands.command import Command
from kdexp.commands.multirun import claim_sweep
from kdexp.commands.process import code_of
from kdexp.commands.ray_plan import plan_ray
from kdexp.commands.run import digest_of, writing_to
from kdexp.commands.search import begin_search, find_search
from kdexp.commands.search_trials import SearchStopped
from kdexp.commands.work import cores
from kdexp.device.precision import pick_device
from kdexp.errors import InvalidArguments, Problem
from kdexp.files import at_home
from kdexp.queue.attach import find_unfinished
from kdexp.queue.crew import Crew, Onlookers
from kdexp.queue.job_list import JobList, Source
from kdexp.queue.local import LocalCrew, LocalPlan
from kdexp.queue.ray import RayCrew
from kdexp.queue.ray_actors import RayPlan
from kdexp.queue.roster import live_workers
from kdexp.queue.screen import SweepScreen
from kdexp.queue.slurm import SlurmCrew, SlurmPlan, missing_for_slurm
from kdexp.queue.watch import Jobs, Watch, Work
from kdexp.search.plan import SearchPlan
from kdexp.search.trials import Trials
from kdexp.search.watched import SearchWork
from kdexp.store.locks import hold, take_turns
from kdexp.store.run_state import ALIVE, runner
from kdexp.sweep.searched import JOURNAL
from kdexp.text.console import Screen
from kdexp.text.numbers import count

SEVERAL_TASKS = ("nodes", "N", "ntasks", "n", "ntasks-per-node", "tasks-per-node", "ntasks-per-gpu", "ntasks-per-socket")
"""Options of sbatch that would start a worker more than once."""
TURNS = "starting.lock"
"""Held while a command looks for its unfinished sweep or lists a new one."""


def run_by_workers(command: Command, typed: Sequence[str], source: Source, console: Console | None = None) -> Path:
    """Leaves the jobs of a multirun or a search to workers; returns the folder once they are over or no worker is left.

    Raises `InvalidArguments` and `Unwritable` before anything is started, then `SweepLost` and, for a search, `SearchStopped`.
    """
    console = console or Screen()
    node, search = command.hydra.launcher, command.search
    jobs = search.total if search else len(command.jobs)
    plan = _plan(command.launcher, node, command.configs, jobs)
    with ExitStack() as until:
        listed = _find_or_list(command, typed, source)
        crew = _crew(listed.folder, plan)
        leads = _Lead(listed.folder, until, crew)
        work = _search_work(listed, search, plan.workers if leads.first else None) if search else Jobs(listed)
        watch, screen = Watch(listed.folder, work), until.enter_context(SweepScreen(console))
        screen.line(str(work))
        screen.line(str(plan) if leads.first else f"{leads.other} started the workers of this sweep; this command watches")
        if work.left and not node.get("wait", True):
            if leads.first:
                for sentence in crew.tick(work.left, live_workers(listed.folder)):
                    screen.line(sentence)
                screen.line(f"{crew.detaches}; {_how_to_look(listed, work)}")
            raise Detached(0)
        try:
            watch.follow(partial(leads.crew, screen, f"{leads.other} has ended; this command goes on with {plan}"), screen)
        except KeyboardInterrupt as stop:
            leads.crew().stop()
            screen.line(_how_to_look(listed, work))
            if goes_on := leads.crew().detaches:
                screen.line(goes_on)
                raise Detached(code_of(stop)) from stop
            raise
        except BaseException:
            leads.crew().stop()
            raise
        leads.crew().leave()
        missing = f"no worker is left, but {count(work.left, work.noun)}; the same command goes on with them"
        if isinstance(work, SearchWork) and work.jobs is None:
            raise SearchStopped(work.stopped or missing)
        if work.left:
            screen.line(missing)
    return listed.folder


def _plan(launcher: str, node: Any, configs: Sequence[Mapping[str, Any]], jobs: int) -> LocalPlan | SlurmPlan | RayPlan:
    """What workers a launcher starts for so many jobs or trials; raises `InvalidArguments`."""
    if launcher == "local":
        return plan_local(node, configs, jobs)
    return plan_slurm(node, jobs) if launcher == "slurm" else plan_ray(node, configs, jobs)


def _crew(folder: Path, plan: LocalPlan | SlurmPlan | RayPlan) -> Crew:
    """Those who start the workers of a plan."""
    if isinstance(plan, LocalPlan):
        return LocalCrew(folder, plan)
    if isinstance(plan, SlurmPlan):
        return SlurmCrew(folder, plan, slurm_task.take_jobs)
    return RayCrew(folder, plan, ray_task.take_jobs)


def _search_work(listed: JobList, search: SearchPlan, workers: int | None) -> SearchWork:
    """What is left of a search, in which as many trials may run at once as there are workers; None leaves that as it is."""
    trials = Trials.read(listed.folder / JOURNAL)
    if workers is not None:
        trials.allow(search.settings.parallel or workers)
    return SearchWork(listed, trials, search)


class Detached(Exception):
    """The workers go on without this process, which ends with `code`."""

    def __init__(self, code: int):
        self.code = code
        super().__init__()


def _how_to_look(listed: JobList, work: Work) -> str:
    """How a user sees what is finished while no command watches."""
    if work.noun == "trial":
        return f"{listed.folder / JOURNAL} has the trials so far"
    return f"kdexp-report {shlex.quote(str(listed.folder))} shows what is finished"


class _Lead:
    """Whether this process starts the workers, or another one that watches the same sweep; it takes over when that ends."""

    def __init__(self, folder: Path, until: ExitStack, crew: Crew):
        self._folder, self._until, self._own = folder, until, crew
        self._onlookers = Onlookers()
        self.other = runner(folder)
        self._leads = False
        self.first = self._try()

    def crew(self, screen: SweepScreen | None = None, taking_over: str = "") -> Crew:
        """The crew of this process if it leads now, else that of an onlooker; the screen shows a sentence on taking over."""
        if not self._leads and self._try() and screen:
            screen.line(taking_over)
        return self._own if self._leads else self._onlookers

    def _try(self) -> bool:
        try:
            hold(self._folder / ALIVE, self._until)
        except OSError:  # another process does
            return False
        self._leads = True
        return True


def _find_or_list(command: Command, typed: Sequence[str], source: Source) -> JobList:
    """The unfinished sweep or search that this command started before, or a new one; raises `Unwritable`."""
    config = command.configs[0]
    sweeps = at_home(str(config["output_dir"])) / "sweeps"
    with writing_to(config), ExitStack() as turn:
        sweeps.mkdir(parents=True, exist_ok=True)
        take_turns(sweeps / TURNS, turn)
        if command.search is not None:
            return find_search(command.search) or begin_search(command.search, typed, source, by_workers=True)
        jobs = [job.overrides for job in command.jobs]
        found = find_unfinished(sweeps, digest_of(config), jobs, source)
        return found or claim_sweep(command.jobs, typed, source, by_workers=True)


def plan_local(node: Any, configs: Sequence[Mapping[str, Any]], jobs: int) -> LocalPlan:
    """How many workers run so many jobs on what of this machine; raises `InvalidArguments`."""
    devices = {str(config["device"]) for config in configs}
    gpus = visible_gpus() if any(pick_device(name).type == "cuda" for name in devices) else []
    if gpus and (numbered := sorted(name for name in devices if ":" in name)):
        sentence = f"={numbered[0]}: workers take turns on the GPUs; leave device=cuda, and set CUDA_VISIBLE_DEVICES to some"
        raise InvalidArguments([Problem("device", sentence)])
    room = len(gpus) * node.per_gpu if gpus else cores()
    if gpus and node.workers and node.workers > room:
        needed = -(-node.workers // len(gpus))
        sentence = f"={node.workers}: {count(len(gpus), 'GPU')} with per_gpu={node.per_gpu} take {room}"
        raise InvalidArguments([Problem("hydra.launcher.workers", f"{sentence}; hydra.launcher.per_gpu={needed} takes more")])
    workers = min(node.workers or room, jobs)
    return LocalPlan(workers, gpus, node.per_gpu, node.threads or max(1, cores() // workers))


def plan_slurm(node: Any, jobs: int) -> SlurmPlan:
    """What is submitted to SLURM; raises `InvalidArguments`."""
    if why := missing_for_slurm():
        raise InvalidArguments([Problem("hydra/launcher", f"=slurm: {why}")])
    if node.signal_seconds >= 60 * node.minutes:
        sentence = f"={node.signal_seconds}: must be less than the {node.minutes} minutes of a task"
        raise InvalidArguments([Problem("hydra.launcher.signal_seconds", sentence)])
    plain: Any = OmegaConf.to_container(node, resolve=True)
    if found := [name for name in plain["sbatch"] if name.replace("_", "-") in SEVERAL_TASKS]:
        sentence = f"={plain['sbatch'][found[0]]}: each worker is one task; hydra.launcher.workers=N submits N of them, and "
        sentence += (
            "hydra.launcher.gres=gpu:N devices=N trains on N GPUs of a node; for several nodes see docs/clusters.md on srun"
        )
        raise InvalidArguments([Problem(f"hydra.launcher.sbatch.{found[0]}", sentence)])
    return SlurmPlan.of(plain, jobs)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    number = torch.cuda.device_count()
    return named[:number] if named else [str(number) for number in range(number)]
