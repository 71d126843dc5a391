"""Trained students, taken away: a stored network as a plain module with its preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from kdexp.config import build
from kdexp.device import RandomStream
from kdexp.distillation.base import Probe
from kdexp.features import Capture
from kdexp.network import Shape, build_network
from kdexp.store import Stored, read_entry


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
    """The deployed network of a run folder (of the learner in `role`) or of a learner's folder in the store.

    `epoch` is `last`, or `best` for the one that validation data chose. Raises `FileNotFoundError` for any other folder,
    `KeyError` for a role that the run does not have, `CorruptEntry` for damaged files. Weights are safetensors, which hold
    no code.
    """
    folder = Path(path).expanduser()
    if (folder / "table.json").is_file():
        folder = _of_run(folder, role)
    if not (folder / "result.json").is_file():
        raise FileNotFoundError(f"{folder} is neither a finished run (table.json) nor a stored learner (result.json)")
    stored = read_entry(folder)
    data = stored.result["spec"]["data"]
    return Predictor(deployed_network(stored, epoch), data["mean"], data["std"], data.get("classes"))


def _of_run(folder: Path, role: str) -> Path:
    table = json.loads((folder / "table.json").read_text())
    keys = {row["role"]: row["key"] for row in table["rows"] if row["status"] == "finished"}
    if role not in keys:
        raise KeyError(f"{folder} has no finished {role!r}; it has: {', '.join(keys)}")
    return folder / table["store"] / keys[role]


def stored_network(stored: Stored, epoch: str = "last") -> nn.Module:
    """The network that was trained, on the CPU, with its stored weights."""
    with RandomStream(0, torch.device("cpu")):
        model = build_network(stored.result["spec"]["model"], shape_of(stored))
    model.load_state_dict(_part(stored, epoch, "model"))
    return model


def deployed_network(stored: Stored, epoch: str = "last") -> nn.Module:
    """What is deployed of a stored learner, on the CPU: the trained network, or what its method makes of it."""
    spec, model = stored.result["spec"], stored_network(stored, epoch)
    distiller = build(spec["method"])
    if spec["teacher"] is None:
        return distiller.deployed(model, None)
    teacher = stored_network(read_entry(stored.path.parent / spec["teacher"]))
    ours, theirs = distiller.layers(model, teacher)
    image = shape_of(stored).probe("cpu")
    with RandomStream(0, torch.device("cpu")):
        distiller.setup(Probe(Capture(model, ours, image).probe, Capture(teacher, theirs, image).probe))
    distiller.load_state_dict(_part(stored, epoch, "method"))
    return distiller.deployed(model, teacher)


def shape_of(stored: Stored) -> Shape:
    """The shape of the data that a stored learner was trained on."""
    data = stored.result["spec"]["data"]
    return Shape(data["num_classes"], data["in_channels"], data["image_size"])


def _part(stored: Stored, epoch: str, part: str) -> dict[str, Tensor]:
    tensors = stored.tensors(epoch).items()
    return {name.removeprefix(f"{part}."): value for name, value in tensors if name.startswith(f"{part}.")}
