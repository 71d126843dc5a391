"""Storage for the pixels of a split: on the device, in RAM, or on disk. The same rows give the same pixels everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from kdexp.data.images import ImageFiles
from kdexp.data.workers import Workers
from kdexp.errors import ImageLost

BLOCK_BYTES = 2**26
"""Approximate size of the blocks copied from RAM, at least one batch. Two blocks are on the device at a time."""

Prepare = Callable[[Tensor], Tensor]
"""Prepares raw images uint8 [n, C, H, W] on the device for the augmentation, in the split's memory format."""


class Storage(Protocol):
    """The pixels of a split of images."""

    resident: bool
    """Whether all images are on the device."""
    at_hand: bool
    """Whether reading images once more is cheap."""

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns prepared images [m, C, H, W] on the device, and the positions of the given rows [n] among them."""

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the result of `at` for `size` rows at a time, prefetched. A later item may overwrite an earlier one."""


class OnDevice:
    """All images on the device, prepared once, without a loader or workers."""

    resident = at_hand = True

    def __init__(self, images: Tensor):
        self.images = images

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.images, rows

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.images, part) for part in rows.split(size))


class Selected:
    """Some images of another storage, without a copy: its `rows` [N]."""

    def __init__(self, whole: Storage, rows: Tensor):
        self.whole, self.rows = whole, rows
        self.resident, self.at_hand = whole.resident, whole.at_hand

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.whole.at(self.rows[rows])

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.whole.serve(self.rows[rows], size)


class InMemory:
    """Some rows of images in RAM. A thread gathers and copies the next block while batches are cut from the current one.

    On CUDA the blocks are pinned and copied on a separate stream.
    """

    resident, at_hand = False, True

    def __init__(self, images: Tensor, rows: Tensor, device: torch.device, prepare: Prepare):
        self.images, self.rows, self.device, self.prepare = images, rows, device, prepare

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return next(self.serve(rows, len(rows)))

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        size = min(size, len(rows))
        batches_per_block = max(1, BLOCK_BYTES // (size * self.images[0].numel()))
        block_rows = self.rows[rows.cpu()].split(batches_per_block * size)
        positions = torch.arange(size, device=self.device)
        buffers = [_Block([len(block_rows[0]), *self.images.shape[1:]], self.device) for _ in block_rows[:2]]
        with ThreadPoolExecutor(1) as thread:
            filling = thread.submit(buffers[0].fill, self.images, block_rows[0])
            for number, current in enumerate(block_rows):
                filling.result()
                if number + 1 < len(block_rows):
                    filling = thread.submit(buffers[(number + 1) % 2].fill, self.images, block_rows[number + 1])
                block = buffers[number % 2]
                for pixels in block.filled()[: len(current)].split(size):
                    yield self.prepare(pixels), positions[: len(pixels)]
                block.release()


class _Block:
    """A buffer for a block of images on the host and on the device, reused once the batches of its block are cut."""

    def __init__(self, shape: list[int], device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied = device.type != "cpu"
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        self._device = torch.empty(shape, dtype=torch.uint8, device=device) if self._copied else self._host
        if self._stream is not None:
            self._device.record_stream(self._stream)
            self._full, self._free = torch.cuda.Event(), torch.cuda.Event()
            self._free.record()

    def fill(self, images: Tensor, rows: Tensor) -> None:
        """Gathers those rows and starts their copy to the device; waits for an earlier copy from the same buffer."""
        host, device = self._host[: len(rows)], self._device[: len(rows)]
        if self._stream is None:
            torch.index_select(images, 0, rows, out=host)
            if self._copied:
                device.copy_(host)
            return
        self._full.synchronize()
        torch.index_select(images, 0, rows, out=host)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._free)
            device.copy_(host, non_blocking=True)
            self._full.record()

    def filled(self) -> Tensor:
        """Returns the block on the device; work launched from now on waits for its copy."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device.device).wait_event(self._full)
        return self._device

    def release(self) -> None:
        """Marks that all work that reads the block has been launched."""
        if self._stream is not None:
            self._free.record()


class OnDisk:
    """Some rows of image files, decoded by workers on demand and copied piece by piece."""

    resident = at_hand = False

    def __init__(self, files: ImageFiles, rows: Tensor, device: torch.device, prepare: Prepare, workers: Workers):
        self.files, self.rows, self.device, self.prepare, self.workers = files, rows, device, prepare, workers

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return next(self.serve(rows, len(rows)))

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        file_rows, size = self.rows[rows.cpu()], min(size, len(rows))
        positions = torch.arange(size, device=self.device)
        # One buffer for all batches: new ones would fragment the heap.
        batch = torch.empty(size, *self.files.shape[1:], dtype=torch.uint8, device=self.device)
        pieces, rest = self.workers.read(self.files, file_rows), batch[:0]
        for part in file_rows.split(size):
            done = 0
            while done < len(part):
                if not len(rest):
                    rest, found = next(pieces)
                    if lost := [finding for finding in found if finding.lost]:
                        raise ImageLost(f"{lost[0]} can't be read any more")
                taken, rest = rest[: len(part) - done], rest[len(part) - done :]
                batch[done : done + len(taken)].copy_(taken, non_blocking=True)
                done += len(taken)
            yield self.prepare(batch[: len(part)]), positions[: len(part)]
