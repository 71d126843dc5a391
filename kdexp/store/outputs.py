"""A teacher's outputs on disk: one folder per layer, named by the hash of everything that determines its values."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdexp.errors import CorruptEntry
from kdexp.files import at_home, reason
from kdexp.store.descriptions import OutputsFile
from kdexp.store.learners import write_entry, write_tensors
from kdexp.store.spec import LearnerSpec, key_of
from kdexp.store.stored import OUTPUTS, RESULT, StoredLearner, read_entry, under_its_key

FORMAT = 1
"""Raise it when images are cropped or normalised differently, so that older outputs are not taken for current ones."""

READING_STARTS, READING_RATE = 1.0, 2e8
"""Worst-case seconds and bytes per second for reading: a network or magnetic disk, with a hash of every byte."""


def worth_storing(seconds: float, size: int) -> bool:
    """Whether reading `size` bytes is surely faster than computing them again in `seconds`."""
    return seconds > READING_STARTS + size / READING_RATE


def weights_digest(network: nn.Module) -> str:
    """Hash of a network's parameters and buffers; it tells a teacher from one trained again under the same key."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def computed_on(device: torch.device) -> dict[str, Any]:
    """Library, hardware and threads, on which the last digits of outputs depend."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "device": f"{device.type} {chip}", "threads": torch.get_num_threads()}


def identity_of(
    taught_by: StoredLearner, network: nn.Module, spec: LearnerSpec, device: torch.device, view: str = ""
) -> dict[str, Any]:
    """Everything but the layer that a teacher's outputs for a learner's images depend on; `network` is the teacher.

    `view` names what it reads, if that is not the images as the data set augments them.
    """
    of_view = {"view": view} if view else {}
    return {
        "format": FORMAT,
        "dtype": "float32",
        "teacher": taught_by.key,
        "weights": weights_digest(network),
        "data": spec.data,
        "batch_size": spec.batch_size,
        "precision": spec.precision,
        "computed_on": computed_on(device),
        **of_view,
    }


class OutputStore:
    """The outputs of one teacher for one split under `root/outputs/`, found by `identity` (see `identity_of`) and layer.

    `about` is stored with them. `claim` is called with the keys of outputs before they are read or written.
    """

    def __init__(
        self,
        root: str | Path,
        identity: dict[str, Any],
        about: dict[str, Any],
        say: Callable[[str], None],
        claim: Callable[[list[str]], None] | None = None,
    ):
        self.root = at_home(root) / OUTPUTS
        self.identity = identity
        self.about = about
        self.say = say
        self.claim = claim

    def _spec(self, layer: str) -> dict[str, Any]:
        return {**self.identity, "layer": layer}

    def _place(self, layer: str) -> Path:
        """The folder of the layer's outputs, claimed so that it is not pruned."""
        place = self.root / key_of(self._spec(layer))
        if self.claim is not None:
            self.claim([place.name])
        return place

    def read(self, layer: str, shape: tuple[int, ...]) -> Tensor | None:
        """The layer's outputs, verified, or None; damaged outputs are reported and removed."""
        place = self._place(layer)
        if not place.is_dir():
            return None
        try:
            values = under_its_key(read_entry(place, OutputsFile)).tensors("outputs")["outputs"]
            if values.shape != shape or values.dtype != torch.float32:
                raise CorruptEntry(f"{place} holds {values.dtype} {list(values.shape)}, not float32 {list(shape)}")
            return values
        except (CorruptEntry, KeyError, OSError, SafetensorError) as error:
            self.say(f"store: {error}; these outputs of the teacher will be computed again")
            shutil.rmtree(place, ignore_errors=True)
            return None

    def write(self, layer: str, values: Tensor) -> bool:
        """Stores the layer's outputs; returns whether they are stored, by this process or another, else prints the reason."""
        spec, place = self._spec(layer), self._place(layer)
        if (place / RESULT).is_file():  # another process was faster
            return True
        result = {**self.about, "spec": spec, "computed_at": time.strftime("%Y-%m-%d %H:%M")}
        try:
            write_entry(place, result, lambda folder: write_tensors(folder, "outputs", {"outputs": values}))
        except OSError as error:
            if (place / RESULT).is_file():
                return True
            self.say(
                f"store: {self.root} can't store outputs of the teacher ({reason(error)}): later runs will compute them again"
            )
            return False
        return True
