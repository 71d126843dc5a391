"""Exports a trained network to one file, which is reopened, compared and timed before it is moved into place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kdexp.configuration.nodes import build
from kdexp.data.load import Data
from kdexp.deployment.formats import FORMATS, Exportable, Format, Predict
from kdexp.deployment.int8 import QUANTISATION, annotate, logits_on
from kdexp.deployment.load import load_stored
from kdexp.deployment.predictor import Predictor
from kdexp.deployment.rebuild import shape_of
from kdexp.errors import first_line
from kdexp.files import draft_mark, remove_drafts, sync
from kdexp.network.build import without_start
from kdexp.network.cost import median_seconds, parameter_count
from kdexp.store.stored import StoredLearner
from kdexp.tasks.classification import agreement, correct
from kdexp.version import __version__

BATCHES = (1, 7)
"""Sizes of the two batches on which a file's logits are compared with the network's."""


LEAST_AGREEMENT = 0.9
"""Share of the test images that a quantised network must give the class of the network in fp32."""


class ExportFailed(RuntimeError):
    """Raised for a network that a format can't hold, or a file whose logits differ from the network's."""


def describe(stored: StoredLearner, epoch: str, modules: Sequence[str] = ()) -> Exportable:
    """Returns a stored network with the metadata of its file; raises the errors of `kdexp.load`."""
    return exportable(stored, load_stored(stored, epoch, modules), epoch, modules)


def exportable(stored: StoredLearner, predictor: Predictor, epoch: str, modules: Sequence[str] = ()) -> Exportable:
    """Returns the network of a stored learner, loaded before, with the metadata of its file."""
    shape, spec = shape_of(stored), stored.result["spec"]
    metadata = {
        **({} if build(spec["method"]).deploys_more else {"model": without_start(spec["model"])}),
        "mean": spec["data"]["mean"],
        "std": spec["data"]["std"],
        "classes": predictor.classes,
        **vars(shape),
        "learner": stored.key,
        "epoch": epoch,
        "test_top1": stored.result["test"][epoch]["top1"],
        "kdexp": __version__,
    }
    return Exportable(predictor, shape, metadata, tuple(modules))


def export(student: Exportable, chosen: Format, output: Path) -> list[str]:
    """Writes the file and returns lines that describe it.

    Raises `ExportFailed`; a file that was at `output` before is then left unchanged.
    """
    with draft(output) as path:
        try:
            chosen.write(student, path)
            exported = chosen.open(path, student.modules)
            difference = largest_difference(student, exported)
        except Exception as error:  # exporters raise anything
            name = type(student.predictor.network).__name__
            raise ExportFailed(f"{name} can't be exported as a {chosen.suffix} file: {first_line(error)}") from error
        if not difference <= chosen.tolerance:  # nan included
            raise ExportFailed(
                f"the {chosen.suffix} file was not kept: its logits are off by {difference:.1e} of the largest one, "
                f"where rounding explains {chosen.tolerance:g}"
            )
        with torch.no_grad():
            theirs, ours = median_seconds([exported, student.predictor], student.shape.probe("cpu", images=1))
        keep(path, output)
    apart = f"at most {difference:.0e} of the largest logit apart" if difference else "equal"
    return [
        f"  holds    {chosen.contents.format(student.shape.in_channels, student.shape.image_size)}",
        f"  size     {output.stat().st_size / 1e6:.3f} MB, {parameter_count(student.predictor):,} parameters",
        f"  checked  logits before and after: {apart}, on random images in batches of {BATCHES[0]} and {BATCHES[1]}",
        f"  latency  {1e3 * theirs:.3f} ms for one image, {1e3 * ours:.3f} ms before (CPU, threads: {torch.get_num_threads()})",
        f"  use      {chosen.usage(output, student.modules)}",
    ]


def export_int8(student: Exportable, data: Data, output: Path) -> list[str]:
    """Writes the student with 8-bit integers, calibrated on training images, and returns lines that describe the file.

    It is compared with the same file in fp32 on all test images. Raises `ExportFailed` if it can't be made, or if it classifies
    more than a few of them differently; a file that was at `output` before is then left unchanged.
    """
    quantisation, onnx = build(QUANTISATION), FORMATS["onnx"]
    images = quantisation.calibration(data.student_train)
    with draft(output) as path, draft(output) as exact:
        try:
            onnx.write(student, exact)
            quantisation.write(exact, images, path)
            ours, theirs = (onnx.open(file) for file in (exact, path))
            before, after = (logits_on(data.test, predict) for predict in (ours, theirs))
        except Exception as error:  # exporter and quantiser raise anything
            name = type(student.predictor.network).__name__
            raise ExportFailed(f"{name} can't be exported with 8-bit integers: {first_line(error)}") from error
        labels = data.test.labels.cpu()
        same, (top1, exact_top1) = (
            agreement(after, before),
            (float(correct(each, labels)) / len(labels) for each in (after, before)),
        )
        accuracies = f"test accuracy {100 * top1:.2f} %, {100 * exact_top1:.2f} % in fp32"
        if same < LEAST_AGREEMENT:
            raise ExportFailed(
                f"the int8 file was not kept: it gives {1 - same:.0%} of {len(labels):,} test images another class than "
                f"the same file in fp32 ({accuracies}), where {1 - LEAST_AGREEMENT:.0%} are allowed"
            )
        quick, slow = median_seconds([theirs, ours], student.shape.probe("cpu", images=1))
        size = exact.stat().st_size
        annotate(path, {"precision": "int8", "test_top1": json.dumps(top1)})
        keep(path, output)
    return [
        f"  holds    {onnx.contents.format(student.shape.in_channels, student.shape.image_size)}",
        f"  int8     weights per channel, activations calibrated on {len(images):,} training images",
        f"  size     {output.stat().st_size / 1e6:.3f} MB, {size / 1e6:.3f} MB in fp32",
        f"  checked  {accuracies}; the same class for {100 * same:.2f} % of {len(labels):,} test images",
        f"  latency  {1e3 * quick:.3f} ms for one image, {1e3 * slow:.3f} ms in fp32 (CPU, threads: {torch.get_num_threads()})",
        f"  use      {onnx.usage(output)}",
    ]


def keep(path: Path, output: Path) -> None:
    """Moves a finished draft into place, for good."""
    sync(path)
    path.replace(output)
    sync(output.parent)


@contextmanager
def draft(output: Path) -> Iterator[Path]:
    """Yields a temporary path next to the output and removes it afterwards, along with drafts of killed exports."""
    remove_drafts(output.parent)
    path = output.with_name(f".{output.stem}{draft_mark()}{output.suffix}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@torch.no_grad()
def largest_difference(student: Exportable, exported: Predict) -> float:
    """Returns the largest difference of logits on random images, relative to the largest logit of the batch."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for size in BATCHES:
        images = torch.rand(student.shape.probe("cpu", images=size).shape, generator=generator)
        ours, theirs = student.predictor(images), exported(images)
        if theirs.shape != ours.shape:
            raise ValueError(f"for {size} images its logits are {list(theirs.shape)} instead of {list(ours.shape)}")
        shares.append((ours - theirs).abs().max() / ours.abs().max())
    return float(torch.stack(shares).max())
