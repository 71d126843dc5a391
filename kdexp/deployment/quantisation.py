"""Onnxruntime's static quantisation to 8-bit integers, calibrated on training images. Needs the extra `onnx`.

The source of this file is part of the key of every quantised learner, so that nothing else belongs here.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from kdexp.configuration.arguments import Checked, Count
from kdexp.data.split import Split
from kdexp.deployment.quiet import quiet

QUANTISATION = {"_target_": "kdexp.deployment.quantisation.Quantisation", "images": 512}
BATCH = 64
"""Images that are calibrated on at a time."""


class Quantisation(Checked):
    """Quantises weights per channel, and activations per tensor by their range on that many training images.

    Batch norm is folded into the convolution before it.
    """

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
