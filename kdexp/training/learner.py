"""One network in training: its method, optimizer, schedule, random stream, and what its epochs measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from traceback import format_exc
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.data.batch import Batch
from kdexp.data.split import Split
from kdexp.device.precision import Precision
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, Progress, Terms
from kdexp.errors import first_line
from kdexp.network.capture import Capture, Outputs
from kdexp.tasks.classification import correct
from kdexp.training.optimization import OptimizerRecipe, keep_on_device

PROGRESS = ("history", "seconds", "best_epoch", "best_weights", "continued_after")
"""What a learner has measured so far, as plain values and tensors."""


@dataclass
class Learner:
    """A student (or a teacher to be) with everything its training changes.

    `step` is the whole of a training step; `close_epoch` leaves what the epoch measured on the device, so that one transfer
    brings it to the host, where `record_epoch` keeps it. A loss that is not finite sets `failure`, and so does an error in a
    step; `remark` is what is to be known of how its steps were taken. `trained` is the part of the model that is in training
    mode during the training, if not all of it; `untrained` is a learner whose classifier is as it was initialised and stays so,
    so that its answers mean nothing. `seconds` is the host's time in its own steps, without data, teacher and
    evaluation (of recorded steps its share of the device's time, all included); `continued_after` lists the epochs after which
    it was resumed.
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
    trained: nn.Module | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""
    traceback: str = ""
    remark: str = ""
    seconds: float = 0.0
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    continued_after: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = self.recipe.build([self.model, self.distiller], fused=self.precision.fused)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.precision.graph:
            keep_on_device(self.optimizer)
        self._trace: list[Tensor] = []
        self._columns: list[str] = []
        self._compiled: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        self._stopwatch: Callable[[], float] | None = None

    def forward(self, image: Tensor) -> Outputs:
        """The student's outputs on `image` [N, C, H, W], in the run's precision and returned in fp32."""
        with self.precision.autocast():
            outputs = self.distiller.answer(self.capture(image))
        self._logits = outputs.logits.detach()
        return outputs

    def ask(self, network: nn.Module, image: Tensor) -> Tensor:
        """The logits [N, K] of another network that its method trains, in the run's precision and returned in fp32."""
        if self.precision.compile and network not in self._compiled:
            self._compiled[network] = torch.compile(network, dynamic=False)
        with self.precision.autocast():
            return self._compiled.get(network, network)(image).float()

    def descend(self, terms: Terms) -> None:
        """One optimizer step on the sum of the terms, with the gradient clipped where the optimizer's recipe says so."""
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        if self.recipe.clip_norm is not None:
            owned = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(owned, self.recipe.clip_norm)
        self.optimizer.step()

    def step(self, batch: Batch, teacher: Outputs | None, progress: Progress) -> None:
        """Trains on one batch."""
        start = time.perf_counter()
        for group, rate in zip(self.optimizer.param_groups, self.rates(progress), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        try:
            numbers = self.take(batch, teacher, progress)
        except Exception as error:  # whatever a network or a method raises ends this learner and no other
            self.fail(error)
            return
        self._trace.append(numbers)
        self.seconds += time.perf_counter() - start

    def rates(self, progress: Progress) -> list[float]:
        """The learning rate of each of the optimizer's parameter groups."""
        factor = self.schedule.factor(progress.epoch, progress.epochs)
        return [rate * factor for rate in self._base_rates]

    def take(self, batch: Batch, teacher: Outputs | None, progress: Progress) -> Tensor:
        """A step at the learning rates that the optimizer has; its terms and accuracy, in one tensor on the device."""
        with self.stream:
            terms = self.distiller.update(self, batch, teacher, progress)
        self._columns = list(terms)
        accuracy = correct(self._logits, batch.label).float() / len(batch.label)
        return torch.stack([*(term.detach() for term in terms.values()), accuracy])

    @property
    def numbers(self) -> int:
        """How many a step gave: its terms and the accuracy."""
        return len(self._columns) + 1

    def add_recorded(self, steps: Tensor, stopwatch: Callable[[], float]) -> None:
        """Adds what further steps of the epoch gave, one per row, and what tells their seconds once the device is done."""
        self._trace += steps
        self._stopwatch = stopwatch

    def fail(self, error: Exception) -> None:
        """Ends the training because of an error that is being handled."""
        self.failure = (
            f"{first_line(error)} ({type(error).__name__} in epoch {len(self.history) + 1}; log.txt has its traceback)"
        )
        self.traceback = format_exc()

    def close_epoch(self, validation: Split | None) -> Tensor:
        """The epoch's terms and accuracy per step, and the validation accuracy, in one flat fp32 tensor on the device."""
        numbers = [torch.stack(self._trace).flatten()]
        if validation is not None:
            numbers.append(self._validation_accuracy(validation).view(1))
        self._trace = []
        return torch.cat(numbers)

    def record_epoch(self, numbers: Tensor, validated: bool) -> None:
        """Keeps what `close_epoch` returned, now on the host: means into the history, a failure, the best epoch."""
        epoch = len(self.history)
        if self._stopwatch is not None:
            self.seconds += self._stopwatch()
            self._stopwatch = None
        steps = (numbers[:-1] if validated else numbers).view(-1, len(self._columns) + 1)
        row = dict(zip([*self._columns, "train_accuracy"], steps.mean(0).tolist(), strict=True))
        row = {"epoch": epoch + 1, "loss": sum(row[name] for name in self._columns), **row}
        if validated:
            row["validation_accuracy"] = float(numbers[-1])
        self.history.append(row)
        self.failure = self._first_failure(steps[:, :-1], epoch)
        if validated and not self.failure and row["validation_accuracy"] > self._best_accuracy():
            self.best_epoch = epoch + 1
            self.best_weights = {name: value.detach().clone() for name, value in self.state_dict().items()}

    def _best_accuracy(self) -> float:
        return -1.0 if self.best_epoch is None else self.history[self.best_epoch - 1]["validation_accuracy"]

    def _first_failure(self, terms: Tensor, epoch: int) -> str:
        bad = (~torch.isfinite(terms)).nonzero()
        if not len(bad):
            return ""
        step, term = bad[0].tolist()
        return f"{self._columns[term]} loss became {terms[step, term]:g} in epoch {epoch + 1}, step {step + 1}"

    def _validation_accuracy(self, validation: Split) -> Tensor:
        hits = [correct(logits, labels) for logits, labels in self.answers(validation)]
        return torch.stack(hits).sum().float() / len(validation)

    @torch.no_grad()
    def answers(self, split: Split, batch_size: int = 500):
        """Pairs of logits [n, K] and labels [n] of the deployed network in evaluation mode, batch by batch."""
        self.eval()
        for image, labels in zip(split.in_order(batch_size), split.labels.split(batch_size), strict=True):
            with self.precision.autocast():
                logits = self.deployed(image)
            yield logits.float(), labels
        self.train()

    def logits(self, split: Split) -> Tensor:
        """The deployed network's logits [N, K] for all images of a split, on the host."""
        return torch.cat([logits for logits, _ in self.answers(split)]).cpu()

    def train(self) -> None:
        """Puts what is trained of the student, and the method's own modules, into training mode."""
        self.model.eval()
        (self.trained or self.model).train()
        self.distiller.train()

    def eval(self) -> None:
        """Puts the student and the method's own modules into evaluation mode."""
        self.model.eval()
        self.distiller.eval()
        self.deployed.eval()

    def state_dict(self) -> dict[str, Tensor]:
        """All weights and buffers: the student's under `model.`, the method's own under `method.`."""
        parts = {"model": self.model, "method": self.distiller}
        return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads what `state_dict` gave, strictly."""
        for part, module in {"model": self.model, "method": self.distiller}.items():
            own = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
            module.load_state_dict(own)

    def training_state(self) -> dict[str, Any]:
        """What only a continued training needs: optimizer and random stream."""
        return {"optimizer": self.optimizer.state_dict(), "random": self.stream.states}

    def progress(self) -> dict[str, Any]:
        """Everything that the next epochs depend on, after a whole epoch; `resume` takes it."""
        kept = {name: getattr(self, name) for name in PROGRESS}
        return {**kept, **self.training_state(), "weights": self.state_dict()}

    def resume(self, progress: dict[str, Any]) -> None:
        """Goes back to where `progress` was taken; what follows is bitwise what would have followed there (CPU)."""
        self.load_state_dict(progress["weights"])
        self.optimizer.load_state_dict(progress["optimizer"])
        if self.precision.graph:
            keep_on_device(self.optimizer)
        self.stream.states = progress["random"]
        for name in PROGRESS:
            setattr(self, name, progress[name])
        self.continued_after = [*self.continued_after, len(self.history)]
