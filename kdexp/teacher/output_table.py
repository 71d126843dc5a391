"""A teacher's outputs for the images of a split, each computed once: one table per layer, looked up by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from kdexp.data.epoch import Epoch
from kdexp.data.split import Split
from kdexp.network.capture import Outputs

LOGITS = ""
"""Stands for the logits among the names of layers, none of which is empty."""


def by_layer(outputs: Outputs) -> dict[str, Tensor]:
    """Logits and features in one mapping."""
    return {LOGITS: outputs.logits, **outputs.features}


class OutputTable:
    """A teacher's outputs in fp32 for `views` views of each of `images` images, filled in as they are computed.

    `shown` holds one tensor [N, ...] per layer on the device, in the order of the split's rows. These tensors are never
    replaced, so recorded steps can read them. With one view per image they hold everything. With several, they hold the views
    of the current epoch, and tables [views·N, ...] in host memory hold all views.
    """

    def __init__(self, images: int, views: int, device: torch.device):
        self.images, self.views, self.device = images, views, device
        self.stored_on = device if views == 1 else torch.device("cpu")
        self.shown: dict[str, Tensor] = {}
        self._all_views: dict[str, Tensor] = {}
        self._missing: dict[str, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Memory reserved on `stored_on` for all layers together."""
        return sum(values.nbytes for values in (self._all_views or self.shown).values())

    def size(self, example: Tensor) -> int:
        """Bytes needed for a layer whose outputs have the shape of `example` [n, ...]."""
        return 4 * self.views * self.images * example[0].numel()

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes reserved for each of these layers."""
        return {name: self.size(self.shown[name]) for name in names}

    def reserve(self, name: str, example: Tensor) -> None:
        """Allocates memory for a new layer, of which nothing has been computed."""
        entries = self.views * self.images
        self.shown[name] = _like(example, self.images, self.device)
        if self.views > 1:
            self._all_views[name] = torch.empty(entries, *example.shape[1:])  # the system maps pages when they are written
        self._missing[name] = torch.ones(entries, dtype=torch.bool)

    def new_layers(self, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those examples whose layers have no memory reserved."""
        return {name: example for name, example in examples.items() if name not in self.shown}

    def complete(self, name: str) -> bool:
        """Whether every output of a layer has been computed."""
        return name in self._missing and not self._missing[name].any()

    def missing_share(self, name: str, epoch: Epoch | None = None) -> float:
        """The share of a layer's outputs, for all views or for those that an epoch shows, that have not been computed."""
        missing = self._missing[name] if epoch is None else self._missing[name][self._positions(epoch)]
        return int(missing.count_nonzero()) / len(missing)

    def shows_all(self, names: Iterable[str]) -> bool:
        """Whether `shown` is complete for these layers in every epoch."""
        return self.views == 1 and all(map(self.complete, names))

    def fill(self, name: str, values: Tensor) -> None:
        """Copies a whole layer [N, ...] that was computed earlier; only for tables with one view."""
        self.shown[name].copy_(values)
        self._missing[name].fill_(False)

    def compute_missing(
        self, split: Split, epoch: Epoch, names: Sequence[str], ask: Callable[[Tensor], Outputs], batch_size: int
    ) -> None:
        """Computes what is missing for an epoch in these layers, and shows that epoch.

        Missing images are asked about in the order of their rows, so an image's outputs don't depend on which epoch came first.
        """
        positions = self._positions(epoch)
        missing = {name: self._missing[name] for name in names if self._missing[name][positions].any()}
        is_missing = torch.zeros(len(positions), dtype=torch.bool)
        for layer in missing.values():
            is_missing |= layer[positions]
        if self.views > 1:
            self._show(names, positions[~is_missing])
        if not missing:
            return
        requested = positions[is_missing].unique()
        self._ask(split, requested, missing, ask, batch_size)
        for name, layer in missing.items():
            layer[requested] = False
            if self.views > 1:
                self._all_views[name][requested] = self.shown[name][self._rows(requested)].cpu()

    def _positions(self, epoch: Epoch) -> Tensor:
        """Where the tables hold the images of an epoch, on the host: [n], views in blocks of `images` rows."""
        rows = epoch.rows.cpu()
        return rows if epoch.choices is None else epoch.choices.cpu() * self.images + rows

    def _rows(self, positions: Tensor) -> Tensor:
        return (positions % self.images).to(self.device)

    def _show(self, names: Iterable[str], positions: Tensor) -> None:
        """Copies these views from host memory to the device."""
        for name in names:
            self.shown[name][self._rows(positions)] = self._all_views[name][positions].to(self.device)

    def _ask(
        self, split: Split, positions: Tensor, names: Iterable[str], ask: Callable[[Tensor], Outputs], batch_size: int
    ) -> None:
        """Writes the outputs for these views into `shown`."""
        views = None if self.views == 1 else (positions // self.images).to(self.device)
        images = Epoch(self._rows(positions), views)
        for rows, image in zip(images.rows.split(batch_size), split.show(images, batch_size), strict=True):
            outputs = by_layer(ask(image))
            for name in names:
                self.shown[name][rows] = outputs[name]


def _like(example: Tensor, images: int, device: torch.device) -> Tensor:
    """An empty fp32 tensor [N, ...] in the example's memory format, as sums in another order round differently."""
    last = example.dim() == 4 and not example.is_contiguous() and example.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(images, *example.shape[1:], device=device, memory_format=memory_format)
