"""Published weights of torchvision's classifiers: downloaded, verified by hash, adapted to a network for other data."""

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
    """Published weights of a torchvision network; `fresh` are the modules that they do not fit, which keep initial values."""

    name: str
    weights: WeightsEnum
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        fresh = f", {listed(self.fresh)} freshly initialised" if self.fresh else ""
        return f"torchvision's {self.name} {self.weights.name}{fresh}"

    @property
    def path(self) -> Path:
        """Path of the file in torch's cache."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.weights.url.rpartition("/")[2]

    def fetch(self) -> None:
        """Downloads the file if needed, verifies its hash and reads it; raises `DataUnavailable`."""
        self._read()

    def _read(self) -> dict[str, Tensor]:
        digest = re.search(r"-([0-9a-f]{8,})\.", self.path.name)
        if not self.path.is_file():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(self.weights.url, str(self.path), progress=False)
            except (OSError, RuntimeError) as error:
                raise DataUnavailable(
                    f"the weights {self.weights.name} of {self.name} can't be downloaded ({first_line(error)}); "
                    f"put {self.path.name} into {self.path.parent}, or set weights=null"
                ) from error
        if digest and not file_digest(self.path).startswith(digest[1]):
            raise DataUnavailable(
                f"{self.path} is not the file that torchvision published: its SHA-256 does not start with {digest[1]}; "
                "delete it to have it downloaded again"
            )
        try:
            return read_checkpoint(self.path).tensors
        except BadCheckpoint as error:
            raise DataUnavailable(str(error)) from error

    def load(self, network: nn.Module) -> None:
        """Loads the weights into the network; for grey images, the first convolution is summed over the colours."""
        found, own = _current_names(self._read()), network.state_dict()
        if self.name.startswith("vit"):
            found = interpolate_embeddings(network.image_size, network.patch_size, found)
        counts = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}  # not in old files
        weights = counts | {name: value for name, value in found.items() if name in own}
        fit(network, fit_stem(network, weights).weights, self.path, fresh=self.fresh)


def _current_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors in DenseNet's files from 2017, such as norm.1, whose dot module names can't contain any more."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
    return {old.sub(r"\1\2.", name): value for name, value in weights.items()}
