"""Images that occur more than once: in training and test data, or in two classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor

from kdexp.arguments import a_few
from kdexp.data.decoding import ImageFiles
from kdexp.files import shown

MOST = 3
"""Pairs that a sentence names."""


class Digests:
    """A 64-bit hash of every image, in their order."""

    def __init__(self) -> None:
        self._found: list[int] = []

    def add(self, images: Tensor) -> None:
        """Adds uint8 images [n, C, H, W]."""
        rows = np.ascontiguousarray(images.numpy())
        self._found += [int.from_bytes(hashlib.blake2b(row.data, digest_size=8).digest(), "little") for row in rows]

    def array(self) -> np.ndarray:
        """All of them, uint64 [N]."""
        return np.array(self._found, dtype=np.uint64)


def duplicates(files: ImageFiles, digests: np.ndarray, parts: np.ndarray) -> list[str]:
    """Sentences about equal images among all that were read; `parts` [N] is 0 for training, 1 for validation, 2 for testing.

    Images are equal if their pixels are, as they are read: cut to a square of `files.size`.
    """
    labels = files.labels.numpy()
    order = np.lexsort((parts, digests))
    first = np.flatnonzero(np.diff(digests[order], prepend=~digests[order[:1]]))
    sizes = np.diff(first, append=len(order))
    groups = [order[start : start + size] for start, size in zip(first[sizes > 1], sizes[sizes > 1], strict=True)]
    size = f"at {files.size}×{files.size} pixels"
    shared = {name: _pairs(groups, parts == 0, parts == part) for part, name in ((1, "validation"), (2, "test"))}
    found = [
        f"{_count(pairs, name)} equal to training images ({size}): {_named(files, pairs)}; remove them from one of the two, "
        f"or the {name} accuracy is too high"
        for name, pairs in shared.items()
        if pairs
    ]
    if mixed := [pair for group in groups for pair in _of_two_classes(group, labels)]:
        found.append(f"{_count(mixed, '')} in two classes ({size}): {_named(files, mixed)}; remove the wrong ones")
    return found


Pair = tuple[int, int]


def _pairs(groups: Iterable[np.ndarray], of_one: np.ndarray, of_other: np.ndarray) -> list[Pair]:
    """Each image of the other part that is equal to images of the one, with the first of these."""
    return [
        (int(other), int(group[of_one[group]][0]))
        for group in groups
        if of_one[group].any()
        for other in group[of_other[group]]
    ]


def _of_two_classes(group: np.ndarray, labels: np.ndarray) -> Iterator[Pair]:
    """Of equal images, the first of each further class, with the first of all."""
    _, first = np.unique(labels[group], return_index=True)
    one, *others = sorted(first)
    yield from ((int(group[one]), int(group[other])) for other in others)


def _count(pairs: list[Pair], name: str) -> str:
    words = f"{name} image".lstrip()
    return f"1 {words} is" if len(pairs) == 1 else f"{len(pairs):,} {words}s are"


def _named(files: ImageFiles, pairs: list[Pair]) -> str:
    return a_few([" = ".join(shown(files.paths[row]) for row in pair) for pair in pairs], MOST)
