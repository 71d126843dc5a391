"""Where a teacher's outputs come from: one decision at the start of a training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from kdexp.data.split import Split
from kdexp.data.views import MIXED, PLAIN, STRONG, STRONG2, WEAK2
from kdexp.device.memory import size_text
from kdexp.errors import listed
from kdexp.store.outputs import OutputStore, worth_storing
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.output_table import LOGITS, OutputTable, by_layer
from kdexp.teacher.view_cost import measure


@dataclass(frozen=True)
class LookupSource:
    """Where outputs of a teacher for a split may be found: in this process under `key`, or on disk (None: don't look there)."""

    key: str
    cache: OutputCache
    stored: OutputStore | None
    later: Sequence[str] = ()
    """Layers that jobs of this process read, to be recorded in the same pass."""


@dataclass(frozen=True)
class Lookup:
    """Where a teacher's outputs come from, and why.

    - `live`: the network runs on every batch.
    - `views`: a table of all views of the images, filled with those that the epochs show.
    - A table of images that are not augmented: complete in `memory`, completed from `disk`, or to `compute` once.
    """

    kind: Literal["live", "views", "memory", "disk", "compute"]
    reason: str
    table: OutputTable | None = None
    extra_layers: Sequence[str] = ()
    """Layers to record although no learner reads them, for later jobs."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes per layer; the logits are `LOGITS`."""


def choose_lookup(teacher: Teacher, split: Split, source: LookupSource, epochs: int = 0) -> Lookup:
    """Chooses a table wherever outputs are needed more than once and all fit into memory.

    Reserves the table's memory and fills it from disk. The teacher stays as it is: `teacher.use` does what was chosen. For
    `epochs` of augmented images on CUDA, where the teacher may run faster than the host looks up, both ways are measured.
    """
    layers, views = list(teacher.capture.layers), 1 if teacher.view == PLAIN else split.views
    if teacher.view in CHANGING:
        return Lookup("live", CHANGING[teacher.view])
    if views is None:
        return Lookup("live", "augmented images never repeat")
    if views > 1 and split.repeats:
        return Lookup("live", "an epoch shows several views of an image")
    if views > 1 and not split.pixels.at_hand:
        return Lookup("live", "augmented images would have to be decoded a second time")
    if views > 1 and layers:
        return Lookup("live", f"features of augmented images ({listed(layers)}) are not cached")
    table = source.cache.use(source.key, lambda: OutputTable(len(split), views, split.labels.device))
    examples = table.new_layers(by_layer(teacher.capture.probe))
    if not source.cache.reserve(table, examples):
        sizes = size_words({name: table.size(example) for name, example in examples.items()})
        limit = size_text(source.cache.limit(table.stored_on))
        return Lookup("live", f"its outputs for all images ({sizes}) are larger than the cache ({limit})")
    if views > 1:
        return _choose_views(teacher, split, source, table, epochs)
    return _choose_unaugmented(teacher, source, table)


CHANGING = {
    WEAK2: "it reads a second view of each image (weak2)",
    **dict.fromkeys((STRONG, STRONG2), "strong views never repeat"),
    MIXED: "mixed images never repeat",
}
"""Why the teacher runs on every batch, for views that no table is kept for."""


def _choose_views(teacher: Teacher, split: Split, source: LookupSource, table: OutputTable, epochs: int) -> Lookup:
    reason = f"each image has {split.views} views"
    if epochs and teacher.precision.device.type == "cuda":
        costs = measure(teacher, split, table, epochs)
        if costs.live < costs.table:
            source.cache.drop(source.key)
            return Lookup("live", str(costs))
        reason += f" and {costs}"
    return Lookup("views", reason, table, sizes={LOGITS: table.bytes})


def _choose_unaugmented(teacher: Teacher, source: LookupSource, table: OutputTable) -> Lookup:
    reason = "it reads images without augmentation (plain)" if teacher.view == PLAIN else "nothing is augmented"
    names = [LOGITS, *teacher.capture.layers]
    if all(map(table.complete, names)):
        return Lookup("memory", reason, table, sizes=table.sizes(names))
    for name in names:
        if not table.complete(name) and (values := _read(source, table, name)) is not None:
            table.fill(name, values)
    if all(map(table.complete, names)):
        return Lookup("disk", reason, table, sizes=table.sizes(names))
    extra = _extra_layers(teacher, source, table)
    return Lookup("compute", reason, table, extra, table.sizes([*names, *extra]))


def _read(source: LookupSource, table: OutputTable, name: str) -> torch.Tensor | None:
    return source.stored.read(name, tuple(table.shown[name].shape)) if source.stored else None


def _extra_layers(teacher: Teacher, source: LookupSource, table: OutputTable) -> list[str]:
    """Layers that only later jobs read, those that are missing and fit into memory."""
    unread = [name for name in source.later if name not in teacher.capture.layers and not table.complete(name)]
    probe = teacher.with_layers(unread).probe.features
    for name, example in table.new_layers({name: probe[name] for name in unread}).items():
        source.cache.reserve(table, {name: example})
    return [name for name in unread if name in table.shown]


def size_words(sizes: dict[str, int]) -> str:
    """Layers with their sizes, such as `logits 3.6 kB, features 23 kB`."""
    return listed(f"{name or 'logits'} {size_text(size)}" for name, size in sizes.items())


@dataclass(frozen=True)
class StoredOutputs:
    """Layers that were stored for later runs, in bytes, and the seconds it took to compute them."""

    sizes: dict[str, int]
    seconds: float


def compute_all(teacher: Teacher, split: Split, store: OutputStore | None) -> StoredOutputs | None:
    """Completes the teacher's table in one pass over a split without augmentation; does nothing for other lookups.

    Stores the layers that are quicker to read than to compute, and returns those that were stored.
    """
    table = teacher.table
    if table is None or table.views > 1:
        return None
    missing = [name for name in teacher.recorded_layers if not table.complete(name)]
    start = time.perf_counter()
    teacher.prepare_all(split)
    if table.device.type != "cpu":
        torch.get_device_module(table.device).synchronize()
    seconds = time.perf_counter() - start
    slow = [name for name in missing if worth_storing(seconds, table.shown[name].nbytes)]
    written = [name for name in slow if store and store.write(name, table.shown[name])]
    return StoredOutputs(table.sizes(written), seconds) if written else None
