"""A batch of training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from kdexp.data.views import MIXED, WEAK, View


@dataclass
class Unlabelled:
    """Images on the device of which nothing but themselves is known: no label of theirs is anywhere in a batch."""

    index: Tensor
    """Rows [M] of the unlabelled images."""
    views: dict[View, Tensor]
    """Images [M, C, H, W] in the views that are read, by name."""

    def seen(self, view: View) -> Tensor:
        """The images [M, C, H, W] in a view."""
        return self.views[view]

    def part(self, rows: slice, labelled: int) -> Unlabelled:
        """The part that belongs to these of so many labelled images."""
        ratio = len(self.index) // labelled
        own = slice(rows.start * ratio, rows.stop * ratio)
        return Unlabelled(self.index[own], {name: images[own] for name, images in self.views.items()})


@dataclass
class Batch:
    """One batch on the device: normalised images, labels, and their origin in the training split."""

    image: Tensor
    """Images [N, C, H, W]; what the split serves is the view `weak`, what a method gets is its student's view."""
    label: Tensor
    """Class numbers [N]."""
    index: Tensor
    """Rows [N] of the training split."""
    view: Tensor | None = None
    """Numbers [N] of the augmented views; None without augmentation, or if views can't be numbered."""
    views: dict[View, Tensor] = field(default_factory=dict)
    """Images [N, C, H, W] in the other views that are read, by name."""
    share: Tensor | None = None
    """[1], the share of each image in the view `mixed`; the rest is the image before it."""
    is_mixed: bool = False
    """Whether `image` is the view `mixed`."""
    unlabelled: Unlabelled | None = None
    """Images without labels, for methods that read some."""
    portion: float = 1.0
    """Its share of the images of a whole batch, of which several ranks train on a part each."""

    def seen(self, view: View) -> Tensor:
        """The images [N, C, H, W] in a view, of a batch as the split serves it."""
        return self.image if view == WEAK else self.views[view]

    def part(self, rows: slice) -> Batch:
        """The part of the batch that has these of its images."""
        view = None if self.view is None else self.view[rows]
        views = {name: images[rows] for name, images in self.views.items()}
        image, label, index = self.image[rows], self.label[rows], self.index[rows]
        portion = len(index) / len(self.index)
        unlabelled = None if self.unlabelled is None else self.unlabelled.part(rows, len(self.index))
        return replace(
            self, image=image, label=label, index=index, view=view, views=views, portion=portion, unlabelled=unlabelled
        )

    def as_seen(self, view: View) -> Batch:
        """The batch with that view as its images."""
        return self if view == WEAK else replace(self, image=self.seen(view), is_mixed=view == MIXED)

    def label_loss(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """`loss` of the labels [N]; for mixed images, that of both images' labels, each by its share."""
        if not self.is_mixed:
            return loss(self.label)
        assert self.share is not None
        return (self.share * loss(self.label) + (1 - self.share) * loss(self.label.roll(1))).squeeze(0)


def of_labelled(values: Tensor, label: Tensor) -> Tensor:
    """The rows of values [M, ...] that belong to images with labels [N], which come first; the values themselves if all do."""
    return values if len(values) == len(label) else values[: len(label)]
