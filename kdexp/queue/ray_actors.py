"""The actors that are a sweep's workers in Ray: what each needs, their names and ends, and what runs in their processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.errors import first_line
from kdexp.store.run_state import WORKERS
from kdexp.text.numbers import count

LOOK = 10.0
"""Seconds that Ray has to say why an actor ended."""


@dataclass(frozen=True)
class RayPlan:
    """How many workers there are, what each needs, and the address of the cluster; without one, Ray runs on this machine."""

    workers: int
    address: str | None
    cpus: int
    gpus: float
    retries: int
    env: Mapping[str, str]
    here: Mapping[str, float]
    """The CPUs and GPUs of a Ray on this machine."""

    @property
    def restarts(self) -> bool:
        """Whether Ray is to start a worker again that was asked to end, as before its node is shut down."""
        return self.address is not None

    @property
    def per_gpu(self) -> int:
        """How many workers share a GPU."""
        return max(1, int(1 / self.gpus + 1e-9)) if self.gpus else 1

    @property
    def needs(self) -> str:
        """What one worker needs, in words."""
        gpus = f"{self.gpus:g} GPU{'s' * (self.gpus > 1)} and " if self.gpus else ""
        return f"{gpus}{count(self.cpus, 'CPU')}"

    def on(self, node: Mapping[str, float]) -> int:
        """How many of the workers a node has room for."""
        by_gpus = [int(node.get("GPU", 0) / self.gpus + 1e-9)] if self.gpus else []
        return min([self.workers, int(node.get("CPU", 0) / self.cpus), *by_gpus])

    def __str__(self) -> str:
        where = f"at {self.address}" if self.address else "on this machine"
        return f"{count(self.workers, 'worker')} in Ray {where}, {self.needs} each"


class Worker:
    """A worker that works while it is created: so it needs no command that calls it, and Ray creates it again if it dies."""

    def __init__(self, task: Callable[..., None], folder: str, name: str, plan: RayPlan):
        import ray

        context = ray.get_runtime_context()
        here: Mapping[str, float] = next(
            (node["Resources"] for node in ray.nodes() if node["NodeID"] == context.get_node_id()), {}
        )
        sweep = Path(folder)
        task(sweep, name, output_of(sweep, name), max(1, plan.on(here)), plan.per_gpu, restarts=plan.restarts)
        ray.actor.exit_actor()


def prefix_of(folder: Path) -> str:
    """What the names of a sweep's actors begin with; numbers follow. Folders of other users may have the same name."""
    return f"{folder.name} {hashlib.sha256(str(folder).encode()).hexdigest()[:8]} "


def number_of(name: str) -> int:
    """The number at the end of an actor's name."""
    return int(name.rpartition(" ")[2])


def output_of(folder: Path, name: str) -> Path:
    """The file that a worker's process prints to."""
    return folder / WORKERS / f"ray-{number_of(name)}.txt"


def actors_of(folder: Path) -> set[str]:
    """The names of a sweep's actors that wait for room, are started again, or work."""
    import ray

    return {name for name in ray.util.list_named_actors() if name.startswith(prefix_of(folder))}


def end_actor(name: str) -> None:
    """Kills an actor, which is not started again; does nothing if it has ended."""
    import ray

    with suppress(ValueError):
        ray.kill(ray.get_actor(name), no_restart=True)


def why_it_ended(actor: Any) -> str:
    """Ray's words for the end of an actor: the error in its process if there was one."""
    import ray

    try:
        ray.get(actor.__ray_ready__.remote(), timeout=LOOK)
    except Exception as error:  # Ray raises errors of many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1] if lines else first_line(error)
    return "Ray does not say why"
