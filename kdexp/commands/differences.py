"""What distinguishes a job's configuration from the default: its options, and values that its options don't have."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from kdexp.configuration.compose import Composer
from kdexp.sweep.axes import written_value

OPTIONS = {
    **{group: group for group in ("dataset", "teacher", "student", "distillation", "optimizer", "schedule", "averaging")},
    "pretraining": "pretraining",
    "baseline": "distillation@baseline",
    "label_smoothing": "distillation@label_smoothing",
    "teacher_optimizer": "optimizer@teacher_optimizer",
    "teacher_schedule": "schedule@teacher_schedule",
}
"""The override that chooses the option of each node."""
WITHIN = {f"dataset.{name}": f"strong@dataset.{name}" for name in ("strong", "strong_view")}
"""The same for nodes inside others."""
IMPLIED = {f"pretraining.{name}": f"{name}@pretraining.{name}" for name in ("optimizer", "schedule")}
"""The same for nodes whose default option is that of the option around them."""
RECIPES = ("recipe", "_global_")
"""Choices that follow from the others."""
SILENT = ("choices", "published", "dry_run")


def different_options(config: Mapping[str, Any], composer: Composer) -> list[str]:
    """The chosen options that are not the default ones, as `GROUP=OPTION`."""
    chosen, usual = config["choices"], composer.compose([])["choices"]
    implied = usual | {
        key: option for key, option in _plain(config, composer)["choices"].items() if key not in OPTIONS | WITHIN
    }
    found = [key for key, option in chosen.items() if option != implied.get(key) and key not in RECIPES]
    followers = {f"teacher_{key}" for key in found if chosen.get(f"teacher_{key}") == chosen[key]}
    removed = [f"{key}=null" for key in OPTIONS if key in usual and not config.get(key)]
    return [
        f"{(WITHIN | IMPLIED).get(key, key)}={chosen[key] or 'null'}"
        for key in found
        if key not in followers and f"{key}=null" not in removed
    ] + removed


def different_values(config: Mapping[str, Any], composer: Composer) -> list[str]:
    """The values that are not those of the chosen options, as `KEY=VALUE`: set by hand, by an experiment or by a recipe."""
    default = dict(_flat(_plain(config, composer, OPTIONS | WITHIN | IMPLIED)))
    return [shlex.quote(f"{key}={written_value(value)}") for key, value in _flat(config) if default.get(key, ...) != value]


def _plain(
    config: Mapping[str, Any], composer: Composer, nodes: Mapping[str, str] = MappingProxyType(OPTIONS | WITHIN)
) -> dict[str, Any]:
    """The configuration with the same options for these nodes, and nothing else."""
    chosen, usual = config["choices"], composer.compose([])["choices"]
    differing = [(chosen[key], word) for key, word in nodes.items() if key in chosen and chosen[key] != usual.get(key)]
    words = [f"{word}={option}" if option else f"~{word}" for option, word in differing]
    return composer.compose(words)


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, without those that follow another one."""
    followed = {"teacher_epochs": config["epochs"], "store": f"{config['output_dir']}/store"}
    yield from (leaf for leaf in _leaves(config, "") if leaf not in followed.items())


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if not prefix and (name in SILENT or (name in OPTIONS and not value)):
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        elif name != "_target_":
            yield f"{prefix}{name}", value
