"""The numbers that an experiment's source published, and how far what was measured is from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from kdexp.configuration.arguments import Checked, Count, NonNegative, Range, misfit, parameters, problems
from kdexp.errors import InvalidArguments, Problem, listed, refusals

CHOSEN = ("experiment", "protocol", "sweep", "distillation", "controls", "published")
WHERE = ("dataset.root", "dataset.download", "teacher.checkpoint", "store", "output_dir")
ON = ("device", "num_threads", "memory", "workers")
HOW = ("seed", "teacher_seed", "precision", "fast", "compile", "graph", "latency", "diagnosis", "dry_run", "force")
"""With those above, what a command may set and still be the published experiment; the table tells its precision."""


@dataclass(frozen=True, kw_only=True)
class Number(Checked):
    """One number as it was printed, in percent; `where` are the method's settings under which it holds."""

    mean: Annotated[float, Range(at_least=0, at_most=100)]
    std: NonNegative | None = None
    n: Count | None = None
    """How many runs it is the mean of."""
    source: str | None = None
    """Where it is from, if not from where the others are."""
    where: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reference:
    """What was published of one row, as shares of 1."""

    mean: float
    std: float | None
    n: int | None
    source: str
    metric: str

    @property
    def variance(self) -> float:
        """Of the mean; a spread over an unknown number of runs counts as that of a single one."""
        return (self.std or 0.0) ** 2 / (self.n or 1)

    def distance(self, mean: float, std: float | None, n: int) -> float | None:
        """A measured mean over n seeds minus the published one, in standard errors, or None where no spread is known."""
        error = math.sqrt((std or 0.0) ** 2 / n + self.variance)
        return (mean - self.mean) / error if error else None

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f}" + (f" ± {100 * self.std:.2f}" if self.std is not None else "")


class PublishedTable(Checked):
    """What one source published of a table's rows: for every role, or method of a distilled student, a number or several.

    `unsourced` are settings of methods that no source gives for these networks, under the names of the methods.
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
            if complaint := misfit(names, list[str]):
                found.append(Problem(f"unsourced.{method}", f"={names!r}: {complaint}"))
        if found:
            raise InvalidArguments(found)
        self.source, self.metric, self.unsourced = source, metric, unsourced or {}
        self.numbers = {row: [Number(**one) for one in _listed(numbers)] for row, numbers in given.items()}

    def reference(self, row: str, settings: Mapping[str, Any], set_by_hand: Iterable[str] = ()) -> Reference | None:
        """What was published of a row (`teacher`, `distilled.kd`) whose method has these settings, some of them set by hand."""
        for number in self.numbers.get(row, []):
            where = number.where or {}
            if set(set_by_hand) <= set(where) and all(settings.get(name) == value for name, value in where.items()):
                std = None if number.std is None else number.std / 100
                return Reference(number.mean / 100, std, number.n, number.source or self.source, self.metric)
        return None


def _listed(numbers: Any) -> list[dict[str, Any]]:
    """One number or several, short or in full, as the arguments of `Number`."""
    several = numbers if isinstance(numbers, list) else [] if numbers is None else [numbers]
    return [one if isinstance(one, dict) else {"mean": one} for one in several]


def _problems(numbers: Any) -> Iterator[Problem]:
    for one in _listed(numbers):
        yield from problems(Number, one)


def complaints(given: Any) -> list[Problem]:
    """What is wrong with the node `published`."""
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
    """Those words of a command that make it another experiment than the published one, settings of the method aside."""
    return [word for key, word in _set(overrides) if not key.startswith("distillation.")]


def reference(config: Mapping[str, Any], role: str, overrides: Sequence[str]) -> Reference | None:
    """What was published of the row in this role of a job; None if nothing was, or the job is not that experiment."""
    if not config.get("published") or departures(overrides):
        return None
    published = PublishedTable(**config["published"])
    if role != "distilled":
        return published.reference(role, {})
    method = config["choices"]["distillation"]
    return published.reference(f"distilled.{method}", config["distillation"], _by_hand(overrides))


def unsourced(config: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """A sentence for every setting of a job's method that is its default because no source gives one for the experiment."""
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
    """The settings of the method that a command sets."""
    return [key.removeprefix("distillation.") for key, _ in _set(overrides) if key.startswith("distillation.")]


def _set(overrides: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Key and word of the overrides that decide what is trained."""
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        given = word.startswith("~") or ("=" in word and not word.startswith("-"))
        if given and key not in (*CHOSEN, *WHERE, *ON, *HOW) and not key.startswith("hydra"):
            yield key, word


def explain(shown: Sequence[tuple[str, Reference | None, int]], departing: Sequence[str]) -> Iterator[str]:
    """What must be known of published numbers beside measured ones: of rows, each with its name and number of seeds."""
    if departing:
        yield f"No published numbers beside what was run with {', '.join(departing)}: that is another experiment."
    told = [(name, number, n) for name, number, n in shown if number is not None]
    sources: dict[tuple[str, str], list[str]] = {}
    for name, number, _ in told:
        sources.setdefault((number.source, number.metric), []).append(name)
    for count, ((source, metric), names) in enumerate(sources.items()):
        which = f" ({', '.join(dict.fromkeys(names))})" if count else ""
        yield f"Published{which}: {source}; {metric}."
    judged = [(number, n) for _, number, n in told if number.variance or n > 1]
    if judged:
        yield "Δ in SE: measured minus published in standard errors, √(s²/n + s²/n) of the two."
        yield from _unknown(judged)


def _unknown(judged: Sequence[tuple[Reference, int]]) -> Iterator[str]:
    if any(number.std is None for number, _ in judged):
        yield "Where no published spread is known, it counts as 0, which makes Δ look larger than it is."
    if any(number.std is not None and number.n is None for number, _ in judged):
        yield "Where a published spread is over an unknown number of runs, Δ takes it for that of a single run."
    if any(n == 1 for _, n in judged):
        yield "Where n = 1, the spread over our seeds is unknown and counts as 0."
