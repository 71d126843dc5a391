"""Parts of a run's page on single classes and images of the test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.page.dots import Dots, draw_dots
from kdexp.page.html import Html, figure, tag
from kdexp.page.marks import Mark
from kdexp.page.png import data_uri
from kdexp.report.table import percent
from kdexp.tasks.answers import by_class, confusions, decisive, most_confused

if TYPE_CHECKING:
    from kdexp.data.load import Data

DRAWN = ("teacher", "baseline", "distilled")
CLASSES = 20
"""Of more classes those are drawn on which distillation changed most."""
PAIRS, IMAGES = 2, 16
SHARP, LARGEST = 64, 96
"""Height in pixels from which on images are smoothed, and to which larger ones are shrunk."""


@dataclass(frozen=True)
class Answers:
    """The test logits [N, K] of a run's learners by role, with the marks of these roles."""

    logits: Mapping[str, Tensor]
    labels: Tensor
    marks: Mapping[str, Mark]
    classes: Sequence[str]

    @property
    def drawn(self) -> dict[str, Tensor]:
        """The logits without those of controls."""
        return {role: self.logits[role] for role in DRAWN if role in self.logits}

    @property
    def comparable(self) -> bool:
        """Whether there are a baseline and a distilled student."""
        return {"baseline", "distilled"} <= set(self.logits)

    @property
    def correct(self) -> dict[str, Tensor]:
        """Whether each image is classified correctly [N], by role."""
        return {role: values.argmax(1) == self.labels for role, values in self.logits.items()}


def accuracy_by_class(answers: Answers) -> Html:
    """The accuracies of teacher, baseline and distilled student on each class, or on those where distillation changed most."""
    counts = {role: by_class(values, answers.labels) for role, values in answers.drawn.items()}
    shares = {role: [right / total if total else None for right, total in found] for role, found in counts.items()}
    totals = [total for _, total in next(iter(counts.values()))]
    changes = [_change(shares, number) for number in range(len(totals))]
    numbers = sorted((number for number, total in enumerate(totals) if total), key=lambda number: -abs(changes[number] or 0.0))
    lines = [
        _class_line(number, answers.classes[number], totals[number], shares, changes[number])
        for number in sorted(numbers[:CLASSES])
    ]
    caption = "Test accuracy on each class."
    if len(numbers) > CLASSES:
        caption = f"Test accuracy on the {CLASSES} of {len(numbers)} classes on which distillation changed most."
    if answers.comparable:
        caption += " At the end of each line: distilled − baseline, points."
    return draw_dots(lines, [(answers.marks[role], role) for role in counts], "test accuracy, %", caption)


def _change(shares: Mapping[str, Sequence[float | None]], number: int) -> float | None:
    ours, theirs = (shares[role][number] if role in shares else None for role in ("distilled", "baseline"))
    return None if ours is None or theirs is None else 100 * (ours - theirs)


def _class_line(number: int, name: str, total: int, shares: Mapping[str, Sequence[float | None]], change: float | None) -> Dots:
    values = [None if share[number] is None else 100 * (share[number] or 0.0) for share in shares.values()]
    told = [f"{role}: {percent(share[number])} %" for role, share in shares.items()]
    text = "" if change is None else f"{change:+.1f}".replace("-", "−")
    return Dots(name, values, text, "\n".join([f"{name}: {total} test image{'s' if total > 1 else ''}", *told]))


def confused_pairs(answers: Answers) -> Iterator[Html]:
    """The two pairs of classes that the student confuses most, and how often the others do."""
    role = list(answers.drawn)[-1]
    pairs = most_confused(answers.logits[role], answers.labels, PAIRS)
    if not pairs:
        return
    counts = {name: confusions(values, answers.labels) for name, values in answers.drawn.items()}
    head = tag(
        "tr", tag("th", "taken for each other", scope="col"), *(tag("th", name, scope="col", class_="right") for name in counts)
    )
    rows = [
        tag(
            "tr",
            tag("th", f"{answers.classes[first]} and {answers.classes[second]}", scope="row"),
            *(tag("td", found[first, second], class_="right") for found in counts.values()),
        )
        for first, second in pairs
    ]
    table = tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="wide")
    which = "pair of classes" if len(pairs) == 1 else f"{len(pairs)} pairs of classes"
    yield figure(
        f"The {which} that the {role.replace('distilled', 'distilled student')} confuses most: number of test images.", table
    )


def decisive_images(answers: Answers, data: Data) -> Iterator[Html]:
    """Test images that only the distilled student, or only the baseline, classifies correctly. Raises `OSError`."""
    ours, theirs = answers.logits["distilled"], answers.logits["baseline"]
    right = answers.correct
    gained, lost = decisive(ours, theirs, answers.labels, IMAGES)
    totals = (int((right["distilled"] & ~right["baseline"]).sum()), int((right["baseline"] & ~right["distilled"]).sum()))
    if not gained + lost:
        return
    pixels = _pixels(data, [*gained, *lost])
    yield tag("h3", "Images on which distillation made the difference")
    for rows, total, told, shown in (
        (gained, totals[0], "Right only with distillation", pixels[: len(gained)]),
        (lost, totals[1], "Right only without distillation", pixels[len(gained) :]),
    ):
        if rows:
            which = f"{total} test images" if total > 1 else "one test image"
            some = f", the {len(rows)} on which the probability of the label changed most" if len(rows) < total else ""
            yield tag("p", f"{told}: {which}{some}.")
            pictures = [_image(image, row, answers) for image, row in zip(shown, rows, strict=True)]
            yield tag("div", *pictures, class_="images")


def _image(pixels: np.ndarray, row: int, answers: Answers) -> Html:
    label = answers.classes[int(answers.labels[row])]
    said = {role: answers.classes[int(answers.logits[role][row].argmax())] for role in ("baseline", "distilled")}
    large = max(pixels.shape[:2]) > SHARP
    image = tag("img", src=data_uri(pixels), alt=f"test image {row}, {label}", class_="large" if large else None)
    texts = [tag("b", label), *(tag("div", f"{role}: {name}") for role, name in said.items())]
    return tag("figure", image, tag("figcaption", *texts))


def _pixels(data: Data, rows: Sequence[int]) -> list[np.ndarray]:
    """Test images uint8 [H, W, 1 or 3] as they were before they were normalised; of other channels the first."""
    images = data.test.images(torch.tensor(rows, device=data.test.labels.device), None).float().cpu()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    images = images * std + mean
    images = images if images.shape[1] == 3 else images[:, :1]
    if images.shape[2] > LARGEST:
        images = F.interpolate(images, size=(LARGEST, LARGEST), mode="area")
    return list((255 * images).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy())
