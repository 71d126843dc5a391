"""Which of a teacher's outputs are computed once, where they come from and why: decided where a training starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdexp.data.split import Split
from kdexp.device.memory import size_text
from kdexp.errors import listed
from kdexp.network.capture import Capture
from kdexp.store.outputs import OutputStore, worth_storing
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.table import LOGITS, OutputTable, by_layer

LIVE = "teacher: asked for every batch, since "


@dataclass(frozen=True)
class LookupSource:
    """Where a teacher's outputs for a split may be known from: this process, under `key`, or the store (None: not from it)."""

    key: str
    cache: OutputCache
    stored: OutputStore | None
    later: Sequence[str] = ()
    """Layers that jobs of this process read, which one pass for all should record."""


def recall(teacher: Teacher, split: Split, source: LookupSource, *, whole: bool = True) -> str:
    """Has the teacher look its outputs up where each is needed more than once and all fit; returns what was chosen, and why.

    An epoch shows only some of the images where it is not the `whole` one.
    """
    if split.views is None:
        return LIVE + "augmented images never repeat"
    layers = list(teacher.capture.layers)
    if split.views > 1 and not split.pixels.at_hand:
        return LIVE + "augmented images would be decoded once more to be known"
    if split.views > 1 and layers:
        return f"{LIVE}of augmented images no features ({listed(layers)}) are kept"
    known = source.cache.use(source.key, lambda: OutputTable(len(split), split.views or 1, split.labels.device))
    more = _new(known, by_layer(teacher.capture.probe))
    if not source.cache.make_room(known, sum(map(known.size, more.values()))):
        limit = size_text(source.cache.limit(known))
        return f"{LIVE}its outputs for all images ({_sizes(known, more)}) are larger than what is kept ({limit})"
    for name, example in more.items():
        known.reserve(name, example)
    if split.views > 1:
        teacher.look_up(known)
        return f"teacher's logits: each of {split.views} views of an image once, in a table of up to {size_text(known.bytes)}"
    how, sizes = _unaugmented(teacher, source, known, [LOGITS, *layers])
    images = f"{len(split):,} images" if whole else f"every image shown, of {len(split):,}"
    return f"teacher's outputs: {how} for {images}, since nothing is augmented ({sizes})"


def _unaugmented(teacher: Teacher, source: LookupSource, known: OutputTable, names: Sequence[str]) -> tuple[str, str]:
    """Reads what is stored; returns where the outputs come from, and the sizes of what is looked up or recorded."""
    lacking = [name for name in names if not known.complete(name)]
    how = "known from an earlier job" if not lacking else "read from the store"
    for name in list(lacking):
        values = source.stored.read(name, tuple(known.shown[name].shape)) if source.stored else None
        if values is not None:
            known.fill(name, values)
            lacking.remove(name)
    recorded = _with_later(teacher, source, known) if lacking else teacher.capture
    teacher.look_up(known, recorded)
    told = dict.fromkeys([*names, *recorded.layers])
    return "computed once" if lacking else how, _sizes(known, {name: known.shown[name] for name in told})


def _with_later(teacher: Teacher, source: LookupSource, known: OutputTable) -> Capture:
    """What a pass records: beside what is read now, what later jobs read, as far as it fits and is not known."""
    unread = [name for name in source.later if name not in teacher.capture.layers and not known.complete(name)]
    probe = teacher.with_layers(unread).probe.features
    for name, example in _new(known, {name: probe[name] for name in unread}).items():
        if source.cache.make_room(known, known.size(example)):
            known.reserve(name, example)
    return teacher.with_layers([name for name in unread if name in known.shown])


def _new(known: OutputTable, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: example for name, example in examples.items() if name not in known.shown}


def _sizes(known: OutputTable, examples: Mapping[str, Tensor]) -> str:
    return listed(f"{name or 'logits'} {size_text(known.size(example))}" for name, example in examples.items())


def compute(teacher: Teacher, split: Split, source: LookupSource) -> str:
    """Asks about all images at once, where they are not augmented; stores what reading beats, and says that then."""
    known = teacher.known
    if known is None or known.views > 1:
        return ""
    lacking = [name for name in (LOGITS, *teacher.recorded.layers) if not known.complete(name)]
    start = time.perf_counter()
    teacher.see_all(split)
    if known.device.type != "cpu":
        torch.get_device_module(known.device).synchronize()
    seconds = time.perf_counter() - start
    worth = {name: known.shown[name] for name in lacking if worth_storing(seconds, known.shown[name].nbytes)}
    written = {name: values for name, values in worth.items() if source.stored and source.stored.write(name, values)}
    if not written:
        return ""
    return f"teacher's outputs: stored for later runs, since computing them took {seconds:.3g} s ({_sizes(known, written)})"
