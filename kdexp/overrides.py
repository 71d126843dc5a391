"""Overrides that Hydra refuses: all of them at once, each with what would have been right."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdexp.arguments import Problem, did_you_mean, first_line, listed
from kdexp.composer import Composer
from kdexp.config import compose_command


def compose_all(overrides: Sequence[str], composer: Composer) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """The composed configuration, without the overrides that can't be, and the problems of those; None if nothing can be."""
    try:
        return composer.compose(overrides), []
    except (HydraException, OmegaConfBaseException):
        return _one_by_one(overrides, **composer.where)


def _one_by_one(overrides: Sequence[str], **where: Any) -> tuple[DictConfig | None, list[Problem]]:
    """Groups first, since they decide which keys exist."""
    found: list[Problem] = []
    good: list[str] = []
    try:
        composed = compose_command([], **where)
    except (HydraException, OmegaConfBaseException) as error:
        return None, [Problem("", first_line(error))]
    for override in sorted(overrides, key=lambda text: "." in text.partition("=")[0]):
        try:
            composed = compose_command([*good, override], **where)
            good.append(override)
        except (HydraException, OmegaConfBaseException) as error:
            found.append(_explain(override, error, composed))
    return composed, found


def _explain(override: str, error: Exception, composed: DictConfig) -> Problem:
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(error, MissingConfigException) and error.options is not None:
        return Problem(key, f"={value!r}: no such option;{did_you_mean(value, error.options)} known: {listed(error.options)}")
    if "=" not in override:
        return Problem("", f"{override!r} is no KEY=VALUE; kdexp --help shows what there is")
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return Problem("", f"{override!r} can't be read; quote special characters: 'KEY=\"VALUE\"'")
    paths = all_paths(OmegaConf.to_container(composed))
    if key not in paths:
        return Problem(key, unknown_key(key, paths))
    return Problem(key, f"={value!r}: {first_line(error)}")


def explain_partial(problem: Problem, overrides: Sequence[str], composer: Composer) -> Problem:
    """The problem of a multirun; that of a key which only some of a group's swept options have, with commands that work."""
    group = problem.name.partition(".")[0]
    swept = next((text for text in overrides if text.startswith(f"{group}=") and "," in text), "")
    if not problem.sentence.startswith("unknown key") or not swept:
        return problem
    options = swept.partition("=")[2].split(",")
    having = [name for name in options if problem.name in all_paths(composer.compose([f"{group}={name}"]))]
    if not having:
        return problem
    lacking = [name for name in options if name not in having]
    own = [text for text in overrides if text.startswith(f"{problem.name}=")]
    rest = [text for text in overrides if text not in (swept, *own)]
    ways = ((lacking, rest), (having, [*own, *rest]))
    commands = " and ".join(shlex.join(["kdexp", "-m", f"{group}={','.join(names)}", *words]) for names, words in ways)
    only = f"only {group}={','.join(having)} has it" if len(having) == 1 else f"only {listed(having)} have it"
    return Problem(problem.name, f"{only}, not {listed(lacking)}; run them apart: {commands}")


def unknown_key(key: str, paths: Sequence[str]) -> str:
    """What to say of a key that is not among the configuration's paths."""
    parent = key.rpartition(".")[0]
    siblings = [path for path in paths if path.rpartition(".")[0] == parent]
    same_end = [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f" did you mean {same_end[0]}?" if same_end else did_you_mean(key, siblings) or did_you_mean(key, paths)
    names = [path.rpartition(".")[2] for path in siblings if not path.endswith("_target_")]
    return f"unknown key;{hint} known{f' in {parent}' if parent else ''}: {listed(names)}"


def all_paths(config: Any) -> list[str]:
    """Every key that a user may set, nested ones with dots."""
    return [path for path in _paths(config, "") if not path.startswith("choices")]


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _paths(value, f"{prefix}{name}.")
