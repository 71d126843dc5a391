"""One network in training, with its method, optimizer, schedule and random stream."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from traceback import format_exc
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.data.batch import Batch, of_labelled
from kdexp.data.split import Split
from kdexp.data.views import Reading
from kdexp.device import ranks
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Progress, Terms
from kdexp.errors import first_line
from kdexp.network.capture import Outputs
from kdexp.tasks.classification import correct
from kdexp.training.history import History
from kdexp.training.networks import Networks
from kdexp.training.optimization import OptimizerRecipe, keep_on_device


@dataclass(kw_only=True)
class Learner(Networks):
    """A student (or a teacher in training) with everything that its training changes.

    `step` trains on one batch. After an epoch, `close_epoch` leaves its numbers on the device, so that one transfer brings
    those of all learners to the host, and `record_epoch` takes them from there.
    """

    name: str
    recipe: OptimizerRecipe
    schedule: Any
    stream: RandomStream
    untrained: bool = False
    """Whether there is no classifier, or one that keeps its initial weights, so that there are no accuracies."""
    log: History = field(default_factory=History)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    continued_after: list[int] = field(default_factory=list)
    """Epochs after which the training was interrupted and resumed."""
    failure: str = ""
    """Why the training ended: a loss that is not finite, or an error in a step."""
    traceback: str = ""
    remark: str = ""
    """Why its steps are not recorded although `graph` is on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        modules = [self.model, self.distiller]
        paced = [modules.pop(0)] if self.distiller.paces_student else []
        self.optimizer = self.recipe.build(modules, fused=self.precision.fused, paced=paced)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._let_record()
        self.log.reads_labels = not self.untrained
        self._portion = 1.0
        self._notes: dict[str, Tensor] = {}

    def _let_record(self) -> None:
        """Prepares the optimizer for recorded steps, if there will be any."""
        if self.precision.graph and self.fused:
            keep_on_device(self.optimizer)

    @property
    def fused(self) -> bool:
        """Whether its optimizer takes its step in one kernel; others can't be recorded."""
        return all(group.get("fused") for group in self.optimizer.param_groups)

    @property
    def history(self) -> list[dict[str, float]]:
        """Losses and accuracies, one row per finished epoch."""
        return self.log.epochs

    def note(self, **measures: Tensor) -> None:
        """Scalars of this step for the history."""
        self._notes |= {name: value.detach().float() for name, value in measures.items()}

    def descend(self, terms: Terms) -> None:
        """One optimizer step on the sum of the terms, with the gradient clipped if the optimizer's recipe says so."""
        self.optimizer.zero_grad()
        total = torch.stack(list(terms.values())).sum()
        (total if self._portion == 1 else self._portion * total).backward()
        owned = [p for group in self.optimizer.param_groups for p in group["params"]]
        ranks.add_gradients(owned)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(owned, self.recipe.clip_norm)
        self.optimizer.step()

    def reads(self, batch: Batch, outputs: Mapping[Reading, Outputs]) -> tuple[Batch, Outputs | None]:
        """What its method reads: the batch in its student's view, and the teacher's outputs for its teacher's view, if any.

        The outputs for unlabelled images, if it reads them, come after those for the batch.
        """
        found = [outputs[reading] for reading in self.distiller.teacher_readings if reading in outputs]
        return batch.as_seen(self.distiller.student_view), reduce(Outputs.followed_by, found) if found else None

    def step(self, batch: Batch, teacher: Outputs | None, progress: Progress) -> None:
        """Trains on one batch, as `reads` gives it; an error in it ends this learner's training, and only this one's."""
        start = time.perf_counter()
        self._portion = batch.portion
        for group, rate in zip(self.optimizer.param_groups, self.rates(progress), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        scheduled = self.distiller.scheduled(progress)
        self.distiller.now = {name: torch.full((), value, device=self.precision.device) for name, value in scheduled.items()}
        try:
            with self.stream:
                terms = self.distiller.update(self, batch, teacher, progress)
                self.average_weights()
            self.log.trace.append(self.measure(terms, batch.label))
        except Exception as error:  # a network or a method may raise anything
            if ranks.count() > 1:  # the others can't know, and would wait
                raise ranks.RankLost(f"{self.name} of rank {ranks.number()}: {first_line(error)}") from error
            self.fail(error)
            return
        self.log.seconds += time.perf_counter() - start

    def average_weights(self) -> None:
        """Has the moving average follow a step, if there is one."""
        if self.average is not None:
            self.average.update()

    def rates(self, progress: Progress) -> list[float]:
        """The learning rate of each of the optimizer's parameter groups."""
        factor = self.schedule.factor(progress.epoch, progress.epochs)
        groups = [
            (rate * factor, group.get("paced"))
            for rate, group in zip(self._base_rates, self.optimizer.param_groups, strict=True)
        ]
        return [self.distiller.student_rate(progress, rate) if paced else rate for rate, paced in groups]

    def measure(self, terms: Terms, label: Tensor) -> Tensor:
        """The terms and notes of the step just taken and its training accuracy [width], on the device."""
        self.log.columns, self.log.notes = list(terms), list(self._notes)
        found = [*(term.detach() for term in terms.values()), *self._notes.values()]
        if self.log.reads_labels:
            found.append(correct(of_labelled(self._logits, label), label).float() / len(label))
        self._notes = {}
        return torch.stack(found) if self._portion == 1 else self._portion * torch.stack(found)

    def fail(self, error: Exception) -> None:
        """Ends the training because of an error that is being handled."""
        self.failure = (
            f"{first_line(error)} ({type(error).__name__} in epoch {len(self.history) + 1}; log.txt has its traceback)"
        )
        self.traceback = format_exc()

    def close_epoch(self, validation: Split | None) -> Tensor:
        """The numbers of the epoch, with its validation accuracy, in one flat fp32 tensor on the device."""
        return self.log.close_epoch(None if validation is None or self.untrained else self.accuracy(validation))

    def record_epoch(self, numbers: Tensor, validated: bool) -> None:
        """Adds the epoch whose numbers `close_epoch` returned, now on the host; keeps the weights of the best one."""
        self.failure = self.log.record_epoch(numbers, validated and not self.untrained)
        if self.log.best_epoch == len(self.history):
            self.best_weights = {name: value.detach().clone() for name, value in self.state_dict().items()}

    def training_state(self) -> dict[str, Any]:
        """What only a continued training needs: optimizer, random stream, and with a moving average the weights themselves."""
        state = {"optimizer": self.optimizer.state_dict(), "random": self.stream.states}
        if self.average is not None:
            state |= {"trained_weights": self.model.state_dict(), "averaged_steps": self.average.steps}
        return state

    def progress(self) -> dict[str, Any]:
        """Everything that the next epochs depend on, after a finished epoch, for `resume`."""
        return {
            "history": self.history,
            "seconds": self.log.seconds,
            "best_epoch": self.log.best_epoch,
            "best_weights": self.best_weights,
            "continued_after": self.continued_after,
            **self.training_state(),
            "weights": self.state_dict(),
        }

    def resume(self, progress: dict[str, Any]) -> None:
        """Goes back to where `progress` was taken; training on from there gives bitwise the same weights (CPU)."""
        self.load_state_dict(progress["weights"])
        self.optimizer.load_state_dict(progress["optimizer"])
        self._let_record()
        if self.average is not None:
            self.model.load_state_dict(progress["trained_weights"])
            self.average.steps.copy_(progress["averaged_steps"])
        self.stream.states = progress["random"]
        self.log = History(progress["history"], progress["best_epoch"], progress["seconds"], reads_labels=not self.untrained)
        self.best_weights = progress["best_weights"]
        self.continued_after = [*progress["continued_after"], len(self.history)]
