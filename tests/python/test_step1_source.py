"""Step 1 shared out among members: every trial to one of them, those of the dead to the living."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from emulator.records import RecordWriter, read_folder
from hpo.config import Config
from hpo.leases import Leases
from hpo.proposals import Proposals
from hpo.step1 import Step1Source, blocks, order
from hpo.trial import StudyContext


def context(folder, trials):
    config = Config.from_dict({"search": {"trials": trials}, "space": {"depth": 2, "widths": [8, 16]}})
    prepared = SimpleNamespace(num_train=10, num_validation=10, output_activation="sigmoid", heads={})
    return StudyContext(
        folder=Path(folder),
        config=config,
        prepared={1: prepared, 2: prepared},
        input_columns=(None,),
        output_columns=(None,),
        provenance={},
    )


class World:
    """Members of one study in this process, under one clock; `dead` are those known to be dead."""

    def __init__(self, folder, trials):
        self.context, self.now, self.dead, self.runs = context(folder, trials), 0.0, set(), []
        self.writers = {}

    def join(self, name):
        roster = SimpleNamespace(
            is_dead=lambda other: other in self.dead,
            read=lambda other: {"state": "dead" if other in self.dead else "step 1"},
            lease_seconds=30.0,
        )
        leases = Leases(self.context.folder / "leases", name, roster.is_dead)
        source = Step1Source(self.context, SimpleNamespace(leases=leases, roster=roster), clock=lambda: self.now)
        source.name = name
        return source

    def write(self, source, task):
        record = {"trial": task.trial, "finished": f"{self.now:012.3f}"}
        if source.name not in self.writers:
            path = self.context.folder / "step1" / f"worker-{source.name}-000.jsonl"
            self.writers[source.name] = RecordWriter(path, sync_seconds=1e9)
        self.writers[source.name].append(record)
        source.record(record)
        self.runs.append((task.trial, source.name))

    def finish(self, sources):
        """Run all to the end, one trial each in turn."""
        for _ in range(100_000):
            self.now += 0.3
            for source in sources:
                for task in source.take(1):
                    self.write(source, task)
            if all(source.done() for source in sources):
                return
        raise AssertionError("the step does not end")


@pytest.mark.parametrize("trials", [7, 300, 1500])
def test_members_share_the_trials_and_run_none_twice(tmp_path, trials):
    world = World(tmp_path, trials)
    world.finish([world.join(f"m{k}") for k in range(3)])
    assert sorted(t for t, _ in world.runs) == list(range(trials))
    shares = [sum(name == f"m{k}" for _, name in world.runs) for k in range(3)]
    assert max(shares) - min(shares) <= 1 + len(blocks(trials)) // 10, "and evenly, when all are as fast"


def test_one_member_alone_runs_them_in_the_order_of_the_study(tmp_path):
    world = World(tmp_path, 300)
    world.finish([world.join("m")])
    assert [t for t, _ in world.runs] == order(world.context, Proposals(tmp_path, world.context.space))


def test_whoever_dies_and_whenever_every_trial_is_run_and_only_lost_ones_twice(tmp_path):
    for seed in range(8):
        rng = random.Random(seed)
        world = World(tmp_path / str(seed), 600)
        sources = {f"m{k}": world.join(f"m{k}") for k in range(4)}
        lost, late = 0, 4
        while not all(s.done() for s in sources.values()):
            world.now += rng.uniform(0.0, 0.5)
            for name, source in list(sources.items()):
                for task in source.take(rng.randint(1, 3)):
                    if rng.random() < 0.01:  # dies under this trial
                        del sources[name]
                        lost += 1
                        break
                    world.write(source, task)
                if name not in sources:
                    world.dead.add(name)
                    sources[f"m{late}"] = world.join(f"m{late}")
                    late += 1
                    break
        assert lost > 0 and sorted(t for t, _ in world.runs) == list(range(600)), "what was recorded is not run again"


def test_a_member_that_wakes_up_leaves_what_others_have_taken(tmp_path):
    world = World(tmp_path, 2000)
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
    world = World(tmp_path, 500)
    first = world.join("first")
    for _ in range(200):
        for task in first.take(1):
            world.write(first, task)
    world.dead.add("first")
    world.finish([world.join("second"), world.join("third")])
    assert sorted(t for t, _ in world.runs) == list(range(500))


def test_waiting_for_others_looks_at_the_disk_once_a_second(tmp_path, monkeypatch):
    world = World(tmp_path, 1)
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
