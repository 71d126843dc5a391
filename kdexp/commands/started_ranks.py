"""Commands that torchrun or srun has started as several processes: the first one runs the jobs, the others train with it."""

from __future__ import annotations

import os
from collections.abc import Callable

from kdexp.commands.command import Command
from kdexp.configuration.hydra_settings import BY_WORKERS


def may_be_rank() -> bool:
    """Whether torchrun or srun may have started this process as one of several. Does not import torch."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_STEP_ID" in os.environ


def read_ranks() -> None:
    """Has `devices=auto` mean the processes that torchrun or srun has started."""
    from kdexp.device.rank_plan import read_environment

    read_environment()


def run_together(command: Command, run: Callable[[], int]) -> int:
    """Runs a command; where it has `devices=auto`, in the first of the processes, and the others train with that one.

    Returns the exit code.
    """
    from kdexp.commands.rank import follow
    from kdexp.device import ranks
    from kdexp.device.precision import pick_device
    from kdexp.device.rank_plan import plan_ranks, started_ranks
    from kdexp.experiment.other_ranks import dismiss, place
    from kdexp.files import at_home

    config = next((config for config in command.configs if config["devices"] == "auto"), None)
    if config is None or started_ranks() == 1:
        return run()
    device = pick_device(config["device"])
    plan = plan_ranks("auto", device)
    if command.dry_run or command.launcher in BY_WORKERS:
        return 0 if plan.rank else run()

    def join() -> None:
        ranks.join_started(plan, at_home(str(config["output_dir"])), place(device, plan.place))

    if plan.rank:
        return follow(join, plan.rank)
    try:
        join()
        code = run()
        dismiss()
    finally:
        ranks.leave()
    return code
