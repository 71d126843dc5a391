"""Published weights of torchvision's classifiers: fetched, held against their hash, given to a network built for other data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings

from kdexp.errors import BadCheckpoint, DataUnavailable, first_line, listed
from kdexp.files import file_digest
from kdexp.network.checkpoint.fit import fit
from kdexp.network.checkpoint.heads import fit_stem
from kdexp.network.checkpoint.read import read_checkpoint


@dataclass(frozen=True)
class TorchvisionWeights:
    """What a network can start from; `fresh` names the modules that do not fit and stay as they were drawn."""

    name: str
    weights: WeightsEnum
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        drawn = f", {listed(self.fresh)} freshly initialised" if self.fresh else ""
        return f"torchvision's {self.name} {self.weights.name}{drawn}"

    @property
    def path(self) -> Path:
        """Where torch keeps the file."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.weights.url.rpartition("/")[2]

    def fetch(self) -> None:
        """Downloads the file unless it is there, checks its hash either way, and reads it; raises `DataUnavailable`."""
        self._read()

    def _read(self) -> dict[str, Tensor]:
        promised = re.search(r"-([0-9a-f]{8,})\.", self.path.name)
        if not self.path.is_file():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(self.weights.url, str(self.path), progress=False)
            except (OSError, RuntimeError) as error:
                raise DataUnavailable(
                    f"the weights {self.weights.name} of {self.name} can't be downloaded ({first_line(error)}); "
                    f"put {self.path.name} into {self.path.parent}, or set weights=null"
                ) from error
        if promised and not file_digest(self.path).startswith(promised[1]):
            raise DataUnavailable(
                f"{self.path} is not the file that torchvision published: its SHA-256 does not start with {promised[1]}; "
                "delete it to have it downloaded anew"
            )
        try:
            return read_checkpoint(self.path).tensors
        except BadCheckpoint as error:
            raise DataUnavailable(str(error)) from error

    def load(self, network: nn.Module) -> None:
        """Gives the weights to the network; a grey image's first convolution gets the sum over the colours."""
        found, own = _as_named_today(self._read()), network.state_dict()
        if self.name.startswith("vit"):
            found = interpolate_embeddings(network.image_size, network.patch_size, found)
        counts = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}  # not in old files
        wanted = counts | {name: value for name, value in found.items() if name in own}
        fit(network, fit_stem(network, wanted).weights, self.path, fresh=self.fresh)


def _as_named_today(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's files from 2017 call a layer's parts norm.1 and conv.2, with a dot that module names can't have any more."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
    return {old.sub(r"\1\2.", name): value for name, value in weights.items()}
