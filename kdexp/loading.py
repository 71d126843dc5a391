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

from kdexp.bounded import as_small_as
from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, Probe, probe_of
from kdexp.errors import BadCheckpoint, BadFile, BadResult, UnknownRole, first_cause, first_line, listed
from kdexp.foreign import check_method, check_model
from kdexp.network.build import build_network
from kdexp.network.capture import Capture
from kdexp.network.checkpoint.fit import fit
from kdexp.store.descriptions import Exported, Table
from kdexp.store.schema import parse_json, read_json, require
from kdexp.store.stored import RESULT, Stored, read_entry, under_its_key

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


def find_stored(folder: Path, role: str) -> Stored:
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


def load_stored(stored: Stored, epoch: str = "last", modules: Sequence[str] = ()) -> Predictor:
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


def _check_names(stored: Stored, modules: Sequence[str], taught: Sequence[Path] = ()) -> None:
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


def _teacher_of(stored: Stored) -> Stored:
    """The stored learner that taught this one; raises `BadResult` where there is none, `CorruptEntry` for a damaged one."""
    key = stored.result["spec"]["teacher"]
    if key is None:
        raise BadResult(f"{stored.path / RESULT} is damaged: its method deploys its teacher too, and it names none")
    return under_its_key(read_entry(stored.path.parent / key))


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


def shapes_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file without their values; raises `BadCheckpoint`."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a safetensors file, or a damaged one") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def stored_network(stored: Stored, epoch: str = "last", device: str = "cpu") -> nn.Module:
    """The network that was trained, with its stored weights; on `meta` without values."""
    weights = _part(stored, epoch, "model", device)
    model = _built(stored.result["spec"]["model"], shape_of(stored), weights, device)
    fit(model, weights, stored.path)
    return model


def _built(node: Mapping[str, Any], shape: Shape, weights: Mapping[str, Tensor], device: str = "cpu") -> nn.Module:
    """A node's network without its weights, which say how large it may be."""
    with torch.device(device), RandomStream(0, torch.device("cpu")), as_small_as(weights):
        return build_network(node, shape)


def deployed_network(stored: Stored, epoch: str = "last", device: str = "cpu") -> nn.Module:
    """What is deployed of a stored learner: the trained network, or what its method makes of it; on `meta` without values."""
    spec, model = stored.result["spec"], stored_network(stored, epoch, device)
    distiller: Distiller = build(spec["method"])
    if not distiller.deploys_more:
        return model  # whatever the method trained beside it
    teacher = deployed_network(_teacher_of(stored), device=device)
    weights = _part(stored, epoch, "method", device)
    with torch.device(device), RandomStream(0, torch.device("cpu")), as_small_as(weights):
        distiller.setup(_probe(stored, distiller, model, teacher, device))
    fit(distiller, weights, stored.path)
    return distiller.deployed(model, teacher)


def _probe(stored: Stored, distiller: Distiller, model: nn.Module, teacher: nn.Module, device: str) -> Probe:
    """What the method saw when it made its modules, but for the labels' values."""
    shape = shape_of(stored)
    layers = distiller.layers(model, teacher)
    ours, theirs = (Capture(net, names, shape.probe(device)) for net, names in zip((model, teacher), layers, strict=True))
    labels = torch.zeros((), dtype=torch.long, device="cpu").expand(stored.result["train_images"])  # takes no memory
    return probe_of(ours, theirs, labels, stored.result["spec"]["batch_size"], shape)


def shape_of(stored: Stored) -> Shape:
    """The shape of the data that a stored learner was trained on."""
    data = stored.result["spec"]["data"]
    return Shape(data["num_classes"], data["in_channels"], data["image_size"])


def _part(stored: Stored, epoch: str, part: str, device: str) -> dict[str, Tensor]:
    """The tensors of the `model` or the `method`, by the names that they have there; on `meta` without values."""
    tensors = shapes_in(stored.path / f"{epoch}.safetensors") if device == "meta" else stored.tensors(epoch)
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
