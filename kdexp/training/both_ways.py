"""Recorded steps against plain ones: both are taken from the same state of the learners, and must come out nearly the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from kdexp.training.learner import Learner

STEPS = 2
"""Steps that are taken both ways; the second one starts from what the first one changed."""

UNNOTICEABLE = 1e-6
"""Share of the weights' norm below which a change of the weights is rounding."""

COMPARED = ("weights", "buffers")

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Bound:
    """The largest difference that may come from the order in which kernels add.

    `loss` is a share of a step's loss terms, `change` a share of the change that plain steps make to the weights or buffers, as
    norms. Adam turns rounding into whole steps where a gradient is nearly zero, so the second bound is wide. Another batch,
    another dropout mask or half as large a rate again exceed at least one of them.
    """

    loss: float
    change: float


BOUNDS = {"fp32": Bound(1e-3, 0.1), "tf32": Bound(2e-3, 0.1), "bf16": Bound(4e-3, 0.15)}
"""By precision."""


class Snapshot:
    """Everything that a step of a learner changes, copied in order to go back there."""

    def __init__(self, learner: Learner):
        self.learner = learner
        modules, states = learner.changing, learner.optimizer.state.values()
        buffers = [buffer for module in modules for buffer in module.buffers()]
        self.changing: dict[str, list[Tensor]] = {
            "weights": [parameter for module in modules for parameter in module.parameters()],
            "buffers": [buffer for buffer in buffers if buffer.is_floating_point()],
            "rest": [buffer for buffer in buffers if not buffer.is_floating_point()]
            + [value for state in states for value in state.values() if isinstance(value, Tensor)],
        }
        self.before = self.copied(*self.changing)
        self._random = learner.stream.states
        self._taken, self._seconds = len(learner.log.trace), learner.log.seconds

    def copied(self, *kinds: str) -> dict[str, list[Tensor]]:
        """Copies of these kinds of tensors as they are now."""
        return {kind: [tensor.detach().clone() for tensor in self.changing[kind]] for kind in kinds}

    @torch.no_grad()
    def restore(self, *, new_generator: bool = False) -> None:
        """Goes back, in the same memory; with `new_generator` to another random generator in the state of the old one."""
        for kind, tensors in self.changing.items():
            for tensor, value in zip(tensors, self.before[kind], strict=True):
                tensor.copy_(value)
        if new_generator:
            self.learner.stream.replace_generator()
        self.learner.stream.states = self._random
        del self.learner.log.trace[self._taken :]
        self.learner.log.seconds = self._seconds
        self.learner.failure = self.learner.traceback = ""

    @property
    def losses(self) -> Tensor:
        """The loss terms of the steps taken since then [steps, terms]."""
        return self.terms(torch.stack(self.learner.log.trace[self._taken :]))

    def terms(self, steps: Tensor) -> Tensor:
        """The loss terms [steps, terms] among all that the steps measured [steps, width]."""
        return steps[:, : len(self.learner.log.columns)]


class BothWays:
    """Compares what plain and recorded steps make of the same learners.

    Inside, take the plain steps, call `plain_taken`, take the recorded ones, and ask for the `differences`. Afterwards the
    learners are where they were, also after an error.
    """

    def __init__(self, learners: Sequence[Learner]):
        self.snapshots = [Snapshot(learner) for learner in learners]

    def __enter__(self) -> BothWays:
        return self

    def __exit__(self, kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._go_back(new_generators=kind is not None)

    def _go_back(self, *, new_generators: bool = False) -> None:
        for snapshot in self.snapshots:
            snapshot.restore(new_generator=new_generators)

    def plain_taken(self) -> None:
        """Remembers what the plain steps did, and goes back; raises `RuntimeError` if one failed."""
        if failures := [snapshot.learner.failure for snapshot in self.snapshots if snapshot.learner.failure]:
            raise RuntimeError(failures[0])
        self._losses = [snapshot.losses for snapshot in self.snapshots]
        self._plain = [snapshot.copied(*COMPARED) for snapshot in self.snapshots]
        self._go_back()

    def differences(self, traces: Sequence[Tensor], precision: str) -> list[str]:
        """How each learner's recorded steps differ by more than rounding, an empty string where they don't.

        `traces` [steps, width] hold what the recorded steps measured. Waits for the device once.
        """
        found = []
        for snapshot, trace, losses, plain in zip(self.snapshots, traces, self._losses, self._plain, strict=True):
            changes = [
                _relative_change(snapshot.changing[kind], plain[kind], snapshot.before[kind])
                if plain[kind]
                else losses.new_zeros(())
                for kind in COMPARED
            ]
            found.append(torch.stack([losses.sum(), _relative_loss(snapshot.terms(trace), losses), *changes]))
        return [_words(numbers, BOUNDS[precision]) for numbers in torch.stack(found).tolist()]


def _relative_loss(recorded: Tensor, plain: Tensor) -> Tensor:
    """The largest difference of a loss term [steps, terms] as a share of its step's terms."""
    return ((recorded - plain).abs() / plain.abs().sum(1, keepdim=True).clamp_min(TINY)).max()


def _relative_change(recorded: Sequence[Tensor], plain: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """The distance between the two ways' results as a share of the change that the plain one made."""
    apart = _norm(ours.detach() - theirs for ours, theirs in zip(recorded, plain, strict=True))
    change = _norm(theirs - old for theirs, old in zip(plain, before, strict=True))
    return apart / torch.maximum(change, UNNOTICEABLE * _norm(before)).clamp_min(TINY)


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([tensor.float().square().sum() for tensor in tensors]).sum().sqrt()


def _words(numbers: Sequence[float], bound: Bound) -> str:
    """Says which bound is exceeded; says nothing if the plain steps diverged, which ends the learner anyway."""
    plain_loss, loss, weights, buffers = numbers
    if not abs(plain_loss) < float("inf"):
        return ""
    for what, share, most in (
        ("losses differ", loss, bound.loss),
        ("changes of the weights differ", weights, bound.change),
        ("changes of the buffers differ", buffers, bound.change),
    ):
        if not share <= most:
            return f"their {what} from those of plain steps by {100 * share:.3g}%, more than {100 * most:g}%"
    return ""
