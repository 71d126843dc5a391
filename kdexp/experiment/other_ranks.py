"""Starts the other processes of a training with several ranks, sends them what to train, and ends them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import torch

from kdexp.device import ranks
from kdexp.device.meeting import NotMet, open_meeting, wait_for_all
from kdexp.device.rank_plan import RankPlan

GRACE = 10.0
"""Seconds that a process has to end by itself."""
HERE = "127.0.0.1"


class OtherRanks:
    """Those that train together with this process. Nothing is started before the first training."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []

    def start(self, plan: RankPlan, device: torch.device) -> None:
        """Starts the other ranks and waits for them, unless they are there already.

        Ends those of another number, and those that wait for this one in the middle of an earlier training.
        """
        if (
            plan.meeting and ranks.leads() and ranks.stopped_midway()
        ):  # torchrun or srun started them, and can't start them again
            raise ranks.RankLost("the other processes still are in the middle of a training that failed here")
        if plan.meeting or not ranks.leads():
            return
        if self._processes and (len(self._processes) != plan.ranks - 1 or ranks.stopped_midway()):
            self.end()
        if plan.ranks == 1 or self._processes:
            return
        try:
            self._join(plan, device)
        except NotMet as error:
            self._stop(0)
            raise ranks.RankLost(str(error)) from error
        except BaseException:
            self._stop(0)
            raise

    def _join(self, plan: RankPlan, device: torch.device) -> None:
        store = open_meeting(HERE)
        for rank in range(1, plan.ranks):
            given = {"port": store.port, "rank": rank, "ranks": plan.ranks, "device": device.type, "path": sys.path}
            command = [sys.executable, "-m", "kdexp.commands.rank", json.dumps(given)]
            self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        wait_for_all(store, 0, plan.ranks, self._check)
        ranks.join(store, 0, plan.ranks, place(device, 0))

    def _check(self) -> None:
        """Raises `RankLost` if one has ended."""
        if any(process.poll() is not None for process in self._processes):
            raise ranks.RankLost(ranks.ENDED)

    def send(self, plan: RankPlan, message: Any) -> None:
        """Sends the other ranks what to train with this one; does nothing without any, or in one of them."""
        if plan.ranks > 1 and ranks.leads():
            ranks.tell(message)

    def end(self) -> None:
        """Ends the other ranks that this process has started."""
        if self._processes:
            grace = 0 if ranks.stopped_midway() else GRACE  # one that waits in the middle of a training has nothing to save
            dismiss()
            self._stop(grace)

    def _stop(self, grace: float) -> None:
        """Waits until they have ended; kills those that take longer."""
        for process in self._processes:
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []


def dismiss() -> None:
    """Leaves the other ranks, after telling them that there is no more to train if they are not in the middle of a training."""
    if ranks.joined():
        if not ranks.stopped_midway():
            with suppress(ranks.RankLost):
                ranks.tell(None)
        ranks.leave()


def place(device: torch.device, number: int) -> torch.device:
    """The device of a rank, by its number on its machine: the GPUs that it sees in turn, or the CPU."""
    return torch.device("cuda", number % max(1, torch.cuda.device_count())) if device.type == "cuda" else device
