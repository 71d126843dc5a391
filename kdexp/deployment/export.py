"""Exports a trained network to one file, which is reopened, compared and timed before it is moved into place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kdexp.configuration.nodes import build
from kdexp.deployment.formats import Exportable, Format, Predict
from kdexp.deployment.load import load_stored
from kdexp.deployment.predictor import Predictor
from kdexp.deployment.rebuild import shape_of
from kdexp.errors import first_line
from kdexp.files import draft_mark, remove_drafts, sync
from kdexp.network.build import without_start
from kdexp.network.cost import median_seconds, parameter_count
from kdexp.store.stored import StoredLearner
from kdexp.version import __version__

BATCHES = (1, 7)
"""Sizes of the two batches on which a file's logits are compared with the network's."""


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
                f"the {chosen.suffix} file was not kept: its logits differ by {difference:.1e} of the largest one, "
                f"and rounding explains at most {chosen.tolerance:g}"
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
