"""A private SLURM on this machine: real daemons, several nodes, own key and ports, gone afterwards.

Debian's SLURM is built so that several slurmd may run on one host. Each node has a host name, a process space and a
boot id of its own (Linux namespaces), so that a program sees several machines with one shared file system; killing a
node takes its slurmd and everything it ran, at once, as a power cut does. Nothing outside the given folder is
touched: no system service, no /etc/slurm, no accounting. Needs root (slurmd changes users) and the packages that
`.ci/system-packages test` installs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "scancel", "squeue", "sinfo", "scontrol", "unshare")
_SBIN = "/usr/sbin"  # not on every user's PATH
_NAMESPACES = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
_NAMESPACES += ["--propagation=private"]
# The node's first process: it names the node, makes all nodes' names resolve, and waits for whatever is left behind.
_NODE = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/boot-id-$1" /proc/sys/kernel/random/boot_id
slurmd -D -c -N "$1" &
wait
"""


def missing() -> list[str]:
    """What a sandbox needs and this machine lacks."""
    lacking = [p for p in PROGRAMS if not shutil.which(p, path=f"{os.environ['PATH']}:{_SBIN}")]
    if os.geteuid() != 0:
        lacking.append("root")
    elif "unshare" not in lacking and subprocess.run([*_NAMESPACES, "true"], capture_output=True).returncode != 0:
        lacking.append("permission to make Linux namespaces (unshare)")
    return lacking


class SlurmSandbox:
    """`with SlurmSandbox(folder) as slurm: slurm.run("sbatch", ...)`."""

    def __init__(self, folder: Path, num_nodes: int = 2, cpus_per_node: int = 2):
        self.folder = Path(folder)
        self.num_nodes = num_nodes
        self.cpus_per_node = cpus_per_node
        self.environment = os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{_SBIN}",
        }
        self._daemons: list[subprocess.Popen] = []
        self._nodes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> SlurmSandbox:
        try:
            self._start_munge()
            self._write_configuration()
            self._daemons.append(self._start("slurmctld", "slurmctld", "-D", "-c"))
            for node in self.nodes:
                (self.folder / "spool" / node).mkdir(parents=True)
                self.start_node(node)
            self.wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        subprocess.run(["scancel", "-u", "root"], env=self.environment, capture_output=True, check=False, timeout=30)
        for node in list(self._nodes):
            self.kill_node(node)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    @property
    def nodes(self) -> list[str]:
        return [f"node{k + 1}" for k in range(self.num_nodes)]

    def run(self, *command: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess:
        """Run one of SLURM's commands; its output is captured."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=check
        )

    def state(self, job: str) -> str:
        """State of a job, as `squeue` names it (RUNNING, COMPLETED, CANCELLED, ...)."""
        return self.run("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T").stdout.strip()

    def wait_for(self, job: str, *states: str, timeout: float = 120) -> str:
        """Wait until a job is in one of the states; raises TimeoutError with the daemons' logs."""
        return self.poll(lambda: self.state(job), lambda s: s in states, f"job {job} in {states}", timeout)

    def poll(self, look: Callable, good: Callable, what: str, timeout: float = 120):
        """What `look()` returns once `good` of it; raises TimeoutError with the daemons' logs."""
        deadline = time.monotonic() + timeout
        while not good(found := look()):
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {p.name}\n{p.read_text(errors='replace')[-2000:]}" for p in self.folder.glob("*.log")
                )
                raise TimeoutError(f"waited {timeout:g} s for {what}; found {found!r}\n{logs}")
            time.sleep(0.1)
        return found

    # -- nodes -----------------------------------------------------------------------------------------------

    def start_node(self, node: str) -> None:
        """Switch a node on: as after a reboot, with another boot id."""
        (self.folder / f"boot-id-{node}").write_text(f"{uuid.uuid4()}\n")
        self._nodes[node] = self._start(node, *_NAMESPACES, "bash", "-c", _NODE, "node", node, str(self.folder))

    def kill_node(self, node: str) -> None:
        """Switch a node off: slurmd, its steps and their processes end without a word."""
        daemon = self._nodes.pop(node)
        daemon.kill()
        daemon.wait()

    def wait_until_idle(self) -> None:
        def states():
            return self.run("sinfo", "-h", "--Node", "--partition=main", "--format=%T", check=False).stdout.split()

        self.poll(states, lambda s: s == ["idle"] * self.num_nodes, "all nodes idle", 300)

    # -- start-up --------------------------------------------------------------------------------------------

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        munge.mkdir(parents=True, mode=0o711)
        key = munge / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": key, "socket": munge / "s", "pid-file": munge / "pid", "seed-file": munge / "seed"}
        options = [f"--{name}={path}" for name, path in files.items()]
        # --force: a folder under a group-writable /tmp is good enough for a key that lives a minute
        command = ["munged", "--foreground", "--force", f"--log-file={munge / 'log'}", *options]
        self._daemons.append(self._start("munged", *command))
        self.poll(lambda: (munge / "s").exists(), bool, "munge's socket")

    def _write_configuration(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        names = "".join(f"127.0.0.1 {node}\n" for node in self.nodes)
        (self.folder / "hosts").write_text(Path("/etc/hosts").read_text() + names)
        ports = _free_ports(1 + self.num_nodes)
        lines = {
            "ClusterName": "sandbox",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.folder}/munge/s,cred_expire=5",
            "CredType": "cred/munge",
            "SlurmctldPort": str(ports[0]),
            "SlurmctldPidFile": f"{self.folder}/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.pid",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool/%n",
            "SlurmdParameters": "config_overrides",  # nodes may claim more cores than the host has
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "ReturnToService": "2",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1,requeue_delay=0",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "KillWait": "30",
            "MinJobAge": "300",
            "SlurmdTimeout": "5",  # a dead node is noticed after two to three times this
            "JobRequeue": "1",
            "PropagateResourceLimits": "NONE",
            "Waittime": "0",
        }
        text = [f"{key}={value}" for key, value in lines.items()]
        text += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus_per_node} "
            f"CoresPerSocket={self.cpus_per_node} Sockets=1 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"
            for node, port in zip(self.nodes, ports[1:], strict=True)
        ]
        everywhere = f"Nodes=node[1-{self.num_nodes}] MaxTime=INFINITE State=UP"
        text.append(f"PartitionName=main Default=YES PriorityTier=1 GraceTime=20 {everywhere}")
        text.append(f"PartitionName=urgent PriorityTier=2 {everywhere}")  # takes nodes away from jobs in main
        (self.folder / "slurm.conf").write_text("\n".join(text) + "\n")

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
