"""The frozen teacher: its outputs once per batch for all learners, computed once per run where images repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdexp.data.batch import Batch
from kdexp.data.resident import Split
from kdexp.device import Precision
from kdexp.features import Capture, Outputs

CACHE_LIMIT = 2**30
"""Bytes up to which the outputs of one captured layer are kept for a whole split; beyond, every batch asks the network."""


class Teacher:
    """A network in evaluation mode, without gradients, whose weights and statistics never change.

    Every pass is padded to one fixed batch size, so that what an image gets does not depend on the batch it comes in.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], probe_image: Tensor, precision: Precision, batch_size: int):
        self.model = model.eval().requires_grad_(False)
        self.capture = Capture(model, layers, probe_image)
        self.precision = precision
        self.batch_size = batch_size
        self.images_asked = 0
        self._kept: Outputs | None = None

    def __call__(self, batch: Batch) -> Outputs:
        """Logits and the captured features for a batch of the training split."""
        if self._kept is not None:
            return self._kept.map(lambda values: values[batch.index])
        return self.ask(batch.image)

    @torch.no_grad()
    def ask(self, image: Tensor) -> Outputs:
        """Runs the network on at most `batch_size` images [N, C, H, W]."""
        self.images_asked += len(image)
        lacking = self.batch_size - len(image)
        padded = torch.cat([image, image[-1:].expand(lacking, -1, -1, -1)]) if lacking else image
        with self.precision.autocast():
            outputs = self.capture(padded.contiguous(memory_format=self.precision.memory_format))
        return outputs.map(lambda values: values[: len(image)])

    def keep(self, split: Split, recall: Callable[[Callable[[], Outputs]], Outputs] = lambda compute: compute()) -> bool:
        """Answers from now on what was computed once for all images of a split, in fp32; returns whether that is done.

        It is where images repeat and each layer fits `CACHE_LIMIT`. `recall` may know the outputs of an earlier call.
        """
        sizes = [value[0].numel() * 4 * len(split) for value in self.capture.probe.features.values()]
        if not split.repeats or any(size > CACHE_LIMIT for size in sizes):
            return False
        self._kept = recall(lambda: self._all(split))
        return True

    def _all(self, split: Split) -> Outputs:
        said = [self.ask(image) for image in split.in_order(self.batch_size)]
        names = self.capture.layers
        features = {name: torch.cat([outputs.features[name] for outputs in said]) for name in names}
        return Outputs(torch.cat([outputs.logits for outputs in said]), features)
