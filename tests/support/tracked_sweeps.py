"""Sweeps whose jobs have a tracker, crafted without training, and their reports."""

import io
import json

from crafted_sweeps import CraftedSweep, right_first
from rich.console import Console

from kdexp.commands import report as command
from kdexp.trackers.record import RECORD

FIRST, SECOND = "2026-01-01_10-00-00_abcdef", "2026-01-01_11-00-00_abcdef"


def tracked_sweep(root, *, name=FIRST, jobs=2, loggers=("mlflow",), listed=2):
    """A sweep over seeds whose first jobs have finished, each with a run of its own in MLflow."""
    sweep = CraftedSweep(root, name)
    for seed in range(jobs):
        folder = sweep.job(f"seed={seed}", distilled=right_first(85 + seed), seed=seed, logger=list(loggers))
        ids = {"mlflow": f"of-job-{seed}"}
        (folder / RECORD).write_text(json.dumps({"name": f"{FIRST}/{seed:03}", "group": FIRST, "ids": ids, "epochs": {}}))
    return sweep.close(*([f"seed={seed}"] for seed in range(jobs, listed)))


def reported(folder, **more):
    """Writes the report of a sweep; returns exit code and output."""
    screen = io.StringIO()
    return command.print_report([folder], folder, Console(file=screen, width=200), **more), screen.getvalue()
