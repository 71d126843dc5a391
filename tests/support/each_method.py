"""The shipped methods, and networks small enough to try them all."""

import pytest
import yaml
from hydra.utils import get_class
from shipped import CONF, options

BESIDE = " beside"
"""After a method's name: its teacher teaches unlabelled images, too."""


def class_of(method):
    """The class that a method's file names, without composing it: all test processes import this."""
    file = CONF / "distillation" / f"{method.removesuffix(BESIDE)}.yaml"
    return get_class(yaml.safe_load(file.read_text())["_target_"])


METHODS = options("distillation")
TEACHING = [method for method in METHODS if class_of(method).uses_teacher]
TEACHING_UNLABELLED = [f"{method}{BESIDE}" for method in METHODS if class_of(method).of_outputs]
PAIR = ("teacher=resnet14", "teacher.widths=[4,4,8,16]", "student=resnet8", "student.widths=[4,4,6,8]")
"""Nets with stages, maps and pre-activations, so small that they train in no time."""


FEW_LABELS = (
    *("dataset.student_fraction=1", "dataset.limit=90", "dataset.labels=30", "dataset.crop_padding=1"),
    "strong@dataset.strong_view=geometric",
)
"""Ninety images, a third with labels: what methods that learn without labels need."""


def averaged(method):
    """The word that gives a method the moving average that it needs, which the baseline has then, too."""
    return ("averaging=ema",) if class_of(method).needs_average else ()


def chosen(method):
    """The words that choose a method, and what it needs to learn."""
    reads_unlabelled = class_of(method).unlabelled or method.endswith(BESIDE)
    data = (*FEW_LABELS, "distillation.unlabelled_ratio=2") if reads_unlabelled else ()
    return (f"distillation={method.removesuffix(BESIDE)}", *data, *averaged(method))


SLOWED = {
    "dkd": ("distillation.warmup_epochs=2",),
    "reviewkd": ("distillation.warmup_epochs=2",),
    "feature_pretraining": ("distillation.label_free=0.3",),
}
"""Methods whose steps change during training, with overrides that change them within two epochs."""


def role_of(method):
    return "baseline" if method == "none" else "distilled"


KINDS = ("none", "kd", "crd", "fitnet", "simkd", "dkd", "mutual", "sum", "fixmatch")
"""One method of each kind of training; the others train like one of these.

Labels alone, a plain term, a memory, modules of its own, another network deployed, a warm-up, a second network, a sum, images
without labels.
"""


def by_kind():
    """All methods as parameters, those that train like another one marked exhaustive."""
    return [method if method in KINDS else pytest.param(method, marks=pytest.mark.exhaustive) for method in METHODS]
