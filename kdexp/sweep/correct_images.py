"""Test images that a stored learner classifies correctly, from its stored logits."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError, safe_open

from kdexp.store.stored import is_file_of
from kdexp.sweep.read import Result

TOLERANCE = 1e-6


def correct_images(result: Result) -> np.ndarray | None:
    """Whether each test image [N] is classified correctly after the last epoch, as 0 or 1.

    None if the logits are missing, damaged, or don't give the result's accuracy.
    """
    path = result.folder / "logits.safetensors"
    if not is_file_of(path, result.logits):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            logits, labels = file.get_tensor("last"), file.get_tensor("labels")
    except (OSError, SafetensorError, TypeError):  # TypeError: a dtype that numpy does not have
        return None
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        return None
    correct = (logits.argmax(1) == labels).astype(np.int8)
    return correct if abs(correct.mean() - result.test) < TOLERANCE else None
