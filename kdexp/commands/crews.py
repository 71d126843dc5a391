"""The workers of each launcher: how many there are and what each gets, and the crew that starts them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from kdexp.commands import ray_task, slurm_task
from kdexp.commands.ray_plan import plan_ray
from kdexp.commands.work import cores
from kdexp.device.precision import pick_device
from kdexp.device.rank_plan import most_ranks
from kdexp.errors import InvalidArguments, Problem
from kdexp.queue.crew import Crew
from kdexp.queue.local import LocalCrew, LocalPlan
from kdexp.queue.ray import RayCrew
from kdexp.queue.ray_actors import RayPlan
from kdexp.queue.slurm import SlurmCrew, SlurmPlan, missing_for_slurm
from kdexp.text.numbers import count

Plan = LocalPlan | SlurmPlan | RayPlan

SEVERAL_TASKS = ("nodes", "N", "ntasks", "n", "ntasks-per-node", "tasks-per-node", "ntasks-per-gpu", "ntasks-per-socket")
"""Options of sbatch that would start a worker more than once."""


def plan_workers(launcher: str, node: Any, configs: Sequence[Mapping[str, Any]], jobs: int) -> Plan:
    """The workers that a launcher starts for so many jobs or trials; raises `InvalidArguments`."""
    if launcher == "local":
        return plan_local(node, configs, jobs)
    return plan_slurm(node, jobs) if launcher == "slurm" else plan_ray(node, configs, jobs)


def crew_of(folder: Path, plan: Plan) -> Crew:
    """The crew that starts the workers of a plan."""
    if isinstance(plan, LocalPlan):
        return LocalCrew(folder, plan)
    if isinstance(plan, SlurmPlan):
        return SlurmCrew(folder, plan, slurm_task.take_jobs)
    return RayCrew(folder, plan, ray_task.take_jobs)


def plan_local(node: Any, configs: Sequence[Mapping[str, Any]], jobs: int) -> LocalPlan:
    """The workers for so many jobs, on the GPUs or the cores of this machine; raises `InvalidArguments`."""
    devices = {str(config["device"]) for config in configs}
    gpus = visible_gpus() if any(pick_device(name).type == "cuda" for name in devices) else []
    if gpus and (numbered := sorted(name for name in devices if ":" in name)):
        sentence = f"={numbered[0]}: workers take turns on the GPUs; leave device=cuda, and set CUDA_VISIBLE_DEVICES to some"
        raise InvalidArguments([Problem("device", sentence)])
    ranks = most_ranks(config["devices"] for config in configs)
    sets = [",".join(gpus[first : first + ranks]) for first in range(0, len(gpus) - ranks + 1, ranks)]
    room = len(sets) * node.per_gpu if gpus else cores()
    if gpus and node.workers and node.workers > room:
        needed = -(-node.workers // len(sets))
        several = f" and devices={ranks}" if ranks > 1 else ""
        sentence = f"={node.workers}: {count(len(gpus), 'GPU')} with per_gpu={node.per_gpu}{several} take {room}"
        raise InvalidArguments([Problem("hydra.launcher.workers", f"{sentence}; hydra.launcher.per_gpu={needed} takes more")])
    workers = min(node.workers or room, jobs)
    return LocalPlan(workers, sets, node.per_gpu, node.threads or _threads(workers))


def _threads(workers: int) -> int:
    """A worker's share of the cores, or fewer threads where `OMP_NUM_THREADS` gives every process fewer."""
    share, given = max(1, cores() // workers), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(given)) if given.isdecimal() and int(given) else share


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
