"""A trained network into one file: written, opened again, compared, measured, and only then moved into its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kdexp.configuration.nodes import build
from kdexp.deployment.formats import Answers, Exportable, Format
from kdexp.deployment.load import load_stored
from kdexp.deployment.rebuild import shape_of
from kdexp.errors import first_line
from kdexp.files import draft_mark, remove_drafts, sync
from kdexp.network.build import STARTING
from kdexp.network.cost import median_seconds, parameter_count
from kdexp.store.stored import StoredLearner
from kdexp.version import __version__

BATCHES = (1, 7)
"""Images in the two batches on which a file's answers are compared with the network's."""


class ExportFailed(RuntimeError):
    """A network that a format can't hold, or a file that does not answer as the network does."""


def describe(stored: StoredLearner, epoch: str, modules: Sequence[str] = ()) -> Exportable:
    """A stored network and what a file should say of it; raises what `kdexp.load` does."""
    predictor, shape, spec = load_stored(stored, epoch, modules), shape_of(stored), stored.result["spec"]
    network = {name: value for name, value in spec["model"].items() if name not in STARTING}
    told = {
        **({} if build(spec["method"]).deploys_more else {"model": network}),
        "mean": spec["data"]["mean"],
        "std": spec["data"]["std"],
        "classes": predictor.classes,
        **vars(shape),
        "learner": stored.key,
        "epoch": epoch,
        "test_top1": stored.result["test"][epoch]["top1"],
        "kdexp": __version__,
    }
    about = {name: v if isinstance(v, str) else json.dumps(v) for name, v in told.items()}
    return Exportable(predictor, shape, about, tuple(modules))


def export(student: Exportable, chosen: Format, output: Path) -> list[str]:
    """Writes the file and returns the lines that say what it is worth.

    Raises `ExportFailed`; then there is no file, or the one that was there before.
    """
    with draft(output) as path:
        try:
            chosen.write(student, path)
            answers = chosen.open(path, student.modules)
            difference = largest_difference(student, answers)
        except Exception as error:  # exporters raise anything
            name = type(student.predictor.network).__name__
            raise ExportFailed(f"{name} can't be taken away as a {chosen.suffix} file: {first_line(error)}") from error
        if not difference <= chosen.tolerance:  # nan included
            raise ExportFailed(
                f"the {chosen.suffix} file was not kept: its logits are off by {difference:.1e} of the largest one, "
                f"where rounding explains {chosen.tolerance:g}"
            )
        theirs, ours = latencies(student, answers)
        sync(path)
        path.replace(output)
        sync(output.parent)
    apart = f"at most {difference:.0e} of the largest logit apart" if difference else "equal"
    return [
        f"  holds    {chosen.contents.format(student.shape.in_channels, student.shape.image_size)}",
        f"  size     {output.stat().st_size / 1e6:.3f} MB, {parameter_count(student.predictor):,} parameters",
        f"  checked  logits before and after: {apart}, on random images in batches of {BATCHES[0]} and {BATCHES[1]}",
        f"  latency  {1e3 * theirs:.3f} ms for one image, {1e3 * ours:.3f} ms before (CPU, threads: {torch.get_num_threads()})",
        f"  use      {chosen.usage(output, student.modules)}",
    ]


@contextmanager
def draft(output: Path) -> Iterator[Path]:
    """A name next to the output, under which nothing is left; what killed exports left in that folder is removed too."""
    remove_drafts(output.parent)
    path = output.with_name(f".{output.stem}{draft_mark()}{output.suffix}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@torch.no_grad()
def largest_difference(student: Exportable, answers: Answers) -> float:
    """The largest difference of a logit on random images, as a share of the largest logit of its batch."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for size in BATCHES:
        images = torch.rand(student.shape.probe("cpu", images=size).shape, generator=generator)
        ours, theirs = student.predictor(images), answers(images)
        if theirs.shape != ours.shape:
            raise ValueError(f"it answers {size} images with logits {list(theirs.shape)} instead of {list(ours.shape)}")
        shares.append((ours - theirs).abs().max() / ours.abs().max())
    return float(torch.stack(shares).max())


@torch.no_grad()
def latencies(student: Exportable, answers: Answers) -> tuple[float, float]:
    """Median seconds for one image: of the file, and of the network as it was."""
    image = student.shape.probe("cpu", images=1)
    return median_seconds(answers, image), median_seconds(student.predictor, image)
