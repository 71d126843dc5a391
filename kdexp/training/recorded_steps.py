"""Recorded steps (`graph`): a step is recorded once and replayed, on tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kdexp.data.batch import Batch
from kdexp.data.views import Reading
from kdexp.device.cuda_graphs import HostReads, Stopwatch, buffers_in_place, cudnn_benchmark, record_graph, side_by_side
from kdexp.device.precision import Precision
from kdexp.distillation.base import Progress
from kdexp.errors import first_line
from kdexp.network.capture import Outputs
from kdexp.teacher.frozen import Teacher
from kdexp.training.both_ways import STEPS, BothWays
from kdexp.training.learner import Learner
from kdexp.training.loop import Steps, Watch
from kdexp.training.recording import EpochBatches, Recording

WARM_UP = 3
"""Plain steps of a group before one is recorded: libraries and optimizers set themselves up in these."""


def obstacle(learner: Learner) -> str:
    """Why that learner's steps can't be recorded, from what it declares; an empty string if they may be."""
    if not learner.distiller.capturable:
        return _not_recorded(learner, f"{type(learner.distiller).__name__} does not declare them capturable")
    if not learner.fused:
        return _not_recorded(learner, f"{type(learner.optimizer).__name__} is not fused")
    return ""


def _not_recorded(learner: Learner, reason: str) -> str:
    return f"graph={'auto' if _on_trial(learner) else 'true'}: its steps are not recorded, since {reason}"


def _on_trial(learner: Learner) -> bool:
    """Whether recorded steps must prove themselves: who asks for them by name gets them, or an error."""
    return "graph" in learner.precision.auto


@dataclass
class RecordedSteps(Steps):
    """The same steps. After a few plain ones, those on full batches are recorded and replayed, all learners' as one graph.

    Learners run in parallel, each on its own CUDA stream. Where batches are made on the device, making them and running the
    teacher is recorded too. A learner whose steps can't be recorded gets a `remark` and takes plain steps next to the others.

    With graph=true, an error while a step is recorded or replayed ends the learners that it belongs to. With graph=auto, each
    recording is first compared with plain steps (see `BothWays`); learners with an error or a difference get a `remark`.
    """

    def __post_init__(self) -> None:
        self._learners: Sequence[Learner] = ()
        self._group: list[Learner] = []
        self._recording: Recording | None = None
        self._plain_steps = 0
        self._warm: list[object] = []
        """The phases of the latest plain step of the group."""
        self._streams: dict[str, torch.cuda.Stream | None] = {}

    def take(self, learners, epoch, images, watch):
        batches = EpochBatches(self.split, images, self.batch_size)
        self._learners = learners
        self._regroup(learners)
        start = self.warm_up(learners, epoch, batches, watch)
        if self._group and start < batches.full:
            start = self.replay(learners, epoch, batches, start, watch)
        for step in range(start, len(batches)):
            self._plain_step(learners, batches.get(step), self.progress(epoch, step))
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
        """Takes plain steps till a step can be recorded, and finds out in the last one whose can; returns the next step.

        cuDNN looks for its quickest algorithms here, those that the recorded step will have.
        """
        steps = min(WARM_UP - self._plain_steps, len(batches))
        for step in range(steps):
            self._plain_steps += 1
            with cudnn_benchmark(step < batches.full):
                inspect = self._plain_steps == WARM_UP
                self._plain_step(learners, batches.get(step), self.progress(epoch, step), inspect=inspect)
            self._warm = self._phases(self.progress(epoch, step))
            watch.step(learners)
        if self._plain_steps == WARM_UP:
            self._group = [learner for learner in self._group if not learner.remark and not learner.failure]
        return steps

    def _plain_step(
        self,
        learners: Sequence[Learner],
        batch: Batch,
        progress: Progress,
        outputs: Mapping[Reading, Outputs] | None = None,
        *,
        inspect: bool = False,
    ) -> None:
        """A plain step of these learners; the teacher's `outputs` are computed unless they are given."""
        if outputs is None:
            outputs = self.outputs(batch, learners, progress)
        with side_by_side() as on_stream:
            for learner in learners:
                if not learner.failure:
                    with on_stream(self._streams[learner.name]), buffers_in_place(learner.model, learner.distiller):
                        step = _inspected_step if inspect and not learner.remark else Learner.step
                        step(learner, *learner.reads(batch, outputs), progress)

    def replay(self, learners: Sequence[Learner], epoch: int, batches: EpochBatches, start: int, watch: Watch) -> int:
        """Replays the steps on full batches, recording them where necessary; returns the next step.

        That is an earlier one if the recorded learners fail or do without: all others go on with plain steps.
        """
        asked = self.asked(learners, *self.points(epoch))
        if self._recording is not None and not self._recording.fits(batches.images, [teacher.reading for teacher in asked]):
            self._recording = None  # first, so that the new one can take its memory
        recording = self._recording = self._recording or self._new_recording(batches, asked)
        recording.begin(batches.images, [self.progress(epoch, step) for step in range(batches.full)], start)
        recorded = {learner.name for learner in recording.learners}
        others = [learner for learner in learners if learner.name not in recorded]
        stopwatch = Stopwatch(batches.images.rows.device)
        end = batches.full
        for step in range(start, batches.full):
            if self._phases(self.progress(epoch, step)) not in (recording.phases, self._warm):
                self._warm_phase(recording, learners, epoch, step, batches)
                watch.step(learners)
                continue
            batch = None if self.split.static else batches.get(step)
            outputs: Mapping[Reading, Outputs] | None
            try:
                if not self._ready(recording, epoch, step, batches):
                    end = step
                    break
                self._replay_step(recording, batch, self.progress(epoch, step))
                batch, outputs = recording.batch, recording.outputs
            except Exception as error:
                for learner in recording.learners:
                    learner.fail(error)
                self._group = []
                batch, outputs = batches.get(step), None
            self._plain_step(others, batch, self.progress(epoch, step), outputs)
            watch.step(learners)
            if not self._group:
                return step + 1
        if end > start:
            share = stopwatch.stop(len(learners))
            for learner, trace in zip(recording.learners, recording.traces, strict=True):
                learner.log.add_recorded(trace[start:end], share)
        return end

    def _warm_phase(
        self, recording: Recording, learners: Sequence[Learner], epoch: int, step: int, batches: EpochBatches
    ) -> None:
        """Takes a plain step, the first of a phase: in it, optimizers set up the state of parameters that it trains first."""
        progress = self.progress(epoch, step)
        self._plain_step(learners, batches.get(step), progress)
        for learner, trace in zip(recording.learners, recording.traces, strict=True):
            if not learner.failure:
                trace[step] = learner.log.trace.pop()
        self._warm = self._phases(progress)
        recording.number.fill_(step + 1)

    def _new_recording(self, batches: EpochBatches, asked: Sequence[Teacher]) -> Recording:
        images, steps = batches.images, batches.full
        positions = torch.arange(steps * self.batch_size, device=images.rows.device)
        batch = self.split.batch(images.at(positions[: self.batch_size]))
        outputs = {teacher.reading: teacher(batch) for teacher in asked}
        zeros = partial(torch.zeros, device=positions.device)
        return Recording(
            learners=self._group,
            batch=batch,
            outputs={reading: theirs.map(torch.clone) for reading, theirs in outputs.items()},
            images=images.at(positions),
            scheduled=[
                {name: zeros(steps) for name in learner.distiller.scheduled(self.progress(0, 0))} for learner in self._group
            ],
            rates=[zeros(steps, len(learner.optimizer.param_groups)) for learner in self._group],
            traces=[zeros(steps, learner.log.width) for learner in self._group],
            number=zeros(1, dtype=torch.long),
        )

    def _ready(self, recording: Recording, epoch: int, step: int, batches: EpochBatches) -> bool:
        """Records the step if it is new or a method has entered another phase; False if a recorded one is not to be trusted."""
        progress = self.progress(epoch, step)
        phases = self._phases(progress)
        if recording.replay is not None and phases == recording.phases:
            return True
        recording.replay, recording.phases = None, phases  # first, so that the new one can take the memory of the old one
        if any(map(_on_trial, recording.learners)):
            return self._record_on_trial(recording, epoch, step, batches)
        recording.replay = self.record(recording, progress)
        return True

    def _phases(self, progress: Progress) -> list[object]:
        """What the recorded work depends on: the methods' phases, and which teachers run, for other learners, too."""
        readings = [teacher.reading for teacher in self.asked(self._learners, progress)]
        return [*(learner.distiller.phase(progress) for learner in self._group), readings]

    def _record_on_trial(self, recording: Recording, epoch: int, step: int, batches: EpochBatches) -> bool:
        """Records the step and takes the next few both ways, from where the learners are and back to there.

        False if some learners' steps are not the same, or can't be recorded; these have a `remark` then.
        """
        try:
            reasons = self._differences(recording, epoch, step, batches)
        except Exception as error:
            reasons = [first_line(error)] * len(recording.learners)
        recording.number.fill_(step)
        for learner, reason in zip(recording.learners, reasons, strict=True):
            learner.remark = _not_recorded(learner, reason) if reason else ""
        return not any(reasons)

    def _differences(self, recording: Recording, epoch: int, step: int, batches: EpochBatches) -> list[str]:
        coming = range(step, min(step + STEPS, batches.full))
        alike = [n for n in coming if self._phases(self.progress(epoch, n)) == recording.phases]
        # Images that are fetched ahead can't be fetched once more: the same batch serves all steps.
        each = [batches.get(n if self.split.static else step) for n in alike]
        with BothWays(recording.learners) as both_ways:
            for n, batch in zip(alike, each, strict=True):
                self._plain_step(recording.learners, batch, self.progress(epoch, n))
            both_ways.plain_taken()
            recording.replay = self.record(recording, self.progress(epoch, step))
            for n, batch in zip(alike, each, strict=True):
                self._replay_step(recording, None if self.split.static else batch, self.progress(epoch, n))
            traces = [trace[step : step + len(each)] for trace in recording.traces]
            return both_ways.differences(traces, recording.learners[0].precision.name)

    def _replay_step(self, recording: Recording, batch: Batch | None, progress: Progress) -> None:
        """Replays one step, on `batch` unless it is made on the device."""
        assert recording.replay is not None
        if batch is not None:
            recording.fill(batch, self.outputs(batch, self._learners, progress))
        recording.replay()
        for teacher in self.teachers:
            teacher.images_asked += recording.images_asked.get(teacher.reading, 0)

    def record(self, recording: Recording, progress: Progress) -> Callable[[], None]:
        """Records one step of all learners in the group; returns what replays it."""
        before = {teacher.reading: teacher.images_asked for teacher in self.teachers}
        try:
            with cudnn_benchmark(False):  # it would wait for the device
                replay = record_graph(
                    lambda: self._recorded_work(recording, progress),
                    [learner.stream.generator for learner in recording.learners],
                )
        except Exception as error:
            raise RuntimeError(f"the step can't be recorded: {first_line(error)}; graph=false runs without") from error
        for teacher in self.teachers:  # replays run the teacher, recording does not
            recording.images_asked[teacher.reading] = teacher.images_asked - before[teacher.reading]
            teacher.images_asked = before[teacher.reading]
        return replay

    def _recorded_work(self, recording: Recording, progress: Progress) -> None:
        if self.split.static:
            positions = recording.number * self.batch_size + torch.arange(self.batch_size, device=recording.number.device)
            batch = self.split.batch(recording.images.at(positions))
            recording.fill(batch, self.outputs(batch, self._learners, progress))
        with side_by_side() as on_stream:
            parts = zip(recording.learners, recording.rates, recording.scheduled, recording.traces, strict=True)
            for learner, rates, scheduled, trace in parts:
                with on_stream(self._streams[learner.name]):
                    recording.step(learner, rates, scheduled, trace, progress)
        recording.number.add_(1)


def steps_for(precision: Precision) -> type[Steps]:
    """How the learners of a run take their steps."""
    return RecordedSteps if precision.graph else Steps


def _inspected_step(learner: Learner, batch: Batch, outputs: Outputs | None, progress: Progress) -> None:
    """A plain step that sets the learner's `remark` if a recorded one would need the host.

    Compiled networks are not inspected: inside such a mode torch runs them uncompiled.
    """
    if learner.precision.compile:
        learner.step(batch, outputs, progress)
        return
    with HostReads(allowed=[group["lr"] for group in learner.optimizer.param_groups]) as reads:
        learner.step(batch, outputs, progress)
    if reads.names:
        learner.remark = _not_recorded(learner, f"they need the host ({', '.join(sorted(set(reads.names)))})")
