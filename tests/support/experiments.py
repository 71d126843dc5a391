"""Short experiments, and what they printed."""

from kdexp.configuration.compose import Composer
from kdexp.experiment.experiment import Experiment

COMPOSER = Composer()
"""Hydra takes a third of a second to compose a choice of options; this one remembers what it composed."""
SHORT = ("epochs=2", "teacher_epochs=2", "limit_batches=3", "device=cpu")


def said(experiment: Experiment) -> str:
    """Everything an experiment has printed."""
    return experiment.journal.console.file.getvalue()
