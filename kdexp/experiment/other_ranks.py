"""Starts the other processes of a training with several ranks, sends them what to train, and ends them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kdexp.device import ranks
from kdexp.device.ranks import RankPlan

GRACE = 10.0
"""Seconds that a process has to end by itself."""


class OtherRanks:
    """Those that train together with this process. Nothing is started before the first training."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._folder: TemporaryDirectory | None = None

    def start(self, plan: RankPlan, device: torch.device) -> None:
        """Starts the other ranks and waits for them, unless they are there already."""
        if plan.ranks == 1 or ranks.joined():
            return
        meeting = plan.meeting
        if not meeting:
            self._folder = TemporaryDirectory(prefix="kdexp_ranks_")
            meeting = str(Path(self._folder.name) / "meeting")
            for rank in range(1, plan.ranks):
                given = {"meeting": meeting, "rank": rank, "ranks": plan.ranks, "device": device.type, "path": sys.path}
                command = [sys.executable, "-m", "kdexp.commands.rank", json.dumps(given)]
                self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        ranks.join(meeting, plan.rank, plan.ranks, place(device, plan.place))

    def send(self, message: Any) -> None:
        """Sends the other ranks what to train with this one; does nothing without any, or in one of them."""
        if ranks.joined() and ranks.leads():
            ranks.tell(message)

    def end(self) -> None:
        """Ends the other ranks."""
        if not ranks.joined():
            return
        with suppress(ranks.RankLost):
            self.send(None)
        ranks.leave()
        for process in self._processes:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []
        if self._folder is not None:
            self._folder.cleanup()


def place(device: torch.device, number: int) -> torch.device:
    """The device of a rank, by its number on its machine: the GPUs that it sees in turn, or the CPU."""
    return torch.device("cuda", number % max(1, torch.cuda.device_count())) if device.type == "cuda" else device
