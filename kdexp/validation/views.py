"""Checks of the views that a method's student and teacher read: they differ where they should, and go together."""

from __future__ import annotations

from collections.abc import Iterator

from kdexp.data.views import MIXED, PLAIN, WEAK2
from kdexp.distillation.base import Distiller
from kdexp.errors import Problem

AUGMENT = "dataset.crop_padding=1 or 'dataset.resized_crop=[0.4,1.0]' augments images"


def check_views(distiller: Distiller, path: str, *, augmented: bool) -> Iterator[Problem]:
    """Problems of the views that the method of the node at `path` reads; `augmented` says whether images have several views."""
    views = {"student_view": distiller.student_view, "teacher_view": distiller.teacher_view}
    if not distiller.uses_teacher:
        for name, view in views.items():
            if view != dict(zip(views, Distiller.own_views, strict=True))[name]:
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
        if view in (PLAIN, WEAK2) and not augmented:
            sentence = f"={view!r}: is the same as 'weak', since nothing is augmented; {AUGMENT}"
            yield Problem(f"{path}.{name}", sentence)
