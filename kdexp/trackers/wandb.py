"""Weights & Biases: on its server, or with `WANDB_MODE=offline` in `OUTPUT_DIR/wandb`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from kdexp.files import at_home
from kdexp.store.run_state import FINISHED
from kdexp.trackers.tracker import PROJECT, Opened, Report, pictures, terms

PATIENCE = 20
"""Seconds that a run waits for the server, at its beginning and for a login; at its end three times as many."""


class WandB:
    """Logs through the process that wandb starts, which sends in the background."""

    def open(self, config: Mapping[str, Any], name: str, folder: Path, *, group: str, earlier: str) -> Opened:
        """The project is `kdexp` unless `WANDB_PROJECT` names another; the group names the sweep.

        A sweep's own run has the type of job `sweep`.
        """
        os.environ.setdefault("WANDB_SILENT", "true")  # read when it is imported
        import wandb

        root = at_home(str(config["output_dir"]))
        root.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            group=group or None,
            job_type="sweep" if name == group else None,
            id=earlier or None,
            resume="allow",
            dir=str(root),
            config=dict(config),
            settings=wandb.Settings(console="off", init_timeout=PATIENCE, login_timeout=PATIENCE, finish_timeout=3 * PATIENCE),
        )
        self._folder = folder
        self._learners: set[str] = set()
        hint = f"wandb sync {quote(str(root / 'wandb'))}/offline-run-* sends it" if self._run.offline else self._project()
        return Opened(self._run.id, hint, bool(self._run.resumed))

    def _project(self) -> str:
        return str(self._run.project_url or self._run.url or "")

    def epoch(self, learner: str, row: Mapping[str, float]) -> None:
        """The axis of a learner's charts is its epoch, since learners go through them at different times."""
        axis = f"{learner}/epoch"
        if learner not in self._learners:
            self._learners.add(learner)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{learner}/*", step_metric=axis)
        self._run.log({axis: int(row["epoch"]), **terms(learner, row)})

    def flush(self) -> None:
        """Does nothing: wandb writes each epoch to its own file at once."""

    def end(self, report: Report) -> None:
        """Adds the table's numbers to the summary, the table and the pictures to the page, and the other files."""
        import wandb

        if rows := report.rows:
            self._run.summary.update(report.numbers)
            known = dict.fromkeys(name for row in rows for name in row if name != "class_accuracies")
            names = [name for name in known if any(row.get(name) is not None for row in rows)]
            lines = [[row.get(name) for name in names] for row in rows]
            self._run.log({"table": wandb.Table(columns=[*names], data=lines, allow_mixed_types=True)})
        if found := pictures(report.files):
            self._run.log({path.stem: wandb.Image(str(path)) for path in found})
        for path in report.files:
            self._run.save(str(path), base_path=str(self._folder), policy="now")
        self._run.finish(exit_code=0 if report.state == FINISHED else 1)
