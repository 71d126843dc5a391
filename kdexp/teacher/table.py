"""A teacher's outputs for the images of a split, each computed once: kept by layer, looked up by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kdexp.data.split import Epoch, Split
from kdexp.network.capture import Outputs

LOGITS = ""
"""Stands for the logits among the names of layers, none of which is empty."""


def by_layer(outputs: Outputs) -> dict[str, Tensor]:
    """Logits and features in one mapping."""
    return {LOGITS: outputs.logits, **outputs.features}


class OutputTable:
    """What is known of a teacher's outputs, in fp32, for `views` views of each of so many images.

    `shown` has a tensor [N, ...] per layer on the device, whose rows are those of the split; it stays where it is. Where images
    have several views it holds those of the epoch, and a table in the host's memory [views·N, ...] holds all.
    """

    def __init__(self, images: int, views: int, device: torch.device):
        self.images, self.views, self.device = images, views, device
        self.place = device if views == 1 else torch.device("cpu")
        self.shown: dict[str, Tensor] = {}
        self._tables: dict[str, Tensor] = {}
        self._lacking: dict[str, Tensor] = {}

    @property
    def bytes(self) -> int:
        """What it may take, all layers together, where most of it is kept."""
        return sum(values.nbytes for values in (self._tables or self.shown).values())

    def size(self, example: Tensor) -> int:
        """The bytes of a layer whose outputs are like the example [n, ...]."""
        return 4 * self.views * self.images * example[0].numel()

    def reserve(self, name: str, example: Tensor) -> None:
        """Makes room for a layer of which nothing is known yet."""
        places = self.views * self.images
        self.shown[name] = _alike(example, self.images, self.device)
        if self.views > 1:
            self._tables[name] = torch.empty(places, *example.shape[1:])  # the system gives pages as they are written
        self._lacking[name] = torch.ones(places, dtype=torch.bool)

    def complete(self, name: str) -> bool:
        """Whether all is known of a layer."""
        return name in self._lacking and not self._lacking[name].any()

    def shows_all(self, names: Iterable[str]) -> bool:
        """Whether `shown` has all there is of these layers, whatever the epoch."""
        return self.views == 1 and all(map(self.complete, names))

    def fill(self, name: str, values: Tensor) -> None:
        """Takes a layer [N, ...] that was computed earlier; there must be one view."""
        self.shown[name].copy_(values)
        self._lacking[name].fill_(False)

    def learn(
        self, split: Split, epoch: Epoch, names: Iterable[str], ask: Callable[[Tensor], Outputs], batch_size: int
    ) -> None:
        """Asks about what an epoch shows and is not known in one of these layers, and shows that epoch.

        Batches follow the rows, so that what an image gets does not depend on which epoch came first.
        """
        rows = epoch.rows.cpu()
        places = rows if epoch.choices is None else epoch.choices.cpu() * self.images + rows
        lacking = {name: self._lacking[name] for name in names if self._lacking[name][places].any()}
        unknown = sum((of_layer[places] for of_layer in lacking.values()), torch.zeros_like(rows, dtype=torch.bool))
        for name in names if self.views > 1 else ():
            known = places[~unknown]
            self.shown[name][(known % self.images).to(self.device)] = self._tables[name][known].to(self.device)
        asked = places[unknown].sort().values
        views = None if epoch.choices is None else (asked // self.images).to(self.device)
        shown = Epoch((asked % self.images).to(self.device), views)
        for at, image in zip(shown.rows.split(batch_size), split.show(shown, batch_size), strict=True) if len(asked) else ():
            outputs = by_layer(ask(image))
            for name in lacking:
                self.shown[name][at] = outputs[name]
        for name, of_layer in lacking.items():
            of_layer[asked] = False
            if self.views > 1:
                self._tables[name][asked] = self.shown[name][(asked % self.images).to(self.device)].cpu()


def _alike(example: Tensor, images: int, device: torch.device) -> Tensor:
    """An empty fp32 tensor [N, ...] that lies in memory as the example does, since sums over another order round otherwise."""
    last = example.dim() == 4 and not example.is_contiguous() and example.is_contiguous(memory_format=torch.channels_last)
    way = torch.channels_last if last else torch.contiguous_format
    return torch.empty(images, *example.shape[1:], device=device, memory_format=way)
