"""Worker processes that decode image files ahead of who needs them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdexp.data.decoding import CHUNK, fill
from kdexp.data.findings import Finding, heard_from_libraries
from kdexp.data.images import ImageFiles
from kdexp.device.heap import trim
from kdexp.errors import ImageLost, first_line

AHEAD = 4
"""Pieces that a worker has decoded, or is to decode, before they are asked for."""
PIECE_BYTES = 2**23
"""About so large are the pieces, which bounds what is held beside a batch to 32 MiB per worker; at most `CHUNK` images."""

FLOW_BYTES = 2**25
"""Bytes of images after which this process gives back what it freed."""

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Workers never come from this process, whose threads may hold locks that nobody would release in a copy of it."""

Piece = tuple[Tensor, list[Finding]]
"""Images uint8 [n, C, H, W], and findings about those that can't be read or are damaged."""


class Workers:
    """Processes that decode files, started when they are first asked and then kept until `close`."""

    def __init__(self, count: int, *, pinned: bool):
        self.count, self.pinned = count, pinned
        self._order = _Order()
        self._loader: DataLoader | None = None
        self._running: Iterator[Piece] = iter(())
        self._reader: object = None

    def read(self, files: ImageFiles, rows: Tensor) -> Iterator[Piece]:
        """The images of those rows in their order, piece by piece. Raises `ImageLost` if a worker dies.

        Of several readers the one that asks takes the workers over; another one's pieces are decoded again when it asks.
        """
        pieces, done, flowed, reader = rows.split(piece_size(files)), 0, 0, object()
        while done < len(pieces):
            if self._reader is not reader:
                self._reader, self._order.files, self._order.pieces = reader, files, pieces[done:]
                self._running = self._start()
            try:
                piece = next(self._running)
            except (RuntimeError, EOFError, OSError) as error:  # how dead workers and too little shared memory are told
                self.close()
                raise ImageLost(f"the workers that decode images ended: {first_line(error)}") from error
            done += 1
            yield piece
            flowed += piece[0].nbytes
            if flowed > FLOW_BYTES:
                trim()
                flowed = 0

    def _start(self) -> Iterator[Piece]:
        with warnings.catch_warnings():
            # Who names more workers than there are cores may know why.
            warnings.filterwarnings("ignore", "This DataLoader will create")
            if self._loader is None:
                self._loader = self._make()
            return iter(self._loader)

    def _make(self) -> DataLoader:
        if START == "forkserver":
            _start_server()
        return DataLoader(
            _Decoder(),
            batch_size=None,
            sampler=self._order,
            collate_fn=_as_it_is,
            num_workers=self.count,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            pin_memory=self.pinned,
            multiprocessing_context=START,
            worker_init_fn=_leave_the_end_to_the_parent,
            generator=torch.Generator(),  # else every pass would draw from the default one
        )

    def close(self) -> None:
        """Ends the processes; the next `read` starts new ones."""
        # The destructor of the loader's iterator joins them, once nobody holds it.
        self._loader = self._reader = None
        self._running = iter(())


def piece_size(files: ImageFiles) -> int:
    """Images that a worker decodes at a time."""
    return max(1, min(CHUNK, PIECE_BYTES // (files.channels * files.size**2)))


class _Order:
    """What is to be decoded in one pass: for every piece its paths, channels and size."""

    files: ImageFiles
    pieces: Sequence[Tensor]

    def __iter__(self) -> Iterator[tuple[list[str], int, int]]:
        files, pieces = self.files, self.pieces
        return (([files.paths[row] for row in piece.tolist()], files.channels, files.size) for piece in pieces)


class _Decoder(Dataset):
    """What a worker holds: nothing, since it is told the paths."""

    def __getitem__(self, asked: tuple[list[str], int, int]) -> Piece:
        paths, channels, size = asked
        trim()
        images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
        with heard_from_libraries() as unplaced:
            found = fill(images, paths)
        return images, found + unplaced


def _start_server() -> None:
    """Starts the process that workers are forked from, unless there is one, and waits for it; no interrupt reaches it."""
    from multiprocessing import forkserver, resource_tracker

    forkserver.set_forkserver_preload([__name__, "PIL.ImageOps"])
    resource_tracker.ensure_running()  # which unblocks interrupts, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # One that does nothing: were the wait for the first worker interrupted, that would complain of what it misses.
    first = multiprocessing.get_context("forkserver").Process(target=int)
    first.start()
    first.join()


def _as_it_is(piece: Any) -> Any:
    return piece


def _leave_the_end_to_the_parent(_worker: int) -> None:
    """An interrupt is for the parent to act on; that it then hangs up in the middle of a transfer is no news."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _tell_unless_hung_up


def _tell_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)
