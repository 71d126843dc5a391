"""Overrides to suggest to a user: ones that the configuration accepts, with reasonable values."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from kdexp.configuration.arguments import problems
from kdexp.configuration.nodes import arguments, target
from kdexp.configuration.settings import NAMES, Settings
from kdexp.training.optimization import Adam

MOST_EPOCHS = 10_000
HIGHEST_TEMPERATURE = 100.0
HIGHEST_RATE, HIGHEST_RATE_OF_ADAM = 1.0, 0.01


def override(config: Mapping[str, Any], key: str, value: float) -> str:
    """`KEY=VALUE` with two significant digits, or an empty string if that is not above 0 or the configuration refuses it."""
    node, _, name = key.rpartition(".")
    text = str(value) if isinstance(value, int) else rounded(value)
    changed = {name: value if isinstance(value, int) else float(text)}
    if not node:
        found = problems(Settings, {setting: config[setting] for setting in NAMES} | changed)
    else:
        found = problems(target(config[node]), arguments(config[node]) | changed)
    return f"{key}={text}" if changed[name] > 0 and all(problem.name != name for problem in found) else ""


def rounded(value: float) -> str:
    """The value with two significant digits, as a user would type it."""
    return f"{float(f'{value:.2g}'):g}"


def alternatives(fixes: Iterable[str]) -> str:
    """All fixes that are not empty, in one line."""
    return ", or ".join(filter(None, fixes))


def lower_rate(config: Mapping[str, Any], node: str) -> str:
    """A tenth of an optimizer's learning rate, or the highest one that makes sense."""
    rate = config[node].get("lr")
    vague = f"a lower {node}.lr"
    return override(config, f"{node}.lr", min(rate / 10, _highest(config[node]))) or vague if _is_number(rate) else vague


def higher_rate(config: Mapping[str, Any], node: str) -> str:
    """Three times an optimizer's learning rate, or an empty string if that makes no sense."""
    rate = config[node].get("lr")
    return override(config, f"{node}.lr", 3 * rate) if _is_number(rate) and 3 * rate <= _highest(config[node]) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _highest(node: Mapping[str, Any]) -> float:
    optimizer = target(node)
    return HIGHEST_RATE_OF_ADAM if inspect.isclass(optimizer) and issubclass(optimizer, Adam) else HIGHEST_RATE


def longer(config: Mapping[str, Any], key: str, times: int) -> str:
    """`epochs` or `teacher_epochs` multiplied by `times`, or an empty string if that makes no sense."""
    return override(config, key, times * config[key]) if times * config[key] <= MOST_EPOCHS else ""
