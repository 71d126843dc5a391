"""A tracker that remembers what it is told, and fails where it is told to."""

from kdexp.trackers import sweeps, tracking
from kdexp.trackers.tracker import Opened


class FakeServer:
    """What all fake trackers of a test were told: runs by id."""

    def __init__(self, monkeypatch):
        self.runs: dict[str, dict] = {}
        self.failing: set[str] = set()
        """Methods that raise an error, as `NAME.METHOD`."""
        self.forgets = False
        """Whether earlier runs can't be continued."""
        self.interrupt_after: int | None = None
        """Epochs after which a run is interrupted, as by Ctrl-C."""
        self.opened: list[str] = []
        for module in (tracking, sweeps):
            monkeypatch.setattr(module, "load", lambda name: FakeTracker(self, name))

    def only(self) -> dict:
        (run,) = self.runs.values()
        return run


class FakeTracker:
    def __init__(self, server: FakeServer, name: str):
        self.server, self.name = server, name
        self.kept: list[tuple] = []

    def _may_fail(self, method: str) -> None:
        if f"{self.name}.{method}" in self.server.failing:
            raise ConnectionError(f"no answer to {method}\nand a second line")

    def open(self, config, name, folder, *, group, earlier):
        self.server.opened.append(self.name)
        self.folder = folder
        self._may_fail("open")
        continued = earlier in self.server.runs and not self.server.forgets
        self.id = earlier if continued else f"{self.name}-{len(self.server.runs)}"
        self.run = self.server.runs.setdefault(
            self.id, {"name": name, "group": group, "config": config, "epochs": [], "times_opened": 0}
        )
        self.run["times_opened"] += 1
        return Opened(self.id, "look here", continued)

    def epoch(self, learner, row):
        self._may_fail("epoch")
        if self.server.interrupt_after is not None:
            self.server.interrupt_after -= 1
            if self.server.interrupt_after == 0:
                raise KeyboardInterrupt
        self.kept.append((learner, row["epoch"], dict(row)))

    def flush(self):
        self._may_fail("flush")
        self.run["epochs"] += self.kept
        self.kept = []

    def end(self, report):
        self._may_fail("end")
        self.flush()
        files = [path.relative_to(self.folder).as_posix() for path in report.files]
        self.run |= {**vars(report), "files": files, "reports": self.run.get("reports", 0) + 1}


def sent(run: dict) -> list[tuple[str, int]]:
    """Learner and number of each epoch that a run was sent, in order."""
    return [(learner, epoch) for learner, epoch, _ in run["epochs"]]
