"""The frozen teacher: its outputs once per batch for all learners, looked up in a table where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdexp.data.batch import Batch
from kdexp.data.epoch import Epoch
from kdexp.data.split import Split
from kdexp.data.views import PLAIN, WEAK, Reading, View
from kdexp.device.precision import Precision
from kdexp.network.capture import Capture, Outputs
from kdexp.teacher.output_table import LOGITS, OutputTable

WEAKLY = Reading(WEAK)


class Teacher:
    """A network in evaluation mode, without gradients, whose weights and statistics never change.

    Every pass is padded to one fixed batch size, so that an image's outputs don't depend on the batch it comes in. It reads
    one view of the images, or of the unlabelled ones (`reading`); `by_reading` has the teachers for all that learners ask for,
    which share the network.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        probe_image: Tensor,
        precision: Precision,
        batch_size: int,
        reading: Reading = WEAKLY,
    ):
        self.model = model.eval().requires_grad_(False)
        self.reading = reading
        self.by_reading: dict[Reading, Teacher] = {reading: self}
        self.precision = precision
        self.batch_size = batch_size
        self.images_asked = 0
        self.table: OutputTable | None = None
        self._probe_image = probe_image.contiguous(memory_format=precision.memory_format)
        self.capture = self._recorded = self._captured(layers)

    @property
    def view(self) -> View:
        """The view of the images that it reads."""
        return self.reading.view

    @property
    def cached_bytes(self) -> int:
        """Size of its table, including layers that only other jobs read."""
        return 0 if self.table is None else self.table.bytes

    def __call__(self, batch: Batch) -> Outputs:
        """Logits and the captured features for what it reads of a batch of the training split."""
        images = batch.unlabelled if self.reading.unlabelled else batch
        assert images is not None
        if self.table is None:
            return self.ask(images.seen(self.view))
        shown = self.table.shown
        return Outputs(shown[LOGITS][images.index], {name: shown[name][images.index] for name in self.capture.layers})

    def images_of(self, split: Split) -> Split:
        """Those images of a split of which it reads some."""
        return split.unlabelled if self.reading.unlabelled else split

    @torch.no_grad()
    def ask(self, image: Tensor) -> Outputs:
        """Runs the network on at most `batch_size` images [N, C, H, W]."""
        self.images_asked += len(image)
        padding = self.batch_size - len(image)
        padded = torch.cat([image, image[-1:].expand(padding, -1, -1, -1)]) if padding else image
        with self.precision.autocast():
            outputs = self._recorded(padded.contiguous(memory_format=self.precision.memory_format))
        return outputs.map(lambda values: values[: len(image)])

    def with_layers(self, extra: Sequence[str]) -> Capture:
        """The network with extra layers captured next to those that the learners read."""
        return self._captured([*self.capture.layers, *extra]) if extra else self.capture

    def _captured(self, layers: Sequence[str]) -> Capture:
        return Capture(self.model, layers, self._probe_image, compiled=self.precision.compile)

    def use(self, table: OutputTable | None, extra_layers: Sequence[str] = ()) -> None:
        """From now on, answer from `table` (None: run on every batch). Call `prepare_epoch` before each epoch.

        Each pass that fills the table also records `extra_layers`.
        """
        self.table, self._recorded = table, self.with_layers(extra_layers)

    @property
    def recorded_layers(self) -> list[str]:
        """Layers whose outputs each pass records, the logits first."""
        return [LOGITS, *self._recorded.layers]

    def prepare_epoch(self, split: Split, epoch: Epoch) -> None:
        """Fills the table with the outputs that an epoch needs, if there is a table and it isn't complete."""
        shown = epoch.unlabelled if self.reading.unlabelled else epoch
        if shown is not None:
            self._fill(split, shown.plain if self.view == PLAIN else shown)

    def prepare_all(self, split: Split) -> None:
        """Fills the table with the outputs for every image of a split without augmentation."""
        images = self.images_of(split)
        self._fill(split, Epoch(torch.arange(len(images), device=images.labels.device)))

    def _fill(self, split: Split, epoch: Epoch) -> None:
        if self.table is not None and not self.table.shows_all(self.recorded_layers):
            self.table.compute_missing(self.images_of(split), epoch, self.recorded_layers, self.ask, self.batch_size)
