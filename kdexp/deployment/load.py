"""Trained students, taken away: a stored or exported network as a plain module with its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as tensors_of
from torch import Tensor, nn

from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.deployment.rebuild import _built, _teacher_of, deployed_network, shapes_in
from kdexp.deployment.trust import check_method, check_model
from kdexp.errors import BadCheckpoint, BadFile, BadResult, UnknownRole, first_cause, first_line, listed
from kdexp.network.checkpoint.fit import fit
from kdexp.store.descriptions import Exported, Table
from kdexp.store.schema import parse_json, read_json, require
from kdexp.store.stored import RESULT, StoredLearner, read_entry, under_its_key

EPOCHS = ("last", "best")
LARGEST_PROBE = 2**24
"""Values of one image: more are not believed of a stranger's network, which is tried on two."""


class Predictor(nn.Module):
    """A trained network that takes images as they are and normalises them itself.

    `image` [N, C, H, W] is uint8 in 0..255 or floating point in 0..1; the answer is logits [N, K]. It is in evaluation mode.
    `classes` are the names of the K classes where the data set has any.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], classes: list[str] | None = None):
        super().__init__()
        self.network = network
        self.classes = classes
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        scaled = image.float().div(255) if image.dtype == torch.uint8 else image
        return self.network((scaled - self.mean) / self.std)


def load(path: str | Path, role: str = "distilled", epoch: str = "last", *, modules: Sequence[str] = ()) -> Predictor:
    """The deployed network of a run folder (of the learner in `role`), of a learner's folder in the store, or of a
    safetensors file that `kdexp-export` wrote.

    `epoch` is `last`, or `best` for the one that validation data chose. Raises `FileNotFoundError` for any other path,
    `UnknownRole` for a role that the run does not have, `CorruptEntry` for damaged files, `BadResult` for a description of
    anything but a network and a method, `BadCheckpoint` for weights that do not fit them.

    A stranger's files are read as plain values and tensors, and name a network's class by its import path. No module is
    imported for it but those of networks and methods that are part of kdexp, and the `modules` (or packages, with all in
    them) that you vouch for: `modules=["parts"]` for a network of your own, `parts.Tiny`, whose folder is on `sys.path`.
    """
    path, modules = Path(path).expanduser(), [modules] if isinstance(modules, str) else list(modules)
    return load_file(path, modules) if path.is_file() else load_stored(find_stored(path, role), epoch, modules)


def find_stored(folder: Path, role: str) -> StoredLearner:
    """The learner that a run folder has in `role`, or that a folder of the store holds; raises what `load` does."""
    if (folder / "table.json").is_file():
        return under_its_key(read_entry(_of_run(folder, role)))
    if not (folder / RESULT).is_file():
        unfinished = (folder / "command.txt").is_file()
        raise FileNotFoundError(
            f"{folder} is a run that did not finish (no table.json); the command in its command.txt finishes it"
            if unfinished
            else f"{folder} is neither a finished run (table.json) nor a stored learner ({RESULT})"
        )
    return read_entry(folder)


def _of_run(folder: Path, role: str) -> Path:
    try:
        table = read_json(folder / "table.json", Table)
    except BadFile as error:
        raise BadResult(str(error)) from error
    keys = {row["role"]: row["key"] for row in table["rows"] if row["status"] == "finished"}
    if role not in keys:
        raise UnknownRole(folder, role, list(keys))
    learner = folder / table["store"] / keys[role]
    if not (learner / RESULT).is_file():
        raise FileNotFoundError(
            f"the {role} learner of {folder} is not in its store ({learner}); the command in its command.txt trains it again"
        )
    return learner


def load_stored(stored: StoredLearner, epoch: str = "last", modules: Sequence[str] = ()) -> Predictor:
    """The deployed network of a stored learner whose description may be a stranger's; raises what `load` does."""
    source, data = stored.path / RESULT, stored.result["spec"]["data"]
    there = [name for name in EPOCHS if f"{name}.safetensors" in stored.result["files"] and name in stored.result["test"]]
    if epoch in there and stored.result["test"][epoch]["top1"] is None:
        raise BadResult(f"{stored.path} answers nothing: its classifier was not trained, as features alone were taken from it")
    if epoch not in there:
        raise BadResult(f"{stored.path} has no weights of its {epoch!r} epoch; it has: {listed(there)}")
    _check_data(data, source)
    _check_names(stored, modules)
    with _today(source):
        with _seen_to_fit():
            deployed_network(stored, epoch, "meta")
        return Predictor(deployed_network(stored, epoch), data["mean"], data["std"], data.get("classes"))


def _check_data(data: Mapping[str, Any], source: Path) -> None:
    """Raises `BadResult` for numbers of channels, classes and pixels that are not those of any images."""
    channels, classes = data["in_channels"], data.get("classes")
    if len(data["mean"]) != channels or len(data["std"]) != channels:
        raise BadResult(f"{source} is damaged: mean and std must have one number for each of {channels} channels")
    if classes is not None and len(classes) != data["num_classes"]:
        raise BadResult(f"{source} is damaged: it names {len(classes)} classes of {data['num_classes']}")
    if channels * data["image_size"] ** 2 > LARGEST_PROBE:
        raise BadResult(f"{source} is refused: its images have more than {LARGEST_PROBE:,} values each")


def _check_names(stored: StoredLearner, modules: Sequence[str], taught: Sequence[Path] = ()) -> None:
    """Raises `BadResult` unless a learner, and each teacher that is deployed with it, is made of networks and methods."""
    spec, source = stored.result["spec"], stored.path / RESULT
    check_model(spec["model"], source, modules)
    check_method(spec["method"], source, modules)
    with _today(source):
        if not build(spec["method"]).deploys_more:
            return
    teacher = _teacher_of(stored)
    if stored.path in taught:
        raise BadResult(f"{source} is damaged: it is its own teacher")
    _check_data(teacher.result["spec"]["data"], teacher.path / RESULT)
    _check_names(teacher, modules, [*taught, stored.path])


@contextmanager
def _today(source: Path) -> Iterator[None]:
    try:
        yield
    except (BadFile, BadCheckpoint):
        raise
    except Exception as error:  # constructors raise anything when they are given a stranger's arguments
        cause = first_line(first_cause(error))
        raise BadResult(f"{source} describes what today's code does not build: {cause}") from error


@contextmanager
def _seen_to_fit() -> Iterator[None]:
    """Inside, networks are built without values, only to see whether they fit; what can't be built so is left to be built."""
    try:
        yield
    except (BadFile, BadCheckpoint):
        raise
    except Exception:  # whatever it is: a network may need values, and what is wrong in earnest fails again
        return


def load_file(path: Path, modules: Sequence[str] = ()) -> Predictor:
    """The network of a safetensors file that says how to build it; raises what `load` does."""
    try:
        with safe_open(path, "pt") as file:
            written = file.metadata() or {}
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a safetensors file, or a damaged one") from error
    if "model" not in written:
        raise BadResult(f"{path} does not say whose weights it holds, as files of kdexp-export do")
    try:
        about = {name: parse_json(written[name], path) for name in Exported.__annotations__ if name in written}
        require(about, Exported, path)
    except BadFile as error:
        raise BadResult(str(error)) from error
    _check_data(about, path)
    check_model(about["model"], path, modules)
    shape, shapes = Shape(*(about[name] for name in Shape.__annotations__)), shapes_in(path)
    with _today(path):
        with _seen_to_fit():
            fit(_built(about["model"], shape, shapes, "meta"), shapes, path)
        model = _built(about["model"], shape, shapes)
        fit(model, tensors_of(path), path)
    return Predictor(model, about["mean"], about["std"], about.get("classes"))
