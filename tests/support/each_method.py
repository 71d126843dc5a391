"""The shipped methods, and networks small enough to try them all."""

from shipped import options

from kdexp.configuration.compose import compose_command
from kdexp.configuration.nodes import build

METHODS = options("distillation")
TEACHING = [method for method in METHODS if build(compose_command([f"distillation={method}"]).distillation).uses_teacher]
PAIR = ("teacher=resnet14", "teacher.widths=[4,4,8,16]", "student=resnet8", "student.widths=[4,4,6,8]")
"""Nets with stages, maps and pre-activations, so small that they train in no time."""


SLOWED = {"dkd": ("distillation.warmup_epochs=2",), "reviewkd": ("distillation.warmup_epochs=2",)}


def role_of(method):
    return "baseline" if method == "none" else "distilled"
