"""Published numbers of an experiment, and the distance of measured ones from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from kdexp.configuration.arguments import Checked, Count, NonNegative, Range, misfit, parameters, problems
from kdexp.errors import InvalidArguments, Problem, listed, refusals

ALLOWED = {
    "choices": ("experiment", "protocol", "sweep", "distillation", "controls", "published"),
    "files": ("dataset.root", "dataset.download", "teacher.checkpoint", "store", "output_dir"),
    "hardware": ("device", "num_threads", "memory", "workers"),
    "arithmetic": ("precision", "fast", "compile", "graph"),
    "repetition": ("seed", "teacher_seed", "force", "dry_run"),
    "extra measurements": ("latency", "diagnosis"),
    "trackers": ("logger",),
}
"""Overrides, by subject, under which a run is still the published experiment. The table names the precision."""
_ALLOWED_KEYS = frozenset().union(*ALLOWED.values())


@dataclass(frozen=True, kw_only=True)
class Number(Checked):
    """One number as printed in a paper, in percent; it holds for the method settings in `where`."""

    mean: Annotated[float, Range(at_least=0, at_most=100)]
    std: NonNegative | None = None
    n: Count | None = None
    """Number of runs that were averaged."""
    source: str | None = None
    """Its source, if it differs from the table's."""
    where: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reference:
    """The published accuracy for one row, as a fraction of 1."""

    mean: float
    std: float | None
    n: int | None
    source: str
    metric: str

    @property
    def variance(self) -> float:
        """Variance of the mean. If the number of runs is unknown, it counts as one."""
        return (self.std or 0.0) ** 2 / (self.n or 1)

    def distance(self, mean: float, std: float | None, n: int) -> float | None:
        """Measured mean over n seeds minus the published mean, in standard errors; None if neither spread is known."""
        error = math.sqrt((std or 0.0) ** 2 / n + self.variance)
        return (mean - self.mean) / error if error else None

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f}" + (f" ± {100 * self.std:.2f}" if self.std is not None else "")


class PublishedTable(Checked):
    """One source's numbers for a table: one or several per role, or per method of a distilled student.

    `unsourced` lists, by method, settings for which no source gives a value for these networks.
    """

    def __init__(
        self,
        *,
        source: str,
        metric: str,
        teacher: Any = None,
        baseline: Any = None,
        distilled: Any = None,
        unsourced: dict[str, list[str]] | None = None,
    ):
        if not isinstance(distilled, Mapping | None):
            raise InvalidArguments([Problem("distilled", f"={distilled!r}: must be numbers under the names of methods")])
        given = {"teacher": teacher, "baseline": baseline}
        given |= {f"distilled.{method}": numbers for method, numbers in (distilled or {}).items()}
        found = [problem.under(row) for row, numbers in given.items() for problem in _problems(numbers)]
        for method, names in (unsourced or {}).items():
            if problem := misfit(names, list[str]):
                found.append(Problem(f"unsourced.{method}", f"={names!r}: {problem}"))
        if found:
            raise InvalidArguments(found)
        self.source, self.metric, self.unsourced = source, metric, unsourced or {}
        self.numbers = {
            row: [Number(**arguments) for arguments in _number_arguments(numbers)] for row, numbers in given.items()
        }

    def reference(self, row: str, settings: Mapping[str, Any], set_by_hand: Iterable[str] = ()) -> Reference | None:
        """The published number of a row (`teacher`, `distilled.kd`) whose method has these settings; None if there is none.

        Settings that were `set_by_hand` must be among those for which the number holds.
        """
        for number in self.numbers.get(row, []):
            where = number.where or {}
            if set(set_by_hand) <= set(where) and all(settings.get(name) == value for name, value in where.items()):
                std = None if number.std is None else number.std / 100
                return Reference(number.mean / 100, std, number.n, number.source or self.source, self.metric)
        return None


def _number_arguments(numbers: Any) -> list[dict[str, Any]]:
    """Arguments of `Number` for one number or a list; a plain number is its mean."""
    items = numbers if isinstance(numbers, list) else [] if numbers is None else [numbers]
    return [item if isinstance(item, dict) else {"mean": item} for item in items]


def _problems(numbers: Any) -> Iterator[Problem]:
    for arguments in _number_arguments(numbers):
        yield from problems(Number, arguments)


def published_problems(given: Any) -> list[Problem]:
    """Everything wrong with the node `published`."""
    if given is None:
        return []
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        return [Problem("published", f"={given!r}: must be null or have the keys {listed(parameters(PublishedTable))}")]
    try:
        PublishedTable(**given)
    except InvalidArguments as error:
        return [problem.under("published") for problem in refusals(error)]
    return []


def departures(overrides: Iterable[str]) -> list[str]:
    """The overrides that make a run a different experiment from the published one, apart from settings of the method."""
    return [word for key, word in _relevant(overrides) if not key.startswith("distillation.")]


def reference(config: Mapping[str, Any], role: str, overrides: Sequence[str]) -> Reference | None:
    """The published number for the row in this role; None if there is none, or the job is a different experiment."""
    if not config.get("published") or departures(overrides):
        return None
    published = PublishedTable(**config["published"])
    if role != "distilled":
        return published.reference(role, {})
    method = config["choices"]["distillation"]
    return published.reference(f"distilled.{method}", config["distillation"], _by_hand(overrides))


def unsourced(config: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """A sentence for each setting of a job's method that keeps its default because no source gives a value."""
    if not config.get("published") or departures(overrides):
        return []
    method, node = config["choices"]["distillation"], config["distillation"]
    names = PublishedTable(**config["published"]).unsourced.get(method, [])
    return [
        f"distillation.{name}={node[name]} is the default of {method}: no source gives a value for this experiment."
        for name in names
        if name in node and name not in _by_hand(overrides)
    ]


def _by_hand(overrides: Iterable[str]) -> list[str]:
    """Settings of the method that the overrides change."""
    return [key.removeprefix("distillation.") for key, _ in _relevant(overrides) if key.startswith("distillation.")]


def _relevant(overrides: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Key and text of the overrides that may change what is trained: all but the `ALLOWED` ones and Hydra's."""
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        given = word.startswith("~") or ("=" in word and not word.startswith("-"))
        if given and key not in _ALLOWED_KEYS and not key.startswith("hydra"):
            yield key, word


def explain(rows: Sequence[tuple[str, Reference | None, int]], departing: Sequence[str]) -> Iterator[str]:
    """Remarks on the published numbers in a table; `rows` are (name, published number, number of seeds)."""
    if departing:
        differ = "differs" if len(departing) == 1 else "differ"
        yield f"Published numbers are hidden: {', '.join(departing)} {differ} from the published setup."
    numbers = [(name, number, n) for name, number, n in rows if number is not None]
    sources: dict[tuple[str, str], list[str]] = {}
    for name, number, _ in numbers:
        sources.setdefault((number.source, number.metric), []).append(name)
    for count, ((source, metric), names) in enumerate(sources.items()):
        which = f" ({', '.join(dict.fromkeys(names))})" if count else ""
        yield f"Published{which}: {source}; {metric}."
    judged = [(number, n) for _, number, n in numbers if number.variance or n > 1]
    if judged:
        yield "Δ in SE: measured minus published in standard errors, √(s²/n + s²/n) of the two."
        yield from _unknown_spreads(judged)


def _unknown_spreads(judged: Sequence[tuple[Reference, int]]) -> Iterator[str]:
    if any(number.std is None for number, _ in judged):
        yield "If no published spread is known, it counts as 0, which makes Δ look larger than it is."
    if any(number.std is not None and number.n is None for number, _ in judged):
        yield "If a published spread is over an unknown number of runs, Δ treats it as that of a single run."
    if any(n == 1 for _, n in judged):
        yield "If n = 1, the spread over our seeds is unknown and counts as 0."
