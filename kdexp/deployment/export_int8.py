"""Exports a trained network with 8-bit integers, compared with the same file in fp32 on test images before it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from kdexp.configuration.nodes import build
from kdexp.data.load import Data
from kdexp.deployment.export import ExportFailed, draft, keep
from kdexp.deployment.formats import FORMATS, Exportable
from kdexp.deployment.int8 import annotate, logits_on
from kdexp.deployment.quantisation import QUANTISATION, Quantisation
from kdexp.errors import first_line
from kdexp.network.cost import median_seconds
from kdexp.tasks.classification import agreement, correct

LEAST_AGREEMENT = 0.9
"""Share of the test images that a quantised network must give the class of the network in fp32."""


def export_int8(student: Exportable, data: Data, output: Path) -> list[str]:
    """Writes the file, calibrated on training images, and returns lines that describe it.

    Raises `ExportFailed` if it can't be made, or if it gives too many test images another class than in fp32; a file that was
    at `output` before is then left unchanged.
    """
    quantisation: Quantisation = build(QUANTISATION)
    images, labels, chosen = quantisation.calibration(data.student_train), data.test.labels.cpu(), FORMATS["onnx"]
    with draft(output) as path, draft(output) as exact:
        try:
            chosen.write(student, exact)
            quantisation.write(exact, images, path)
            int8, fp32 = chosen.open(path), chosen.open(exact)
            logits, of_fp32 = logits_on(data.test, int8), logits_on(data.test, fp32)
        except Exception as error:  # exporter and quantiser raise anything
            name = type(student.predictor.network).__name__
            raise ExportFailed(f"{name} can't be exported with 8-bit integers: {first_line(error)}") from error
        same, share = agreement(logits, of_fp32), accuracy(logits, labels)
        compared = f"test accuracy {100 * share:.2f} %, {100 * accuracy(of_fp32, labels):.2f} % in fp32"
        if same < LEAST_AGREEMENT:
            raise ExportFailed(
                f"the int8 file was not kept: it gives {1 - same:.0%} of {len(labels):,} test images another class than "
                f"the same file in fp32 ({compared}), where {1 - LEAST_AGREEMENT:.0%} are allowed"
            )
        seconds, of_exact = median_seconds([int8, fp32], student.shape.probe("cpu", images=1))
        exact_size = exact.stat().st_size
        annotate(path, {"precision": "int8", "test_top1": json.dumps(share)})
        keep(path, output)
    return [
        f"  holds    {chosen.contents.format(student.shape.in_channels, student.shape.image_size)}",
        f"  int8     weights per channel, activations calibrated on {len(images):,} training images",
        f"  size     {output.stat().st_size / 1e6:.3f} MB, {exact_size / 1e6:.3f} MB in fp32",
        f"  checked  {compared}; the same class for {100 * same:.2f} % of {len(labels):,} test images",
        f"  latency  {1e3 * seconds:.3f} ms for one image, {1e3 * of_exact:.3f} ms in fp32 "
        f"(CPU, threads: {torch.get_num_threads()})",
        f"  use      {chosen.usage(output)}",
    ]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Returns the share of rows of logits [N, K] that are largest at their label [N]."""
    return float(correct(logits, labels)) / len(labels)
