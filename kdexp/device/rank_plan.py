"""With how many processes, the ranks, a run trains, and which of them this one is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from kdexp.device.meeting import PREFIX


@dataclass(frozen=True)
class RankPlan:
    """How many ranks a run trains with, which of them this process is, and where they meet."""

    ranks: int = 1
    rank: int = 0
    place: int = 0
    """Which of the ranks on its machine this is."""
    meeting: str = ""
    """Where they meet, if torchrun or srun has started them: `env://`, or the name of a file in a folder that all have."""


_started = RankPlan()
"""The ranks that torchrun or srun has started with this process."""


def read_environment() -> RankPlan:
    """Has `devices=auto` mean the ranks that torchrun or srun has started with this process, if it has. Returns their plan.

    A process that takes jobs from a sweep does not call this: those that were started with it take other jobs.
    """
    global _started
    _started = RankPlan()
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        _started = RankPlan(int(told["WORLD_SIZE"]), int(told["RANK"]), int(told["LOCAL_RANK"]), "env://")
    elif (tasks := int(told.get("SLURM_STEP_NUM_TASKS", 1))) > 1:
        names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
        file = PREFIX + "_".join(told.get(name, "0") for name in names)
        _started = RankPlan(tasks, int(told["SLURM_PROCID"]), int(told["SLURM_LOCALID"]), file)
    return _started


def plan_ranks(devices: int | Literal["auto"], device: torch.device) -> RankPlan:
    """The ranks of a run with this setting: N on this machine, or with `auto` those of torchrun, of srun, or one per GPU."""
    if devices != "auto":
        return RankPlan(devices)
    if _started.ranks > 1:
        return _started
    return RankPlan(max(1, torch.cuda.device_count()) if device.type == "cuda" else 1)


def most_ranks(devices: Iterable[int | Literal["auto"]]) -> int:
    """How many GPUs a worker needs for jobs with these settings; `auto` makes do with those that it has."""
    return max((asked for asked in devices if asked != "auto"), default=1)


def started_ranks() -> int:
    """How many ranks torchrun or srun has started, this process with them."""
    return _started.ranks
