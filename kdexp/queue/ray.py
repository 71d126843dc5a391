"""Workers as actors of Ray, which places, queues and restarts them. Needs the extra `ray`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdexp.processes import Process
from kdexp.queue import ray_cluster
from kdexp.queue.crew import last_words
from kdexp.queue.job_list import absolute
from kdexp.queue.ray_actors import RayPlan, Worker, actors_of, end_actor, number_of, output_of, prefix_of, why_it_ended
from kdexp.queue.roster import WorkerState, live_workers, read_state, registered
from kdexp.store.locks import holder
from kdexp.store.run_state import WORKERS
from kdexp.text.numbers import count

POLL = 1.0
"""Seconds between two questions to Ray."""
PATIENCE = 60.0
"""Seconds that workers of a Ray on this machine have to save their epoch."""
SLOW = 60.0
"""Seconds after which a user reads what the workers wait for."""


class RayCrew:
    """Starts the workers that are missing when it starts; restarts of those that die are Ray's."""

    def __init__(self, folder: Path, plan: RayPlan, task: Callable[..., None]):
        self._folder, self._plan, self._task = folder.resolve(), plan, task
        self._on_nodes = absolute(folder)
        self._actors: dict[str, Any] = {}
        """The workers that wait for room or run, by name."""
        self._dead: set[str] = set()
        """Names of the worker processes whose death was reported."""
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
            self._dead = {state.name for state in states if self._has_died(state)}
            self._actors = ray_cluster.handles(names)
            taken = [*names, *(state.starter for state in states)]
            found = [f"found {count(len(names), 'worker')} of this sweep in Ray"] if names else []
            return [*found, *self._start(min(self._plan.workers, left) - len(names), taken)]
        said = [self._death_of(state, names) for state in states]
        for name in sorted(set(self._actors) - names):
            actor = self._actors.pop(name)
            if all(state.starter != name for state in states):
                said.append(self._reason(name, actor))
        return [sentence for sentence in (*said, self._wait_for_room(live)) if sentence]

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
            self._actors[name] = actor.options(**options).remote(self._task, self._on_nodes, name, plan)
        workers = count(number, "worker")
        if any(map(plan.on, ray_cluster.nodes())):
            return [f"started {workers}"]
        return [f"started {workers}, but no node of this cluster has {plan.needs}: they wait until one joins"]

    def _reason(self, name: str, actor: Any) -> str:
        """Why a worker ended before it registered."""
        output = output_of(self._folder, name)
        last = last_words(output)
        why = f"{output} ends with: {last}" if last else why_it_ended(actor)
        return f"worker {number_of(name)} ended before it took a job; {why}"

    def _death_of(self, state: WorkerState, names: Collection[str]) -> str:
        """A sentence on a process that ended in the middle of a job, once; `names` are the workers that Ray lists."""
        if state.name in self._dead or not self._has_died(state):
            return ""
        self._dead.add(state.name)
        then = "" if state.starter in names else ", and Ray starts it no more"
        return f"worker {number_of(state.starter)} ({state.process}) died; others go on with its job{then}"

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

    def _registered(self) -> list[WorkerState]:
        """All processes that have registered as workers of this sweep in Ray."""
        return self._own(registered(self._folder))
