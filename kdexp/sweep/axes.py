"""Settings of a learner by their names on the command line, and which of them differ between the rows of a table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdexp.configuration.roles import PARTS, node_at, option, role_spec
from kdexp.text.characters import one_line

AxisValues = dict[str, Any]
"""Dotted keys to plain values; the name of a group has the chosen option as its value."""

SILENT = ("_target_", "root", "download", "name", "label_seed")
"""Keys that are never a column: locations, names that the table shows anyway, and a seed that rows are averaged over."""
NAMED_ANYWAY = {"dataset", "student", *(part.method for part in PARTS.values())}


def axis_values(config: Mapping[str, Any], role: str) -> AxisValues:
    """The settings that determine the learner in this role, from a job's resolved configuration.

    In every role, the learner's own network, optimizer, schedule and epochs are called `student`, `optimizer`, `schedule` and
    `epochs`, so that teacher and student share columns; settings of its teacher keep the prefix `teacher`. A quantised network
    has the settings of the one that it is made from.
    """
    part = role_spec(role, config)
    if part.quantised:
        return axis_values(config, part.teacher)
    own = {"dataset": "dataset", part.model: "student"}
    own |= {part.method: part.method} if part.method in config else {}  # otherwise it is inside the node of the network
    own |= {part.optimizer: "optimizer", part.schedule: "schedule"}
    epochs = "teacher_epochs" if part.teaches else "epochs"
    found = {"epochs": config[epochs], "batch_size": config["batch_size"], "limit_batches": config["limit_batches"]}
    found["class_weights"] = config.get("class_weights")
    found |= {name: value for node, called in own.items() for name, value in _node(config, node, called)}
    found |= _strong(found, config)
    if config.get("averaging") and not part.teaches:
        found |= dict(_node(config, "averaging", "averaging"))
    if part.start:
        found |= dict(_node(config, part.start, part.start))
        inner = [name for name in config["choices"] if name.startswith(f"{part.start}.")]
        found |= {name: option(config, name) for name in inner}
    if part.method != "distillation" and not part.student_view and not part.start:
        found = {key: value for key, value in found.items() if not key.startswith("strong_view")}
    if part.teaches:
        found.pop("dataset.student_fraction", None)  # teachers train on all images
    if part.method == "distillation" and config.get("teacher") and role_spec(part.teacher, config).teaches:
        found["teacher_epochs"] = config["teacher_epochs"]
        for node in ("teacher", "teacher_optimizer", "teacher_schedule"):
            found |= dict(_node(config, node, node))
    return found


def _strong(found: AxisValues, config: Mapping[str, Any]) -> AxisValues:
    """The strong augmentations as options of their own groups; their many numbers are columns only within an option."""
    for key in [key for key in found if key.startswith("dataset.strong")]:
        del found[key]
    named: AxisValues = {}
    for name in ("strong", "strong_view"):
        given = config["dataset"].get(name) is not None
        named |= dict(_node(config, f"dataset.{name}", name)) if given else {name: "none"}
    return named


def _node(config: Mapping[str, Any], node: str, called: str) -> Iterator[tuple[str, Any]]:
    yield called, option(config, node)
    yield from _flat(called, node_at(config, node))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}.{name}", value)
        elif name not in SILENT:
            yield f"{prefix}.{name}", value


def varied(rows: Iterable[tuple[str, AxisValues]]) -> list[str]:
    """The keys that differ between rows, given as (role, settings), of the same role; options' own keys only within an option.

    Keys that have their own column are left out, and settings of the teacher that always equal the student's.
    """
    rows = list(rows)
    values = defaultdict(set)
    for role, settings in rows:
        for key, value in settings.items():
            group = key.partition(".")[0]
            values[key, role, "" if key == group else settings.get(group)].add(str(value))
    differing = {key for (key, _, _), found in values.items() if len(found) > 1} - NAMED_ANYWAY
    followers = {key for key in differing if _follows(key, [settings for _, settings in rows])}
    return [key for key in dict.fromkeys(key for _, settings in rows for key in settings) if key in differing - followers]


def _follows(key: str, settings: list[AxisValues]) -> bool:
    own = key.removeprefix("teacher_")
    return own != key and all(each[key] == each.get(own) for each in settings if key in each)


def headings(keys: Sequence[str]) -> dict[str, str]:
    """Maps each key to its last part if that is unique, else to itself; printable."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: one_line(name if last[name := key.rpartition(".")[2]] == 1 else key) for key in keys}


def written_values(settings: AxisValues, keys: Sequence[str]) -> str:
    """The settings with these keys on one line, such as `temperature=4 alpha=0.1`."""
    short = headings(keys)
    return " ".join(f"{short[key]}={written_value(settings[key])}" for key in keys if key in settings)


def written_value(value: Any) -> str:
    """A value as typed on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list):
        return f"[{','.join(map(written_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else one_line(value)
