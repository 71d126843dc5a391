"""The networks of a learner: how its method runs them in a step, how they are evaluated, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from kdexp.data.split import Split
from kdexp.device.memory import in_halves
from kdexp.device.precision import Precision
from kdexp.distillation.base import Distiller
from kdexp.network.capture import Capture, Outputs
from kdexp.network.freezing import frozen_except
from kdexp.network.interleaving import interleave, interleave_outputs
from kdexp.network.landmarks import classifier_of
from kdexp.network.statistics import kept_statistics
from kdexp.tasks.classification import correct
from kdexp.training.averaging import MovingAverage


@dataclass(kw_only=True)
class Networks:
    """A student (or a teacher in training), the modules of its method, and what is deployed of them."""

    model: nn.Module
    capture: Capture
    distiller: Distiller
    precision: Precision
    deployed: nn.Module
    trained: nn.Module | None = None
    """The part of the model that is in training mode during training; None for all of it."""
    average: MovingAverage | None = None
    """The moving average of the model's weights, which is then what is evaluated and stored."""

    def __post_init__(self) -> None:
        self._logits = torch.empty(0)  # [N, K], on which the step's training accuracy is measured
        self._compiled: dict[nn.Module, Callable[[Tensor], Tensor]] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: the deployed one, or the moving average of the model."""
        return self.deployed if self.average is None else self.average.network

    @property
    def changing(self) -> list[nn.Module]:
        """All modules whose parameters or buffers a step may change."""
        return [self.model, self.distiller, *([] if self.average is None else [self.average])]

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

    def accuracy(self, split: Split) -> Tensor:
        """The evaluated network's accuracy on a split, on the device."""
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

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Loads the weights of a network that may lack the classifier, which then keeps its initial ones."""
        for network in (self.model, *([] if self.average is None else [self.average.network])):
            network.load_state_dict({**network.state_dict(), **weights})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned, strictly."""
        for part, module in self._stored_parts.items():
            own = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
            module.load_state_dict(own)


def _slices(images: Sequence[Tensor]) -> Iterator[slice]:
    """Where each of several batches is among all of them together."""
    start = 0
    for batch in images:
        yield slice(start, start + len(batch))
        start += len(batch)


def _rows(rows: slice, values: Tensor) -> Tensor:
    return values[rows]
