"""How many workers Ray starts with what, from the settings of its launcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kdexp.commands.work import cores
from kdexp.device.rank_plan import most_ranks
from kdexp.errors import InvalidArguments, Problem
from kdexp.queue import ray_cluster
from kdexp.queue.ray_actors import RayPlan


def plan_ray(node: Any, configs: Sequence[Mapping[str, Any]], jobs: int) -> RayPlan:
    """The plan for so many jobs; connects to the cluster if there is an address. Raises `InvalidArguments`."""
    if why := ray_cluster.missing_for_ray():
        raise InvalidArguments([Problem("hydra/launcher", f"=ray: {why}")])
    here = {"num_cpus": cores(), "num_gpus": torch.cuda.device_count()}
    found = [*_refusals(node), *([] if node.address else _refusals_here(node, here))]
    if found:
        raise InvalidArguments(found)
    if node.address:
        ray_cluster.connect(node.address)
    has_gpus = any(known.get("GPU", 0) for known in ray_cluster.nodes()) if node.address else here["num_gpus"] > 0
    wants_gpus = any(str(config["device"]) != "cpu" for config in configs)
    own = most_ranks(config["devices"] for config in configs) if has_gpus and wants_gpus else 0
    gpus = float(own) if node.gpus_per_worker is None else node.gpus_per_worker
    env = {str(name): str(value) for name, value in node.env.items()}
    return RayPlan(min(node.workers, jobs), node.address, node.cpus_per_worker, gpus, node.retries, env, here)


def _refusals(node: Any) -> list[Problem]:
    """Settings that Ray would refuse."""
    found = []
    gpus = node.gpus_per_worker or 0
    if gpus > 1 and gpus != int(gpus):
        sentence = f"={gpus:g}: must be a fraction of one GPU, or a whole number of them"
        found.append(Problem("hydra.launcher.gpus_per_worker", sentence))
    for name, value in node.env.items():
        if not isinstance(value, str | int | float):
            found.append(Problem(f"hydra.launcher.env.{name}", f"={value}: must be a text"))
    return found


def _refusals_here(node: Any, here: Mapping[str, float]) -> list[Problem]:
    """Settings that a Ray on this machine can't follow."""
    found = []
    cluster = "hydra.launcher.address=auto or HOST:PORT names a cluster"
    if not node.wait:
        sentence = f"=false: without an address, Ray and its workers end with this command; {cluster}"
        found.append(Problem("hydra.launcher.wait", sentence))
    for setting, noun, has in (("cpus_per_worker", "CPUs", here["num_cpus"]), ("gpus_per_worker", "GPUs", here["num_gpus"])):
        if (node[setting] or 0) > has:
            found.append(Problem(f"hydra.launcher.{setting}", f"={node[setting]}: this machine has {has} {noun}; {cluster}"))
    return found
