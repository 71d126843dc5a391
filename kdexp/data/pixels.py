"""Where the pixels of a split are: on the device, in RAM, or on disk. Whatever it is, the same rows give the same pixels."""

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
"""About so large are the blocks that are copied from RAM, never smaller than a batch; two are on the device at a time."""

Prepare = Callable[[Tensor], Tensor]
"""Raw images uint8 [n, C, H, W] on the device, as the augmentation cuts them and as they lie in memory."""


class Storage(Protocol):
    """The pixels of a split of images."""

    resident: bool
    """Whether all of them are on the device."""
    at_hand: bool
    """Whether it costs little to look at them once more."""

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared images on the device [m, C, H, W], and where in these the given rows [n] of the split are."""

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What `at` returns for `size` rows after the other, fetched ahead; the next may take the place of what was given."""


class OnDevice:
    """All images on the device, prepared once. No loader, no workers."""

    resident = at_hand = True

    def __init__(self, images: Tensor):
        self.images = images

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.images, rows

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.images, part) for part in rows.split(size))


class InMemory:
    """Some rows of images in RAM: a thread gathers the next block and copies it while batches are cut from the one before.

    On CUDA the blocks are pinned and copied on a stream of their own.
    """

    resident, at_hand = False, True

    def __init__(self, images: Tensor, rows: Tensor, device: torch.device, prepare: Prepare):
        self.images, self.rows, self.device, self.prepare = images, rows, device, prepare

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return next(self.serve(rows, len(rows)))

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        size = min(size, len(rows))
        batches = max(1, BLOCK_BYTES // (size * self.images[0].numel()))
        wanted = self.rows[rows.cpu()].split(batches * size)
        places = torch.arange(size, device=self.device)
        two = [_Block([len(wanted[0]), *self.images.shape[1:]], self.device) for _ in wanted[:2]]
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(two[0].fill, self.images, wanted[0])
            for number, here in enumerate(wanted):
                coming.result()
                if number + 1 < len(wanted):
                    coming = thread.submit(two[(number + 1) % 2].fill, self.images, wanted[number + 1])
                block = two[number % 2]
                for pixels in block.filled()[: len(here)].split(size):
                    yield self.prepare(pixels), places[: len(pixels)]
                block.release()


class _Block:
    """Room for a block of images on the host and on the device; a new one comes when the batches of the old one are cut."""

    def __init__(self, shape: list[int], device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied = device.type != "cpu"
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        self._there = torch.empty(shape, dtype=torch.uint8, device=device) if self._copied else self._host
        if self._stream is not None:
            self._there.record_stream(self._stream)
            self._full, self._free = torch.cuda.Event(), torch.cuda.Event()
            self._free.record()

    def fill(self, images: Tensor, rows: Tensor) -> None:
        """Gathers those rows and sends them on their way; waits for an earlier copy from the same place."""
        host, there = self._host[: len(rows)], self._there[: len(rows)]
        if self._stream is None:
            torch.index_select(images, 0, rows, out=host)
            if self._copied:
                there.copy_(host)
            return
        self._full.synchronize()
        torch.index_select(images, 0, rows, out=host)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._free)
            there.copy_(host, non_blocking=True)
            self._full.record()

    def filled(self) -> Tensor:
        """The block on the device; what is launched from now on comes after its copy."""
        if self._stream is not None:
            torch.cuda.current_stream(self._there.device).wait_event(self._full)
        return self._there

    def release(self) -> None:
        """Everything that reads the block was launched."""
        if self._stream is not None:
            self._free.record()


class OnDisk:
    """Some rows of image files, decoded by workers whenever they are asked for, and copied piece by piece."""

    resident = at_hand = False

    def __init__(self, files: ImageFiles, rows: Tensor, device: torch.device, prepare: Prepare, workers: Workers):
        self.files, self.rows, self.device, self.prepare, self.workers = files, rows, device, prepare, workers

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return next(self.serve(rows, len(rows)))

    def serve(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        wanted, size = self.rows[rows.cpu()], min(size, len(rows))
        places = torch.arange(size, device=self.device)
        # One place for all batches: new ones would leave ever more holes in the heap.
        batch = torch.empty(size, *self.files.shape[1:], dtype=torch.uint8, device=self.device)
        pieces, left = self.workers.read(self.files, wanted), batch[:0]
        for part in wanted.split(size):
            done = 0
            while done < len(part):
                if not len(left):
                    left, found = next(pieces)
                    if lost := [finding for finding in found if finding.lost]:
                        raise ImageLost(f"{lost[0]} can't be read any more")
                taken, left = left[: len(part) - done], left[len(part) - done :]
                batch[done : done + len(taken)].copy_(taken, non_blocking=True)
                done += len(taken)
            yield self.prepare(batch[: len(part)]), places[: len(part)]
