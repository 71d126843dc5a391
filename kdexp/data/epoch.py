"""The images of an epoch: which ones, in which order, and how each is augmented."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdexp.data.augmentation import Augmentation
from kdexp.data.views import MIXED, PLAIN, STRONG, STRONG2, WEAK2, View, folded


class UnlabelledViews(NamedTuple):
    """What batches have of unlabelled images: these views of `ratio` images for each labelled one."""

    views: tuple[View, ...] = ()
    ratio: int = 0


NO_UNLABELLED = UnlabelledViews()


@dataclass(frozen=True)
class Epoch:
    """The images of an epoch in order: `rows` [n] of the split and, if there are several views, a choice for each.

    `views` are the named views that its batches have besides `weak`. `second`, `strong` and `strong2` have the choices for
    other views than `weak`, and `shares` [n] what `mixed` is made with, of which a batch takes that of its first image. They
    are None where no view needs them. Unlabelled images are an epoch of their own, the same number for each labelled one.
    """

    rows: Tensor
    choices: Tensor | None = None
    second: Tensor | None = None
    shares: Tensor | None = None
    views: tuple[View, ...] = ()
    strong: Tensor | None = None
    strong2: Tensor | None = None
    unlabelled: Epoch | None = None

    @property
    def plain(self) -> Epoch:
        """The same images without augmentation."""
        return Epoch(self.rows)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What its images are made with, equal for epochs that differ only in their draws."""
        return self.views, tuple(name for name, _ in self._tensors()), self.unlabelled and self.unlabelled.kind

    def split(self, size: int) -> Iterator[Epoch]:
        """Yields `size` images at a time."""
        for start in range(0, max(len(self.rows), 1), size):
            yield self.at(slice(start, start + size))

    def at(self, positions: Tensor | slice) -> Epoch:
        """Returns the images at these positions [m]; copies of their rows and choices, unless they are a slice."""
        found: dict[str, Any] = {name: values[positions] for name, values in self._tensors()}
        if self.unlabelled is not None:
            found["unlabelled"] = self.unlabelled.at(_spread(positions, len(self.unlabelled.rows) // len(self.rows)))
        return replace(self, **found)

    def to(self, device: torch.device) -> Epoch:
        """Returns the epoch with its tensors on a device."""
        found: dict[str, Any] = {name: values.to(device) for name, values in self._tensors()}
        return replace(self, **found)

    def copy_(self, other: Epoch) -> None:
        """Overwrites rows and choices with the first of another epoch's."""
        for name, values in self._tensors():
            values.copy_(getattr(other, name)[: len(values)])
        if self.unlabelled is not None and other.unlabelled is not None:
            self.unlabelled.copy_(other.unlabelled)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        named = ((part.name, getattr(self, part.name)) for part in fields(self))
        return [(name, values) for name, values in named if isinstance(values, Tensor)]


def _spread(positions: Tensor | slice, ratio: int) -> Tensor | slice:
    """The positions of `ratio` images for each of those [m], or for a slice of them."""
    if isinstance(positions, slice):
        return slice(positions.start * ratio, positions.stop * ratio)
    return (positions[:, None] * ratio + torch.arange(ratio, device=positions.device)).flatten()


def random_generator(seed: int, epoch: int, purpose: str = "") -> torch.Generator:
    """Returns the generator for an epoch's draws; another `purpose` has draws that are independent of all others."""
    number = seed * 1_000_003 + epoch
    if purpose:  # PyTorch's generator on a CPU uses 32 bits of a seed
        number = int.from_bytes(hashlib.sha256(f"{purpose} {number}".encode()).digest()[:4], "big")
    return torch.Generator().manual_seed(number)


@dataclass(frozen=True)
class Drawing:
    """What an epoch is drawn from: the number of images, and the augmentations of the weak and the strong views."""

    images: int
    augmentation: Augmentation
    strong: Augmentation | None

    def draw(self, shown: int, seed: int, epoch: int, views: tuple[View, ...], purpose: str = "") -> Epoch:
        """Returns `shown` images on the host, in one random order of all of them after the other.

        All draws depend on `seed`, `epoch` and `purpose`, and on how often all images are gone through; those of one view don't
        depend on which others there are.
        """
        generator = random_generator(seed, epoch, purpose)
        passes = max(1, -(-shown // max(self.images, 1)))
        rows = torch.cat([torch.randperm(self.images, generator=generator) for _ in range(passes)])
        places = (rows + self.images * torch.arange(passes).repeat_interleave(self.images))[:shown]
        choose = partial(self._choices, places, self.images * passes)
        found: dict[str, Any] = {"choices": choose(self.augmentation.draw, generator)}
        if {PLAIN, WEAK2, MIXED} & set(views):
            # Drawn last and always both, so that no draw depends on which views are read.
            found["shares"] = folded(torch.rand(self.images * passes, generator=generator))[:shown]
            found["second"] = choose(self.augmentation.draw, generator)
        for view in {STRONG, STRONG2} & set(views):
            assert self.strong is not None
            found[view] = choose(self.strong.draw, random_generator(seed, epoch, f"{purpose} {view}"))
        return Epoch(rows[:shown], views=views, **found)

    @staticmethod
    def _choices(
        places: Tensor, count: int, draw: Callable[[int, torch.Generator], Tensor | None], generator: torch.Generator
    ) -> Tensor | None:
        drawn = draw(count, generator)
        return None if drawn is None else drawn[places]
