"""Trials that end whole members: tried a few times, alone, and then recorded as failed."""

import os
from pathlib import Path

import pytest

from hpo.attempts import Attempts, begin_run
from hpo.checkpoint import checkpoint_path
from hpo.leases import Leases
from hpo.trial import Task
from tests.python.step1_cases import World
from tests.python.test_step1_source import config


class Study:
    """Members that die or leave; `state` by name."""

    def __init__(self, folder: Path):
        self.folder, self.state = folder, {}

    def read(self, name):
        return {"state": self.state[name]} if name in self.state else None

    def is_dead(self, name):
        return self.state.get(name) in ("dead", "left")

    def join(self, name) -> Attempts:
        self.state[name] = "step 1"
        return Attempts(self.folder, name, Leases(self.folder / "leases", name, self.is_dead), self)


def task(trial):
    return Task(step=1, trial=trial, flop=1.0, extra={})


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def die_with(study, name, *trials):
    member = study.join(name)
    for t in trials:
        assert member.admit(task(t)) == task(t)
    study.state[name] = "dead"


def test_a_trial_with_which_three_members_died_is_hopeless(study):
    for name in "abc":
        die_with(study, name, 7)
    found = study.join("d").admit(task(7))
    assert found.hopeless == "3 members of the search died while they ran it"
    assert study.join("d").admit(task(8)).hopeless is None


def test_one_that_cost_a_life_runs_when_no_other_such_does(study):
    die_with(study, "a", 7, 8)
    member = study.join("b")
    assert member.admit(task(7)) == task(7) and member.admit(task(8)) is None
    assert member.admit(task(9)) == task(9), "nobody died of that one"
    member.ended(1, 7)
    assert member.admit(task(8)) == task(8)


def test_leaving_in_good_order_and_being_alive_are_no_deaths(study):
    for name in "abcde":
        member = study.join(name)
        assert member.admit(task(7)).hopeless is None
        study.state[name] = "left"
    assert study.join("f").admit(task(7)).hopeless is None
    assert study.join("g").admit(task(7)).hopeless is None, "f is alive, and thought dead for a while perhaps"


def test_a_trial_that_comes_further_every_time_is_not_hopeless(study):
    path = checkpoint_path(study.folder, 1, 7)
    path.parent.mkdir(parents=True)
    for k, name in enumerate("abcdef"):
        path.write_text(name)
        os.utime(path, (k, k))
        die_with(study, name, 7)


@pytest.mark.parametrize(("place", "key"), [("", "step1-0-3"), ("rung2", "rung2-0-3")])
def test_a_new_run_that_forgets_members_and_leases_still_knows_who_died(study, place, key):
    """Of step 1 and of a rung; who left in good order in between is not among the dead."""

    def join(name):
        study.state[name] = "step 1"
        leases = Leases(study.folder / "leases", name, study.is_dead)
        begin_run(study.folder, 2, name, leases, study)
        return Attempts(study.folder / place, name, leases, study), leases

    study.bury = lambda: [study.state.pop(name) for name in list(study.state) if study.is_dead(name)]
    for name, end in (("a", "dead"), ("b", "left"), ("c", "dead"), ("d", "dead")):
        member, leases = join(name)
        assert leases.taken() == set() and list(study.state) == [name] and leases.take(key)
        assert member.is_suspect(key) == (name != "a")
        assert member.admit(task(7)).hopeless is None
        study.state[name] = end
    last, leases = join("e")
    assert leases.take(key) and last.is_suspect(key)
    assert "3 members" in last.admit(task(7)).hopeless


def test_members_of_a_search_die_of_a_trial_three_more_times_and_record_it(tmp_path):
    world = World(tmp_path, config(20))
    deadly, name = 5, ""
    for k in range(8):
        name = f"m{k}"
        source = world.join(name)
        world.now += 40.0
        while name not in world.dead and not source.done():
            world.now += 1.1
            for t in source.take(1):
                if t.hopeless is not None:
                    assert t.trial == deadly and "3 members" in t.hopeless
                    world.write(source, t)
                elif t.trial == deadly:
                    world.dead.add(name)
                else:
                    world.write(source, t)
        if source.done():
            break
    assert name == "m4", "one death without a note, three with"
    assert sorted(t for t, _ in world.runs) == list(range(20))
