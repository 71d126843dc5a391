"""`report.html` of a run: its result, differences, curves, answers on classes and images, table and origin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from kdexp.files import write_whole
from kdexp.page.curves import Curve, Trained, draw_curves
from kdexp.page.differences import Estimate, draw_differences
from kdexp.page.document import days, document
from kdexp.page.html import Html, command_line, tag
from kdexp.page.marks import Mark, marks
from kdexp.report.curves import drawn_as
from kdexp.report.origin import ONE_SEED, dataset_name, outcome, versions
from kdexp.report.page_answers import Answers, accuracy_by_class, confused_pairs, decisive_images
from kdexp.report.page_table import page_table
from kdexp.report.rows import Row
from kdexp.report.table import columns_for, percent, signed
from kdexp.tasks.classification import chance_of_split, only_one_right
from kdexp.tasks.statistics import image_margin, image_variance
from kdexp.text.glossary import RUNS

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.training.entry import Entry

CONFIDENCE = 0.95
LEVEL = f"{100 * CONFIDENCE:.4g} %"


def write_page(
    folder: Path, rows: Sequence[Row], notes: Sequence[str], entries: Sequence[Entry], experiment: Experiment
) -> None:
    """Writes `report.html` with these remarks below its table; raises `OSError`, and `CorruptEntry` for damaged logits."""
    page = RunPage(folder, rows, entries, experiment)
    write_whole(folder / "report.html", document(page.title, page.body(notes)))


class RunPage:
    """Makes the parts of the page."""

    def __init__(self, folder: Path, rows: Sequence[Row], entries: Sequence[Entry], experiment: Experiment):
        self.folder, self.rows, self.experiment = folder, list(rows), experiment
        self.row = {row.role: row for row in rows if row.test_top1 is not None}
        self.stored = {entry.role: entry.stored for entry in entries if entry.stored}
        names = {role: drawn_as(role, experiment) for role in self.stored}
        found = marks(names.values())
        self.marks: dict[str, Mark] = {role: found[name] for role, name in names.items()}
        self.answers = self._answers()

    def _answers(self) -> Answers | None:
        files = {role: learner.tensors("logits") for role, learner in self.stored.items() if role in self.row}
        if not files:
            return None
        labels = next(iter(files.values()))["labels"]
        names = self.experiment.dataset.classes or [str(number) for number in range(self.experiment.dataset.num_classes)]
        return Answers({role: tensors["last"] for role, tensors in files.items()}, labels, self.marks, names)

    @property
    def title(self) -> str:
        """Data set, teacher and student, seed, and the days of the training."""
        dataset, seed = dataset_name(self.experiment.config), self.experiment.settings.seed
        shortened = " (shortened)" if any(row.shortened for row in self.rows) else ""
        models = dict.fromkeys((row.role == "teacher", row.model) for row in self.rows)
        networks = " → ".join(model for _, model in models)
        when = days(learner.result["trained_at"] for learner in self.stored.values())
        return ", ".join(word for word in (f"{dataset}: {networks}{shortened}", f"seed {seed}", when) if word)

    def body(self, notes: Sequence[str]) -> Iterator[Html]:
        """The content in the order of the page."""
        yield tag("h1", self.title)
        yield tag("p", self.lead(), class_="lead")
        if differences := list(self._estimates()):
            yield draw_differences(differences, _explained(differences))
        yield tag("div", *self._charts(), class_="charts")
        if self.answers and self.answers.comparable:
            yield from decisive_images(self.answers, self.experiment.data)
        yield tag("h3", "All rows")
        table, meanings = page_table(self.rows, columns_for(self.rows), "rows", RUNS)
        yield from (table, tag("ul", *(tag("li", note) for note in notes)), meanings)
        yield from self._diagnosis()
        yield from self._origin()

    def lead(self) -> str:
        """What distillation brought, and what it is measured against."""
        ours, theirs, teacher = (self.row.get(role) for role in ("distilled", "baseline", "teacher"))
        if ours is None or theirs is None or ours.difference is None or self.answers is None:
            return "No distilled student can be compared with a baseline."
        margin = _margin(self.answers.correct, "distilled")
        ends = f" ({LEVEL} interval {_span(ours.difference, margin)} over {len(self.answers.labels):,} test images)"
        ends = ends if margin else ""
        first = f"{outcome(ours.method, ours.model, percent(ours.test_top1), ours.difference)}{ends}. {ONE_SEED}."
        second = _right_alone(self.answers)
        if teacher and teacher.model and ours.compression:
            second += f"; the teacher {teacher.model} has {percent(teacher.test_top1)} %"
            second += f" and {ours.compression:.1f} times the parameters"
        return f"{first} {second}."

    def _estimates(self) -> Iterator[Estimate]:
        """The difference of every row that has one, with its interval over test images."""
        for row in self.row.values():
            if row.difference is not None and self.answers is not None:
                margin = _margin(self.answers.correct, row.role)
                name = row.method if row.role == "distilled" else row.role
                number, ends = signed(row.difference), _span(row.difference, margin)
                interval = (row.difference - margin, row.difference + margin)
                tip = f"test {percent(row.test_top1)} %\nvs base {number}\n{LEVEL} over test images: {ends}"
                yield Estimate(name, self.marks[row.role], row.difference, number, ends, tip, interval=interval)

    def _charts(self) -> Iterator[Html]:
        histories = {role: learner.result["history"] for role, learner in self.stored.items() if learner.result["history"]}
        for kind, told in (("train_accuracy", "training accuracy"), ("validation_accuracy", "validation accuracy")):
            curves = [
                Trained(role, self.marks[role], _curve(history, kind))
                for role, history in histories.items()
                if kind in history[0]
            ]
            if curves:
                yield draw_curves(curves, told, "of teacher and students")
        if self.answers:
            yield accuracy_by_class(self.answers)
            yield from confused_pairs(self.answers)

    def _diagnosis(self) -> Iterator[Html]:
        path = self.folder / "diagnosis.json"
        found = json.loads(path.read_text("utf-8"))["findings"] if path.exists() else []
        if found:
            yield tag("h3", "Why the distilled student is no better: measured, and what to add to the command")
            yield tag("ul", *(tag("li", finding["fact"], *_advice(finding["advice"])) for finding in found))

    def _origin(self) -> Iterator[Html]:
        yield tag("h2", "Where this comes from")
        yield tag("p", self.folder.name, class_="soft")
        yield command_line((self.folder / "command.txt").read_text("utf-8", "surrogateescape").strip())
        for role, learner in self.stored.items():
            told = f"{learner.result['trained_at']}, {versions(learner.result['provenance'])}"
            name = f"{role} {learner.result['model']}, {learner.key} in the store"
            yield tag("p", f"{name}: trained {told}.", class_="soft")
        config = (self.folder / "config.yaml").read_text("utf-8")
        yield tag("details", tag("summary", "Configuration"), tag("pre", config))


def _right_alone(answers: Answers) -> str:
    """On how many test images only one of the two students is right."""
    gained, lost = only_one_right(answers.logits["distilled"], answers.logits["baseline"], answers.labels)
    if not gained + lost:
        return "Both are right on the same images"
    chance = _chance(chance_of_split(gained, lost))
    alone = f"Only the distilled one is right on {gained:,} test images, only the baseline on {lost:,}"
    return f"{alone} ({chance}, exact McNemar test)"


def _advice(advice: str) -> list[object]:
    return [" → ", tag("code", advice)] if advice else []


def _curve(history: Sequence[dict[str, float]], kind: str) -> Curve:
    return Curve([int(epoch["epoch"]) for epoch in history], [100 * epoch[kind] for epoch in history], [0.0] * len(history))


def _margin(correct: dict[str, Tensor], role: str) -> float:
    """Half the width of the interval of a row's difference to the baseline over test images, in points."""
    differences = correct[role].numpy().astype(float) - correct["baseline"].numpy().astype(float)
    return image_margin(100**2 * image_variance(differences[None]), CONFIDENCE) if len(differences) > 1 else math.inf


def _span(middle: float, margin: float) -> str:
    return f"{signed(middle - margin)} … {signed(middle + margin)}"


def _explained(estimates: Sequence[Estimate]) -> str:
    several = "s over test images, each by itself" if len(estimates) > 1 else " over test images"
    return f"Test accuracy minus the baseline's; {LEVEL} interval{several}, which says nothing about other seeds."


def _chance(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
