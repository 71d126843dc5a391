"""A Ray cluster of two nodes on this machine, with ports, folder and token of its own."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OPTIONS = ("--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--block")


@contextmanager
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """Runs a cluster of two nodes with one core each; yields its address, and the environment variables that users need."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets lie in it: its path must be short
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    users = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    owners = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = os.environ | users | owners | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    nodes = []
    try:
        head = (
            "--head",
            "--port=0",
            f"--ray-client-server-port={free_port()}",
            "--include-dashboard=false",
            f"--temp-dir={folder}",
        )
        nodes.append(_start(folder / "head.txt", environment, *head))
        address = re.search(r"--address='([^']+)'", _wait(folder / "head.txt", nodes[0]))[1]
        nodes.append(_start(folder / "second.txt", environment, f"--address={address}"))
        _wait(folder / "second.txt", nodes[1])
        yield address, users
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            _end(node)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nothing listens on; another cluster on this machine may have Ray's usual one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _start(output: Path, environment: dict[str, str], *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, *OPTIONS]
    with output.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def _wait(output: Path, node: subprocess.Popen) -> str:
    """What a node has printed once it runs."""
    end = time.monotonic() + 120
    while "will now block forever" not in (printed := output.read_text("utf-8", "replace")):
        if node.poll() is not None or time.monotonic() > end:
            raise TimeoutError(f"a node of Ray did not start: {printed[-400:]}")
        time.sleep(0.1)
    return printed


def _end(node: subprocess.Popen) -> None:
    """Ends a node's processes, those too that it did not end itself."""
    try:
        node.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
