"""The run's own settings: the keys of `conf/config.yaml` that belong to no group."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from kdexp.arguments import Checked, Count, NonNegativeInt
from kdexp.data.keeping import Memory
from kdexp.parts import Control


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """What a run is told besides its parts; `conf/config.yaml` says what each key means."""

    seed: NonNegativeInt
    teacher_seed: NonNegativeInt
    epochs: Count
    teacher_epochs: Count
    batch_size: Count
    limit_batches: Count | None
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "tf32", "bf16"]
    fast: bool
    compile: bool
    graph: bool
    num_threads: Count | None
    memory: Memory
    workers: Count | None
    latency: bool
    diagnosis: Literal["auto", "always", "never"]
    dry_run: bool
    force: bool
    store: str
    output_dir: str
    controls: list[Control]


NAMES = tuple(field.name for field in fields(Settings))
