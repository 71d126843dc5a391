"""Steps that are recorded once and replayed (`graph=true`): work on tensors that stay in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdexp.data.batch import Batch
from kdexp.data.split import Epoch
from kdexp.device.graphs import HostQuestions, Stopwatch, beside, buffers_in_place, join, record
from kdexp.distillation.base import Progress
from kdexp.errors import first_line
from kdexp.network.capture import Outputs
from kdexp.training.learner import Learner
from kdexp.training.steps import Steps

AS_USUAL = "graph=true: its steps are taken as usual, as"

WARM_UP = 3
"""Steps of a company that are taken as usual before one is recorded: libraries and optimizers set themselves up in these."""


@dataclass
class Recording:
    """The tensors that a recorded step of some learners reads and writes."""

    learners: list[Learner]
    batch: Batch
    said: Outputs | None
    shown: Epoch
    """The images of an epoch's whole batches."""
    rates: list[Tensor]
    """Per learner, the learning rates in an epoch [steps, parameter groups]."""
    traces: list[Tensor]
    """Per learner, what an epoch's steps gave [steps, terms + 1]."""
    number: Tensor
    """[1], the step of the epoch that comes next."""
    phases: list[Any] = field(default_factory=list)
    """What the methods read of the progress when the step was recorded."""
    replay: Callable[[], None] | None = None
    images_asked: int = 0
    """Of the teacher, by a replay that the host knows nothing of."""

    def fill(self, batch: Batch, said: Outputs | None) -> None:
        """Writes a batch, and what the teacher says of it, where the learners read them."""
        for part in fields(Batch):
            if (place := getattr(self.batch, part.name)) is not None:
                place.copy_(getattr(batch, part.name))
        if self.said is not None and said is not None:
            self.said.logits.copy_(said.logits)
            for name, place in self.said.features.items():
                place.copy_(said.features[name])

    def step(self, learner: Learner, rates: Tensor, trace: Tensor, progress: Progress) -> None:
        """A step of one of the learners on what `fill` wrote."""
        now = rates.index_select(0, self.number).unbind(1)
        for group, rate in zip(learner.optimizer.param_groups, now, strict=True):
            group["lr"].copy_(rate[0])
        with buffers_in_place(learner.model, learner.distiller):
            numbers = learner.take(self.batch, self.said, progress)
        trace.index_copy_(0, self.number, numbers[None])


def obstacle(learner: Learner) -> str:
    """Why that learner's steps can't be recorded, as far as it says so itself; empty if nothing is known against it."""
    if not learner.distiller.capturable:
        return f"{AS_USUAL} {type(learner.distiller).__name__} does not declare its steps to be static"
    if not all(group.get("fused") for group in learner.optimizer.param_groups):
        return f"{AS_USUAL} {type(learner.optimizer).__name__} is not fused"
    return ""


@dataclass
class RecordedSteps(Steps):
    """The same steps; those on whole batches are recorded after the first few and replayed, all learners' as one graph.

    Learners work side by side, each on a CUDA stream of its own. Making the batch and asking the teacher is recorded too, where
    all of that happens on the device. A learner whose step can't be recorded, as its `remark` then says, takes it as usual
    beside the others; an error while the others' is recorded ends them.
    """

    def __post_init__(self) -> None:
        self._recording: Recording | None = None
        self._company: list[Learner] = []
        self._taken = 0
        self._streams: dict[str, torch.cuda.Stream | None] = {}
        self._fetched: Iterator[Batch] = iter(())

    def take(self, learners, epoch):
        shown = self.split.epoch(self.seed, epoch, self.limit_batches and self.limit_batches * self.batch_size)
        whole = len(shown.rows) // self.batch_size
        first, watch = 0, Stopwatch(shown.rows.device)
        self._fetched = self._stream(epoch)
        self._meet(learners)
        recording: Recording | None = None
        for step, (rows, choice) in enumerate(shown.split(self.batch_size)):
            progress = self.progress(epoch, step)
            if step == whole or self._taken < WARM_UP or not self._company:
                batch = self._batch(rows, choice)
                self._as_usual(learners, batch, self.ask(batch), progress)
                yield
                continue
            if recording is None:
                first, watch = step, Stopwatch(rows.device)
                recording = self._recording = self._begun(
                    self._recording or self._new_recording(shown, whole), shown, epoch, step
                )
            batch, said = self._play(recording, rows, choice, progress)
            recorded = {learner.name for learner in recording.learners}
            self._as_usual([learner for learner in learners if learner.name not in recorded], batch, said, progress)
            if step == whole - 1 and self._company:
                share = watch.stop(len(learners))
                for learner, trace in zip(recording.learners, recording.traces, strict=True):
                    learner.add_recorded(trace[first:], share)
            yield

    def _stream(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, fetched ahead, where they are not made on the device."""
        if not self.split.static:
            yield from self.split.batches(self.batch_size, seed=self.seed, epoch=epoch, limit=self.limit_batches)

    def _batch(self, rows: Tensor, choice: Tensor | None) -> Batch:
        """The batch of a step, asked for once."""
        return self.split.batch(rows, choice) if self.split.static else next(self._fetched)

    def _meet(self, learners: Sequence[Learner]) -> None:
        """Begins anew where the company is not that of the epoch before."""
        for learner in learners:
            if learner.name not in self._streams:
                on_cuda = learner.precision.device.type == "cuda"
                self._streams[learner.name] = torch.cuda.Stream() if on_cuda else None
                learner.remark = obstacle(learner)
        company = [learner for learner in learners if not learner.remark]
        if [learner.name for learner in company] != [learner.name for learner in self._company]:
            self._company, self._recording, self._taken = company, None, 0

    def _as_usual(self, learners: Sequence[Learner], batch: Batch, said: Outputs | None, progress: Progress) -> None:
        """A step that is not recorded; the last one before a recording tells whose step can be."""
        self._taken += 1
        for learner in learners:
            if not learner.failure:
                with beside(self._streams[learner.name]), buffers_in_place(learner.model, learner.distiller):
                    self._try(learner, batch, said, progress)
        join([self._streams[learner.name] for learner in learners])
        if self._taken == WARM_UP:
            self._company = [learner for learner in self._company if not learner.remark and not learner.failure]

    def _try(self, learner: Learner, batch: Batch, said: Outputs | None, progress: Progress) -> None:
        if learner.remark or self._taken != WARM_UP:
            learner.step(batch, said, progress)
            return
        with HostQuestions(but_of=[group["lr"] for group in learner.optimizer.param_groups]) as asked:
            learner.step(batch, said, progress)
        if asked.names:
            learner.remark = f"{AS_USUAL} its step needs the host ({', '.join(sorted(set(asked.names)))})"

    def _new_recording(self, shown: Epoch, whole: int) -> Recording:
        places = torch.arange(whole * self.batch_size, device=shown.rows.device)
        batch = self.split.batch(*shown.at(places[: self.batch_size]))
        said, zeros = self.ask(batch), partial(torch.zeros, device=places.device)
        return Recording(
            learners=self._company,
            batch=batch,
            said=said and said.map(torch.clone),
            shown=Epoch(*shown.at(places)),
            rates=[zeros(whole, len(learner.optimizer.param_groups)) for learner in self._company],
            traces=[zeros(whole, learner.numbers) for learner in self._company],
            number=zeros(1, dtype=torch.long),
        )

    def _begun(self, recording: Recording, shown: Epoch, epoch: int, step: int) -> Recording:
        """The recording, made ready for the steps of an epoch from `step` on."""
        recording.shown.copy_(shown)
        points = [self.progress(epoch, n) for n in range(len(recording.traces[0]))]
        for learner, place in zip(recording.learners, recording.rates, strict=True):
            place.copy_(torch.tensor([learner.rates(progress) for progress in points]))
        recording.number.fill_(step)
        return recording

    def _play(
        self, recording: Recording, rows: Tensor, choice: Tensor | None, progress: Progress
    ) -> tuple[Batch, Outputs | None]:
        """The step on a whole batch, recorded first if it was not, or if a method's phase is over; the batch, for others."""
        phases = [learner.distiller.phase(progress) for learner in recording.learners]
        try:
            if recording.replay is None or phases != recording.phases:
                recording.replay, recording.phases = None, phases  # first, so that a new one may take the memory of the old one
                recording.replay = self._record(recording, progress)
            if not self.split.static:
                batch = self._batch(rows, choice)
                recording.fill(batch, self.ask(batch))
            recording.replay()
        except Exception as error:
            for learner in recording.learners:
                learner.fail(error)
            self._company = []
            batch = self.split.batch(rows, choice)
            return batch, self.ask(batch)
        if self.teacher is not None:
            self.teacher.images_asked += recording.images_asked
        return recording.batch, recording.said

    def _record(self, recording: Recording, progress: Progress) -> Callable[[], None]:
        before = self.teacher.images_asked if self.teacher else 0
        try:
            replay = record(
                lambda: self._work(recording, progress), [learner.stream.generator for learner in recording.learners]
            )
        except Exception as error:
            raise RuntimeError(f"the step can't be recorded: {first_line(error)}; graph=false takes it as usual") from error
        if self.teacher is not None:  # the replays ask, not the recording
            recording.images_asked, self.teacher.images_asked = self.teacher.images_asked - before, before
        return replay

    def _work(self, recording: Recording, progress: Progress) -> None:
        """What is recorded."""
        if self.split.static:
            at = recording.number * self.batch_size + torch.arange(self.batch_size, device=recording.number.device)
            batch = self.split.batch(*recording.shown.at(at))
            recording.fill(batch, self.ask(batch))
        for learner, rates, trace in zip(recording.learners, recording.rates, recording.traces, strict=True):
            with beside(self._streams[learner.name]):
                recording.step(learner, rates, trace, progress)
        join([self._streams[learner.name] for learner in recording.learners])
        recording.number.add_(1)
