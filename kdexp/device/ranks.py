"""Ranks: processes that train the same networks, each on its part of every batch, and sum their gradients.

A process that has joined no others is rank 0 of 1, and nothing here changes what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdexp.device.meeting import NotMet, meet_at
from kdexp.device.rank_plan import RankPlan

PATIENCE = timedelta(days=7)
"""How long a rank waits for another; one that has ended is noticed at once."""


ENDED = "another process of this training has ended"


class RankLost(KeyboardInterrupt):
    """Another rank has ended or failed. Ends a training as Ctrl-C does: finished epochs are saved."""

    exit_code = 3


_together = False
"""Whether all ranks are in the same training."""

_stopped_midway = False
"""Whether an error or Ctrl-C has stopped this rank in the middle of a training, while the others wait for its next step."""


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
def together(ranks: int) -> Iterator[None]:
    """Inside, so many ranks do the same: what the first one does outside concerns no other."""
    global _together, _stopped_midway
    _together = ranks > 1
    try:
        yield
    except BaseException:
        _stopped_midway = _stopped_midway or _together
        raise
    finally:
        _together = False


def stopped_midway() -> bool:
    """Whether this rank was stopped in the middle of a training: the others, which wait for its next step, read no message."""
    return _stopped_midway


def leads() -> bool:
    """Whether this process decides, evaluates and writes, as a process on its own does."""
    return number() == 0


def join(store: dist.Store, rank: int, ranks: int, device: torch.device) -> None:
    """Joins the other ranks, which have met at this store."""
    _join(device, store=dist.PrefixStore("ranks", store), rank=rank, world_size=ranks)


def join_started(plan: RankPlan, folder: Path, device: torch.device) -> None:
    """Joins the ranks that torchrun or srun has started; those of srun meet in a folder. Raises `RankLost`."""
    if plan.meeting == "env://":
        _join(device, init_method="env://")
        return
    try:
        join(meet_at(folder / plan.meeting, plan.rank, plan.ranks), plan.rank, plan.ranks, device)
    except (NotMet, OSError, dist.DistError) as error:
        raise RankLost(str(error)) from error


def _join(device: torch.device, **where: Any) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE, **where)


def leave() -> None:
    """Ends what `join` began."""
    global _stopped_midway
    _stopped_midway = False
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
        raise RankLost(ENDED) from error
