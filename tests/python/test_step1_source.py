"""Step 1 shared out among members: every trial to one of them, those of the dead to the living."""

import random

import pytest

from emulator.records import read_folder
from hpo.config import Config
from hpo.proposals import Proposals
from hpo.step1 import blocks, order
from tests.python.step1_cases import World


def config(trials):
    return Config.from_dict({"search": {"trials": trials}, "space": {"depth": 2, "widths": [8, 16]}})


@pytest.mark.parametrize("trials", [7, 300, 1500])
def test_members_share_the_trials_and_run_none_twice(tmp_path, trials):
    world = World(tmp_path, config(trials))
    world.finish([world.join(f"m{k}") for k in range(3)])
    assert sorted(t for t, _ in world.runs) == list(range(trials))
    shares = [sum(name == f"m{k}" for _, name in world.runs) for k in range(3)]
    assert max(shares) - min(shares) <= 1 + len(blocks(trials)) // 10, "and evenly, when all are as fast"


def test_one_member_alone_runs_them_in_the_order_of_the_study(tmp_path):
    world = World(tmp_path, config(300))
    world.finish([world.join("m")])
    assert [t for t, _ in world.runs] == order(world.context, Proposals(tmp_path, world.context.space))


def test_whoever_dies_and_whenever_every_trial_is_run_and_only_lost_ones_twice(tmp_path):
    for seed in range(8):
        rng = random.Random(seed)
        world = World(tmp_path / str(seed), config(600))
        lost = world.finish_with_deaths(rng, members=4, part=0.01)
        assert lost > 0 and sorted(t for t, _ in world.runs) == list(range(600)), "what was recorded is not run again"


def test_a_member_that_wakes_up_leaves_what_others_have_taken(tmp_path):
    world = World(tmp_path, config(2000))
    sleeper, other = world.join("sleeper"), world.join("other")
    (task,) = sleeper.take(1)
    world.now += 100.0
    world.dead.add("sleeper")
    world.finish([other])
    assert len(world.runs) == 2000
    world.now += 0.1
    assert sleeper.take(5) == []
    world.write(sleeper, task)  # what it was at work on all the time
    world.now += 2.0
    assert sleeper.done() and sleeper.take(5) == []
    records = read_folder(tmp_path / "step1")
    assert len(records) == 2000 and len(world.runs) == 2001


def test_trials_of_earlier_runs_are_not_run_again(tmp_path):
    world = World(tmp_path, config(500))
    first = world.join("first")
    for _ in range(200):
        for task in first.take(1):
            world.write(first, task)
    world.dead.add("first")
    world.finish([world.join("second"), world.join("third")])
    assert sorted(t for t, _ in world.runs) == list(range(500))


def test_waiting_for_others_looks_at_the_disk_once_a_second(tmp_path, monkeypatch):
    world = World(tmp_path, config(1))
    busy, waiting = world.join("busy"), world.join("waiting")
    (task,) = busy.take(1)
    looks = []
    poll = waiting._tail.poll
    monkeypatch.setattr(waiting._tail, "poll", lambda: looks.append(world.now) or poll())
    for _ in range(100):
        world.now += 0.05
        assert waiting.take(1) == [] and not waiting.done()
    assert 4 <= len(looks) <= 6
    world.write(busy, task)
    world.now += 1.1
    assert waiting.done()
