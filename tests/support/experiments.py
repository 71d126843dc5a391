"""Short experiments, quickly composed, and what they printed."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from kdexp.configuration import compose
from kdexp.experiment.experiment import Experiment

COMPOSER = compose.Composer()
"""Hydra takes a third of a second to compose a choice of options; this one remembers what it composed."""
SHORT = ("epochs=2", "teacher_epochs=2", "limit_batches=3", "device=cpu")


def compose_command(overrides: Sequence[str], **where: str) -> DictConfig:
    """What `kdexp.configuration.compose.compose_command` gives (tests/configuration/test_composer.py), but quicker."""
    return compose.compose_command(overrides, **where) if where else OmegaConf.create(COMPOSER.compose(overrides))


def said(experiment: Experiment) -> str:
    """Everything an experiment has printed."""
    return experiment.journal.console.file.getvalue()
