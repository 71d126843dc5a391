"""MLflow: on the server that `MLFLOW_TRACKING_URI` names, or in `OUTPUT_DIR/mlflow.db`."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

from kdexp.files import at_home
from kdexp.store.locks import take_turns
from kdexp.store.run_state import FAILED, FINISHED, RUNNING
from kdexp.trackers.tracker import PROJECT, Opened, Report, flat, terms

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Variables of MLflow's that bound how long a training waits for a server: by default it retries seven times."""

STATES = {FINISHED: "FINISHED", FAILED: "FAILED", RUNNING: "RUNNING"}
"""What MLflow calls a run's states; all others are `KILLED`."""

MOST_METRICS, MOST_PARAMETERS = 1000, 100
"""What a server takes in one request."""
LONGEST_PARAMETER, LONGEST_TAG = 6000, 8000
"""Characters."""

PARENT = "mlflow.parentRunId"
"""The tag by which a run lies below another one in MLflow's list."""

DELETED = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers if a run is gone for good, and if it can still be restored."""


class MLflow:
    """Logs to a server or a database. A request takes milliseconds, so that epochs are kept and sent many at a time."""

    def open(self, config: Mapping[str, Any], name: str, folder: Path, *, group: str, earlier: str) -> Opened:
        """The experiment is `kdexp` unless `MLFLOW_EXPERIMENT_NAME` names another; the tag `sweep` names the sweep.

        Workers take turns, since MLflow fails where two processes make the tables of a new database.
        """
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # otherwise it announces each new database
        root = at_home(str(config["output_dir"]))
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._folder, self._kept = folder, list[Any]()
        with ExitStack() as turn:
            if not server:
                root.mkdir(parents=True, exist_ok=True)
                take_turns(root / "mlflow.lock", turn)
            self._client = MlflowClient(server or f"sqlite:///{root.resolve() / 'mlflow.db'}")
            artifacts = None if server else (root / "mlartifacts").resolve().as_uri()
            continued = bool(earlier) and self._continue(earlier)
            if not continued:
                self._begin(config, name, {"sweep": group} if group else {}, artifacts)
        database = quote(f"sqlite:///{root / 'mlflow.db'}")
        return Opened(self._run, server or f"mlflow ui --backend-store-uri {database} shows it", continued)

    def _continue(self, run: str) -> bool:
        """Goes on with a run, unless it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            if self._client.get_run(run).info.lifecycle_stage != "active":
                return False
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self._client.set_terminated(run, "RUNNING")
        self._run = run
        return True

    def _begin(self, config: Mapping[str, Any], name: str, tags: dict[str, str], artifacts: str | None) -> None:
        from mlflow.entities import Param

        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), artifacts)
        self._run = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        values = [Param(_allowed(key), str(value)[:LONGEST_PARAMETER]) for key, value in flat(config).items()]
        for first in range(0, len(values), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=values[first : first + MOST_PARAMETERS])

    def _experiment(self, name: str, artifacts: str | None) -> str:
        """The number of an experiment, which is created if there is none of that name."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_experiment_by_name(name)
            return found.experiment_id if found else self._client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            found = self._client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
            return found.experiment_id  # another process was faster

    def epoch(self, learner: str, row: Mapping[str, float]) -> None:
        """The number of the epoch is the step."""
        self._keep(terms(learner, row), int(row["epoch"]))

    def _keep(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._kept += [Metric(_allowed(tag), value, now, step) for tag, value in numbers.items()]
        if len(self._kept) >= MOST_METRICS:
            self.flush()

    def flush(self) -> None:
        """Sends the numbers that are kept."""
        while self._kept:
            self._client.log_batch(self._run, metrics=self._kept[:MOST_METRICS])
            del self._kept[:MOST_METRICS]

    def end(self, report: Report) -> None:
        """Adds the table's numbers, the table as the run's description, and all files as artifacts; nests a sweep's runs."""
        self._keep(report.numbers, 0)
        self.flush()
        if report.table:
            self._client.set_tag(self._run, "mlflow.note.content", report.table[:LONGEST_TAG])
        for path in report.files:
            inside = path.relative_to(self._folder).parent.as_posix()
            self._client.log_artifact(self._run, str(path), None if inside == "." else inside)
        for member in report.members:
            self._nest(member)
        self._client.set_terminated(self._run, STATES.get(report.state, "KILLED"))

    def _nest(self, member: str) -> None:
        """Shows another run below this one, unless it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_tag(member, PARENT, self._run)
        except MlflowException as error:
            if error.error_code not in DELETED:
                raise


def _allowed(name: str) -> str:
    """The name with `_` for the characters that MLflow refuses."""
    return re.sub(r"[^\w./ -]", "_", name)
