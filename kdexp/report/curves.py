"""Accuracy over the epochs, as a picture (extra `plot`)."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.configuration.roles import option
from kdexp.files import write_whole
from kdexp.page.marks import marks
from kdexp.text.characters import one_line

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.experiment.journal import Journal
    from kdexp.training.entry import Entry


def draw_curves(folder: Path, entries: list[Entry], experiment: Experiment, journal: Journal) -> None:
    """Writes `curves.png`, or names the extra to install. Entries without a training history are left out."""
    drawn = [(entry, entry.stored.result["history"]) for entry in entries if entry.stored and entry.stored.result["history"]]
    if not drawn:
        return
    if find_spec("matplotlib") is None:
        journal.say('no curves.png: pip install "kdexp[plot]" adds it')
        return
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {entry.role: drawn_as(entry.role, experiment) for entry, _ in drawn}
    found = marks(names.values())
    kinds = [kind for kind in ("train", "validation") if any(f"{kind}_accuracy" in history[0] for _, history in drawn)]
    figure = Figure(figsize=(4.5 * len(kinds), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for entry, history in drawn:
            mark = found[names[entry.role]]
            if f"{kind}_accuracy" in history[0]:
                values = [100 * row[f"{kind}_accuracy"] for row in history]
                style = {"color": mark.colour, "marker": mark.shape, "mfc": "white", "markevery": max(1, len(history) // 6)}
                label = one_line(f"{entry.role} {entry.model}")
                axes.plot([row["epoch"] for row in history], values, linestyle=(0, mark.dashes or ()), label=label, **style)
        axes.set(xlabel="epoch", ylabel=f"{kind.replace('train', 'training')} accuracy, %")
    picture = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # names may contain dollar signs
        panels[0].legend()
        figure.savefig(picture, dpi=120)
    write_whole(folder / "curves.png", picture.getvalue())


def drawn_as(role: str, experiment: Experiment) -> str:
    """Name that decides the colour and mark of a run's learner: the method of a distilled student, else the role."""
    return option(experiment.config, "distillation") if role == "distilled" else role
