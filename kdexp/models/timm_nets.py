"""The image classifiers of timm by name, with timm's layer names. Needs the extra `timm`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdexp.configuration.arguments import Count
from kdexp.errors import DataUnavailable, InvalidArguments, Problem, first_line, listed


def timm_net(*, num_classes: Count, in_channels: Count, image_size: Count, name: str, weights: str | None) -> nn.Module:
    """Builds a network with `timm.create_model`; raises `InvalidArguments` for unknown names, or if timm is not installed."""
    try:
        import timm
    except ImportError as error:
        raise InvalidArguments([Problem("", "timm is not installed; pip install timm")]) from error
    tagged = _choose(timm, name, weights)
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "img_size": image_size}
    network: Any
    try:
        network = timm.create_model(tagged, **options)
    except TypeError:  # most families take images of any size and have no such argument
        del options["img_size"]
        network = timm.create_model(tagged, **options)
    if weights is not None:
        network.published = TimmWeights(tagged, options, _fresh(network.pretrained_cfg, num_classes))
    return network


def _choose(timm: Any, name: str, weights: str | None) -> str:
    """Returns the name with the tag of its weights, as timm writes it."""
    known = timm.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5)
        raise InvalidArguments([Problem("name", f"={name!r}: no such network in timm; close: {listed(close)}")])
    tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{name}.*")]
    if weights is None:
        return name
    if not tags or (weights != "DEFAULT" and weights not in tags):
        has = listed(["DEFAULT", *tags]) if tags else "no published weights"
        raise InvalidArguments([Problem("weights", f"={weights!r}: {name} has {has} (or null)")])
    return name if weights == "DEFAULT" else f"{name}.{weights}"


def _fresh(published: dict[str, Any], num_classes: int) -> tuple[str, ...]:
    """Returns the names of the classifiers if the published ones have another number of classes."""
    names = published.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    return names if published.get("num_classes") != num_classes else ()


@dataclass(frozen=True)
class TimmWeights:
    """Published weights of a timm network; timm adapts them to other channels and sizes.

    `fresh` are the modules that keep their initial values.
    """

    name: str
    options: dict[str, Any]
    fresh: tuple[str, ...] = ()

    def __str__(self) -> str:
        fresh = f", {listed(self.fresh)} freshly initialised" if self.fresh else ""
        return f"timm's published weights of {self.name}{fresh}"

    def fetch(self) -> None:
        """Downloads and reads the weights; raises `DataUnavailable`."""
        self._read()

    def load(self, network: nn.Module) -> None:
        """Loads the weights into the network; modules that they do not fit are initialised from torch's default generator."""
        network.load_state_dict(self._read().state_dict())

    def _read(self) -> nn.Module:
        import timm

        try:
            return timm.create_model(self.name, pretrained=True, **self.options)
        except Exception as error:  # the hub's client raises errors of its own
            raise DataUnavailable(
                f"the published weights of timm's {self.name} can't be read ({first_line(error)}); "
                "check the network, or set weights=null"
            ) from error
