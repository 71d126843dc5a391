"""A run's own settings: the keys of `conf/config.yaml` that belong to no group."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from kdexp.configuration.arguments import Checked, Count, Positive, Range, Seed, Written
from kdexp.configuration.roles import Control

Threads = Annotated[int, Range(at_least=1, within=(1, max(64, 4 * (os.cpu_count() or 1))))]
"""Number of threads or processes of a run; with thousands, systems kill the process that starts them."""

Switch = bool | Literal["auto"]
"""On, off, or on where it pays."""

Device = Literal["auto", "cpu", "cuda", "mps"] | Annotated[str, Written("cuda:[0-9]{1,3}", "cuda:NUMBER")]
"""Where networks run; `cuda` is the first GPU that this process may use."""

Memory = Literal["auto", "device", "ram", "disk"]

Tracker = Literal["tensorboard", "mlflow", "wandb"]


def entries(value: Any) -> list[Any]:
    """A list as it is, and a single value as a list of one."""
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """Types and ranges of the settings; `conf/config.yaml` explains each key."""

    seed: Seed
    teacher_seed: Seed
    epochs: Count
    teacher_epochs: Count
    batch_size: Count
    class_weights: Literal["balanced"] | list[Positive] | None
    limit_batches: Count | None
    devices: Annotated[int, Range(at_least=1, within=(1, 4096))] | Literal["auto"] = 1
    device: Device
    precision: Literal["auto", "fp32", "tf32", "bf16"]
    fast: Switch
    compile: bool
    graph: Switch
    num_threads: Threads | None
    memory: Memory
    workers: Threads | None
    latency: bool
    diagnosis: Literal["auto", "always", "never"]
    logger: Tracker | list[Tracker]
    dry_run: bool
    force: bool
    store: str
    output_dir: str
    controls: list[Control]


NAMES = tuple(field.name for field in fields(Settings))
