"""A teacher that was chosen for methods of which none would ask it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdexp.configuration.jobs import key_of
from kdexp.configuration.nodes import build, nodes_within
from kdexp.configuration.roles import option
from kdexp.distillation.base import Distiller
from kdexp.errors import Problem


def unasked_teacher(jobs: Sequence[Sequence[str]], configs: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Refuses a teacher that the command names, if all its jobs learn from images without labels and from no teacher.

    One that comes from a configuration file stays, and is a row of the table, as beside methods such as `none` or `mutual`; so
    does one in a sweep where a single job asks it.
    """
    named = [
        config for job, config in zip(jobs, configs, strict=True) if "teacher" in map(key_of, job) and config.get("teacher")
    ]
    if not named or any(map(_may_ask, configs)):
        return
    teacher, method = option(named[0], "teacher"), option(named[0], "distillation")
    yield Problem("teacher", f"={teacher!r}: {method} learns from images without labels, and asks no teacher; teacher=null")


def _may_ask(config: Mapping[str, Any]) -> bool:
    """Whether the job's method asks the teacher, has a network like it, or needs no unlabelled images; also if it is broken."""
    try:
        method: Distiller = build(config["distillation"])
        alike = config["teacher"] in nodes_within(config["distillation"]).values()
    except Exception:  # reported by the checks of the job itself
        return True
    return method.uses_teacher or not method.unlabelled or alike
