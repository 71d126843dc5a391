"""Workers as actors of Ray, which places, queues and restarts them. Needs the extra `ray`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.processes import Process
from kdexp.queue import ray_cluster
from kdexp.queue.ray_actors import Worker, actors_of, end_actor, number_of, output_of, prefix_of, why_it_ended
from kdexp.queue.roster import WorkerState, live_workers, read_state
from kdexp.store.locks import holder
from kdexp.store.run_state import WORKERS
from kdexp.text.numbers import count

POLL = 1.0
"""Seconds between two questions to Ray."""
PATIENCE = 60.0
"""Seconds that workers of a Ray on this machine have to save their epoch."""
SLOW = 60.0
"""Seconds after which a user reads what the workers wait for."""
LAST_WORDS = 400
"""Characters of the output of a worker that failed to start."""


@dataclass(frozen=True)
class RayPlan:
    """How many workers there are, what each needs, and the address of the cluster; without one, Ray runs on this machine."""

    workers: int
    address: str | None
    cpus: int
    gpus: float
    retries: int
    env: Mapping[str, str]
    here: Mapping[str, float]
    """The CPUs and GPUs of a Ray on this machine."""

    @property
    def restarts(self) -> bool:
        """Whether Ray is to start a worker again that was asked to end, as before its node is shut down."""
        return self.address is not None

    @property
    def per_gpu(self) -> int:
        """How many workers share a GPU."""
        return max(1, int(1 / self.gpus + 1e-9)) if self.gpus else 1

    @property
    def needs(self) -> str:
        """What one worker needs, in words."""
        gpus = f"{self.gpus:g} GPU{'s' * (self.gpus > 1)} and " if self.gpus else ""
        return f"{gpus}{count(self.cpus, 'CPU')}"

    def on(self, node: Mapping[str, float]) -> int:
        """How many of the workers a node has room for."""
        by_gpus = [int(node.get("GPU", 0) / self.gpus + 1e-9)] if self.gpus else []
        return min([self.workers, int(node.get("CPU", 0) / self.cpus), *by_gpus])

    def __str__(self) -> str:
        where = f"at {self.address}" if self.address else "on this machine"
        return f"{count(self.workers, 'worker')} in Ray {where}, {self.needs} each"


class RayCrew:
    """Starts the workers that are missing when it starts; restarts of those that die are Ray's."""

    def __init__(self, folder: Path, plan: RayPlan, task: Callable[..., None]):
        self._folder, self._plan, self._task = folder.resolve(), plan, task
        self._actors: dict[str, Any] = {}
        """The workers that wait for room or run, by name."""
        self._dead: set[str] = set()
        """The registered processes whose death has been told."""
        self._asked = self._started = 0.0
        self._first, self._waits = True, bool(plan.address)

    @property
    def detaches(self) -> str:
        """What an interrupted user reads; empty for a Ray on this machine, which ends with this process."""
        if not self._plan.address:
            return ""
        ends = f"python -m kdexp.commands.ray_cancel {self._plan.address} {self._folder}"
        return f"the workers go on in Ray; the same command comes back to them, and {ends} ends them"

    def tick(self, left: int, live: Sequence[WorkerState]) -> list[str]:
        """Asks Ray for the workers now and then; starts those that are missing at first, and says which died."""
        if not self._first and time.monotonic() - self._asked < POLL:
            return []
        self._asked = time.monotonic()
        ray_cluster.connect(self._plan.address, **self._plan.here)
        names, states = actors_of(self._folder), self._registered()
        if self._first:
            self._first, self._started = False, self._asked
            self._dead = {state.name for state in states.values()}
            self._actors = ray_cluster.handles(names)
            return self._start(min(self._plan.workers, left) - len(names), [*names, *states])
        gone = {name: self._actors.pop(name) for name in sorted(set(self._actors) - names)}
        ended = [self._end_of(name, actor, states.get(name)) for name, actor in gone.items()]
        died = [self._death_of(states[name]) for name in sorted(names & set(states))]
        return [sentence for sentence in (*ended, *died, self._wait_for_room(live)) if sentence]

    def _start(self, number: int, taken: Sequence[str]) -> list[str]:
        """Starts so many workers, whose names are not `taken`; returns sentences."""
        if number <= 0:
            return []
        import ray

        plan, last = self._plan, max(map(number_of, taken), default=0)
        env = {"runtime_env": {"env_vars": dict(plan.env)}} if plan.env else {}
        limits = {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "max_restarts": plan.retries}
        actor = ray.remote(Worker)
        for new in range(last + 1, last + 1 + number):
            name = f"{prefix_of(self._folder)}{new}"
            options = {"name": name, "lifetime": "detached", **limits, **env}
            self._actors[name] = actor.options(**options).remote(self._task, str(self._folder), name, plan)
        workers = count(number, "worker")
        if any(map(plan.on, ray_cluster.nodes())):
            return [f"started {workers}"]
        return [f"started {workers}, but no node of this cluster has {plan.needs}: they wait until one joins"]

    def _end_of(self, name: str, actor: Any, state: WorkerState | None) -> str:
        """A sentence on a worker that Ray lists no more; empty if it ended because nothing was left for it."""
        if state is not None:
            return f"{died}, and Ray starts it no more" if (died := self._death_of(state)) else ""
        output, last = output_of(self._folder, name), ""
        with suppress(OSError):
            last = output.read_text("utf-8", "replace").strip()[-LAST_WORDS:]
        why = f"{output} ends with: {last}" if last else why_it_ended(actor)
        return f"worker {number_of(name)} ended before it took a job; {why}"

    def _death_of(self, state: WorkerState) -> str:
        """A sentence on a process that ended in the middle of a job, once."""
        if state.name in self._dead or not self._has_died(state):
            return ""
        self._dead.add(state.name)
        return f"worker {number_of(state.starter)} ({state.process}) died; others go on with its job"

    def _has_died(self, state: WorkerState) -> bool:
        file = self._folder / WORKERS / state.name
        if holder(file.with_name(f"{state.name}.lock")):
            return False
        last = read_state(file.with_name(f"{state.name}.json"))  # it may have ended its job since the state was read
        return last is not None and last.job is not None

    def _wait_for_room(self, live: Sequence[WorkerState]) -> str:
        """What no worker has got for a while, said once."""
        self._waits = self._waits and not live
        if not self._waits or time.monotonic() - self._started < SLOW:
            return ""
        self._waits = False
        return f"no worker has started yet; each needs {self._plan.needs}, and ray status shows what is free"

    @property
    def over(self) -> bool:
        """Whether no worker waits or runs."""
        return not self._first and not self._actors

    def stop(self) -> None:
        """Ends the workers of a Ray on this machine as Ctrl-C does; leaves those of a cluster."""
        if self._first:  # this process only watched
            return
        if not self._plan.address:
            for state in self._own(live_workers(self._folder)):
                with suppress(OSError, AttributeError):
                    os.kill(Process.read(state.process).number, signal.SIGTERM)  # type: ignore[union-attr]
            self._wait()
        ray_cluster.disconnect()

    def leave(self) -> None:
        """Ends workers that still wait for room: no job is left for them. Waits for those of a Ray on this machine."""
        if self._first:
            return
        busy = {state.starter for state in live_workers(self._folder)}
        for name in actors_of(self._folder) - busy:
            end_actor(name)
        if not self._plan.address:
            self._wait()
        ray_cluster.disconnect()

    def _wait(self) -> None:
        """Waits until the workers on this machine have ended; no longer after Ctrl-C."""
        end = time.monotonic() + PATIENCE
        with suppress(KeyboardInterrupt):
            while self._own(live_workers(self._folder)) and time.monotonic() < end:
                time.sleep(0.05)

    def _own(self, states: Sequence[WorkerState]) -> list[WorkerState]:
        return [state for state in states if state.starter.startswith(prefix_of(self._folder))]

    def _registered(self) -> dict[str, WorkerState]:
        """The last registration of each worker that has one."""
        files = sorted((self._folder / WORKERS).glob("*.json"), key=lambda path: path.stat().st_mtime)
        return {state.starter: state for state in self._own([state for state in map(read_state, files) if state])}
