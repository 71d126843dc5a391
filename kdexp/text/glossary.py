"""What each column of each table means: the text of `kdexp --help columns` and of docs/columns.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple


class Entry(NamedTuple):
    """A column: its heading where people read it, its names in CSV and JSON files, and its meaning.

    The first of a group of columns has the name of the group.
    """

    heading: str
    names: str
    meaning: str
    group: str = ""

    @property
    def label(self) -> str:
        """The heading, or the names of what only files have."""
        return self.heading or self.names


class Table(NamedTuple):
    """Where columns are seen: a word for it, its title, its files, and the columns from left to right."""

    word: str
    title: str
    files: str
    entries: tuple[Entry, ...]

    @property
    def link(self) -> str:
        """The word as a link to the title on the page."""
        kept = "".join(letter for letter in self.title.lower() if letter.isalnum() or letter in " -_")
        return f"[{self.word}](#{kept.replace(' ', '-')})"


OBJECTIVE = (
    "the objective, with its weights: CE is the cross-entropy with the labels, KD the divergence from the teacher's outputs "
    "at temperature T, other terms are in docs/methods.md"
)
RUNS = (
    Entry("role", "role", "teacher, baseline (the student without distillation), distilled, or a control row"),
    Entry("model", "model", "the network"),
    Entry(
        "method",
        "method",
        f"{OBJECTIVE}; the reason if the training failed (status in files)",
    ),
    Entry("params", "parameters", "parameters of the deployed network", "size"),
    Entry("training only", "training_only_parameters", "further parameters that are trained but not deployed"),
    Entry("smaller", "compression", "the teacher's parameters divided by this network's"),
    Entry("test %", "test_top1", "test accuracy after the last epoch; in files accuracies are fractions of 1", "accuracy"),
    Entry("top-5 %", "test_top5", "share of test images whose class is among the five highest logits, after the last epoch"),
    Entry(
        "balanced %", "balanced_accuracy", "mean of the classes' test accuracies, where classes differ in size by more than 2×"
    ),
    Entry("", "class_accuracies", "the test accuracy of each class then, in table.json"),
    Entry("vs base", "difference", "test accuracy minus the baseline's of the same seed, in percentage points"),
    Entry("published", "published published_std", "the accuracy in the paper, with ± its standard deviation, if it has one"),
    Entry(
        "Δ in SE", "standard_errors", "measured minus published accuracy, in standard errors of that difference (both spreads)"
    ),
    Entry("val %", "validation_top1", "accuracy on validation images after the last epoch", "validation"),
    Entry("best epoch", "best_epoch", "the epoch with the highest validation accuracy"),
    Entry("its test %", "best_epoch_test_top1", "test accuracy after that epoch"),
    Entry(
        "as teacher %", "agreement", "share of test images for which network and teacher predict the same class", "predictions"
    ),
    Entry("NLL", "nll", "negative log-likelihood of the test labels, in nats per image; lower is better"),
    Entry("ECE %", "ece", "expected calibration error in 15 equal bins: mean gap between confidence and accuracy"),
    Entry("MACs", "macs", "multiply-adds of one forward pass of one image", "cost"),
    Entry("MB", "size_mb", "size of the weights, in units of 10⁶ bytes"),
    Entry("ms / image", "latency_ms", "median time of one image at batch size 1 (latency=true)"),
    Entry("images / s", "images_per_second", "throughput at batch size 128 (latency=true)"),
    Entry("time", "train_seconds", "duration of the training, also if it was trained by an earlier run", "training"),
    Entry("n", "n", "number of seeds; in the table of a run 1, or 0 if the training failed"),
    Entry("", "key", "the learner's key in the store (kdexp-store show KEY)", "only in files"),
    Entry("", "status", "finished, or failed with the reason"),
    Entry("", "train_images", "number of images that the learner was trained on"),
    Entry("", "precision", "arithmetic of the training, such as fp32 or bf16"),
    Entry("", "shortened", "what makes the run shorter than it should be, such as limit_batches; empty for a complete one"),
)
SWEEPS = (
    Entry(
        "",
        "mark",
        "★ highest mean validation accuracy for its student and data, ☆ highest of its method; a column without a name",
    ),
    Entry("role", "role", "teacher, baseline (the student without distillation), distilled, or a control row"),
    Entry("model", "model", "the network, if teachers or students differ between rows"),
    Entry(
        "method",
        "method",
        f"{OBJECTIVE}; or the option of distillation= if it has several objectives in this table",
    ),
    Entry(
        "KEY",
        "KEY",
        "a setting that differs between rows, by the last part of its key: temperature, lr, epochs, ...",
        "settings",
    ),
    Entry("settings", "", "in narrow terminals: all these settings in one column"),
    Entry("variant", "variant", "number of rows that look the same but differ in what the remark below the table names"),
    Entry("trials", "trials", "after a search: among how many trials (of a baseline: among how many baselines) it was chosen"),
    Entry("n", "n", "number of seeds that finished"),
    Entry("n", "n", "number of seeds that finished", "accuracy"),
    Entry("val %", "validation_mean", "validation accuracy after the last epoch, mean over seeds"),
    Entry("test %", "test_mean test_std", "test accuracy after the last epoch, mean ± standard deviation (n−1) over seeds"),
    Entry("balanced %", "balanced_mean balanced_std", "mean of balanced accuracy over seeds, ± its standard deviation"),
    Entry(
        "vs base",
        "difference difference_std",
        "test accuracy minus the baseline's of the same seed, in percentage points, mean over seeds",
        "comparison",
    ),
    Entry(
        "published",
        "published published_std published_n",
        "the accuracy in the paper, with ± its standard deviation, if it has one; published_n runs were averaged",
    ),
    Entry("Δ in SE", "standard_errors", "measured minus published mean, in standard errors of that difference"),
    Entry(
        "ms / image", "latency_ms", "median time of one image at batch size 1, over the row's runs with latency=true", "cost"
    ),
    Entry(
        "NN % interval",
        "level over_seeds_and_images_low over_seeds_and_images_high",
        "confidence interval of vs base over seeds and test images; its level is 95 %, or higher if several hold jointly at "
        "95 % (Bonferroni); if rows differ, the level is in the cell",
        "confidence",
    ),
    Entry(
        "over seeds alone",
        "over_seeds_low over_seeds_high",
        "Student's t interval of vs base at the same level, for these test images only",
    ),
    Entry(
        "n needed",
        "over_seeds_sufficient_n over_seeds_and_images_sufficient_n",
        "about how many seeds would be needed to detect a difference of this size and spread; ∞: no number would be enough",
    ),
    Entry("params", "parameters", "parameters of the deployed network", "size"),
    Entry("", "dataset", "the data set", "only in files"),
    Entry("", "seeds", "the seeds that finished"),
    Entry("", "correlation", "correlation over seeds between the row's accuracies and the baseline's"),
    Entry("", "within_noise", "whether 0 lies in one of the intervals"),
    Entry("", "shortened", "what makes runs of the table shorter than they should be, such as limit_batches"),
)
PAGES = (
    Entry("row", "", "number of the row, a link to its details"),
    Entry("seed", "", "the student's seed"),
    Entry("val %", "", "validation accuracy of this seed after the last epoch"),
    Entry("test %", "", "test accuracy of this seed after the last epoch"),
    Entry("vs base", "", "its difference to the baseline of this seed, in points"),
    Entry("key in the store", "", "the learner's key (kdexp-store show KEY)"),
    Entry("job", "", "folder of the job that made or used it; of an unfinished job its number"),
    Entry("state", "", "how an unfinished job ended"),
    Entry("why", "", "the reason, and the command that repeats the job"),
)
EPOCHS = (
    Entry("", "epoch", "counted from 1"),
    Entry("", "loss", "the training objective, mean over the epoch's images"),
    Entry("", "ce, kd, ...", "its weighted terms by name"),
    Entry("", "train_accuracy", "accuracy on the epoch's training batches while training"),
    Entry("", "validation_accuracy", "accuracy on validation images after the epoch"),
)
STORE = (
    Entry(
        "key", "", "hash of everything that determines the weights; unfinished, outputs, leftover or damaged are other items"
    ),
    Entry("model", "", "the network; for other items their kind"),
    Entry("method", "", "the objective it was trained with; for a teacher's outputs the layer"),
    Entry("data", "", "the data set"),
    Entry("seed", "", "seed of its initial weights and batch order"),
    Entry("epochs", "", "epochs of its training"),
    Entry("test %", "", "test accuracy after the last epoch"),
    Entry("teaches", "", "number of students in this store that it taught"),
    Entry("MB", "", "size on disk, in units of 10⁶ bytes"),
    Entry("age", "", "time since it was written"),
)
DRY_RUNS = (
    Entry("role", "", "the learner, as in the table of a run"),
    Entry("model", "", "the network"),
    Entry("params", "", "its parameters (of the student's own network, without what only training needs)"),
    Entry("MACs", "", "multiply-adds of one forward pass of one image"),
    Entry("method", "", "the objective"),
    Entry("epochs", "", "epochs of its training"),
    Entry("store", "", "when it was trained, if the store has it; it is then not trained again"),
    Entry("job", "", "number of the job, which is also its folder"),
    Entry("overrides", "", "what distinguishes the job from the others"),
    Entry("to be trained", "", "its learners that neither the store nor an earlier job has"),
)
TABLES = (
    Table("run", "The table of a run", "table.csv, table.json, table.md, report.html", RUNS),
    Table("sweep", "The table of a sweep, and of kdexp-report", "sweep.csv, sweep.json, sweep.md, report.html", SWEEPS),
    Table("details", "The details in report.html of a sweep", "", PAGES),
    Table("epochs", "Every epoch", "metrics.csv, which also has role and model", EPOCHS),
    Table("store", "kdexp-store list", "", STORE),
    Table("dry run", "dry_run=true", "", DRY_RUNS),
)
INTRODUCTION = "The columns of every table. A dash means unknown or not applicable; columns without values are left out."


def meaning(heading: str, entries: Sequence[Entry]) -> str:
    """What a column of a table means: one without a heading has the marks, one that is not listed a setting."""
    listed = {entry.heading: entry.meaning for entry in entries}
    listed[""] = next((entry.meaning for entry in entries if entry.names == "mark"), "")
    interval = "NN % interval" if heading.endswith("interval") else heading
    return listed.get(interval, listed.get("KEY", ""))


def help_on_columns(width: int = 118) -> str:
    """The glossary for a terminal."""
    lines = wrap(INTRODUCTION, width)
    for table in TABLES:
        room = max(len(entry.label) for entry in table.entries) + 4
        lines += ["", table.title + (f" ({table.files})" if table.files else "")]
        for entry in table.entries:
            lines += ["", f" {entry.group}:"] if entry.group else []
            first, *rest = wrap(entry.meaning, max(30, width - room))
            lines += [f"  {entry.label:<{room - 2}}{first}", *(" " * room + line for line in rest)]
    return "\n".join(lines)


def page() -> str:
    """The glossary in Markdown."""
    return "\n".join(_page_lines()) + "\n"


def _page_lines() -> Iterator[str]:
    yield from ("# Columns", "", INTRODUCTION, "`kdexp --help columns` prints the same.", "")
    yield "Columns stand in the order of their table, from left to right. By name, with the tables that have them:"
    yield from ("", f"{'; '.join(_index())}.")
    for table in TABLES:
        named = any(entry.names for entry in table.entries)
        yield from ("", f"## {table.title}", "")
        yield from (f"In files: {table.files}.", "") if table.files else ()
        yield "| column | in CSV and JSON | meaning |" if named else "| column | meaning |"
        yield "| --- | --- | --- |" if named else "| --- | --- |"
        for entry in table.entries:
            if entry.group:
                yield f"| **{entry.group}** | |{' |' if named else ''}"
            names = f" {', '.join(f'`{name}`' for name in entry.names.split())} |" if named else ""
            yield f"| {entry.heading} |{names} {entry.meaning} |".replace("|  |", "| |")


def _index() -> Iterator[str]:
    """Each heading with the tables that have it, in alphabetical order."""
    found = defaultdict[str, list[str]](list)
    for table in TABLES:
        for entry in table.entries:
            if entry.heading:
                found[entry.heading].append(table.link)
    for heading in sorted(found, key=str.casefold):
        yield f"**{heading}** {', '.join(found[heading])}"
