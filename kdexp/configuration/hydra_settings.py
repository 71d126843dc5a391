"""Hydra's own settings: the few that `kdexp` reads, and refusals of all others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf

from kdexp.configuration.arguments import Count, NonNegativeInt, Positive, Range, Written, misfit, short_repr
from kdexp.configuration.jobs import key_of
from kdexp.configuration.settings import Threads
from kdexp.errors import Problem

Workers = Annotated[int, Range(at_least=1, within=(1, 1000))]
RayAddress = Annotated[
    str, Written(r"auto|(ray://)?([^/:\s]+|\[[0-9a-fA-F:]+\]):\d{1,5}", "auto, HOST:PORT or ray://HOST:PORT")
]
GpuShare = Annotated[float, Range(at_least=0, within=(0, 1000))]

LAUNCHERS: dict[str, dict[str, Any]] = {
    "basic": {},
    "lockstep": {"max_learners": Count | None},
    "local": {"workers": Workers | None, "per_gpu": Workers, "threads": Threads | None},
    "slurm": {
        "workers": Workers,
        **dict.fromkeys(("partition", "account", "qos", "constraint", "gres"), str | None),
        "cpus_per_task": Workers,
        "mem_gb": Positive | None,
        "minutes": Count,
        "signal_seconds": Count,
        "setup": list[str],
        "sbatch": dict,
        "wait": bool,
    },
    "ray": {
        "workers": Workers,
        "address": RayAddress | None,
        "gpus_per_worker": GpuShare | None,
        "cpus_per_worker": Workers,
        "retries": NonNegativeInt,
        "env": dict[str, str],
        "wait": bool,
    },
}
"""Launchers of `kdexp` and their settings; all others are left to Hydra."""

BY_WORKERS = ("local", "slurm", "ray")
"""Launchers that leave the jobs of a sweep to other processes."""

ELSEWHERE = ("slurm", "ray")
"""Launchers whose workers may run on other machines."""

ONLY_SWEEPS = {
    "lockstep": "trains the jobs of a sweep together",
    **dict.fromkeys(BY_WORKERS, "starts workers for the jobs of a sweep"),
}
"""What launchers do that only a sweep can use."""

_READ = ("hydra/launcher", "hydra.launcher", "hydra.mode", "hydra.sweeper.params")

_FOLDERS = ("hydra.run", "hydra.sweep", "hydra.output_subdir")


def unused(overrides: Sequence[str], hydra_node: DictConfig, multirun: bool) -> Iterator[Problem]:
    """Problems of Hydra settings that would have no effect, and of a launcher that can't work.

    With a launcher that is not ours, Hydra reads all its settings itself.
    """
    launcher = hydra_node.runtime.choices["hydra/launcher"]
    if launcher not in LAUNCHERS:
        return
    for text in overrides:
        key = key_of(text)
        if key == "hydra.launcher" and not text.partition("=")[2].startswith("{"):
            yield Problem(
                key, "is a group of settings; hydra/launcher=local chooses one, hydra.launcher.workers=2 sets a value"
            )
        elif re.match(r"hydra([./]|$)", key) and not any(f"{key}.".startswith(f"{read}.") for read in _READ):
            yield Problem(key, _without_effect(key))
    if launcher in ONLY_SWEEPS and not multirun:
        yield Problem("hydra/launcher", f"={launcher}: {ONLY_SWEEPS[launcher]}; add -m")
    given: Any = OmegaConf.to_container(hydra_node.launcher)
    for name, annotation in LAUNCHERS[launcher].items():
        if sentence := misfit(value := given.get(name), annotation):
            yield Problem(f"hydra.launcher.{name}", f"={short_repr(value)}: {sentence}")


def _without_effect(key: str) -> str:
    if any(f"{key}.".startswith(f"{folder}.") for folder in _FOLDERS):
        return "has no effect; kdexp names its folders itself, output_dir=FOLDER chooses where they go"
    if key == "hydra.searchpath":
        return "has no effect; --config-dir FOLDER adds your own options"
    return "has no effect in kdexp; see kdexp --help for what can be set"
