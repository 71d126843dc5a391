"""The shipped methods, and networks small enough to try them all."""

import pytest
import yaml
from hydra.utils import get_class
from shipped import CONF, options


def class_of(method):
    """The class that a method's file names, without composing it: all test processes import this."""
    return get_class(yaml.safe_load((CONF / "distillation" / f"{method}.yaml").read_text())["_target_"])


METHODS = options("distillation")
TEACHING = [method for method in METHODS if class_of(method).uses_teacher]
PAIR = ("teacher=resnet14", "teacher.widths=[4,4,8,16]", "student=resnet8", "student.widths=[4,4,6,8]")
"""Nets with stages, maps and pre-activations, so small that they train in no time."""


SLOWED = {
    "dkd": ("distillation.warmup_epochs=2",),
    "reviewkd": ("distillation.warmup_epochs=2",),
    "feature_pretraining": ("distillation.label_free=0.3",),
}
"""Methods whose steps change during training, with overrides that change them within two epochs."""


def role_of(method):
    return "baseline" if method == "none" else "distilled"


KINDS = ("none", "kd", "crd", "fitnet", "simkd", "dkd", "mutual", "sum")
"""One method of each kind of training; the others train like one of these.

Labels alone, a plain term, a memory, modules of its own, another network deployed, a warm-up, a second network, a sum.
"""


def by_kind():
    """All methods as parameters, those that train like another one marked exhaustive."""
    return [method if method in KINDS else pytest.param(method, marks=pytest.mark.exhaustive) for method in METHODS]
