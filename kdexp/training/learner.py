"""One network in training, with its method, optimizer, schedule and random stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from traceback import format_exc
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.data.batch import Batch
from kdexp.data.split import Split
from kdexp.data.views import View
from kdexp.device import ranks
from kdexp.device.memory import in_halves
from kdexp.device.precision import Precision
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, Progress, Terms
from kdexp.errors import first_line
from kdexp.network.capture import Capture, Outputs
from kdexp.network.freezing import frozen_except
from kdexp.network.interleaving import interleave, interleave_outputs
from kdexp.network.landmarks import classifier_of
from kdexp.network.statistics import kept_statistics
from kdexp.tasks.classification import correct
from kdexp.training.averaging import MovingAverage
from kdexp.training.history import History
from kdexp.training.optimization import OptimizerRecipe, keep_on_device


@dataclass
class Learner:
    """A student (or a teacher in training) with everything that its training changes.

    `step` trains on one batch. After an epoch, `close_epoch` leaves its numbers on the device, so that one transfer brings
    those of all learners to the host, and `record_epoch` takes them from there.
    """

    name: str
    model: nn.Module
    capture: Capture
    distiller: Distiller
    recipe: OptimizerRecipe
    schedule: Any
    stream: RandomStream
    precision: Precision
    deployed: nn.Module
    untrained: bool = False
    """Whether the classifier keeps its initial weights, so that accuracies mean nothing."""
    trained: nn.Module | None = None
    """The part of the model that is in training mode during training; None for all of it."""
    average: MovingAverage | None = None
    """The moving average of the model's weights, which is then what is evaluated and stored."""
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
        modules = [self.model, self.distiller]
        paced = [modules.pop(0)] if self.distiller.paces_student else []
        self.optimizer = self.recipe.build(modules, fused=self.precision.fused, paced=paced)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._let_record()
        self._portion = 1.0
        self._notes: dict[str, Tensor] = {}
        self._compiled: dict[nn.Module, Callable[[Tensor], Tensor]] = {}

    def _let_record(self) -> None:
        """Prepares the optimizer for recorded steps, if there will be any."""
        if self.precision.graph and self.fused:
            keep_on_device(self.optimizer)

    @property
    def fused(self) -> bool:
        """Whether its optimizer takes its step in one kernel; others can't be recorded."""
        return all(group.get("fused") for group in self.optimizer.param_groups)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: the deployed one, or the moving average of the model."""
        return self.deployed if self.average is None else self.average.network

    @property
    def changing(self) -> list[nn.Module]:
        """All modules whose parameters or buffers a step may change."""
        return [self.model, self.distiller, *([] if self.average is None else [self.average])]

    @property
    def history(self) -> list[dict[str, float]]:
        """Losses and accuracies, one row per finished epoch."""
        return self.log.epochs

    def forward(self, image: Tensor) -> Outputs:
        """The student's outputs on `image` [N, C, H, W], in the run's precision and returned in fp32."""
        outputs = self._run(image)
        self._logits = outputs.logits.detach()
        return outputs

    def forward_aside(self, image: Tensor) -> Outputs:
        """The student's outputs on images that are not what it is measured on; see `Trainee`."""
        with kept_statistics(self.model):
            return self._run(image)

    def forward_frozen(self, image: Tensor) -> Outputs:
        """The student's outputs where its classifier alone is trained; see `Trainee`."""
        with frozen_except(self.model, classifier_of(self.model)):
            return self.forward(image)

    def forward_all(self, images: Sequence[Tensor], *, joint: bool, interleaved: bool = False) -> list[Outputs]:
        """The student's outputs for several batches of images, the labelled one first; see `Trainee`."""
        if joint:
            outputs = self._run(torch.cat(list(images)))
            found = [outputs.map(partial(_rows, rows)) for rows in _slices(images)]
        else:
            first, *others = interleave(images) if interleaved else images
            found = [self._run(first), *map(self.forward_aside, others)]
            found = interleave_outputs(found) if interleaved else found
        self._logits = found[0].logits.detach()
        return found

    def _run(self, image: Tensor) -> Outputs:
        with self.precision.autocast():
            return self.distiller.answer(self.capture(image))

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Has networks compute in fp32, without TF32; see `Trainee`."""
        usual, self.precision = self.precision, replace(self.precision, name="fp32")
        try:
            self.precision.set()
            yield
        finally:
            self.precision = usual
            usual.set()

    def note(self, **measures: Tensor) -> None:
        """Scalars of this step for the history."""
        self._notes |= {name: value.detach().float() for name, value in measures.items()}

    def ask(self, network: nn.Module, image: Tensor) -> Tensor:
        """The logits [N, K] of another network that its method trains, in the run's precision and returned in fp32."""
        if self.precision.compile and network not in self._compiled:
            self._compiled[network] = torch.compile(network, dynamic=False)
        with self.precision.autocast():
            return self._compiled.get(network, network)(image).float()

    @torch.no_grad()
    def ask_average(self, image: Tensor) -> Tensor:
        """The logits [N, K] of the moving average; see `Trainee`."""
        assert self.average is not None
        with kept_statistics(self.average):
            return self.ask(self.average.network, image)

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

    def reads(self, batch: Batch, outputs: Mapping[View, Outputs]) -> tuple[Batch, Outputs | None]:
        """What its method reads: the batch in its student's view, and the teacher's outputs for its teacher's view, if any."""
        return batch.as_seen(self.distiller.student_view), outputs.get(self.distiller.teacher_view)

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
        accuracy = correct(self._logits, label).float() / len(label)
        found = [*(term.detach() for term in terms.values()), *self._notes.values(), accuracy]
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
        return self.log.close_epoch(None if validation is None else self._accuracy(validation))

    def record_epoch(self, numbers: Tensor, validated: bool) -> None:
        """Adds the epoch whose numbers `close_epoch` returned, now on the host; keeps the weights of the best one."""
        self.failure = self.log.record_epoch(numbers, validated)
        if self.log.best_epoch == len(self.history):
            self.best_weights = {name: value.detach().clone() for name, value in self.state_dict().items()}

    def _accuracy(self, split: Split) -> Tensor:
        hits = [correct(logits, labels) for logits, labels in self.answers(split)]
        return torch.stack(hits).sum().float() / len(split)

    @torch.no_grad()
    def answers(self, split: Split, batch_size: int = 500):
        """Pairs of logits [n, K] and labels [n] of the evaluated network in evaluation mode, batch by batch."""
        self.eval()
        for image, labels in zip(split.in_order(batch_size), split.labels.split(batch_size), strict=True):
            with self.precision.autocast():
                logits = in_halves(self.evaluated, image)
            yield logits.float(), labels
        self.train()

    def logits(self, split: Split) -> Tensor:
        """The evaluated network's logits [N, K] for all images of a split, on the host."""
        return torch.cat([logits for logits, _ in self.answers(split)]).cpu()

    def train(self) -> None:
        """Switches the trained part of the student, and the method's own modules, to training mode."""
        self.model.eval()
        (self.trained or self.model).train()
        self.distiller.train()
        if self.average is not None:
            self.average.follow_modes()

    def eval(self) -> None:
        """Switches all networks to evaluation mode."""
        self.model.eval()
        self.distiller.eval()
        self.evaluated.eval()

    @property
    def _stored_parts(self) -> dict[str, nn.Module]:
        return {"model": self.model if self.average is None else self.average.network, "method": self.distiller}

    def state_dict(self) -> dict[str, Tensor]:
        """All weights and buffers that are evaluated: the student's under `model.`, the method's own under `method.`."""
        parts = self._stored_parts.items()
        return {f"{part}.{name}": value for part, module in parts for name, value in module.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned, strictly."""
        for part, module in self._stored_parts.items():
            own = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
            module.load_state_dict(own)

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
        self.log = History(progress["history"], progress["best_epoch"], progress["seconds"])
        self.best_weights = progress["best_weights"]
        self.continued_after = [*progress["continued_after"], len(self.history)]


def _slices(images: Sequence[Tensor]) -> Iterator[slice]:
    """Where each of several batches is among all of them together."""
    start = 0
    for batch in images:
        yield slice(start, start + len(batch))
        start += len(batch)


def _rows(rows: slice, values: Tensor) -> Tensor:
    return values[rows]
