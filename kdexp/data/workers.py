"""Worker processes that decode image files ahead of time."""

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
from kdexp.data.findings import Finding, library_messages
from kdexp.data.images import ImageFiles
from kdexp.device.heap import trim
from kdexp.errors import ImageLost, first_line

AHEAD = 4
"""Pieces that each worker prefetches."""
PIECE_BYTES = 2**23
"""Approximate size of a piece (at most `CHUNK` images), so that prefetched pieces take 32 MiB per worker."""

FLOW_BYTES = 2**25
"""Bytes of images after which this process returns freed memory to the system."""

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Never fork: in a copy of this process, locks held by its threads would never be released."""

Piece = tuple[Tensor, list[Finding]]
"""Images uint8 [n, C, H, W], and findings about unreadable or damaged ones."""


class Workers:
    """Processes that decode files. They start at the first `read` and live until `close`."""

    def __init__(self, count: int, *, pinned: bool):
        self.count, self.pinned = count, pinned
        self._order = _Order()
        self._loader: DataLoader | None = None
        self._running: Iterator[Piece] = iter(())
        self._reader: object = None

    def read(self, files: ImageFiles, rows: Tensor) -> Iterator[Piece]:
        """Yields the images of those rows in order, piece by piece. Raises `ImageLost` if a worker dies.

        One reader uses the workers at a time: when another one continues, its prefetched pieces are decoded again.
        """
        pieces, done, flowed, reader = rows.split(piece_size(files)), 0, 0, object()
        while done < len(pieces):
            if self._reader is not reader:
                self._reader, self._order.files, self._order.pieces = reader, files, pieces[done:]
                self._running = self._start()
            try:
                piece = next(self._running)
            except (RuntimeError, EOFError, OSError) as error:  # raised for dead workers and too little shared memory
                self.close()
                raise ImageLost(f"the worker processes that decode images stopped: {first_line(error)}") from error
            done += 1
            yield piece
            flowed += piece[0].nbytes
            if flowed > FLOW_BYTES:
                trim()
                flowed = 0

    def _start(self) -> Iterator[Piece]:
        with warnings.catch_warnings():
            # PyTorch warns of more workers than cores, which may be intended.
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
            collate_fn=_unchanged,
            num_workers=self.count,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            pin_memory=self.pinned,
            multiprocessing_context=START,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # otherwise every pass would advance the default one
        )

    def close(self) -> None:
        """Ends the processes; the next `read` starts new ones."""
        # The destructor of the loader's iterator joins the processes once there is no reference to it.
        self._loader = self._reader = None
        self._running = iter(())


def piece_size(files: ImageFiles) -> int:
    """Returns the number of images that a worker decodes at a time."""
    return max(1, min(CHUNK, PIECE_BYTES // (files.channels * files.size**2)))


class _Order:
    """The pieces to decode in one pass, each as paths, channels and size."""

    files: ImageFiles
    pieces: Sequence[Tensor]

    def __iter__(self) -> Iterator[tuple[list[str], int, int]]:
        files, pieces = self.files, self.pieces
        return (([files.paths[row] for row in piece.tolist()], files.channels, files.size) for piece in pieces)


class _Decoder(Dataset):
    """Decodes a piece in a worker; holds no data itself."""

    def __getitem__(self, piece: tuple[list[str], int, int]) -> Piece:
        paths, channels, size = piece
        trim()
        images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
        with library_messages() as unplaced:
            found = fill(images, paths)
        return images, found + unplaced


def _start_server() -> None:
    """Starts the process that workers are forked from, if there is none yet, shielded from interrupts."""
    from multiprocessing import forkserver, resource_tracker

    forkserver.set_forkserver_preload([__name__, "PIL.ImageOps"])
    resource_tracker.ensure_running()  # first, because it unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # A first process that does nothing: a real worker would print a traceback if this wait were interrupted.
    first = multiprocessing.get_context("forkserver").Process(target=int)
    first.start()
    first.join()


def _unchanged(piece: Any) -> Any:
    return piece


def _ignore_interrupts(_worker: int) -> None:
    """Leaves interrupts to the parent, and prints no traceback when it closes the connection during a transfer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _print_unless_disconnected


def _print_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)
