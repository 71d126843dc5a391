"""Translates the tensor names of other code bases to those of this project's networks.

There is one table per family, made by reading that code. Order and shapes of tensors do not matter.

- the CRD code: https://github.com/HobbitLong/RepDistiller, models/
- mdistiller: https://github.com/megvii-research/mdistiller, mdistiller/models/cifar/
- SimKD: https://github.com/DefangChen/SimKD, models/

These three use the same names. So do torchvision's residual nets, and those of https://github.com/kuangliu/pytorch-cifar, with
`shortcut` for `downsample` and `linear` for `fc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

Rules = tuple[tuple[str, tuple[str, ...]], ...]

CLASSIFIER = ("classifier", ("fc", "linear", "classifier"))
STEM = (("stem.0", ("conv1",)), ("stem.1", ("bn1",)))


@dataclass(frozen=True)
class Family:
    """The names of one family: rules from a module's name here to its possible names in other code.

    `{n}` stands for a number, `{n+1}` for the next one. The first rule whose left side matches the full name applies.
    """

    source: str
    rules: Rules

    def names(self, own: Iterable[str]) -> dict[str, str] | None:
        """Maps every possible name in other code to our tensor; None if the family has no name for one of our tensors."""
        translations: dict[str, str] = {}
        for tensor in own:
            module, _, kind = tensor.rpartition(".")
            if not (others := self._others(module)):
                return None
            translations |= {f"{other}.{kind}": tensor for other in others}
        return translations

    def _others(self, module: str) -> list[str]:
        for ours, theirs in self.rules:
            if numbers := _pattern(ours).fullmatch(module):
                return [_filled(other, numbers.groupdict()) for other in theirs]
        return []


@cache
def _pattern(ours: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(ours)))


def _filled(name: str, numbers: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)([+-]\d)?\}", lambda match: str(int(numbers[match[1]]) + int(match[2] or 0)), name)


def _block(ours: str, theirs: str, layers: dict[str, str]) -> Rules:
    return tuple((f"{ours}.{layer}", (f"{theirs}.{name}",)) for layer, name in layers.items())


def _convolutions(ours: str, positions: Iterable[int], first: int = 1) -> dict[str, str]:
    """Names convolutions at these positions of a Sequential, each followed by batch norm, with numbers from `first`."""
    names: dict[str, str] = {}
    for number, position in enumerate(positions, first):
        names |= {f"{ours}.{position}": f"conv{number}", f"{ours}.{position + 1}": f"bn{number}"}
    return names


RESNET: Rules = (
    *STEM,
    *_block("stages.{s}.{b}", "layer{s+1}.{b}", _convolutions("residual", (0, 3, 6))),
    ("stages.{s}.{b}.shortcut.{n}", ("layer{s+1}.{b}.downsample.{n}", "layer{s+1}.{b}.shortcut.{n}")),
    CLASSIFIER,
)
WIDE_RESNET: Rules = (
    ("stem", ("conv1",)),
    *_block(
        "stages.{s}.{b}",
        "block{s+1}.layer.{b}",
        {"norm1": "bn1", "conv1": "conv1", "norm2": "bn2", "conv2": "conv2", "shortcut": "convShortcut"},
    ),
    ("norm", ("bn1",)),
    CLASSIFIER,
)
VGG: Rules = (
    ("stem.{n}", ("block0.{n}",)),
    ("stages.3.{n}", ("block4.{n}",)),
    ("stages.{s}.{n}", ("block{s+1}.{n-1}",)),  # ours begin with the pooling
    CLASSIFIER,
)
VGG_64: Rules = (VGG[0], *VGG[2:])
"""For images of 64 pixels or more, our last stage begins with a pooling too."""

MOBILENET: Rules = (
    ("stem.{n}", ("conv1.{n}",)),
    *(
        (f"stages.{stage}.{block}.residual.{{n}}", (f"blocks.{row}.conv.{{n}}",))
        for stage, rows in enumerate(
            (
                ("0.0", "1.0", "1.1"),
                ("2.0", "2.1", "2.2"),
                ("3.0", "3.1", "3.2", "3.3", "4.0", "4.1", "4.2"),
                ("5.0", "5.1", "5.2", "6.0"),
            )
        )
        for block, row in enumerate(rows)
    ),
    ("head.{n}", ("conv2.{n}",)),
    ("classifier", ("classifier.0", "classifier")),
)
SHUFFLENET_V1: Rules = (
    *STEM,
    *_block("stages.{s}.{b}", "layer{s+1}.{b}", _convolutions("narrow", (0,)) | _convolutions("residual", (0, 3), first=2)),
    CLASSIFIER,
)
SHUFFLENET_V2: Rules = (
    *STEM,
    *_block("stages.{s}.0", "layer{s+1}.0", _convolutions("left", (0, 2)) | _convolutions("right", (0, 3, 5), first=3)),
    *_block("stages.{s}.{b}", "layer{s+1}.{b}", _convolutions("right", (0, 3, 5))),
    ("head.0", ("conv2",)),
    ("head.1", ("bn2",)),
    CLASSIFIER,
)
FAMILIES = (
    Family("the CRD code's resnet", RESNET),
    Family("the CRD code's wrn", WIDE_RESNET),
    Family("the CRD code's vgg", VGG),
    Family("the CRD code's vgg", VGG_64),
    Family("the CRD code's mobilenetv2", MOBILENET),
    Family("the CRD code's ShuffleNetv1", SHUFFLENET_V1),
    Family("the CRD code's ShuffleNetv2", SHUFFLENET_V2),
)
