"""Recorded steps (`graph=true`): a step is recorded once and replayed, on tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdexp.data.batch import Batch
from kdexp.data.split import Epoch, Split
from kdexp.device.cuda_graphs import HostReads, Stopwatch, buffers_in_place, join, on_stream, record_graph
from kdexp.device.precision import Precision
from kdexp.distillation.base import Progress
from kdexp.errors import first_line
from kdexp.network.capture import Outputs
from kdexp.training.learner import Learner
from kdexp.training.loop import Steps, Watch

NOT_RECORDED = "graph=true: its steps are not recorded, since"

WARM_UP = 3
"""Plain steps of a group before one is recorded: libraries and optimizers set themselves up in these."""


@dataclass
class Recording:
    """The tensors that a recorded step of some learners reads and writes."""

    learners: list[Learner]
    batch: Batch
    outputs: Outputs | None
    images: Epoch
    """The images of an epoch's full batches."""
    rates: list[Tensor]
    """Per learner, the learning rates in an epoch [steps, parameter groups]."""
    traces: list[Tensor]
    """Per learner, what an epoch's steps measured [steps, terms + 1]."""
    number: Tensor
    """[1], the next step of the epoch."""
    phases: list[Any] = field(default_factory=list)
    """The methods' phases when the step was recorded."""
    replay: Callable[[], None] | None = None
    images_asked: int = 0
    """Images that go through the teacher in one replay, unseen by the host."""

    def fill(self, batch: Batch, outputs: Outputs | None) -> None:
        """Copies a batch and the teacher's outputs to where the learners read them."""
        for part in fields(Batch):
            if (target := getattr(self.batch, part.name)) is not None:
                target.copy_(getattr(batch, part.name))
        if self.outputs is not None and outputs is not None:
            self.outputs.logits.copy_(outputs.logits)
            for name, target in self.outputs.features.items():
                target.copy_(outputs.features[name])

    def begin(self, images: Epoch, points: Sequence[Progress], step: int) -> None:
        """Copies an epoch's images and learning rates to where the steps from `step` on read them."""
        self.images.copy_(images)
        for learner, target in zip(self.learners, self.rates, strict=True):
            target.copy_(torch.tensor([learner.rates(progress) for progress in points]))
        self.number.fill_(step)

    def step(self, learner: Learner, rates: Tensor, trace: Tensor, progress: Progress) -> None:
        """One step of one learner on the batch that `fill` copied."""
        now = rates.index_select(0, self.number).unbind(1)
        for group, rate in zip(learner.optimizer.param_groups, now, strict=True):
            group["lr"].copy_(rate[0])
        with buffers_in_place(learner.model, learner.distiller), learner.stream:
            terms = learner.distiller.update(learner, self.batch, self.outputs, progress)
        trace.index_copy_(0, self.number, learner.measure(terms, self.batch.label)[None])


class EpochBatches:
    """The batches of an epoch, fetched ahead unless they are made on the device."""

    def __init__(self, split: Split, images: Epoch, batch_size: int):
        self._split, self.images = split, images
        self._parts = list(images.split(batch_size))
        self._fetched = None if split.static else split.batches_of(images, batch_size)
        self.full = len(images.rows) // batch_size

    def __len__(self) -> int:
        return len(self._parts)

    def get(self, step: int) -> Batch:
        """The batch of a step; to be called once per step, in order, unless they are made on the device."""
        return self._split.batch(*self._parts[step]) if self._fetched is None else next(self._fetched)


def obstacle(learner: Learner) -> str:
    """Why that learner's steps can't be recorded, from what it declares; an empty string if they may be."""
    if not learner.distiller.capturable:
        return f"{NOT_RECORDED} {type(learner.distiller).__name__} does not declare them capturable"
    if not all(group.get("fused") for group in learner.optimizer.param_groups):
        return f"{NOT_RECORDED} {type(learner.optimizer).__name__} is not fused"
    return ""


@dataclass
class RecordedSteps(Steps):
    """The same steps. After a few plain ones, those on full batches are recorded and replayed, all learners' as one graph.

    Learners run in parallel, each on its own CUDA stream. Where batches are made on the device, making them and running the
    teacher is recorded too. A learner whose steps can't be recorded gets a `remark` and takes plain steps next to the others.
    An error while a step is recorded or replayed ends the learners that it belongs to.
    """

    def __post_init__(self) -> None:
        self._group: list[Learner] = []
        self._recording: Recording | None = None
        self._plain_steps = 0
        self._streams: dict[str, torch.cuda.Stream | None] = {}

    def take(self, learners, epoch, images, watch):
        batches = EpochBatches(self.split, images, self.batch_size)
        self._regroup(learners)
        start = self.warm_up(learners, epoch, batches, watch)
        if self._group and start < batches.full:
            start = self.replay(learners, epoch, batches, start, watch)
        for step in range(start, len(batches)):
            batch = batches.get(step)
            self._plain_step(learners, batch, self.outputs(batch), self.progress(epoch, step))
            watch.step(learners)

    def _regroup(self, learners: Sequence[Learner]) -> None:
        """Starts from the beginning if the learners that are recorded are not those of the epoch before."""
        for learner in learners:
            if learner.name not in self._streams:
                on_cuda = learner.precision.device.type == "cuda"
                self._streams[learner.name] = torch.cuda.Stream() if on_cuda else None
                learner.remark = obstacle(learner)
        group = [learner for learner in learners if not learner.remark]
        if [learner.name for learner in group] != [learner.name for learner in self._group]:
            self._group, self._recording, self._plain_steps = group, None, 0

    def warm_up(self, learners: Sequence[Learner], epoch: int, batches: EpochBatches, watch: Watch) -> int:
        """Takes plain steps till a step can be recorded, and finds out in the last one whose can; returns the next step."""
        steps = min(WARM_UP - self._plain_steps, len(batches))
        for step in range(steps):
            self._plain_steps += 1
            batch = batches.get(step)
            inspect = self._plain_steps == WARM_UP
            self._plain_step(learners, batch, self.outputs(batch), self.progress(epoch, step), inspect=inspect)
            watch.step(learners)
        if self._plain_steps == WARM_UP:
            self._group = [learner for learner in self._group if not learner.remark and not learner.failure]
        return steps

    def _plain_step(
        self,
        learners: Sequence[Learner],
        batch: Batch,
        outputs: Outputs | None,
        progress: Progress,
        *,
        inspect: bool = False,
    ) -> None:
        for learner in learners:
            if not learner.failure:
                with on_stream(self._streams[learner.name]), buffers_in_place(learner.model, learner.distiller):
                    if inspect and not learner.remark:
                        _inspected_step(learner, batch, outputs, progress)
                    else:
                        learner.step(batch, outputs, progress)
        join([self._streams[learner.name] for learner in learners])

    def replay(self, learners: Sequence[Learner], epoch: int, batches: EpochBatches, start: int, watch: Watch) -> int:
        """Replays the steps on full batches, recording them where necessary; returns the next step.

        That is an earlier one if the recorded learners fail: the others go on with plain steps.
        """
        recording = self._recording = self._recording or self._new_recording(batches)
        recording.begin(batches.images, [self.progress(epoch, step) for step in range(batches.full)], start)
        recorded = {learner.name for learner in recording.learners}
        others = [learner for learner in learners if learner.name not in recorded]
        stopwatch = Stopwatch(batches.images.rows.device)
        for step in range(start, batches.full):
            progress = self.progress(epoch, step)
            batch = None if self.split.static else batches.get(step)
            try:
                self._replay_step(recording, batch, progress)
                batch, outputs = recording.batch, recording.outputs
            except Exception as error:
                for learner in recording.learners:
                    learner.fail(error)
                self._group = []
                batch = batch or batches.get(step)
                outputs = self.outputs(batch)
            self._plain_step(others, batch, outputs, progress)
            watch.step(learners)
            if not self._group:
                return step + 1
        share = stopwatch.stop(len(learners))
        for learner, trace in zip(recording.learners, recording.traces, strict=True):
            learner.log.add_recorded(trace[start:], share)
        return batches.full

    def _new_recording(self, batches: EpochBatches) -> Recording:
        images, steps = batches.images, batches.full
        positions = torch.arange(steps * self.batch_size, device=images.rows.device)
        batch = self.split.batch(*images.at(positions[: self.batch_size]))
        outputs, zeros = self.outputs(batch), partial(torch.zeros, device=positions.device)
        return Recording(
            learners=self._group,
            batch=batch,
            outputs=outputs and outputs.map(torch.clone),
            images=Epoch(*images.at(positions)),
            rates=[zeros(steps, len(learner.optimizer.param_groups)) for learner in self._group],
            traces=[zeros(steps, len(learner.log.columns) + 1) for learner in self._group],
            number=zeros(1, dtype=torch.long),
        )

    def _replay_step(self, recording: Recording, batch: Batch | None, progress: Progress) -> None:
        """Replays one step, recorded first if it is new or a method has entered another phase."""
        phases = [learner.distiller.phase(progress) for learner in recording.learners]
        if recording.replay is None or phases != recording.phases:
            recording.replay, recording.phases = None, phases  # first, so that the new one can take the memory of the old one
            recording.replay = self.record(recording, progress)
        if batch is not None:
            recording.fill(batch, self.outputs(batch))
        recording.replay()
        if self.teacher is not None:
            self.teacher.images_asked += recording.images_asked

    def record(self, recording: Recording, progress: Progress) -> Callable[[], None]:
        """Records one step of all learners in the group; returns what replays it."""
        before = self.teacher.images_asked if self.teacher else 0
        try:
            replay = record_graph(
                lambda: self._recorded_work(recording, progress),
                [learner.stream.generator for learner in recording.learners],
            )
        except Exception as error:
            raise RuntimeError(f"the step can't be recorded: {first_line(error)}; graph=false runs without") from error
        if self.teacher is not None:  # replays run the teacher, recording does not
            recording.images_asked, self.teacher.images_asked = self.teacher.images_asked - before, before
        return replay

    def _recorded_work(self, recording: Recording, progress: Progress) -> None:
        if self.split.static:
            positions = recording.number * self.batch_size + torch.arange(self.batch_size, device=recording.number.device)
            batch = self.split.batch(*recording.images.at(positions))
            recording.fill(batch, self.outputs(batch))
        for learner, rates, trace in zip(recording.learners, recording.rates, recording.traces, strict=True):
            with on_stream(self._streams[learner.name]):
                recording.step(learner, rates, trace, progress)
        join([self._streams[learner.name] for learner in recording.learners])
        recording.number.add_(1)


def steps_for(precision: Precision) -> type[Steps]:
    """How the learners of a run take their steps."""
    return RecordedSteps if precision.graph else Steps


def _inspected_step(learner: Learner, batch: Batch, outputs: Outputs | None, progress: Progress) -> None:
    """A plain step that sets the learner's `remark` if a recorded one would need the host."""
    with HostReads(allowed=[group["lr"] for group in learner.optimizer.param_groups]) as reads:
        learner.step(batch, outputs, progress)
    if reads.names:
        learner.remark = f"{NOT_RECORDED} they need the host ({', '.join(sorted(set(reads.names)))})"
