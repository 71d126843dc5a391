"""The base classes of all distillation methods, and what these are given."""

from kdexp.distillation.base.distiller import BEYOND_TERMS, Distiller, overrides, soft_target_loss
from kdexp.distillation.base.features import FeatureDistiller
from kdexp.distillation.base.step import Probe, Progress, Terms, Trainee, probe_of

__all__ = [
    "BEYOND_TERMS",
    "Distiller",
    "FeatureDistiller",
    "Probe",
    "Progress",
    "Terms",
    "Trainee",
    "overrides",
    "probe_of",
    "soft_target_loss",
]
