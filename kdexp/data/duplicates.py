"""Finds images that occur in both training and test data, or in two classes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from kdexp.data.images import ImageFiles
from kdexp.errors import a_few
from kdexp.text.characters import printable

MOST = 3
"""Pairs named in a sentence."""


class Digests:
    """A 64-bit hash of every image, in order. Hashes differ between processes."""

    def __init__(self) -> None:
        self._hashes: list[int] = []

    def add(self, images: Tensor) -> None:
        """Adds uint8 images [n, C, H, W]."""
        # Python's own hash is four times as fast as those of hashlib.
        self._hashes += [hash(row.tobytes()) for row in images.numpy()]

    def array(self) -> np.ndarray:
        """Returns all hashes, int64 [N]."""
        return np.array(self._hashes, dtype=np.int64)


def copies(ours: np.ndarray, others: np.ndarray) -> list[int]:
    """Returns the rows of those images [n] that are also among others [m], by their digests."""
    return np.isin(ours, others).nonzero()[0].tolist()


def duplicates(files: ImageFiles, digests: np.ndarray, parts: np.ndarray) -> list[str]:
    """Returns sentences about equal images; `parts` [N] is 0 for training, 1 for validation, 2 for test images.

    Images are equal if their pixels are, after they became squares of `files.size`.
    """
    size, sentences = f"at {files.size}×{files.size} pixels", []
    for part, name, others in ((1, "validation", "training"), (2, "test", "training or validation")):
        rows, first, _ = _sorted(digests, parts)
        pairs = _pairs(rows, first, (parts[rows] == part) & (parts[first] < part))
        if len(pairs):
            what = f"{_count(pairs, f'{name} image')} also among the {others} images ({size}): {_named(files, pairs)}"
            sentences.append(f"{what}; remove one of each pair, or the {name} accuracy is too high")
    labels = files.labels.numpy()
    rows, first, new = _sorted(digests, labels)
    pairs = _pairs(rows, first, new & (labels[rows] != labels[first]))
    if len(pairs):
        sentences.append(f"{_count(pairs, 'image')} in two classes ({size}): {_named(files, pairs)}; remove the wrong ones")
    return sentences


def _sorted(digests: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns all rows sorted by image, then kind; for each row, its first equal image and whether it starts a kind."""
    rows = np.lexsort((kinds, digests))
    starts, new = np.ones(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
    starts[1:] = np.diff(digests[rows]) != 0
    new[1:] = starts[1:] | (np.diff(kinds[rows]) != 0)
    return rows, rows[np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))], new


def _pairs(rows: np.ndarray, first: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the chosen rows, each with its first equal image, as pairs [n, 2] in the order of the rows."""
    pairs = np.stack([rows[chosen], first[chosen]], 1)
    return pairs[pairs[:, 0].argsort()]


def _count(pairs: np.ndarray, what: str) -> str:
    return f"1 {what} is" if len(pairs) == 1 else f"{len(pairs):,} {what}s are"


def _named(files: ImageFiles, pairs: np.ndarray) -> str:
    return a_few([" = ".join(printable(files.paths[row]) for row in pair) for pair in pairs], MOST)
