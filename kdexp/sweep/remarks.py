"""Remarks below a sweep's table: how to read it, what was chosen how, what may be chance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdexp.configuration.roles import EXPLAINED
from kdexp.report.averaged import averaged_words
from kdexp.report.origin import REPEAT, REPEAT_SEARCH
from kdexp.report.published import explain
from kdexp.report.shortened import fraction_remark, shortened_remark
from kdexp.sweep.axes import written_values
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.difference import Difference, Interval
from kdexp.sweep.read import NEVER_STARTED
from kdexp.sweep.row import BEST, BEST_OF_METHOD, SweepRow
from kdexp.text.numbers import MISSING, percent, signed, written

NEGLIGIBLE = 0.05
"""Share by which an interval's width changes at least before a remark says so."""
IN_WORDS = 6
"""Up to this many differences get a sentence each; of more, only marked ones."""


def remarks(table: DataTable) -> list[str]:
    """All remarks below a table. A command follows its sentence on a line of its own."""
    parts = (
        _shortened,
        _numbers,
        _imbalance,
        _averaged,
        _controls,
        _tried,
        _choice,
        _chance,
        _winners,
        _several,
        _below_baseline,
        _best_baselines,
        _searched_baseline,
        _gaps,
        _variants,
    )
    sentences = [sentence for part in parts for sentence in part(table)]
    return [*sentences, *explain(table.published, table.departures), *table.unsourced]


def _shortened(table: DataTable) -> Iterator[str]:
    if table.shortened:
        yield shortened_remark(table.shortened, partly=table.partly_shortened)
    shares = dict.fromkeys(row.settings.get("dataset.student_fraction", 1) for row in table.rows if row.role != "teacher")
    if table.few_labels:
        yield table.few_labels
    if len(shares) == 1 and (sentence := fraction_remark(*shares)):
        yield sentence


def _numbers(table: DataTable) -> Iterator[str]:
    students = [row for row in table.rows if row.role != "teacher"]
    if all(row.n == 1 for row in students):
        yield f"Test accuracy after the last epoch. {REPEAT_SEARCH if table.searched else REPEAT}"
        return
    yield "Test accuracy after the last epoch: mean ± standard deviation over n seeds. vs base: in points, paired by seed."
    if any(row.role == "teacher" and row.n == 1 for row in table.rows):
        yield "All seeds share one teacher; variation between teachers is not included (it is with 'teacher_seed=${seed}')."


def _imbalance(table: DataTable) -> Iterator[str]:
    if (majority := next((row.majority for row in table.rows if row.majority is not None), None)) is not None:
        constant = f"always naming the largest class has {percent(majority)} %"
        yield f"The classes of the test images differ in size: {constant}; balanced % is the mean accuracy of the classes."


def _averaged(table: DataTable) -> Iterator[str]:
    decays = {row.settings.get("averaging.decay") for row in table.rows if row.role != "teacher"}
    if len(decays) == 1 and (decay := decays.pop()) is not None:  # otherwise it is a column
        yield averaged_words(decay)


def _controls(table: DataTable) -> Iterator[str]:
    yield from (EXPLAINED[role] for role in dict.fromkeys(row.role for row in table.rows) if role in EXPLAINED)


def _tried(table: DataTable) -> Iterator[str]:
    if table.searched:  # the jobs of the table are only the final ones
        yield from table.searched
        return
    for student, methods in table.tried.items():
        counts = ", ".join(f"{method} {count}" for method, count in methods.items())
        whose = f" for {student}" if len(table.tried) > 1 else ""
        yield f"Configurations tried{whose}: {counts}."


def _choice(table: DataTable) -> Iterator[str]:
    distilled = [row for row in table.rows if row.role == "distilled"]
    if any(row.validation_mean is None for row in distilled) and len(distilled) > 1:
        yield "No best configuration is marked: there is no validation data (dataset.val_fraction=0) to select it on."
    marks = {row.mark for row in table.rows}
    meanings = []
    if BEST in marks:
        meanings.append(f"{BEST} highest validation mean for its student and data")
    if BEST_OF_METHOD in marks:
        meanings.append(f"{BEST_OF_METHOD} highest {'of its method' if meanings else 'validation mean of its method'}")
    if meanings:
        yield f"{', '.join(meanings)}; the test set was not used for selection."
    for row in (row for row in distilled if row.mark):
        rivals = [other for other in distilled if other.option == row.option and other.n == row.n and _same_terms(row, other)]
        ties = sum(other.validation_mean == row.validation_mean for other in rivals)
        if ties > 1:
            yield f"{_name(row, table)} is the first of {ties} configurations with the same validation mean."


def _same_terms(ours: SweepRow, theirs: SweepRow) -> bool:
    """Whether two rows have the same student and training data."""
    keys = [key for key in ours.settings if key.startswith("dataset")]
    return ours.model == theirs.model and all(ours.settings[key] == theirs.settings.get(key) for key in keys)


def _winners(table: DataTable) -> Iterator[str]:
    best = [row for row in table.rows if row.mark == BEST and row.difference]
    too = f" ({BEST_OF_METHOD} too)" if any(row.mark == BEST_OF_METHOD for row in table.rows) else ""
    for row in best:
        name = BEST if len(best) == 1 else _name(row, table)
        yield (
            f"{name} is the best of {row.chosen_among:,} configurations with the same networks, so its difference is probably "
            f"too high{too}. For an unbiased estimate, train it with new seeds:\n  {row.fresh_command}"
        )


def _chance(table: DataTable) -> Iterator[str]:
    few = len(table.compared) <= IN_WORDS
    for row in table.compared:
        if row.difference and (few or row.mark):
            yield f"{_name(row, table)}: {signed(row.difference.mean)} points{_verdict(row.difference)}"
    rest = [] if few else [row for row in table.compared if not row.mark]
    if rest:
        yield _summary(rest, table)


def _summary(rows: list[SweepRow], table: DataTable) -> str:
    clear = [
        f"{_name(row, table)}: {signed(row.difference.mean)}"
        for row in rows
        if row.difference and row.difference.within_noise is False
    ]
    unknown = sum(row.n == 1 for row in rows)
    noise = len(rows) - len(clear) - unknown
    other = " other" if len(rows) < len(table.compared) else ""
    which = f" ({'; '.join(clear)})" if clear else ""
    single = f", {unknown} can't be judged from one seed" if unknown else ""
    found = f"{number_of(len(clear), 'stands out', 'stand out')}{which}, {number_of(noise, 'is', 'are')} within noise"
    return f"Of {len(rows)}{other} differences {found}{single}."


def number_of(count: int, one: str, several: str) -> str:
    """A number with its verb, such as `none stands out` or `2 stand out`."""
    return f"{count or 'none'} {one if count <= 1 else several}"


def _verdict(difference: Difference) -> str:
    seeds, both = difference.over_seeds, difference.over_seeds_and_images
    images = f"{difference.test_images or 0:,} test images"
    if seeds is None:
        alone = f"; {level_of(difference)} interval {span(both)} over {images}" if both else ""
        return f" with one seed{alone}; the variation over seeds is unknown."
    text = f"; {level_of(difference)} interval {span(seeds)} over {len(difference.seeds)} seeds"
    text += f", {span(both)} over seeds and {images}" if both else ""
    return f"{text}: {_noise(difference)}.{_pairing(difference)}"


def _noise(difference: Difference) -> str:
    if not difference.within_noise:
        return "it stands out"
    needed = [interval.sufficient_n for interval in difference.intervals]
    if difference.over_seeds and difference.over_seeds.sufficient_n is None:
        return "within noise; too small a difference to detect with any usual number of seeds"
    if None in needed:
        return "within noise; the test set is too small to detect it, more seeds won't help"
    enough = max(n for n in needed if n is not None)
    return f"within noise; about {enough:,} seeds would be needed to detect this difference"


def _pairing(difference: Difference) -> str:
    r, ratio = difference.correlation, difference.unpaired
    if r is None or ratio is None:
        return ""
    if abs(ratio - 1) < NEGLIGIBLE:
        return f" Pairing by seed hardly changed the interval over seeds (r = {signed(r)})."
    times = f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}"
    changed = "narrowed" if ratio > 1 else "widened"
    return f" Pairing by seed {changed} the interval (r = {signed(r)}): unpaired, it would be {times} times as wide over seeds."


def level_of(difference: Difference | None) -> str:
    """The confidence level of each of its intervals, such as `98.33 %`."""
    assert difference is not None and difference.level is not None
    return f"{100 * difference.level:.4g} %"


def _several(table: DataTable) -> Iterator[str]:
    for kind, family in families(table).items():
        if len(family) > 1:
            of_controls = " of controls" if kind == "controls" else ""
            yield f"The {len(family)} differences{of_controls} have {level_of(family[0])} intervals, jointly 95 % (Bonferroni)."
    if any(row.difference and not row.difference.over_seeds_and_images for row in table.compared):
        yield "Intervals over test images are missing where the logits are missing, damaged, or too many to read."


def families(table: DataTable) -> dict[str, list[Difference]]:
    """The differences whose intervals hold jointly: those of distilled students, and those of controls."""
    found: dict[str, list[Difference]] = {"distilled students": [], "controls": []}
    for row in table.compared:
        if row.difference:
            found["distilled students" if row.role == "distilled" else "controls"].append(row.difference)
    return found


def _best_baselines(table: DataTable) -> Iterator[str]:
    """Compares the winner with the best baseline, if the baseline was tuned too."""
    for chosen in (row for row in table.rows if row.mark == BEST and row.difference):
        for row in table.rows:
            if row.role == "baseline" and row.mark and _same_terms(chosen, row) and not _compared(chosen, row):
                gap = signed(100 * (chosen.test_mean - row.test_mean))
                yield f"{BEST} minus the best baseline on validation data, {_name(row, table)}: {gap} points."


def _searched_baseline(table: DataTable) -> Iterator[str]:
    """Compares the students that a search has chosen with the best baseline that it found, where that is not theirs."""
    found = [row for row in table.rows if row.role == "baseline" and row.trials]
    best = max(found, key=lambda row: row.trials or 0, default=None)
    for row in table.rows:
        if best is not None and row.role == "distilled" and row.trials and not _compared(row, best):
            gap = signed(100 * (row.test_mean - best.test_mean))
            yield f"{_name(row, table)} minus the best baseline of the search, {_name(best, table)}: {gap} points."


def _below_baseline(table: DataTable) -> Iterator[str]:
    for row in table.rows:
        if row.mark == BEST and row.difference and row.difference.mean <= 0:
            gap = written(-row.difference.mean, ".2f")
            less = f"{gap} points below" if float(gap) else "no better than"
            yield f"{_name(row, table)}, although the best on validation images, is {less} its baseline on test images."


def _compared(ours: SweepRow, baseline: SweepRow) -> bool:
    return ours.difference is not None and set(ours.difference.baselines) <= set(baseline.keys)


def _gaps(table: DataTable) -> Iterator[str]:
    for row in table.rows:
        if row.difference and len(row.difference.seeds) < row.n:
            alone = row.n - len(row.difference.seeds)
            yield f"{_name(row, table)}: {alone} of its {row.n} seeds have no finished baseline."


def _variants(table: DataTable) -> Iterator[str]:
    if "variant" in table.columns:
        what = ", ".join(table.variants) or "the baselines that they are compared with"
        yield f"Rows with the same settings but different variants differ in {what}."


def missing(comparison: Comparison) -> list[str]:
    """A sentence for every job and stored result that is missing from the tables, and for every damaged file.

    Jobs that never started share one sentence.
    """
    jobs = comparison.unfinished
    done = comparison.jobs - len(jobs)
    these = "; marks and intervals use these only" if done else ""
    lines = [f"{done} of {comparison.jobs} jobs are finished{these}."] if jobs else []
    for job in jobs:
        if job.state != NEVER_STARTED:
            why = f": {job.reason}" if job.reason else ""
            lines.append(f"  {job.name}: {job.state}{why}")
    if waiting := [Path(job.folder).name for job in jobs if job.state == NEVER_STARTED]:
        lines.append(f"  never started: {', '.join(waiting)}")
    if comparison.unusable:
        lines.append(f"Stored results that can't be used: {len(comparison.unusable)}.")
    lines += [f"  {sentence}" for sentence in comparison.unusable]
    if comparison.damaged:
        lines.append(f"Damaged files: {len(comparison.damaged)}.")
    return lines + [f"  {sentence}" for sentence in comparison.damaged]


def _name(row: SweepRow, table: DataTable) -> str:
    words = [row.mark, row.role if row.role != "distilled" else "", row.model if models_vary(table) else "", row.method]
    return " ".join(word for word in (*words, written_values(row.settings, table.columns)) if word)


def models_vary(table: DataTable) -> bool:
    """Whether the rows have several students or several teachers."""
    teachers = {row.model for row in table.rows if row.role == "teacher"}
    students = {row.model for row in table.rows if row.role != "teacher"}
    return len(teachers) > 1 or len(students) > 1


def span(interval: Interval | None) -> str:
    """The interval as text, low end to high end."""
    return f"{signed(interval.low)} … {signed(interval.high)}" if interval else MISSING
