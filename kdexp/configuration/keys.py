"""The keys of a composed configuration, and messages about keys that are not among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdexp.errors import did_you_mean, listed
from kdexp.text.synonyms import key_elsewhere, note, same_key, same_setting


def unknown_key(key: str, paths: Sequence[str], value: str = "") -> str:
    """The message about a key that is not among the configuration's paths; `value` is the text that it was given."""
    if sentence := note(key):
        return f"unknown key; {sentence}"
    parent = key.rpartition(".")[0]
    siblings = [path for path in paths if path.rpartition(".")[0] == parent]
    names = [path.rpartition(".")[2] for path in siblings if not path.endswith("_target_")]
    hint = _hint(key, paths, siblings, value)
    known = f"known{f' in {parent}' if parent else ''}: {listed(names)}" if names else "see kdexp --help"
    return f"unknown key;{hint} {known}"


def _hint(key: str, paths: Sequence[str], siblings: Sequence[str], value: str) -> str:
    if meant := same_setting(key, value, paths) or same_key(key, paths):
        return f" did you mean {meant}?"
    if meant := key_elsewhere(key, paths):
        return f" did you mean {meant}, which not every {meant.partition('.')[0]} has?"
    return did_you_mean(key, siblings) or did_you_mean(key, paths)


def all_paths(config: Any) -> list[str]:
    """The paths of all keys that a user may set, such as `optimizer.lr`."""
    return [path for path in _paths(config, "") if not path.startswith("choices")]


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _paths(value, f"{prefix}{name}.")
