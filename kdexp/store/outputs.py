"""A teacher's outputs on disk: a folder per layer, named by the hash of everything that decides its numbers."""

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
from kdexp.files import reason
from kdexp.store.descriptions import Outputs
from kdexp.store.learners import write_entry, write_tensors
from kdexp.store.spec import LearnerSpec, key_of
from kdexp.store.stored import OUTPUTS, RESULT, StoredLearner, read_entry, under_its_key

FORMAT = 1
"""Raised when images are cut or normalised in another way, so that older outputs are not taken for today's."""

READING_STARTS, READING_RATE = 1.0, 2e8
"""Seconds, and bytes per second, that reading takes at worst: a shared or a turning disk, and a hash of every byte."""


def worth_storing(seconds: float, size: int) -> bool:
    """Whether reading so many bytes surely beats computing them again in so many seconds."""
    return seconds > READING_STARTS + size / READING_RATE


def weights_digest(network: nn.Module) -> str:
    """The hash of a network's parameters and buffers: a teacher that was trained again is another, whatever its key."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def computed_on(device: torch.device) -> dict[str, Any]:
    """What outputs depend on, in their last digits, besides what they are asked about."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "device": f"{device.type} {chip}", "threads": torch.get_num_threads()}


def identity_of(taught_by: StoredLearner, network: nn.Module, spec: LearnerSpec, device: torch.device) -> dict[str, Any]:
    """All that a stored teacher's outputs for a learner's images depend on, but for the layer; `network` is the teacher."""
    return {
        "format": FORMAT,
        "dtype": "float32",
        "teacher": taught_by.key,
        "weights": weights_digest(network),
        "data": spec.data,
        "batch_size": spec.batch_size,
        "precision": spec.precision,
        "computed_on": computed_on(device),
    }


class OutputStore:
    """The outputs of one teacher for one split under `root/outputs/`, by what `identity_of` tells and by layer.

    `claim` is given the keys of what is read or written, before that.
    """

    def __init__(
        self,
        root: str | Path,
        identity: dict[str, Any],
        about: dict[str, Any],
        say: Callable[[str], None],
        claim: Callable[[list[str]], None] | None = None,
    ):
        self.root = Path(root).expanduser() / OUTPUTS
        self.identity = identity
        self.about = about
        self.say = say
        self.claim = claim

    def _spec(self, layer: str) -> dict[str, Any]:
        return {**self.identity, "layer": layer}

    def _place(self, layer: str) -> Path:
        """The folder of the layer's outputs, which nobody prunes from now on."""
        place = self.root / key_of(self._spec(layer))
        if self.claim is not None:
            self.claim([place.name])
        return place

    def read(self, layer: str, shape: tuple[int, ...]) -> Tensor | None:
        """The layer's outputs, verified, or None; what is damaged is named, removed, and counts as absent."""
        place = self._place(layer)
        if not place.is_dir():
            return None
        try:
            values = under_its_key(read_entry(place, Outputs)).tensors("outputs")["outputs"]
            if values.shape != shape or values.dtype != torch.float32:
                raise CorruptEntry(f"{place} holds {values.dtype} {list(values.shape)}, not float32 {list(shape)}")
            return values
        except (CorruptEntry, KeyError, OSError, SafetensorError) as error:
            self.say(f"store: {error}; these outputs of the teacher are computed again")
            shutil.rmtree(place, ignore_errors=True)
            return None

    def write(self, layer: str, values: Tensor) -> bool:
        """Whether it is stored now, by this process or another; if not, it says why."""
        spec, place = self._spec(layer), self._place(layer)
        if (place / RESULT).is_file():  # another process was quicker
            return True
        told = {**self.about, "spec": spec, "computed_at": time.strftime("%Y-%m-%d %H:%M")}
        try:
            write_entry(place, told, lambda folder: write_tensors(folder, "outputs", {"outputs": values}))
        except OSError as error:
            if (place / RESULT).is_file():
                return True
            self.say(f"store: {self.root} takes no outputs of the teacher ({reason(error)}): later runs compute them anew")
            return False
        return True
