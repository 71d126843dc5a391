"""Hydra's own settings: the few that `kdexp` reads, and refusals of all others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from kdexp.configuration.arguments import Count, misfit
from kdexp.configuration.jobs import key_of
from kdexp.errors import Problem

OWN_LAUNCHERS = ("basic", "lockstep")
"""Launchers whose jobs run in this process; all others are left to Hydra."""

_READ = ("hydra/launcher", "hydra.launcher", "hydra.mode", "hydra.sweeper.params")

_FOLDERS = ("hydra.run", "hydra.sweep", "hydra.output_subdir")


def unused(overrides: Sequence[str], hydra_node: DictConfig, multirun: bool) -> Iterator[Problem]:
    """Problems of Hydra settings that would have no effect, and of a launcher that can't work.

    With a launcher that is not ours, Hydra reads all its settings itself.
    """
    launcher = hydra_node.runtime.choices["hydra/launcher"]
    if launcher not in OWN_LAUNCHERS:
        return
    for text in overrides:
        key = key_of(text)
        if re.match(r"hydra([./]|$)", key) and not any(f"{key}.".startswith(f"{read}.") for read in _READ):
            yield Problem(key, _without_effect(key))
    if launcher == "lockstep" and not multirun:
        yield Problem("hydra/launcher", "=lockstep: trains the jobs of a sweep together; add -m")
    if launcher == "lockstep" and (sentence := misfit(most := hydra_node.launcher.get("max_learners"), Count | None)):
        yield Problem("hydra.launcher.max_learners", f"={most!r}: {sentence}")


def _without_effect(key: str) -> str:
    if any(f"{key}.".startswith(f"{folder}.") for folder in _FOLDERS):
        return "has no effect; kdexp names its folders itself, output_dir=FOLDER chooses where they go"
    if key == "hydra.searchpath":
        return "has no effect; --config-dir FOLDER adds your own options"
    return "has no effect in kdexp; see kdexp --help for what can be set"
