"""Backbones without a classifier: teachers of which the features alone are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

from torch import Tensor, nn

from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import classifier_of, has_landmarks, landmarks_of

Head = Literal["none", "probe"]
"""What a teacher has behind its pretrained backbone: no classifier, or one that is trained while the backbone stays frozen."""

HEADS: tuple[Head, ...] = get_args(Head)


def head_of(node: Mapping[str, Any]) -> Head | None:
    """Returns the head that a network's node asks for; other values of `head` are arguments of its class."""
    return node["head"] if node.get("head") in HEADS else None


class NoClassifier(nn.Module):
    """Takes the place of a classifier: zeros instead of logits [N, K].

    `original` is the classifier that the network was built with. It is put back while weights are read.
    """

    def __init__(self, original: nn.Module, classes: int):
        super().__init__()
        self._original = (original,)  # in a tuple, so that PyTorch does not register it for counting and storing
        self.classes = classes

    @property
    def original(self) -> nn.Module:
        """The classifier that the network was built with."""
        return self._original[0]

    def forward(self, pooled: Tensor) -> Tensor:
        """Returns zeros [..., K], or [N, K, H, W] in place of a convolution."""
        if isinstance(self.original, nn.Conv2d):
            return pooled.new_zeros(len(pooled), self.classes, *pooled.shape[2:])
        return pooled.new_zeros(*pooled.shape[:-1], self.classes)


def leave_out_classifier(network: nn.Module, classes: int) -> None:
    """Replaces the network's classifier; raises `InvalidArguments` for a network without landmarks."""
    if not has_landmarks(network):
        sentence = f"='none': it is unknown which module of {type(network).__name__} gives the logits; set it to null"
        raise InvalidArguments([Problem("head", sentence)])
    network.set_submodule(landmarks_of(network).classifier, NoClassifier(classifier_of(network), classes))


def is_headless(network: nn.Module) -> bool:
    """Whether the network has no classifier."""
    return has_landmarks(network) and isinstance(classifier_of(network), NoClassifier)


@contextmanager
def with_classifier(network: nn.Module) -> Iterator[None]:
    """Puts the original classifier of a headless network back while its weights are read; does nothing for others."""
    if not is_headless(network):
        yield
        return
    name, stand_in = landmarks_of(network).classifier, classifier_of(network)
    assert isinstance(stand_in, NoClassifier)
    network.set_submodule(name, stand_in.original)
    try:
        yield
    finally:
        network.set_submodule(name, stand_in)
