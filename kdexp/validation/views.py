"""Checks of the views that a method's student and teacher read: they differ where they should, go together, and can be made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kdexp.data.dataset import ImageDataset
from kdexp.data.views import MIXED, PLAIN, STRONG, STRONG2, WEAK, WEAK2
from kdexp.distillation.base import Distiller
from kdexp.distillation.none import NoDistillation
from kdexp.errors import Problem

AUGMENT = "dataset.crop_padding=1 or 'dataset.resized_crop=[0.4,1.0]' augments images"
POLICY = "strong@dataset.strong_view=fixmatch chooses one, geometric is for digits"
FEW = "choose how many have one: dataset.labels=40 dataset.student_fraction=1"
MORE = f"{FEW}; or give more images without: dataset.unlabelled_root=FOLDER"


TEACHABLE = "kd, function_matching, mse_logits, hint, at, cosine, feature_cosine and feature_pretraining teach others, too"


class TrainingImages(NamedTuple):
    """How a data set uses its training images."""

    augmented: bool
    """Whether they have more than one weak view."""
    strong: bool
    """Whether they have strong views."""
    few: bool
    """Whether only some of them have their labels."""
    unlabelled: bool
    """Whether there are images without labels: these, or those of a folder."""

    @classmethod
    def of(cls, dataset: ImageDataset) -> TrainingImages:
        """How this data set uses them."""
        few, folder = dataset.labels is not None, dataset.unlabelled is not None
        return cls(dataset.augmentation().count != 1, dataset.strong_view is not None, few, few or folder)


UNKNOWN_IMAGES = TrainingImages(augmented=True, strong=True, few=True, unlabelled=True)


def check_views(distiller: Distiller, path: str, images: TrainingImages) -> Iterator[Problem]:
    """Problems of the views that the method of the node at `path` reads."""
    yield from _unlabelled(distiller, path, images)
    if distiller.unlabelled and not type(distiller).unlabelled and not distiller.of_outputs:
        sentence = f"={distiller.unlabelled_ratio}: this method's terms need labelled images; {TEACHABLE}"
        yield Problem(f"{path}.unlabelled_ratio", sentence)
    if strong := [view for view in (STRONG, STRONG2) if view in distiller.views_read and not images.strong]:
        yield Problem(path, f"reads {' and '.join(strong)} views, and there is no RandAugment for these; {POLICY}")
    views = {"student_view": distiller.student_view, "teacher_view": distiller.teacher_view}
    if not distiller.uses_teacher:
        allowed = {"student_view": () if type(distiller) is NoDistillation else (STRONG, STRONG2), "teacher_view": ()}
        for name, view in views.items():
            if view != WEAK and view not in allowed[name]:
                yield Problem(f"{path}.{name}", f"={view!r}: only methods with a teacher choose views; views=null")
        return
    if len(mixing := {name for name, view in views.items() if view == MIXED}) == 1:
        (other,) = views.keys() - mixing
        sentence = f"={views[other]!r}: one network reads mixed images, and the other must too; views=mixup sets both"
        yield Problem(f"{path}.{other}", sentence)
    elif mixing and distiller.reads_labels:
        sentence = "='mixed': mixed images have two labels, and this method's own term takes one; views=same"
        yield Problem(f"{path}.student_view", sentence)
    for name, view in views.items():
        if view in (PLAIN, WEAK2) and not images.augmented:
            sentence = f"={view!r}: is the same as 'weak', since nothing is augmented; {AUGMENT}"
            yield Problem(f"{path}.{name}", sentence)


def check_controls(controls: list[str], images: TrainingImages) -> Iterator[Problem]:
    """Problems of the control rows on labels."""
    if "strong_labels" in controls and not images.strong:
        yield Problem("controls", f"=strong_labels: reads strong views, and there is no RandAugment for these; {POLICY}")
    if "all_labels" in controls and not images.few:
        yield Problem("controls", f"=all_labels: is the baseline, since all images have their labels; {FEW}")


def _unlabelled(distiller: Distiller, path: str, images: TrainingImages) -> Iterator[Problem]:
    """Whether a method that learns from images without labels has some."""
    if distiller.unlabelled and not images.unlabelled:
        yield Problem(path, f"learns from images without labels, and here all have one; {MORE}")
    if WEAK2 in distiller.unlabelled and not images.augmented and not distiller.needs_average:
        yield Problem(path, f"compares two weak views of an image, which are the same, since nothing is augmented; {AUGMENT}")
