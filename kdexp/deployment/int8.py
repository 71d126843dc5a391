"""Networks with 8-bit integers: evaluated, described and run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kdexp.data.split import Split
from kdexp.deployment.formats import FORMATS, Predict

BATCH = 64
"""Images that are evaluated at a time."""


def logits_on(test: Split, predict: Predict) -> Tensor:
    """Returns the logits [N, K] of a network that takes images in 0..1 for all test images, on the CPU."""
    with torch.no_grad():
        return torch.cat([predict(test.scaled(images).cpu()) for images in test.in_order(BATCH)])


def annotate(path: Path, texts: Mapping[str, str]) -> None:
    """Adds metadata to an ONNX file, or replaces them."""
    import onnx

    model = onnx.load(path)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **texts})
    onnx.save(model, path)


def stored_bytes(path: Path) -> int:
    """Returns the bytes of all constant tensors of an ONNX file: weights, biases, and scales of the quantisation."""
    import onnx

    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


class OnnxNetwork(nn.Module):
    """An ONNX file as a module: images [N, C, H, W] in 0..1 on any device to logits on the CPU."""

    def __init__(self, path: Path):
        super().__init__()
        chosen = FORMATS["onnx"]
        self._predict = chosen.open(path)

    def forward(self, image: Tensor) -> Tensor:
        return self._predict(image.cpu())
