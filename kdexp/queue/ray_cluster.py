"""The connection to Ray: to a cluster at an address, or to a Ray of this machine that ends with this process."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdexp.errors import InvalidArguments, Problem, first_line

NAMESPACE = "kdexp"
"""Names of actors are unique in it; other commands find the workers there."""
STORED = 80 * 2**20
"""Bytes of shared memory of a Ray on this machine: workers exchange nothing through it."""
REACH = 10.0
"""Seconds in which the head of a cluster must answer."""
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
WAYS = "use auto on a machine of the cluster, HOST:PORT of its head, or ray://HOST:10001 from elsewhere"


def missing_for_ray() -> str:
    """What this Python lacks to use Ray, or an empty string."""
    return "" if find_spec("ray") else 'needs Ray: pip install "kdexp[ray]"'


def connect(address: str | None, **resources: float) -> None:
    """Connects this process to Ray, or starts one here with these resources; does nothing if it is connected.

    Raises `InvalidArguments`.
    """
    _trust(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported; a running cluster has its own
    if address is None:  # workers elsewhere are as nice as the cluster's owner says
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        return
    here = {"include_dashboard": False, "object_store_memory": STORED, **resources}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "namespace": NAMESPACE}
    with _signals_kept():
        try:
            if address:
                _reach(address)
            ray.init(address=address or "local", **quiet, **({} if address else here))
        except Exception as error:  # Ray raises errors of many kinds
            raise InvalidArguments([Problem("hydra.launcher.address", _refusal(address, error))]) from error
    _silence()


def _reach(address: str) -> None:
    """Raises `OSError` if nothing listens at an address, for which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()


def disconnect() -> None:
    """Leaves Ray; one that this process started ends, and with it everything that runs there."""
    import ray

    ray.shutdown()


def nodes() -> list[Mapping[str, float]]:
    """What each node has that is alive: CPUs, GPUs and others, by Ray's names."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def handles(names: Iterable[str]) -> dict[str, Any]:
    """The actors with these names; those that have ended are left out."""
    import ray

    found = {}
    for name in names:
        with suppress(ValueError):
            found[name] = ray.get_actor(name)
    return found


def _trust(address: str | None) -> None:
    """Sets what Ray reads of its token: the user's if there is one, else a Ray on this machine gets one of its own.

    Ray would write a new token into the home folder, and from then on start clusters that others can't join without it.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if any(name in os.environ for name in TOKENS) or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"  # a cluster without tokens takes no notice
    elif address is None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _refusal(address: str | None, error: BaseException) -> str:
    """Why there is no connection, in the words of the first cause."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(type(cause).__name__ == "AuthenticationError" or "InvalidAuthToken" in str(cause) for cause in causes):
        where = "the machine of its head has it in ~/.ray/auth_token"
        return f"={address}: this cluster wants its token; {where}, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    if address is None:
        return f"=null: no Ray starts on this machine: {first_line(error)}"
    return f"={address}: {first_line(error).rstrip('.')}; {WAYS}"


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keeps this process's handlers of signals, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _silence() -> None:
    """Keeps messages of Ray's nodes off the screen, which `log_to_driver` does not: the watch says which workers died."""
    with suppress(ImportError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None
