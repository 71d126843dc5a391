"""kdexp as run by its command line, for the comparison with other loops."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from unittest import mock

from rich.console import Console
from work import COMPOSER, CONF, Point, Work

from kdexp.commands import main as cli
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.obtain import obtain
from kdexp.teacher.frozen import Teacher


class Ours:
    """Runs a piece of work: a single training inside a prepared run, complete jobs and sweeps by the command itself."""

    def __init__(self, work: Work, words: Sequence[str] = ()):
        self.work = work
        self.losses: list[float] = []
        self.teacher_images = self.bytes_kept = 0
        self.outputs = Path(mkdtemp(dir=work.folder))
        if work.phase in ("main", "sweep"):
            self.command = ["kdexp", *command_of(work, self.outputs, words)]
        else:
            (point,) = work.points or [Point("kd")]
            given = [*work.overrides, *words, f"output_dir={self.outputs}", *point.words]
            config = COMPOSER.compose(given)
            self.experiment = Experiment(config, Journal(Console(file=io.StringIO())))
            self.experiment.make_ready()
            if work.phase == "kd":
                obtain(self.experiment, ["teacher"])  # given, so nothing is trained

    def run(self) -> None:
        """Runs the phase from untrained nets to test accuracies, in a new store."""
        with self._asking_counted():
            if self.work.phase in ("main", "sweep"):
                printed, by_command = io.StringIO(), mock.patch.object(sys, "argv", self.command)
                with by_command, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                    cli.main()
            else:
                obtain(self.experiment, ["distilled" if self.work.phase == "kd" else self.work.phase])
        self.losses = epoch_losses(self.outputs)

    @contextlib.contextmanager
    def _asking_counted(self) -> Iterator[None]:
        ask = Teacher.ask

        def counted(teacher: Teacher, image):
            self.teacher_images += len(image)
            self.bytes_kept = max(self.bytes_kept, teacher.cached_bytes)
            return ask(teacher, image)

        with mock.patch.object(Teacher, "ask", counted):
            yield


def command_of(work: Work, outputs: Path, words: Sequence[str] = ()) -> list[str]:
    """The words of the command that runs a whole job, or a sweep."""
    axes = [f"distillation.temperature={joined(work.temperatures)}", f"distillation.alpha={joined(work.alphas)}", "-m"]
    chosen = axes if work.phase == "sweep" else work.points[-1].words
    return ["--config-dir", str(CONF), *work.overrides, *words, f"output_dir={outputs}", *chosen]


def joined(values: Sequence[float]) -> str:
    """The values as an axis of a sweep."""
    return ",".join(map(str, values))


def epoch_losses(outputs: Path) -> list[float]:
    """Mean loss per epoch of the network that the phase trained last."""
    results = sorted(outputs.glob("store/learner/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    histories = [json.loads(path.read_text())["history"] for path in results]
    return [row["loss"] for row in histories[-1]]
