"""A multirun whose jobs are left to workers: lists the jobs, starts the workers, and watches until all jobs are over."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
from kdexp.queue.watch import Watch
from kdexp.store.locks import hold, take_turns
from kdexp.store.run_state import ALIVE, runner
from kdexp.text.console import Screen
from kdexp.text.numbers import count

TURNS = "starting.lock"
"""Held while a command looks for its unfinished sweep or lists a new one."""


def run_by_workers(command: Command, typed: Sequence[str], source: Source, console: Console | None = None) -> Path:
    """Leaves a multirun's jobs to workers; returns the sweep's folder once they are over or no worker is left.

    Raises `InvalidArguments` and `Unwritable` before anything is started, and `SweepLost`.
    """
    console = console or Screen()
    configs, node = [job.config for job in command.jobs], command.hydra.launcher
    plan = _plan(command.launcher, node, configs)
    with ExitStack() as until:
        listed = _find_or_list(command, typed, source)
        crew = _crew(listed.folder, plan)
        watch, leads = Watch(listed), _Lead(listed.folder, until, crew)
        screen = until.enter_context(SweepScreen(console, listed))
        over = len(listed.jobs) - watch.left
        screen.line(f"sweep folder: {listed.folder}, {len(listed.jobs)} jobs{f', {over} of them over' if over else ''}")
        screen.line(str(plan) if leads.first else f"{leads.other} started the workers of this sweep; this command watches")
        if watch.left and not node.get("wait", True):
            if leads.first:
                _submit_only(listed, crew, watch.left, screen)
            raise Detached(0)
        try:
            watch.follow(leads.crew, screen)
        except KeyboardInterrupt as stop:
            leads.crew().stop()
            screen.line(f"kdexp-report {shlex.quote(str(listed.folder))} shows the finished part of this sweep")
            if goes_on := leads.crew().detaches:
                screen.line(goes_on)
                raise Detached(code_of(stop)) from stop
            raise
        except BaseException:
            leads.crew().stop()
            raise
        leads.crew().leave()
        if watch.left:
            screen.line(f"no worker is left, but {count(watch.left, 'job')}; the same command goes on with them")
    return listed.folder


class Detached(Exception):
    """The workers go on without this process, which ends with `code`."""

    def __init__(self, code: int):
        self.code = code
        super().__init__()


def _plan(launcher: str, node: Any, configs: Sequence[Mapping[str, Any]]) -> LocalPlan | SlurmPlan | RayPlan:
    """What workers a launcher starts; raises `InvalidArguments`."""
    if launcher == "local":
        return plan_local(node, configs)
    return plan_slurm(node, len(configs)) if launcher == "slurm" else plan_ray(node, configs, len(configs))


def _crew(folder: Path, plan: LocalPlan | SlurmPlan | RayPlan) -> Crew:
    """Those who start the workers of a plan."""
    if isinstance(plan, LocalPlan):
        return LocalCrew(folder, plan)
    return (
        SlurmCrew(folder, plan, slurm_task.take_jobs)
        if isinstance(plan, SlurmPlan)
        else RayCrew(folder, plan, ray_task.take_jobs)
    )


def _submit_only(listed: JobList, crew: Crew, left: int, screen: SweepScreen) -> None:
    """Starts the missing workers and says how to look at them."""
    for sentence in crew.tick(left, live_workers(listed.folder)):
        screen.line(sentence)
    screen.line(f"{crew.detaches}; kdexp-report {shlex.quote(str(listed.folder))} shows what is finished")


class _Lead:
    """Whether this process starts the workers, or another one that watches the same sweep; it takes over when that ends."""

    def __init__(self, folder: Path, until: ExitStack, crew: Crew):
        self._folder, self._until, self._own = folder, until, crew
        self._onlookers = Onlookers()
        self.other = runner(folder)
        self._leads = False
        self.first = self._try()

    def crew(self) -> Crew:
        """The crew of this process if it leads now, else that of an onlooker."""
        return self._own if self._leads or self._try() else self._onlookers

    def _try(self) -> bool:
        try:
            hold(self._folder / ALIVE, self._until)
        except OSError:  # another process does
            return False
        self._leads = True
        return True


def _find_or_list(command: Command, typed: Sequence[str], source: Source) -> JobList:
    """The unfinished sweep that this command started before, or a new one; raises `Unwritable`."""
    config = command.jobs[0].config
    sweeps = at_home(str(config["output_dir"])) / "sweeps"
    with writing_to(config), ExitStack() as turn:
        sweeps.mkdir(parents=True, exist_ok=True)
        take_turns(sweeps / TURNS, turn)
        jobs = [job.overrides for job in command.jobs]
        found = find_unfinished(sweeps, digest_of(config), jobs, source)
        return found or claim_sweep(command.jobs, typed, source, by_workers=True)


def plan_local(node: Any, configs: Sequence[Mapping[str, Any]]) -> LocalPlan:
    """How many workers run on what of this machine; raises `InvalidArguments`."""
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
    workers = min(node.workers or room, len(configs))
    return LocalPlan(workers, gpus, node.per_gpu, node.threads or max(1, cores() // workers))


def plan_slurm(node: Any, jobs: int) -> SlurmPlan:
    """What is submitted to SLURM; raises `InvalidArguments`."""
    if why := missing_for_slurm():
        raise InvalidArguments([Problem("hydra/launcher", f"=slurm: {why}")])
    if node.signal_seconds >= 60 * node.minutes:
        sentence = f"={node.signal_seconds}: must be less than the {node.minutes} minutes of a task"
        raise InvalidArguments([Problem("hydra.launcher.signal_seconds", sentence)])
    plain: Any = OmegaConf.to_container(node, resolve=True)
    return SlurmPlan.of(plain, jobs)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    number = torch.cuda.device_count()
    return named[:number] if named else [str(number) for number in range(number)]
