"""Cores and GPUs of a process that shares its node with others."""

import pytest

from hpo import placement
from hpo.placement import NodeShare, node_share, usable_cores, worker_devices


def slurm(**values):
    return {"SLURM_STEP_ID": "0", "SLURM_NODEID": "1", "SLURM_LOCALID": "2"} | values


@pytest.fixture
def machine(monkeypatch):
    """A node of 32 cores and 4 GPUs."""
    import torch

    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda pid: set(range(32)))
    monkeypatch.setattr(placement.Path, "read_text", lambda self: "max 100000")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_a_process_alone_has_everything(machine):
    assert node_share({}) == NodeShare()
    # a batch script without srun has SLURM_PROCID and SLURM_LOCALID too, but no step
    assert node_share({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == NodeShare()
    assert worker_devices("cpu", None, NodeShare()) == ["cpu"] * 32
    devices = worker_devices("auto", None, NodeShare())
    assert len(devices) == 32 and devices[:5] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    assert worker_devices("cuda:2", 3, NodeShare()) == ["cuda:2"] * 3


def test_tasks_of_srun_on_a_node_divide_it():
    share = node_share(slurm(SLURM_STEP_TASKS_PER_NODE="2,4(x2),1", SLURM_CPUS_ON_NODE="32"))
    assert share == NodeShare(2, 4, 8)
    assert node_share(slurm(SLURM_STEP_TASKS_PER_NODE="4(x2)", SLURM_CPUS_PER_TASK="6")).cores == 6
    assert node_share(slurm(SLURM_STEP_TASKS_PER_NODE="1(x2)", SLURM_LOCALID="0")) == NodeShare(0, 1)
    assert node_share(slurm(SLURM_TRES_PER_TASK="cpu=2,gres/gpu=1")).own_gpus
    assert node_share(slurm(SLURM_GPUS_PER_TASK="1")).own_gpus
    assert not node_share(slurm(SLURM_TRES_PER_TASK="cpu=2")).own_gpus


def test_every_gpu_of_a_node_goes_to_one_task_and_every_core(machine):
    def devices(count, **options):
        return [worker_devices("auto", None, NodeShare(k, count, **options)) for k in range(count)]

    assert [set(d) for d in devices(4)] == [{f"cuda:{k}"} for k in range(4)]
    assert [len(d) for d in devices(4)] == [8] * 4
    assert [set(d) for d in devices(2)] == [{"cuda:0", "cuda:1"}, {"cuda:2", "cuda:3"}]
    assert [len(d) for d in devices(8)] == [4] * 8 and {d[0] for d in devices(8)} == {f"cuda:{k}" for k in range(4)}
    assert devices(2, own_gpus=True)[1][:4] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


def test_ranks_of_torchrun_divide_the_cores(machine):
    share = node_share({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "3"})
    assert share == NodeShare(1, 2) and usable_cores(share) == 16
    assert set(worker_devices("auto", None, share)) == {"cuda:2", "cuda:3"}
    assert usable_cores(NodeShare(0, 2, 6)) == 6 and usable_cores(NodeShare(0, 100)) == 1
