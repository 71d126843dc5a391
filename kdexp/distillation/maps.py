"""Feature maps of two networks, brought to the same size."""

import torch.nn.functional as F
from torch import Tensor


def pool_to_min(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Adaptively pools two maps [N, C, H, W] to the smaller height and the smaller width.

    Raises `ValueError` for features that are not maps.
    """
    if ours.dim() != 4 or theirs.dim() != 4:
        raise ValueError(
            f"only feature maps can be pooled to one size, not {size_of(ours)} (student) with {size_of(theirs)} (teacher); "
            "choose other student_layers or teacher_layers"
        )
    height, width = (min(sizes) for sizes in zip(ours.shape[2:], theirs.shape[2:], strict=True))
    return _pool(ours, height, width), _pool(theirs, height, width)


def _pool(features: Tensor, height: int, width: int) -> Tensor:
    return features if features.shape[2:] == (height, width) else F.adaptive_avg_pool2d(features, (height, width))


def size_of(features: Tensor) -> str:
    """Returns the shape of the features of one image as text, such as 16×8×8."""
    return "×".join(map(str, features.shape[1:]))
