"""Images that occur more than once: in training and test data, or in two classes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from kdexp.data.images import ImageFiles
from kdexp.errors import a_few
from kdexp.files import shown

MOST = 3
"""Pairs that a sentence names."""


class Digests:
    """A 64-bit hash of every image, in their order; other processes hash differently."""

    def __init__(self) -> None:
        self._found: list[int] = []

    def add(self, images: Tensor) -> None:
        """Adds uint8 images [n, C, H, W]."""
        # Python's own hash is four times as fast as those of hashlib.
        self._found += [hash(row.tobytes()) for row in images.numpy()]

    def array(self) -> np.ndarray:
        """All of them, int64 [N]."""
        return np.array(self._found, dtype=np.int64)


def duplicates(files: ImageFiles, digests: np.ndarray, parts: np.ndarray) -> list[str]:
    """Sentences about equal images among all that were read; `parts` [N] is 0 for training, 1 for validation, 2 for testing.

    Images are equal if their pixels are, as they are read: cut to a square of `files.size`.
    """
    size, found = f"at {files.size}×{files.size} pixels", []
    for part, name, others in ((1, "validation", "training"), (2, "test", "training or validation")):
        rows, first, _ = _sorted(digests, parts)
        pairs = _pairs(rows, first, (parts[rows] == part) & (parts[first] < part))
        if len(pairs):
            what = f"{_count(pairs, f'{name} image')} also among the {others} images ({size}): {_named(files, pairs)}"
            found.append(f"{what}; remove one of each pair, or the {name} accuracy is too high")
    labels = files.labels.numpy()
    rows, first, new = _sorted(digests, labels)
    pairs = _pairs(rows, first, new & (labels[rows] != labels[first]))
    if len(pairs):
        found.append(f"{_count(pairs, 'image')} in two classes ({size}): {_named(files, pairs)}; remove the wrong ones")
    return found


def _sorted(digests: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows, equal images next to each other and by their kinds; for each the first image that is equal to it, and whether
    it is the first of its kind.
    """
    rows = np.lexsort((kinds, digests))
    starts, new = np.ones(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
    starts[1:] = np.diff(digests[rows]) != 0
    new[1:] = starts[1:] | (np.diff(kinds[rows]) != 0)
    return rows, rows[np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))], new


def _pairs(rows: np.ndarray, first: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen rows, each with the first image that is equal to it, [n, 2] in the order of the rows."""
    pairs = np.stack([rows[chosen], first[chosen]], 1)
    return pairs[pairs[:, 0].argsort()]


def _count(pairs: np.ndarray, what: str) -> str:
    return f"1 {what} is" if len(pairs) == 1 else f"{len(pairs):,} {what}s are"


def _named(files: ImageFiles, pairs: np.ndarray) -> str:
    return a_few([" = ".join(shown(files.paths[row]) for row in pair) for pair in pairs], MOST)
