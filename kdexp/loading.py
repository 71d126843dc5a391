"""Trained students, taken away: a stored or exported network as a plain module with its preprocessing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdexp.arguments import InvalidArguments, first_line, listed
from kdexp.checkpoint.fit import fit, load_checkpoint
from kdexp.checkpoint.read import BadCheckpoint
from kdexp.config import build
from kdexp.device import RandomStream
from kdexp.distillation.base import Distiller, Probe
from kdexp.features import Capture
from kdexp.foreign import BadResult, check_method, check_model, is_key
from kdexp.network import Shape, build_network
from kdexp.preparation import probe_of
from kdexp.stored import RESULT, Stored, read_entry

EPOCHS = ("last", "best")


class UnknownRole(KeyError):
    """A role that a run has no finished learner for; `there` are those it has."""

    def __init__(self, folder: Path, role: str, there: list[str]):
        super().__init__(f"{folder} has no finished {role!r}; it has: {listed(there)}")
        self.there = there

    def __str__(self) -> str:
        return self.args[0]


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


def load(path: str | Path, role: str = "distilled", epoch: str = "last") -> Predictor:
    """The deployed network of a run folder (of the learner in `role`), of a learner's folder in the store, or of a
    safetensors file that `kdexp-export` wrote.

    `epoch` is `last`, or `best` for the one that validation data chose. Raises `FileNotFoundError` for any other path,
    `UnknownRole` for a role that the run does not have, `CorruptEntry` for damaged files, `BadResult` for a description of
    anything but a network and a method, `BadCheckpoint` for weights that do not fit them.

    A stranger's files are read as plain values and tensors. They name a network's class by its import path, though, and
    importing it runs its module: one that Python finds, so do not work inside a stranger's folder or add it to `sys.path`.
    """
    path = Path(path).expanduser()
    return load_file(path) if path.is_file() else load_stored(find_stored(path, role), epoch)


def find_stored(folder: Path, role: str) -> Stored:
    """The learner that a run folder has in `role`, or that a folder of the store holds; raises what `load` does."""
    if (folder / "table.json").is_file():
        folder = _of_run(folder, role)
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
        table = json.loads((folder / "table.json").read_text())
        store = folder / table["store"]
        keys = {str(row["role"]): row["key"] for row in table["rows"] if row["status"] == "finished"}
    except (ValueError, KeyError, TypeError) as error:
        raise BadResult(f"{folder / 'table.json'} is not the table of a run") from error
    if role not in keys:
        raise UnknownRole(folder, role, list(keys))
    learner = store / _key(keys[role], folder / "table.json")
    if not (learner / RESULT).is_file():
        raise FileNotFoundError(
            f"the {role} learner of {folder} is not in its store ({learner}); the command in its command.txt trains it again"
        )
    return learner


def _key(value: Any, source: Path) -> str:
    if not is_key(value):
        raise BadResult(f"{source} names a learner {value!r}, but keys are 16 hexadecimal digits")
    return value


def load_stored(stored: Stored, epoch: str = "last") -> Predictor:
    """The deployed network of a stored learner whose description may be a stranger's; raises what `load` does."""
    source = stored.path / RESULT
    try:
        spec = stored.result["spec"]
        mean, std = spec["data"]["mean"], spec["data"]["std"]
        shape_of(stored)
        check_model(spec["model"], source)
        check_method(spec["method"], source)
        if spec["teacher"] is not None:
            teacher = read_entry(stored.path.parent / _key(spec["teacher"], source))
            check_model(teacher.result["spec"]["model"], teacher.path / RESULT)
    except (KeyError, TypeError) as error:
        raise BadResult(f"{source} does not describe a learner") from error
    if stored.result.get("test", {}).get(epoch, {"top1": 0.0})["top1"] is None:
        raise BadResult(f"{stored.path} answers nothing: its classifier was not trained, as features alone were taken from it")
    if f"{epoch}.safetensors" not in stored.result["files"]:
        there = [name for name in EPOCHS if f"{name}.safetensors" in stored.result["files"]]
        raise BadResult(f"{stored.path} has no weights of its {epoch!r} epoch; it has: {listed(there)}")
    with _today(source):
        return Predictor(deployed_network(stored, epoch), mean, std, spec["data"].get("classes"))


@contextmanager
def _today(source: Path) -> Iterator[None]:
    try:
        yield
    except (InstantiationException, InvalidArguments, TypeError, AttributeError) as error:
        cause = error.__cause__ or error
        raise BadResult(f"{source} describes what today's code does not build: {first_line(cause)}") from error


def load_file(path: Path) -> Predictor:
    """The network of a safetensors file that says how to build it; raises what `load` does."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a safetensors file, or a damaged one") from error
    try:
        told = {name: json.loads(about[name]) for name in ("model", "mean", "std", *Shape.__annotations__)}
    except (KeyError, ValueError) as error:
        raise BadResult(f"{path} does not say whose weights it holds, as files of kdexp-export do") from error
    check_model(told["model"], path)
    with _today(path):
        model = _built(told["model"], Shape(*(told[name] for name in Shape.__annotations__)))
    load_checkpoint(model, path)
    return Predictor(model, told["mean"], told["std"], told.get("classes"))


def stored_network(stored: Stored, epoch: str = "last") -> nn.Module:
    """The network that was trained, on the CPU, with its stored weights."""
    model = _built(stored.result["spec"]["model"], shape_of(stored))
    fit(model, _part(stored, epoch, "model"), stored.path)
    return model


def _built(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    with RandomStream(0, torch.device("cpu")):
        return build_network(node, shape)


def deployed_network(stored: Stored, epoch: str = "last") -> nn.Module:
    """What is deployed of a stored learner, on the CPU: the trained network, or what its method makes of it."""
    spec, model = stored.result["spec"], stored_network(stored, epoch)
    distiller: Distiller = build(spec["method"])
    if not distiller.deploys_more:
        return model  # whatever the method trained beside it
    teacher = deployed_network(read_entry(stored.path.parent / spec["teacher"]))
    with RandomStream(0, torch.device("cpu")):
        distiller.setup(_probe(stored, distiller, model, teacher))
    fit(distiller, _part(stored, epoch, "method"), stored.path)
    return distiller.deployed(model, teacher)


def _probe(stored: Stored, distiller: Distiller, model: nn.Module, teacher: nn.Module) -> Probe:
    """What the method saw when it made its modules, but for the labels' values."""
    shape = shape_of(stored)
    layers = distiller.layers(model, teacher)
    ours, theirs = (Capture(net, names, shape.probe("cpu")) for net, names in zip((model, teacher), layers, strict=True))
    labels = torch.zeros(stored.result["train_images"], dtype=torch.long)
    return probe_of(ours, theirs, labels, stored.result["spec"]["batch_size"], shape)


def shape_of(stored: Stored) -> Shape:
    """The shape of the data that a stored learner was trained on."""
    data = stored.result["spec"]["data"]
    return Shape(data["num_classes"], data["in_channels"], data["image_size"])


def _part(stored: Stored, epoch: str, part: str) -> dict[str, Tensor]:
    tensors = stored.tensors(epoch).items()
    return {name.removeprefix(f"{part}."): value for name, value in tensors if name.startswith(f"{part}.")}
