"""Which test images a stored learner answered rightly, from its stored logits."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError, safe_open

from kdexp.store.stored import is_file_of
from kdexp.sweep.read import Result

TOLERANCE = 1e-6


def right_answers(result: Result) -> np.ndarray | None:
    """Whether each test image [N] was classified rightly after the last epoch, as 0 or 1.

    None if the logits are missing, damaged, or not those of the result's accuracy.
    """
    path = result.folder / "logits.safetensors"
    if not is_file_of(path, result.logits):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            logits, labels = file.get_tensor("last"), file.get_tensor("labels")
    except (OSError, SafetensorError, TypeError):  # of a kind that numpy does not have
        return None
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        return None
    right = (logits.argmax(1) == labels).astype(np.int8)
    return right if abs(right.mean() - result.test) < TOLERANCE else None
