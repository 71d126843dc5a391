"""Optuna's pictures of a search: its history, how much each setting matters, and the accuracy over each setting."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.files import write_whole
from kdexp.search.plan import SearchPlan
from kdexp.search.samplers import study_of
from kdexp.search.space import Space
from kdexp.search.trial import FINISHED, PRUNED, Trial

FEWEST = 2
"""Finished trials of a method that has pictures."""

KINDS = {
    "history": "plot_optimization_history",
    "importance": "plot_param_importances",
    "slices": "plot_slice",
}
"""Names of the pictures, and of Optuna's functions that draw them."""


def draw_search(plan: SearchPlan, trials: Sequence[Trial], folder: Path) -> str:
    """Draws every method's pictures into a folder; returns a line about them. Raises `OSError`."""
    if missing := [name for name in ("optuna", "matplotlib") if find_spec(name) is None]:
        return f'pictures of them need {" and ".join(missing)}: pip install "kdexp[search,plot]"'
    folder.mkdir(exist_ok=True)
    drawn = 0
    for space in plan.spaces:
        own = [trial for trial in trials if trial.method == space.method and trial.state in (FINISHED, PRUNED)]
        if sum(trial.state == FINISHED for trial in own) < FEWEST or not space.dimensions:
            continue
        for kind, content in _drawn(space, own):
            write_whole(folder / f"search_{space.method}_{kind}.png", content)
            drawn += 1
    return f"search_*.png in {folder.name}/ show them" if drawn else "which are too few for pictures"


def _drawn(space: Space, trials: Sequence[Trial]) -> Iterator[tuple[str, bytes]]:
    """Kind and PNG of each of one method's pictures, without those that Optuna can't draw of these trials."""
    import matplotlib
    from optuna import visualization

    study = study_of(space, trials)
    for kind, name in KINDS.items():
        named = {} if kind == "importance" else {"target_name": "validation accuracy"}
        with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its functions for matplotlib experimental
            with suppress(ValueError, RuntimeError):  # such as the importance of a setting that all trials share
                yield kind, _png(getattr(visualization.matplotlib, name)(study, **named))


def _png(axes: Any) -> bytes:
    """The figure of one or several axes, which is closed."""
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    for each in np.ravel(axes):
        if each.get_xscale() == "log":  # few and plain ticks, whose texts don't touch
            each.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            each.xaxis.set_major_formatter("{x:g}")
            each.xaxis.set_minor_formatter(NullFormatter())
            each.tick_params("x", rotation=45)
    figure, content = next(iter(np.ravel(axes))).figure, io.BytesIO()
    figure.savefig(content, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return content.getvalue()
