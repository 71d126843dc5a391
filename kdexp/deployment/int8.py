"""Networks with 8-bit integers: onnxruntime's static quantisation, calibrated on training images.

Weights are quantised per channel, activations per tensor by their smallest and largest value on the calibration images; batch
norm is folded into the convolution before it. Needs the extra `onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count
from kdexp.data.split import Split
from kdexp.deployment.formats import FORMATS, Predict, quiet

QUANTISATION = {"_target_": "kdexp.deployment.int8.Quantisation", "images": 512}
BATCH = 64
"""Images that are calibrated or evaluated on at a time."""


class Quantisation(Checked):
    """Quantises a network, calibrated on that many training images."""

    def __init__(self, *, images: Count):
        self.images = images

    def calibration(self, split: Split) -> Tensor:
        """Returns training images [n, C, H, W] without augmentation, in 0..1, always the same ones of a split."""
        rows = split.epoch(seed=0, epoch=0, images=self.images).rows
        return split.scaled(split.images(rows, None)).cpu()

    def write(self, exact: Path, images: Tensor, path: Path) -> None:
        """Writes the network of an ONNX file with 8-bit integers; raises the errors of the quantiser."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with TemporaryDirectory() as folder, quiet():
            folded = Path(folder) / "folded.onnx"
            quant_pre_process(exact, folded, skip_symbolic_shape=True)
            quantize_static(
                folded,
                path,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )


class _Reader:
    """Hands the calibration images to onnxruntime, batch by batch."""

    def __init__(self, images: Tensor):
        self._batches = iter(images.split(BATCH))

    def get_next(self) -> dict[str, object] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch.numpy()}


def scaled_images(test: Split) -> Iterator[Tensor]:
    """Yields the test images in 0..1, as exported networks take them, batch by batch on the host."""
    return (test.scaled(images).cpu() for images in test.in_order(BATCH))


def logits_on(test: Split, predict: Predict) -> Tensor:
    """Returns the logits [N, K] for all test images."""
    with torch.no_grad():
        return torch.cat([predict(images) for images in scaled_images(test)])


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
        self._predict = FORMATS["onnx"].open(path)

    def forward(self, image: Tensor) -> Tensor:
        return self._predict(image.cpu())
