"""RandAugment: a few random operations on each image, and cutout (Cubuk et al. 2019, arXiv 1909.13719)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from kdexp.configuration.arguments import Checked, Fraction, Range
from kdexp.data.randaugment.magnitudes import at, problems
from kdexp.data.randaugment.operations import COLUMNS, Operations
from kdexp.data.randaugment.steps import NUMBERS
from kdexp.errors import InvalidArguments, Problem

Colour = list[Annotated[int, Range(at_least=0, at_most=255)]]


class RandAugment(Checked):
    """A list of operations; `draws` of them are drawn for each image, with replacement, each with a magnitude of its own.

    A drawn operation is applied with a probability that is itself drawn for each image, from `probability`, [smallest,
    largest]. `operations` maps names to magnitudes, `cutout` has those of the cutout that every image gets last, or null.
    Colours have one or three values; images of one channel get the luminance of three. `before_crop` says whether all this
    happens before the image is cropped and mirrored, or after.
    """

    def __init__(
        self,
        *,
        draws: Annotated[int, Range(at_least=0, within=(0, 100))],
        probability: list[Fraction],
        operations: dict,
        cutout: dict | None,
        fill: Colour,
        cutout_fill: Colour,
        cutout_inclusive: bool,
        before_crop: bool,
    ):
        found = [problem for name, node in operations.items() for problem in problems(name, node, f"operations.{name}")]
        if cutout is not None:
            found += problems("cutout", cutout, "cutout")
        if draws and not operations:
            found.append(Problem("operations", "={}: must name an operation, or draws must be 0"))
        if len(probability) != 2 or probability[0] > probability[1]:
            found.append(Problem("probability", f"={probability!r}: must be [smallest, largest]"))
        for name, colour in (("fill", fill), ("cutout_fill", cutout_fill)):
            if len(colour) not in (1, 3):
                found.append(Problem(name, f"={colour!r}: must have one value, or three for red, green and blue"))
        if found:
            raise InvalidArguments(found)
        self.draws, self.probability = draws, probability
        self.operations: dict[str, Any] = operations
        self.cutout = cutout
        self.fill, self.cutout_fill, self.cutout_inclusive = fill, cutout_fill, cutout_inclusive
        self._acting = Operations(fill, cutout_fill, cutout_inclusive)
        self.before_crop = before_crop

    @property
    def columns(self) -> int:
        """The length of a choice; 0 if nothing is ever done."""
        return COLUMNS * (self.draws + (self.cutout is not None))

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """Draws a choice [N, columns] for every image: the numbers of its steps, one after the other."""
        low, high = self.probability
        probability = low + (high - low) * torch.rand(images, generator=generator)
        kinds = torch.tensor([NUMBERS[name] for name in self.operations])
        steps = []
        for _ in range(self.draws):
            drawn = torch.randint(len(kinds), (images,), generator=generator)
            applied = torch.rand(images, generator=generator) < probability
            chance, negative, place = self._chances(images, generator)
            amount = torch.zeros(images, dtype=torch.float64)
            for position, magnitude in enumerate(self.operations.values()):
                amount = torch.where(drawn == position, at(magnitude, chance, negative), amount)
            kind = kinds[drawn] * applied  # the identity is number 0
            steps.append(torch.cat([torch.stack([kind, amount.float()], 1), place], 1))
        if self.cutout is not None:
            chance, negative, place = self._chances(images, generator)
            kind = torch.full([images], NUMBERS["cutout"])
            steps.append(torch.cat([torch.stack([kind, at(self.cutout, chance, negative).float()], 1), place], 1))
        return torch.cat(steps, 1) if steps else torch.zeros(images, 0)

    def _chances(self, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draws what decides a magnitude [N], its sign [N], and a place [N, 2]."""
        chance = torch.rand(images, dtype=torch.float64, generator=generator)
        negative = torch.rand(images, generator=generator) < 0.5
        return chance, negative, torch.rand(images, 2, generator=generator)

    def apply(self, pixels: Tensor, choice: Tensor) -> Tensor:
        """Returns images uint8 [n, C, H, W] of one or three channels after the steps of their choices [n, columns]."""
        pixels = pixels.contiguous()
        names = [*[list(self.operations)] * self.draws, *[["cutout"]] * (self.cutout is not None)]
        for number, possible in enumerate(names):
            step = choice[:, number * COLUMNS : (number + 1) * COLUMNS]
            pixels = self._acting.apply(pixels, step, possible)
        return pixels
