"""The card of a trained network, in Markdown: data, training, results, preprocessing, and what its owner must fill in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdexp.data.preprocessing import Preprocessing
from kdexp.deployment.load import require_epoch
from kdexp.errors import BadFile
from kdexp.store.schema import read_text
from kdexp.store.stored import RESULT, StoredLearner, read_result
from kdexp.text.characters import one_line

TO_FILL_IN = "*to be filled in*"
FURTHER = {
    "Intended use": ("meant for", "not meant for", "known weaknesses, and groups or conditions that the images do not cover"),
    "Licence": ("weights", "code", "images", "contact"),
}
"""Sections that only the owner of the network can write, with their points."""


def card(stored: StoredLearner, epoch: str, run: Path, usage: str = "", about: Sequence[str] = ()) -> str:
    """Returns the card; `run` is the folder whose table and command it shows, if that is a run folder.

    `usage` is the line of code that uses an exported file, and `about` are the lines on what it holds and costs. Raises
    `BadResult` for an epoch without weights that can classify.
    """
    require_epoch(stored, epoch)
    result = stored.result
    sections = {
        "Use": _use(stored, run, usage, about),
        "Preprocessing": _preprocessing(stored, graph=bool(usage) and "kdexp.load" not in usage),
        "Data": _data(stored),
        "Training": _training(stored, run),
        "Results": _results(stored, epoch, run),
        **{name: (f"- {point}: {TO_FILL_IN}" for point in points) for name, points in FURTHER.items()},
    }
    title = f"# {_plain(result['model'])} on {_plain(result['dataset'])}"
    return "\n\n".join([title, *(f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items())]) + "\n"


def _plain(text: object) -> str:
    """A text on one line that Markdown takes literally in a table."""
    return one_line(text).replace("|", "\\|")


def _table(values: Mapping[str, object]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {_plain(name)} | {_plain(value)} |" for name, value in values.items())]


def _node(node: Mapping[str, Any]) -> str:
    """A class and its arguments, as one would write a call."""
    given = ", ".join(f"{name}={json.dumps(value)}" for name, value in node.items() if name != "_target_" and value is not None)
    return f"{node['_target_'].rpartition('.')[2]}({given})"


def _use(stored: StoredLearner, run: Path, usage: str, about: Sequence[str]) -> Iterator[str]:
    data, result = stored.result["spec"]["data"], stored.result
    yield (
        f"A classifier of images, {data['in_channels']}×{data['image_size']}×{data['image_size']}, into {data['num_classes']} "
        f"classes, with {result['parameters']:,} parameters and {result['macs'] or 0:,} multiply-adds an image."
    )
    if data.get("classes"):
        yield f"\nClasses, in order: {', '.join(map(_plain, data['classes']))}."
    yield f"\n```python\n{one_line(usage) or f'kdexp.load({json.dumps(str(run))})'}\n```"
    if about:
        facts = (line.split(maxsplit=1) for line in about)
        yield "\n" + "\n".join(f"- {name}: {fact}" for name, fact in facts if name != "use")


def _preprocessing(stored: StoredLearner, *, graph: bool) -> list[str]:
    data = stored.result["spec"]["data"]
    who = "the file itself does it" if graph else "`kdexp.load` does it"
    steps = {**Preprocessing.of(data).described(), "normalise": f"mean {data['mean']}, std {data['std']}; {who}"}
    return _table({name: value for name, value in steps.items() if value is not None})


def _data(stored: StoredLearner) -> list[str]:
    result, data = stored.result, stored.result["spec"]["data"]
    known = {"num_classes", "in_channels", "image_size", "mean", "std", "classes", "fingerprint"}
    values = {
        "data set": result["dataset"],
        "training images": f"{result['train_images']:,}",
        **({"test images": f"{len(stored.tensors('logits')['labels']):,}"} if "logits.safetensors" in result["files"] else {}),
        **{name.replace("_", " "): json.dumps(value) for name, value in data.items() if name not in known},
        "fingerprint of all images": data["fingerprint"],
    }
    return [*_table(values), "", f"- where the images come from: {TO_FILL_IN}"]


def _training(stored: StoredLearner, run: Path) -> list[str]:
    result, spec = stored.result, stored.result["spec"]
    made = result["provenance"]
    values = {
        "network": _node(spec["model"]),
        "method": f"{result['method']}: {_node(spec['method'])}",
        **{what: _source(stored, spec[name]) for name, what in SOURCES.items() if spec.get(name)},
        "optimizer": _node(spec["optimizer"]),
        "schedule": _node(spec["schedule"]),
        **({"moving average": _node(spec["averaging"])} if spec.get("averaging") else {}),
        "epochs": spec["epochs"],
        "batch size": spec["batch_size"],
        "seed": spec["seed"],
        "precision": spec["precision"],
        "trained": f"{result['trained_at']}, {result['train_seconds']:.1f} s on {made['device']}",
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "key in the store": stored.key,
    }
    command = _text_of(run / "command.txt")
    return [*_table(values), *(["", f"```sh\n{command.strip()}\n```"] if command else [])]


SOURCES = {"teacher": "teacher", "start": "starts from"}
"""What learners that this one depends on are called, by the name of their key in the spec."""


def _source(stored: StoredLearner, key: str) -> str:
    """The network, method and accuracy of the learner with that key if it is still in the store, else the key."""
    try:
        source = read_result(stored.path.parent / key).result if (stored.path.parent / key / RESULT).is_file() else None
    except BadFile:
        source = None
    if source is None:
        return key
    accuracy = source["test"]["last"]["top1"]
    known = "" if accuracy is None else f", test accuracy {100 * accuracy:.2f} %"
    return f"{source['model']} ({source['method']}), {source['parameters']:,} parameters{known}"


def _results(stored: StoredLearner, epoch: str, run: Path) -> Iterator[str]:
    measured = stored.result["test"][epoch]
    which = "last epoch" if epoch == "last" else f"epoch {stored.result['best_epoch']}, the best on validation images"
    numbers = [f"accuracy {100 * measured['top1']:.2f} %"]
    numbers += [f"{name} {measured[key]:.3f}" for name, key in (("NLL", "nll"), ("ECE", "ece")) if measured[key] is not None]
    yield f"On test images, which were used once ({which}): {', '.join(numbers)}. This is one seed."
    if table := _text_of(run / "table.md"):
        yield f"\n{table.strip()}"


def _text_of(path: Path) -> str:
    """The lines of a text file of the run, each safe to print; empty if there is none."""
    try:
        return "\n".join(map(one_line, read_text(path).splitlines())) if path.is_file() else ""
    except BadFile:
        return ""
