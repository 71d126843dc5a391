"""The image classifiers of torchvision by name, with torchvision's layer names."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from torch import nn
from torchvision import models

from kdexp.configuration.arguments import Count
from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed
from kdexp.models.torchvision_weights import TorchvisionWeights

WINDOWS = 224
"""Image sizes of MaxViT must be multiples of this: its windows of 7 must fit maps 32 times smaller than the image."""

SMALL_PATCH = 4
"""Patch size of a vision transformer with stem=small."""


def torchvision_net(
    *,
    num_classes: Count,
    in_channels: Count,
    image_size: Count,
    name: str,
    weights: str | None,
    stem: Literal["default", "small"],
) -> nn.Module:
    """Builds torchvision's own module without auxiliary classifiers; raises `InvalidArguments` for unknown names.

    `stem=small` keeps the resolution of small images: the first convolution has stride 1 (3×3 if it was larger) and the first
    max-pooling is removed, or patches are smaller, 2×2 in hierarchical nets and 4×4 in vision transformers.
    """
    chosen = _choose(name, weights)
    options = _options(name, image_size, stem, pretrained=chosen is not None and in_channels == 3)
    network = models.get_model(name, weights=None, num_classes=num_classes, **options)
    fresh = _adapt_stem(network, name, in_channels, stem)
    if name.startswith("vit"):
        network.image_size, network.patch_size = image_size, network.conv_proj.kernel_size[0]
    if name.startswith("mnasnet"):
        # Its own loader requires version metadata, for files from 2019, that safetensors can't hold.
        network._load_from_state_dict = nn.Module._load_from_state_dict.__get__(network)
    if chosen is not None:
        classifier = [path for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        fresh += [classifier] if len(chosen.meta["categories"]) != num_classes else []
        network.published = TorchvisionWeights(name, chosen, tuple(fresh))
    return network


def _choose(name: str, weights: str | None) -> models.WeightsEnum | None:
    """Returns the published weights of that name; raises `InvalidArguments` for an unknown network or unknown weights."""
    known = models.list_models(module=models)
    if name not in known:
        raise InvalidArguments([Problem("name", f"={name!r}: {_unknown(name, known)}")])
    if weights is None:
        return None
    published = models.get_model_weights(name)
    if weights not in published.__members__:
        raise InvalidArguments([Problem("weights", f"={weights!r}: {name} has {listed(published.__members__)} (or null)")])
    return published[weights]


def _unknown(name: str, known: list[str]) -> str:
    if name in models.list_models():
        task = models.get_model_builder(name).__module__.split(".")[2]
        return f"belongs to torchvision.models.{task} and is no image classifier"
    close = difflib.get_close_matches(name, known, n=5)
    families = sorted({re.split(r"[\d_]", classifier)[0] for classifier in known})
    near = f" close: {listed(close)};" if len(close) > 1 else ""
    return f"no such classifier in torchvision;{did_you_mean(name, known)}{near} families: {listed(families)}"


def _options(name: str, image_size: int, stem: str, *, pretrained: bool) -> dict[str, Any]:
    """Returns further constructor arguments for some families; raises `InvalidArguments` for image sizes that do not fit."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    if name.startswith("vit"):
        usual = int(name.rpartition("_")[2])
        patch = SMALL_PATCH if stem == "small" else usual
        if image_size % patch:
            fix = f"; stem=small cuts patches of {SMALL_PATCH}" if image_size % SMALL_PATCH == 0 else ""
            raise _misfit(name, f"cuts images into patches of {patch}, of which {image_size} is no multiple{fix}")
        return {"image_size": image_size // patch * usual}  # as many patches as there will be
    if name.startswith("maxvit"):
        if stem == "small":
            raise InvalidArguments([Problem("stem", f"='small': there is none for {name}")])
        if image_size % WINDOWS:
            raise _misfit(name, f"needs images whose size is a multiple of {WINDOWS}, not {image_size}×{image_size}")
        return {"input_size": (image_size, image_size)}
    return {}


def _misfit(name: str, problem: str) -> InvalidArguments:
    return InvalidArguments([Problem("name", f"={name!r}: {problem}")])


def _adapt_stem(network: nn.Module, name: str, in_channels: int, stem: str) -> list[str]:
    """Adapts the first convolution to the images; returns its name in a list if published weights do not fit it."""
    path, conv = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    usual: tuple[int, int, Any] = conv.kernel_size[0], conv.stride[0], conv.padding
    kernel, stride, padding = usual
    if stem == "small":
        kernel, stride, padding = _smaller(name, *usual)
        pool = next((path for path, module in network.named_modules() if isinstance(module, nn.MaxPool2d)), None)
        if pool is not None:
            network.set_submodule(pool, nn.Identity())
    if (kernel, in_channels) == (usual[0], conv.in_channels):
        conv.stride = (stride, stride)
        return []
    # Initialised in torch's default way: a family's own initialisation depends on the kernel that is replaced here.
    new = nn.Conv2d(in_channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)
    network.set_submodule(path, new)
    return [path] if kernel != usual[0] or in_channels not in (1, 3) else []


def _smaller(name: str, kernel: int, stride: int, padding: Any) -> tuple[int, int, Any]:
    """Returns kernel, stride and padding of a first convolution that keeps the resolution, or cuts smaller patches."""
    if stride == 1:
        raise InvalidArguments([Problem("stem", f"='small': {name} already starts at full resolution; use stem=default")])
    if kernel == stride:
        patch = SMALL_PATCH if name.startswith("vit") else 2
        return patch, patch, padding
    return (kernel, 1, padding) if kernel == 3 else (3, 1, 1)
