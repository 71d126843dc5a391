"""Fits both ends of a network, whose shapes depend on the data: its classifier and its first convolution."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from kdexp.network.checkpoint.classes import differences, rows_for
from kdexp.network.landmarks import Landmarks

Weights = Mapping[str, Tensor]


class Fitted(NamedTuple):
    """A file's weights after one end was made to fit a network."""

    weights: dict[str, Tensor]
    change: str = ""
    """A short description of what was changed."""
    unfit: dict[str, str] = {}
    """Modules that still do not fit, with the reason."""
    rows: tuple[int, ...] = ()
    """The row of the file's classifier for each class of the data; empty if the rows are unchanged."""
    classes: int = 0
    """Number of classes of the file's classifier, 0 if there is none."""


def within(name: str, modules: Collection[str]) -> bool:
    """Whether a tensor belongs to one of these modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def shape_of(tensors: Weights, name: str) -> str:
    """Returns the shape of a tensor as text for messages."""
    return "×".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "none"


def for_channels(weight: Tensor, channels: int) -> Tensor | None:
    """Adapts the weight [O, C, H, W] of a first convolution to grey or colour images; outputs for grey images are unchanged.

    For one channel, weights are summed over channels; from one channel, each gets an equal share. Otherwise returns None.
    """
    if weight.dim() != 4 or 1 not in (channels, weight.shape[1]):
        return None
    return weight.sum(1, keepdim=True) if channels == 1 else weight.expand(-1, channels, -1, -1) / channels


def fit_stem(model: nn.Module, weights: Weights) -> Fitted:
    """Fits the first convolution to the channels of the images."""
    own, stem = model.state_dict(), _first_convolution(model)
    name, found = f"{stem}.weight", dict(weights)
    if not stem or _fits(own, found, stem):
        return Fitted(found)
    conv, change = model.get_submodule(stem), ""
    assert isinstance(conv, nn.Conv2d)
    adapted = for_channels(found[name], conv.in_channels) if name in found and conv.groups == 1 else None
    if adapted is not None and name in own and adapted.shape == own[name].shape != found[name].shape:
        how = "summed" if conv.in_channels == 1 else "shared out"
        change = f"first convolution {stem} {how} from {found[name].shape[1]} to {conv.in_channels} channels"
        found[name] = adapted
    unfit = {} if _fits(own, found, stem) else {stem: f"file: {shape_of(found, name)}, model: {shape_of(own, name)}"}
    return Fitted(found, change, unfit)


def _first_convolution(model: nn.Module) -> str:
    """Returns the name of the first convolution in `named_modules`, unless it is the classifier; empty if there is none."""
    names = (name for name, module in model.named_modules() if name and isinstance(module, nn.Conv2d))
    first = next(names, "")
    return "" if first == classifier_name(model) else first


def classifier_name(model: nn.Module) -> str:
    """Returns the name of the module that gives the logits; empty if it is unknown."""
    landmarks = getattr(model, "landmarks", None)
    return landmarks.classifier if isinstance(landmarks, Landmarks) else ""


def fit_head(model: nn.Module, weights: Weights, theirs: Sequence[str] | None, ours: Sequence[str] | None) -> Fitted:
    """Puts the classifier's rows in the order of our classes, if the file names its classes (`theirs`) and has all of ours.

    Raises `ValueError` for a file that names more or fewer classes than its classifier has rows, and if rows must be
    reordered but the classifier is unknown.
    """
    own, classifier, found = model.state_dict(), classifier_name(model), dict(weights)
    count = _classes(found, classifier)
    if theirs and count and len(set(theirs)) != count:
        raise ValueError(f"names {len(set(theirs))} classes, but its classifier has {count} rows")
    modules, rows = _classifiers(own, found, classifier), rows_for(ours, theirs)
    if rows is not None and not classifier:
        raise ValueError(
            "has other classes than the data, or in another order, and it is unknown which module gives the logits"
        )
    if rows == [] and count:
        return Fitted(found, unfit=dict.fromkeys(modules, differences(ours or [], theirs or [])), classes=count)
    change = ""
    if rows and count:
        found |= {name: value[rows] for name, value in found.items() if within(name, modules) and value.shape[:1] == (count,)}
        change = f"classes put in the data's order{f', {len(rows)} of its {count}' if len(rows) != count else ''}"
    unfit = {module: _misfit(own, found, module) for module in modules if not _fits(own, found, module)}
    return Fitted(found, change, unfit, tuple(rows or ()), count or 0)


def _classifiers(own: Weights, weights: Weights, classifier: str) -> list[str]:
    """Returns the classifier and other modules with the same numbers of classes on both sides, as in distilled transformers."""
    if not classifier:
        return []
    ours, theirs = _classes(own, classifier), _classes(weights, classifier)
    found = {classifier: None}
    for name in (name for name in own if ours != theirs and name in weights and not within(name, [classifier])):
        mine, other = own[name].shape, weights[name].shape
        if mine[:1] == (ours,) and other[:1] == (theirs,) and mine[1:] == other[1:]:
            found[name.rpartition(".")[0]] = None
    return list(found)


def _classes(weights: Weights, classifier: str) -> int | None:
    """Returns the number of classes of a classifier's weights; None if there are none."""
    return next((len(value) for value in _tensors_of(weights, classifier).values() if value.dim()), None)


def _misfit(own: Weights, weights: Weights, module: str) -> str:
    ours, theirs = _classes(own, module), _classes(weights, module)
    if theirs is None:
        return "the file has none"
    if ours != theirs:
        return f"file: {theirs} classes, data: {ours}"
    name = next(
        name for name in (*_tensors_of(own, module), *_tensors_of(weights, module)) if not _same_shape(own, weights, name)
    )
    return f"{name} has the shape {shape_of(weights, name)} in the file, {shape_of(own, name)} in the model"


def _tensors_of(weights: Weights, module: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if within(name, [module])} if module else {}


def _fits(own: Weights, weights: Weights, module: str) -> bool:
    return all(_same_shape(own, weights, name) for name in (*_tensors_of(own, module), *_tensors_of(weights, module)))


def _same_shape(own: Weights, weights: Weights, name: str) -> bool:
    return name in own and name in weights and own[name].shape == weights[name].shape
