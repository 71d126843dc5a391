"""Loss and accuracy over the epochs, as a picture (extra `plot`)."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.files import write_whole
from kdexp.text.characters import one_line

if TYPE_CHECKING:
    from kdexp.experiment.journal import Journal
    from kdexp.training.entry import Entry


def draw_curves(folder: Path, entries: list[Entry], journal: Journal) -> None:
    """Writes `curves.png`, or names the extra to install. Entries without a training history are left out."""
    drawn = [entry for entry in entries if entry.stored and entry.stored.result["history"]]
    if not drawn:
        return
    if find_spec("matplotlib") is None:
        journal.say('no curves.png: pip install "kdexp[plot]" adds it')
        return
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    for number, entry in enumerate(drawn):
        assert entry.stored is not None
        history = entry.stored.result["history"]
        epochs = [row["epoch"] for row in history]
        label, colour = one_line(f"{entry.role} {entry.model}"), f"C{number}"
        losses.plot(epochs, [row["loss"] for row in history], color=colour, label=label)
        accuracies.plot(epochs, [100 * row["train_accuracy"] for row in history], ":", color=colour)
        if "validation_accuracy" in history[0]:
            accuracies.plot(epochs, [100 * row["validation_accuracy"] for row in history], color=colour)
    losses.set(xlabel="epoch", ylabel="objective", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="accuracy, %", title="dotted: training, solid: validation")
    picture = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # names may contain dollar signs
        losses.legend()
        figure.savefig(picture, dpi=120)
    write_whole(folder / "curves.png", picture.getvalue())
