"""How the rows of a table were trained, in words for a caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdexp.configuration.roles import option
from kdexp.sweep.axes import written_value
from kdexp.sweep.read import Job
from kdexp.text.numbers import count


def training_words(jobs: Sequence[Job], precisions: Sequence[str]) -> list[str]:
    """Clauses about the training of these jobs; values that differ between them are listed."""
    configs = [job.config for job in jobs if job.config]
    return [*_clauses(configs), f"{' or '.join(precisions)} arithmetic"] if configs else []


def _clauses(configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for group in ("experiment", "protocol"):
        if names := _distinct(config["choices"].get(group) for config in configs):
            yield f"{group} {names}"
    epochs, of_teacher = (_distinct(config[key] for config in configs) for key in ("epochs", "teacher_epochs"))
    plural = "epoch" if epochs == "1" else "epochs"
    yield f"{epochs} {plural}" + (f" (teacher {of_teacher})" if of_teacher != epochs else "")
    yield f"batch size {_distinct(config['batch_size'] for config in configs)}"
    yield f"optimizer {_distinct(map(_optimizer, configs))}"
    yield f"learning-rate schedule {_distinct(option(config, 'schedule') for config in configs)}"
    if held_out := _distinct(_percent(config["dataset"].get("val_fraction")) for config in configs):
        yield f"{held_out} of the training images held out for validation"
    shares = _distinct(_percent(config["dataset"].get("student_fraction", 1)) for config in configs)
    if shares != "100 %":
        yield f"students see {shares} of the teacher's training images"


def _distinct(values: Any) -> str:
    """The different values, without None, in words."""
    return " or ".join(dict.fromkeys(written_value(value) for value in values if value is not None))


def _optimizer(config: Mapping[str, Any]) -> str:
    rate = config["optimizer"].get("lr")
    return option(config, "optimizer") + (f" at learning rate {written_value(rate)}" if rate is not None else "")


def _percent(share: float | None) -> str | None:
    return f"{100 * share:g} %" if share is not None else None


def seed_words(seeds: Sequence[Sequence[int]]) -> str:
    """The seeds of several rows: all that occur, and how many a row has."""
    every = sorted({seed for row in seeds for seed in row})
    counts = sorted({len(row) for row in seeds})
    how_many = count(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds per row"
    return f"{how_many} ({', '.join(map(str, every))})" if every else how_many
