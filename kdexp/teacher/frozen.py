"""The frozen teacher: its outputs once per batch for all learners, looked up where they are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdexp.data.batch import Batch
from kdexp.data.split import Epoch, Split
from kdexp.device.precision import Precision
from kdexp.network.capture import Capture, Outputs
from kdexp.teacher.table import LOGITS, OutputTable


class Teacher:
    """A network in evaluation mode, without gradients, whose weights and statistics never change.

    Every pass is padded to one fixed batch size, so that what an image gets does not depend on the batch it comes in.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], probe_image: Tensor, precision: Precision, batch_size: int):
        self.model = model.eval().requires_grad_(False)
        self.precision = precision
        self.batch_size = batch_size
        self.images_asked = 0
        self.known: OutputTable | None = None
        self._probe_image = probe_image.contiguous(memory_format=precision.memory_format)
        self.capture = self.recorded = self._captured(layers)

    @property
    def bytes_kept(self) -> int:
        """Of all outputs that are kept of it, those that only other jobs read included."""
        return 0 if self.known is None else self.known.bytes

    def __call__(self, batch: Batch) -> Outputs:
        """Logits and the captured features for a batch of the training split."""
        if self.known is None:
            return self.ask(batch.image)
        shown = self.known.shown
        return Outputs(shown[LOGITS][batch.index], {name: shown[name][batch.index] for name in self.capture.layers})

    @torch.no_grad()
    def ask(self, image: Tensor) -> Outputs:
        """Runs the network on at most `batch_size` images [N, C, H, W]."""
        self.images_asked += len(image)
        lacking = self.batch_size - len(image)
        padded = torch.cat([image, image[-1:].expand(lacking, -1, -1, -1)]) if lacking else image
        with self.precision.autocast():
            outputs = self.recorded(padded.contiguous(memory_format=self.precision.memory_format))
        return outputs.map(lambda values: values[: len(image)])

    def with_layers(self, more: Sequence[str]) -> Capture:
        """The network with further layers captured, besides those that the learners read."""
        return self._captured([*self.capture.layers, *more]) if more else self.capture

    def _captured(self, layers: Sequence[str]) -> Capture:
        return Capture(self.model, layers, self._probe_image, compiled=self.precision.compile)

    def look_up(self, known: OutputTable, recorded: Capture | None = None) -> None:
        """Answers from now on what is known, once `see` was told what is coming; new outputs of `recorded` are kept there."""
        self.known, self.recorded = known, recorded or self.capture

    def see(self, split: Split, *, seed: int, epoch: int, images: int | None = None) -> None:
        """Runs the network on whatever the first `images` (None: all) of an epoch show it for the first time."""
        if self.known is not None and not self.known.shows_all(self._names):
            self._learn(split, split.epoch(seed, epoch, images))

    def see_all(self, split: Split) -> None:
        """Runs the network on all images of a split that are not augmented, if their outputs are to be known and aren't."""
        if self.known is not None and not self.known.shows_all(self._names):
            self._learn(split, Epoch(torch.arange(len(split), device=split.labels.device), None))

    @property
    def _names(self) -> list[str]:
        return [LOGITS, *self.recorded.layers]

    def _learn(self, split: Split, epoch: Epoch) -> None:
        assert self.known is not None
        self.known.learn(split, epoch, self._names, self.ask, self.batch_size)
