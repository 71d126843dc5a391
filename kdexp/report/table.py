"""The comparison table on the screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from kdexp.experiment import Experiment
    from kdexp.report.rows import Row


class Column(NamedTuple):
    """A heading, how a row fills it, and from which terminal width on it is shown."""

    heading: str
    text: Callable[[Row], str]
    from_width: int = 0
    right: bool = True


def written(value: float | None, pattern: str) -> str:
    """The value in that pattern, or a dash where there is none."""
    return "–" if value is None else format(value, pattern)


def duration(seconds: float | None) -> str:
    """Seconds as a reader would say them: `8.3 s`, `12 m 5 s`, `1 h 4 m`."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} m {int(seconds % 60)} s" if not hours else f"{hours} h {minutes % 60} m"


def percent(value: float | None) -> str:
    """A share of 1 in percent with two digits, without the sign."""
    return written(None if value is None else 100 * value, ".2f")


COLUMNS = (
    Column("role", lambda row: row.role, right=False),
    Column("model", lambda row: row.model, right=False),
    Column("method", lambda row: row.method if row.status == "finished" else f"{row.method} ({row.status})", right=False),
    Column("params", lambda row: written(row.parameters, ",d")),
    Column("training only", lambda row: written(row.training_only_parameters, ",d"), 110),
    Column("× smaller", lambda row: written(row.compression, ".1f")),
    Column("MACs", lambda row: written(row.macs, ",d"), 130),
    Column("MB", lambda row: written(row.size_mb, ".2f"), 130),
    Column("test %", lambda row: percent(row.test_top1)),
    Column("top-5 %", lambda row: percent(row.test_top5), 150),
    Column("± base", lambda row: written(row.difference, "+.2f")),
    Column("val %", lambda row: percent(row.validation_top1), 110),
    Column("best epoch", lambda row: written(row.best_epoch, "d"), 150),
    Column("its test %", lambda row: percent(row.best_epoch_test_top1), 150),
    Column("as teacher %", lambda row: percent(row.agreement), 130),
    Column("NLL", lambda row: written(row.nll, ".3f"), 130),
    Column("ECE %", lambda row: percent(row.ece), 130),
    Column("ms / image", lambda row: written(row.latency_ms, ".3f"), 170),
    Column("images / s", lambda row: written(row.images_per_second, ",.0f"), 170),
    Column("time", lambda row: duration(row.train_seconds)),
    Column("n", lambda row: str(row.n), 110),
)


def draw_table(rows: list[Row], experiment: Experiment, width: int) -> Table:
    """As many columns as the width carries: within 80 characters what matters, the rest from 110 on."""
    table = Table(title=f"{experiment.config['choices']['dataset']}, seed {experiment.settings.seed}", box=SIMPLE_HEAD, pad_edge=False)
    shown = [column for column in COLUMNS if column.from_width <= width and any(column.text(row) != "–" for row in rows)]
    for column in shown:
        table.add_column(column.heading, justify="right" if column.right else "left", overflow="fold", no_wrap=column.right)
    for row in rows:
        table.add_row(*(column.text(row) for column in shown))
    return table


def markdown(rows: list[Row]) -> str:
    """The table with every column that says something, in Markdown."""
    shown = [column for column in COLUMNS if any(column.text(row) not in ("–", "") for row in rows)]
    lines = [[column.heading for column in shown], ["--:" if column.right else "---" for column in shown]]
    lines += [[column.text(row).replace("|", "\\|") for column in shown] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
