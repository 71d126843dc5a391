"""A real SLURM cluster on this machine: a controller and some nodes as processes of their own, with their own keys and ports.

Needs root, and Debian's packages slurmctld, slurmd, slurm-client and munge.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeps_to_do import wait_for

from kdexp.queue.roster import live_workers

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")


def missing() -> str:
    """Why there can be no cluster here, or an empty string."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a SLURM cluster needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"no {', '.join(lacking)} here" if lacking else ""


CONF = """\
ClusterName=kdexp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
ReturnToService=2
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=usual Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=2000 State=UNKNOWN"


@contextmanager
def cluster(folder: Path, nodes: int = 2) -> Iterator[dict[str, str]]:
    """Runs a cluster of nodes with one core each; yields the environment variables that its users need."""
    host, ports = socket.gethostname().partition(".")[0], _free_ports(nodes + 1)
    lines = [NODE.format(number=number, host=host, port=ports[number]) for number in range(1, nodes + 1)]
    for name in ("state", *(f"spool-n{number}" for number in range(1, nodes + 1))):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ctld=ports[0], nodes="\n".join(lines)))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # loads without a mounted hierarchy
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        _start_munge(folder)
        run = {"env": os.environ | environment, "check": True, "capture_output": True}
        subprocess.run(["slurmctld", "-c"], **run)
        for number in range(1, nodes + 1):
            subprocess.run(["slurmd", "-N", f"n{number}"], **run)
        _wait_until_idle(nodes, environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=os.environ | environment, check=False, timeout=20)
        time.sleep(1)
        _stop(folder)


def _free_ports(number: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _start_munge(folder: Path) -> None:
    """Starts the service by which the programs of the cluster trust each other."""
    key = folder / "munge.key"
    key.touch(0o400)
    key.write_bytes(secrets.token_bytes(128))
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    words = [f"--{option}={folder}/{name}" for option, name in {**files, "seed-file": "munge.seed"}.items()]
    munged = shutil.which("munged", path=f"{os.environ['PATH']}:/usr/sbin")
    subprocess.run([munged, "--force", *words], check=True, capture_output=True)


def _wait_until_idle(nodes: int, environment: dict[str, str]) -> None:
    for _ in range(200):
        shown = subprocess.run(
            ["sinfo", "-h", "-p", "usual", "-t", "idle", "-o", "%D"], env=os.environ | environment, capture_output=True
        )
        if shown.stdout.strip() == str(nodes).encode():
            return
        time.sleep(0.1)
    raise TimeoutError("the nodes of the SLURM cluster did not become idle")


def _stop(folder: Path) -> None:
    """Ends the cluster's own processes."""
    for file in sorted(folder.glob("*.pid"), reverse=True):
        with suppress(OSError, ValueError):
            os.kill(int(file.read_text()), signal.SIGTERM)
    for _ in range(100):
        if not list(folder.glob("*.pid")):
            return
        time.sleep(0.1)


class ClusterUser:
    """Runs programs in a folder, as a user of the cluster."""

    def __init__(self, folder, environment):
        self.folder, self.env = folder, os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}

    def shell(self, *words):
        return subprocess.run(words, cwd=self.folder, env=self.env, capture_output=True, text=True, check=True).stdout

    def start(self, *words):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        return subprocess.Popen(
            [sys.executable, "-m", "kdexp", *words], cwd=self.folder, env=self.env, preexec_fn=heeds, **pipes
        )

    def run(self, *words, timeout=300):
        process = self.start(*words)
        return process.communicate(timeout=timeout)[0], process.returncode

    def restart(self):
        """Waits until a requeued task works again, without the two minutes that SLURM makes it wait.

        In the second in which it was requeued, its node would refuse it: "Job credential revoked".
        """
        time.sleep(2)
        wait_for(lambda: self._release() or live_workers(self.sweep), 180)

    def _release(self):
        for task in self.shell("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i").split():
            subprocess.run(["scontrol", "update", f"JobId={task}", "StartTime=now"], env=self.env, check=False)

    @property
    def sweep(self):
        (found,) = self.folder.glob("outputs/sweeps/*/jobs.json")
        return found.parent

    def trainer(self):
        """The state of a worker in the middle of a training."""
        wait_for(lambda: any(state.epoch for state in live_workers(self.sweep)), 120)
        return next(state for state in live_workers(self.sweep) if state.epoch)
