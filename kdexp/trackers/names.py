"""The trackers by name, and whether their packages are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from kdexp.trackers.tracker import Tracker

CLASSES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "WandB"}
"""The class in the module of a tracker's name; package and extra have that name, too."""


def load(name: str) -> Tracker:
    """The tracker of that name, not yet opened."""
    tracker: Tracker = getattr(import_module(f"kdexp.trackers.{name}"), CLASSES[name])()
    return tracker


def is_installed(name: str) -> bool:
    """Whether a tracker's package is there; a folder of its name without code, such as `wandb` leaves behind, is none."""
    found = find_spec(name)
    return found is not None and found.origin is not None
