"""Overrides that are advised to a user: such as the configuration accepts, and within reason."""

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
    """`KEY=VALUE` with two significant digits, or nothing where that is not above 0 or the configuration does not accept it."""
    node, _, name = key.rpartition(".")
    typed = str(value) if isinstance(value, int) else rounded(value)
    changed = {name: value if isinstance(value, int) else float(typed)}
    if not node:
        found = problems(Settings, {known: config[known] for known in NAMES} | changed)
    else:
        found = problems(target(config[node]), arguments(config[node]) | changed)
    return f"{key}={typed}" if changed[name] > 0 and all(problem.name != name for problem in found) else ""


def rounded(value: float) -> str:
    """The value with two significant digits, as it is typed."""
    return f"{float(f'{value:.2g}'):g}"


def alternatives(ways: Iterable[str]) -> str:
    """The ways out that there are, in a line."""
    return ", or ".join(filter(None, ways))


def lower_rate(config: Mapping[str, Any], node: str) -> str:
    """A tenth of an optimizer's learning rate, or the highest one that makes sense."""
    rate = config[node].get("lr")
    words = f"a lower {node}.lr"
    return override(config, f"{node}.lr", min(rate / 10, _highest(config[node]))) or words if _number(rate) else words


def higher_rate(config: Mapping[str, Any], node: str) -> str:
    """Three times an optimizer's learning rate, or nothing where that makes no sense."""
    rate = config[node].get("lr")
    return override(config, f"{node}.lr", 3 * rate) if _number(rate) and 3 * rate <= _highest(config[node]) else ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _highest(node: Mapping[str, Any]) -> float:
    made = target(node)
    return HIGHEST_RATE_OF_ADAM if inspect.isclass(made) and issubclass(made, Adam) else HIGHEST_RATE


def longer(config: Mapping[str, Any], key: str, times: int) -> str:
    """So many times the epochs under `epochs` or `teacher_epochs`, or nothing where that makes no sense."""
    return override(config, key, times * config[key]) if times * config[key] <= MOST_EPOCHS else ""
