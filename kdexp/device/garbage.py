"""When the garbage collector rests: while many objects are made that stay, it would look through them again and again."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Pauses the garbage collector."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def importing_torch() -> Iterator[None]:
    """Pauses the garbage collector, and leaves the imported modules out of all later collections.

    That includes the collection at exit, which would take half a second to free modules one by one. Does nothing once torch
    is imported: garbage that has come together since would be left out, too.
    """
    if "torch" in sys.modules:
        yield
        return
    with no_collection():
        yield
    gc.freeze()
    atexit.register(gc.freeze)
