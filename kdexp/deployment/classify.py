"""Classifies image files with a trained network: decoded in threads, one batch ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from kdexp.data.decoding import fill
from kdexp.data.findings import Finding, library_messages
from kdexp.deployment.predictor import Predictor

PIECE = 8
"""Images that a thread decodes at a time."""


class Answer(NamedTuple):
    """The most probable classes of a file, the best first, each with its probability."""

    path: str
    classes: list[tuple[str, float]]


class _Reading(NamedTuple):
    """A batch of files [n, C, H, W] that threads are decoding, and what each piece of it will have found."""

    paths: Sequence[str]
    pixels: Tensor
    pieces: list[Future[list[Finding]]]


def classify(
    student: Predictor, paths: Sequence[str], *, batch: int, top: int, advance: Callable[[int], None] = lambda _count: None
) -> tuple[list[Answer], list[Finding]]:
    """Returns the `top` classes of every file that can be read, in order, and findings about those that can't.

    Files are decoded and classified `batch` at a time; `advance` is called with the number of files of each batch.
    """
    answers, found = [], []
    with library_messages() as unplaced:
        for files, pixels, findings in _decoded(student, paths, batch):
            answers += [Answer(path, best) for path, best in zip(files, best_classes(student, pixels, top), strict=True)]
            found += findings
            advance(len(files) + sum(finding.lost for finding in findings))
    return answers, found + unplaced


def _decoded(student: Predictor, paths: Sequence[str], batch: int) -> Iterator[tuple[list[str], Tensor, list[Finding]]]:
    """Yields the readable files of each batch with their pixels, and the findings about all its files."""
    steps = student.preprocessing
    with ThreadPoolExecutor() as threads:

        def start(files: Sequence[str]) -> _Reading:
            pixels = torch.empty(len(files), steps.channels, steps.resize, steps.resize, dtype=torch.uint8)
            pieces = [
                threads.submit(fill, pixels[first : first + PIECE], files[first : first + PIECE])
                for first in range(0, len(files), PIECE)
            ]
            return _Reading(files, pixels, pieces)

        batches = [paths[first : first + batch] for first in range(0, len(paths), batch)]
        ahead = start(batches[0]) if batches else None
        for number in range(len(batches)):
            assert ahead is not None
            reading, ahead = ahead, start(batches[number + 1]) if number + 1 < len(batches) else None
            findings = [finding for piece in reading.pieces for finding in piece.result()]
            lost = {finding.path for finding in findings if finding.lost}
            kept = [row for row, path in enumerate(reading.paths) if path not in lost]
            yield [reading.paths[row] for row in kept], steps.squares(reading.pixels[kept]), findings


@torch.no_grad()
def best_classes(student: Predictor, pixels: Tensor, top: int) -> list[list[tuple[str, float]]]:
    """Returns the `top` classes of each image [N, C, H, W], uint8, with their probabilities; numbers if they have no names."""
    if not len(pixels):
        return []
    probabilities = student(pixels.to(student.mean.device)).float().softmax(1)
    values, numbers = probabilities.topk(min(top, probabilities.shape[1]))
    names = student.classes or [str(number) for number in range(probabilities.shape[1])]
    return [
        [(names[number], value) for number, value in zip(*row, strict=True)]
        for row in zip(numbers.tolist(), values.tolist(), strict=True)
    ]
