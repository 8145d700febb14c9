"""Which devices the workers of this process use, alone on a machine or as one of several tasks on a node."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import SearchError

# Processes that keep one GPU busy with small networks; more gain nothing measurable without MPS.
WORKERS_PER_GPU = 8


@dataclass(frozen=True)
class NodeShare:
    """This process is number `index` of `count` on its node; `cores` is what the launcher gave each, if it said so.

    `own_gpus`: the GPUs that this process sees are for it alone.
    """

    index: int = 0
    count: int = 1
    cores: int | None = None
    own_gpus: bool = False


def node_share(environment: Mapping[str, str] = os.environ) -> NodeShare:
    """What torchrun or srun say about the other processes on the node."""
    get = environment.get
    if "LOCAL_RANK" in environment and "LOCAL_WORLD_SIZE" in environment:
        return NodeShare(int(get("LOCAL_RANK")), int(get("LOCAL_WORLD_SIZE")))
    if "SLURM_STEP_ID" not in environment or "SLURM_LOCALID" not in environment:
        return NodeShare()  # in a batch script the job's cores and GPUs are for its one process
    node, per_node = int(get("SLURM_NODEID", "0")), _tasks_per_node(get("SLURM_STEP_TASKS_PER_NODE", "1"))
    count = per_node[node] if node < len(per_node) else 1
    cores = get("SLURM_CPUS_PER_TASK")
    if cores is None and count > 1 and "SLURM_CPUS_ON_NODE" in environment:
        cores = max(1, int(get("SLURM_CPUS_ON_NODE")) // count)
    own = any("gpu" in get(name, "") or name == "SLURM_GPUS_PER_TASK" for name in _PER_TASK if name in environment)
    return NodeShare(int(get("SLURM_LOCALID")), count, None if cores is None else int(cores), own)


_PER_TASK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK")


def _tasks_per_node(text: str) -> list[int]:
    """`2(x3),1` as [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        number, _, repeat = part.partition("(x")
        counts += [int(number)] * (int(repeat.rstrip(")")) if repeat else 1)
    return counts


def usable_cores(share: NodeShare | None = None) -> int:
    """Cores that this process may use: its affinity, the CPU quota of its control group, its part of the node."""
    share = share or node_share()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    if share.cores is not None:
        cores = min(cores, share.cores)
    elif share.count > 1:
        cores //= share.count
    return max(1, cores)


def worker_devices(device: str, workers: int | None, share: NodeShare | None = None) -> list[str]:
    """Device of every worker.

    Parameters
    ----------
    device : str
        `cpu`, `cuda` (all GPUs), `cuda:k`, or `auto` (cuda if there is a GPU).
    workers : int or None
        None: one for every usable core, at most 8 per GPU.
    share : NodeShare or None
        None: as torchrun or srun say.

    Raises
    ------
    SearchError
        Unknown or missing device.
    """
    import torch

    share = share or node_share()
    if workers is not None and workers < 1:
        raise SearchError(f"--workers is {workers}; expected at least 1")
    name, _, index = device.partition(":")
    if name not in ("cpu", "cuda", "auto") or (index and not (name == "cuda" and index.isdigit())):
        raise SearchError(f"--device is {device!r}; expected cpu, cuda, cuda:0 (1, ...) or auto")
    gpus = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cuda" and gpus <= int(index or 0):
        raise SearchError(f"--device {device}: PyTorch sees {gpus} GPUs; expected at least {int(index or 0) + 1}")
    if not gpus:
        return ["cpu"] * (workers or usable_cores(share))
    chosen, processes = _our_gpus(gpus, share)
    if index:
        chosen, processes = [int(index)], share.count
    most = max(1, WORKERS_PER_GPU * len(chosen) // processes)
    workers = workers or min(usable_cores(share), most)
    return [f"cuda:{chosen[k % len(chosen)]}" for k in range(workers)]


def _our_gpus(gpus: int, share: NodeShare) -> tuple[list[int], int]:
    """GPUs of this process, and how many processes use each of them."""
    if share.own_gpus or share.count == 1:
        return list(range(gpus)), 1
    if share.count <= gpus:
        return list(range(share.index * gpus // share.count, (share.index + 1) * gpus // share.count)), 1
    return [share.index * gpus // share.count], math.ceil(share.count / gpus)
