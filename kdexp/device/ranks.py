"""Ranks: processes that train the same networks, each on its part of every batch, and sum their gradients.

A process that has joined no others is rank 0 of 1, and nothing here changes what it computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(days=7)
"""How long a rank waits for another; one that has ended is noticed at once."""


class RankLost(KeyboardInterrupt):
    """Another rank has ended or failed. Ends a training as Ctrl-C does: finished epochs are saved."""

    exit_code = 3


@dataclass(frozen=True)
class RankPlan:
    """How many ranks a run trains with, which of them this process is, and where they meet."""

    ranks: int = 1
    rank: int = 0
    place: int = 0
    """Which of the ranks on its machine this is."""
    meeting: str = ""
    """Where they meet, if the environment has started them; otherwise the first one starts the others."""


def plan_ranks(devices: int | Literal["auto"], device: torch.device, folder: Path) -> RankPlan:
    """The ranks of a run with this setting: N on this machine, or with `auto` those of torchrun, of srun, or one per GPU.

    The tasks of srun meet at a file in a shared folder.
    """
    if devices != "auto":
        return RankPlan(devices)
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        return RankPlan(int(told["WORLD_SIZE"]), int(told["RANK"]), int(told["LOCAL_RANK"]), "env://")
    if "SLURM_STEP_ID" in told and int(told.get("SLURM_NTASKS", 1)) > 1:
        meeting = folder.resolve() / f".ranks_{told['SLURM_JOB_ID']}_{told['SLURM_STEP_ID']}"
        return RankPlan(int(told["SLURM_NTASKS"]), int(told["SLURM_PROCID"]), int(told["SLURM_LOCALID"]), str(meeting))
    return RankPlan(max(1, torch.cuda.device_count()) if device.type == "cuda" else 1)


_together = False
"""Whether all ranks are in the same training."""


def joined() -> bool:
    """Whether this process has joined others."""
    return dist.is_available() and dist.is_initialized()


def count() -> int:
    """Number of ranks that train together, 1 for a process on its own and outside of a training."""
    return dist.get_world_size() if _together else 1


def number() -> int:
    """Which of the ranks this process is, from 0."""
    return dist.get_rank() if joined() else 0


@contextmanager
def together() -> Iterator[None]:
    """Inside, all ranks do the same: what the first one does outside concerns no other."""
    global _together
    _together = joined()
    try:
        yield
    finally:
        _together = False


def leads() -> bool:
    """Whether this process decides, evaluates and writes, as a process on its own does."""
    return number() == 0


def join(meeting: Path | str, rank: int, ranks: int, device: torch.device) -> None:
    """Waits for the other ranks at a file that all can reach, or with `env://` where the environment says."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    where = meeting if meeting == "env://" else f"file://{meeting}"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=str(where), rank=rank, world_size=ranks, timeout=PATIENCE)


def leave() -> None:
    """Ends what `join` began."""
    if joined():
        dist.destroy_process_group()


def tell(message: Any) -> None:
    """Sends a message from the first rank to all others, which `listen` for it."""
    _exchange(lambda: dist.broadcast_object_list([message], src=0, device=torch.device("cpu")))


def listen() -> Any:
    """Waits for the next message of the first rank."""
    received: list[Any] = [None]
    _exchange(lambda: dist.broadcast_object_list(received, src=0, device=torch.device("cpu")))
    return received[0]


def own_part(size: int) -> slice:
    """The part of a batch of so many images that this rank trains on."""
    ranks, rank = count(), number()
    return slice(size * rank // ranks, size * (rank + 1) // ranks)


def largest_part(size: int) -> int:
    """Images of the largest part of such a batch."""
    return -(-size // count())


def add_up(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place."""
    if count() > 1:
        _exchange(lambda: dist.all_reduce(values))
    return values


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces the gradients by their sums over all ranks, in one exchange."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = add_up(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, values in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(values.view_as(gradient))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_context, values: Tensor) -> Tensor:
        return add_up(values.clone())

    @staticmethod
    def backward(_context, gradient: Tensor) -> Tensor:
        return add_up(gradient.clone())


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks; its gradient is the sum of theirs."""
    return _Sum.apply(values)


def _exchange(exchange: Callable[[], object]) -> None:
    """An exchange with the other ranks; raises `RankLost` if one of them has ended."""
    try:
        exchange()
    except (RuntimeError, dist.DistError) as error:
        raise RankLost("another process of this training has ended") from error
