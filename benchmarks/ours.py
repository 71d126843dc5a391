"""kdexp as its command line runs it, beside the loops that it is compared with."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from rich.console import Console
from work import ALPHAS, TEMPERATURES, Point, Work

from kdexp import cli
from kdexp.config import compose_command
from kdexp.experiment import Experiment
from kdexp.journal import Journal
from kdexp.teacher import Teacher

CONF = Path(__file__).with_name("conf")


class Ours:
    """Does a piece of work: one training as a run obtains it, whole jobs and sweeps by the command itself."""

    def __init__(self, work: Work, words: Sequence[str] = ()):
        self.work, self.words = work, words
        self.losses: list[float] = []
        self.teacher_images = self.bytes_kept = 0

    def run(self) -> None:
        """Everything of the phase, from untrained nets to test accuracies, in a store of its own."""
        with self._asking_counted(), TemporaryDirectory(dir=self.work.folder) as outputs:
            given = [*self.work.overrides, *self.words, f"output_dir={outputs}"]
            if self.work.phase in ("main", "sweep"):
                self._command(given)
            else:
                self._training(given)
            self.losses = epoch_losses(Path(outputs))

    def _training(self, words: list[str]) -> None:
        (point,) = self.work.points or [Point("kd")]
        config = compose_command([*words, *point.words], config_dir=str(CONF))
        experiment = Experiment(config, Journal(Console(file=io.StringIO())))
        experiment.make_ready()
        roles = {"teacher": ["teacher"], "baseline": ["baseline"], "kd": ["teacher", "distilled"]}
        for role in roles[self.work.phase]:
            experiment.obtain([role])

    def _command(self, words: list[str]) -> None:
        axes = [f"distillation.temperature={joined(TEMPERATURES)}", f"distillation.alpha={joined(ALPHAS)}", "-m"]
        command = [
            "kdexp",
            "--config-dir",
            str(CONF),
            *words,
            *(axes if self.work.phase == "sweep" else self.work.points[-1].words),
        ]
        printed = io.StringIO()
        with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main()

    @contextlib.contextmanager
    def _asking_counted(self) -> Iterator[None]:
        ask = Teacher.ask

        def counted(teacher: Teacher, image):
            self.teacher_images += len(image)
            return ask(teacher, image)

        with mock.patch.object(Teacher, "ask", counted):
            yield


def joined(values: Sequence[float]) -> str:
    """As a sweep's axis."""
    return ",".join(map(str, values))


def epoch_losses(outputs: Path) -> list[float]:
    """The mean loss of every epoch of the network that the phase trained last."""
    results = sorted(outputs.glob("store/learner/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    histories = [json.loads(path.read_text())["history"] for path in results]
    return [row["loss"] for row in histories[-1]]
