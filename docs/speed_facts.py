"""Tables and sentences of docs/speed.md, from the results of the benchmarks."""

from __future__ import annotations

from typing import Any

PHASES = {
    "teacher": "training the teacher",
    "baseline": "training the student alone",
    "kd": "distilling (`hint`), the teacher given",
    "main": "the whole job, `kdexp …`",
    "sweep": "3 × 3 sweep, the teacher given, `kdexp -m …`",
}
COLUMNS = ("by hand", "kdexp", "kdexp fast", "by hand bf16", "kdexp bf16 fast", "strong")
ROUNDED = ("kdexp", "kdexp fast", "kdexp bf16 fast", "strong")
"""Participants whose losses are compared with those of the tutorial's loop."""


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Ratios of minimum times to the tutorial's loop."""
    lines = [("", *COLUMNS), ("---", *["--:"] * len(COLUMNS))]
    lines += [(name, *(f"{ratio(rows[phase], who)}×" for who in COLUMNS)) for phase, name in PHASES.items()]
    return markdown(lines)


def markdown(lines: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ratio(rows: dict[str, Any], who: str) -> str:
    """The ratio with two digits."""
    value = rows[who]["ratio_of_minima"]
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def described(bench: dict[str, Any]) -> str:
    """Sizes of the phases."""
    sizes = ", ".join(f"{phase} {bench[phase]['epochs']} × {bench[phase]['turns']}" for phase in bench if phase in PHASES)
    return f"{bench['kd']['images']:,} images in batches of {bench['kd']['batch_size']}; epochs × turns: {sizes}"


def load(rows: dict[str, dict[str, Any]]) -> str:
    """What is known about other processes that ran meanwhile."""
    shares = [share for results in rows.values() for row in results.values() for share in row.get("others", [])]
    known = [100 * share for share in shares if share is not None]
    if not known:
        return "How busy other processes kept the machine was not recorded."
    return f"Other processes took between {min(known):.0f} % and {max(known):.0f} % of the machine meanwhile."


def behind(rows: dict[str, dict[str, Any]], peaks: dict[str, float]) -> str:
    """A paragraph on the phases in which plain kdexp is slower than the strong loop."""
    slower = [phase for phase in PHASES if lead(rows[phase], "kdexp") < 1]
    if not slower:
        return "Plain kdexp is ahead of the strong loop in every row."
    names = {phase: PHASES[phase].partition(",")[0] for phase in slower}
    told = [f"{names[phase]} ({ratio(rows[phase], 'kdexp')}× against {ratio(rows[phase], 'strong')}×)" for phase in slower]
    leads = {phase: lead(rows[phase], "kdexp bf16 fast") for phase in PHASES}
    ahead = f"ahead of it in every row, by {int(10 * min(leads.values())) / 10:.1f}× or more"
    if min(leads.values()) < 1:
        ahead = f"behind it too in {' and '.join(PHASES[phase] for phase in PHASES if leads[phase] < 1)}"
    return (
        f"**Where the strong loop is ahead of plain kdexp:** {' and '.join(told)}. There most of the time is the teacher's "
        "arithmetic, and the strong loop does it in bf16, of which this CPU computes "
        f"{peaks['bf16'] / peaks['fp32']:.1f} times as much per second as of fp32 (large matrix products). "
        f"With `precision=bf16 fast=true` kdexp is {ahead}."
    )


def gains(phases: list[dict[str, Any]]) -> str:
    """A sentence on the speed-up by bf16, and on the run that names it."""
    found = [min(rows["kdexp"]["seconds"]) / min(rows["kdexp bf16 fast"]["seconds"]) for rows in phases]
    return (
        f"On this CPU `precision=bf16 fast=true` is {min(found):.1f} to {max(found):.1f} times as fast as plain kdexp in the "
        "trainings of this page; fp32 stays the default, and a run that has trained in it for over a minute names these "
        "options."
    )


def lead(results: dict[str, Any], who: str) -> float:
    """How many times as fast as the strong loop."""
    return results[who]["ratio_of_minima"] / results["strong"]["ratio_of_minima"]


def startup(bench: dict[str, Any]) -> str:
    """A sentence on the time before the first step, where it was measured."""
    if "startup" not in bench:
        return ""
    seconds = {who: min(row["seconds"]) for who, row in bench["startup"]["rows"].items()}
    return (
        "Not part of any of these times is the start of a process: from there to kdexp's first training step it takes "
        f"{seconds['kdexp']:.1f} s; importing torch and torchvision, as any loop must, takes {seconds['imports']:.1f} s."
    )


def distances(rows: dict[str, dict[str, Any]]) -> str:
    """Relative loss differences to the tutorial's loop."""
    cells = {phase: [apart(rows[phase][who]["loss_difference"]) for who in ROUNDED] for phase in PHASES}
    return markdown([("", *ROUNDED), ("---", *["--:"] * len(ROUNDED)), *((PHASES[phase], *cells[phase]) for phase in PHASES)])


def apart(difference: float | None) -> str:
    """A difference with one digit."""
    if difference is None:
        return "–"
    return f"{difference:.1g}" if difference >= 0.01 or not difference else f"{difference:.0e}"


def whole_job(rows: dict[str, dict[str, Any]]) -> str:
    """Sentences on the distances in the whole job."""
    if (rows["main"]["kdexp fast"]["loss_difference"] or 0) < 0.01:
        return ""
    return (
        "The whole job's losses are those of a student that regresses on the maps of a teacher which was itself trained with "
        "that rounding: Adam's first steps amplify it, and the student has another target. Other losses need not be worse "
        "accuracies."
    )


def share(lockstep: dict[str, Any], precision: str) -> str:
    """Cost of an additional job as a fraction of a single student's."""
    return f"{lockstep['further_point_of_a_lone_student'][precision]:.2f}"


def accuracy(results: dict[str, Any]) -> str:
    """Sentences on the difference in accuracy on real images."""
    found = results["bf16 - fp32"]
    spread = {
        role: f"{values['mean']:+.2f} points (95 % interval {values['mean'] - values['margin']:+.2f} … "
        f"{values['mean'] + values['margin']:+.2f})"
        for role, values in found.items()
    }
    return (
        f"On real CIFAR-10 (the tutorial's nets, ten epochs, {len(results['seeds'])} seeds, one given teacher; test accuracy, "
        f"bf16 with `fast=true` minus fp32, paired by seed): baseline {spread['baseline']}, distilled by `kd` "
        f"{spread['distilled']}. `benchmarks/precision.py` is the command."
    )
