"""Groups form through files: whoever is idle finds a seat, nobody waits for ever, and what parts forms anew."""

import os
import random
from dataclasses import dataclass, field, replace

import pytest

from emulator.records import RecordWriter
from hpo import groups
from hpo.leases import Leases
from hpo.promotion import Promotion
from hpo.step2 import Step2Source, largest_group
from tests.python.test_hpo_steps import context as context_of


@dataclass
class Cluster:
    """Members of a search on a clock of our own; no process is started."""

    folder: object
    context: object
    now: float = 0.0
    dead: set = field(default_factory=set)
    members: dict = field(default_factory=dict)
    ranks: object = 2
    trials: int = 3

    def source(self, name, workers=1, device="cpu", **options):
        member = {"name": name, "devices": [device] * workers}
        self.members[name] = member
        space = self.context.space
        promotions = [
            Promotion(trial=t, params=space.draw(t), promoted="error", step1_mse=0.1, step1_rank=t + 1)
            for t in range(self.trials)
        ]
        roster = Roster(self, name)
        leases = Leases(self.folder / "leases", name, roster.is_dead)
        crew = Crew(Member(member), roster, leases)
        ranks = options.get("ranks", self.ranks)
        return Step2Source(self.context, promotions, crew, ranks, clock=lambda: self.now)

    def finish(self, trial, worker="w"):
        with RecordWriter(self.folder / "step2" / f"worker-{worker}.jsonl") as writer:
            writer.append({"trial": trial})
        return {"trial": trial}


@dataclass
class Roster:
    cluster: Cluster
    me: str

    def read(self, name):
        return {"state": "dead" if self.is_dead(name) else "step 2"}

    def is_dead(self, name):
        return name in self.cluster.dead

    def others(self):
        return [m for n, m in self.cluster.members.items() if n != self.me and n not in self.cluster.dead]


@dataclass
class Member:
    content: dict

    @property
    def name(self):
        return self.content["name"]

    def __getitem__(self, key):
        return self.content[key]


@dataclass
class Crew:
    member: Member
    roster: Roster
    leases: Leases


@pytest.fixture
def cluster(tmp_path):
    context = context_of(40)
    object.__setattr__(context, "folder", tmp_path)
    return Cluster(folder=tmp_path, context=context)


def seats(tasks):
    return [(t.trial, t.seat and (t.seat.rank, t.seat.size)) for t in tasks]


def give_out(cluster, *sources):
    """What members with one idle worker each are given within two seconds."""
    given = {id(s): [] for s in sources}
    for _ in range(8):
        cluster.now += 0.25
        for source in sources:
            given[id(source)] = given[id(source)] or source.take(1)
    return [task for tasks in given.values() for task in tasks]


def test_a_member_with_enough_workers_fills_groups_at_once(cluster):
    a = cluster.source("a", workers=5)
    taken = a.take(5)
    assert [s for _, s in seats(taken)] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert taken[0].trial == taken[1].trial != taken[2].trial == taken[3].trial
    assert a.take(1) == [], "the fifth worker looks for another"
    cluster.now = 31.0
    (alone,) = a.take(1)
    assert alone.seat is None and {alone.trial, taken[0].trial, taken[2].trial} == {0, 1, 2}


def test_idle_workers_of_two_members_make_a_group(cluster):
    a, b = cluster.source("a"), cluster.source("b")
    assert a.take(1) == [] and b.take(1) == []
    (first,) = a.take(1)
    (second,) = b.take(1)
    assert first.trial == second.trial and first.seat.folder == second.seat.folder
    assert [s for _, s in seats([first, second])] == [(0, 2), (1, 2)]
    assert first.seat.attempt == f"trial-{first.trial:06d}.a001"


def test_nobody_waits_long_for_a_seat(cluster):
    cluster.ranks = 3
    a, b = cluster.source("a"), cluster.source("b", workers=2)
    assert a.take(1) == [] and b.take(1) == [] and a.take(1) == []
    cluster.now = 29.0
    assert a.take(1) == []
    cluster.now = 31.0
    assert [s for _, s in seats(a.take(1) + b.take(1))] == [(0, 2), (1, 2)], "a group of those who came"


def test_a_group_of_which_only_the_opener_came_is_a_worker_alone(cluster):
    a, _ = cluster.source("a"), cluster.source("b")
    assert a.take(1) == []
    cluster.now = 31.0
    (task,) = a.take(1)
    assert task.seat is None
    assert groups.ended(groups.group_folders(cluster.folder / "groups")[0]) == "nobody else came"


def test_more_ranks_than_there_are_workers_are_not_waited_for(cluster):
    a = cluster.source("a", workers=2, ranks=8)
    assert [s for _, s in seats(a.take(2))] == [(0, 2), (1, 2)]


def test_workers_that_have_gone_are_not_waited_for(cluster):
    a, _ = cluster.source("a"), cluster.source("b")
    assert a.take(1) == []
    cluster.dead.add("b")
    cluster.now = 1.5
    (task,) = a.take(1)
    assert task.seat is None


def test_groups_that_form_at_the_same_time_do_not_block_each_other(cluster):
    a, b = cluster.source("a"), cluster.source("b")
    for source in (a, b):  # neither has seen the other's
        source._open(source._next(), 2)
    given = give_out(cluster, a, b)
    assert sorted(s for _, s in seats(given)) == [(0, 2), (1, 2)] and len({t.trial for t in given}) == 1
    other = next(t for t in range(3) if t != given[0].trial and f"step2-{t}" in a._leases.taken("step2-"))
    assert a._leases.holder(f"step2-{other}") is None, "the trial that waited can be had by anyone"


def test_a_seat_whose_opener_died_is_given_up_and_the_trial_goes_on(cluster):
    a, b = cluster.source("a"), cluster.source("b")
    assert a.take(1) == [] and b.take(1) == []
    cluster.dead.add("a")
    assert b.take(1) == []
    (task,) = b.take(1)
    assert task.trial == groups.attempt_of(groups.group_folders(cluster.folder / "groups")[0])[0]
    assert task.seat is None, "one worker is left of two"


def test_a_seat_whose_member_died_before_the_group_closed_ends_the_attempt(cluster):
    cluster.ranks = 3
    a, b, c = (cluster.source(n) for n in "abc")
    assert a.take(1) == [] and b.take(1) == []
    cluster.dead.add("b")
    assert c.take(1) == []
    assert a.take(1) == []  # full, and one of them dead
    folders = groups.group_folders(cluster.folder / "groups")
    assert groups.ended(folders[0]) == "b died"
    assert sorted(s for _, s in seats(give_out(cluster, c, a))) == [(0, 2), (1, 2)]


def test_a_member_that_leaves_does_not_keep_others_waiting(cluster):
    a, b = cluster.source("a"), cluster.source("b")
    assert a.take(1) == [] and b.take(1) == []
    a.leave()
    assert b.take(1) == []
    assert groups.ended(groups.group_folders(cluster.folder / "groups")[0]) == "a leaves"


def test_a_lost_group_forms_anew_and_after_three_in_vain_one_worker_tries_alone(cluster):
    a = cluster.source("a", workers=2)
    trial = None
    for attempt in (1, 2, 3):
        taken = a.take(2)
        trial = taken[0].trial if trial is None else trial
        assert [t.seat.attempt for t in taken] == [f"trial-{trial:06d}.a{attempt:03d}"] * 2
        for task in taken:
            a.lost(task, "a rank is gone")
    (alone, *_) = a.take(2)
    assert (alone.trial, alone.seat) == (trial, None)


def test_a_lost_group_that_wrote_a_checkpoint_was_not_in_vain(cluster):
    a = cluster.source("a", workers=2)
    for attempt in range(1, 6):
        taken = a.take(2)
        assert len(taken) == 2 and taken[0].seat.attempt.endswith(f"a{attempt:03d}")
        path = cluster.folder / "step2" / "checkpoints" / f"trial-{taken[0].trial:06d}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (attempt, attempt))
        for task in taken:
            a.lost(task, "a rank is gone")


def test_recorded_trials_are_left_alone_and_their_folders_removed(cluster):
    a = cluster.source("a", workers=2)
    taken = a.take(2)
    a.record(cluster.finish(taken[0].trial))
    assert groups.group_folders(cluster.folder / "groups") == []
    for trial in range(3):
        cluster.finish(trial)
    cluster.now = 2.0
    assert a.take(2) == [] and a.done()


def test_auto_shares_workers_out_only_when_there_are_more_than_trials(cluster):
    cluster.ranks, cluster.trials = "auto", 3
    few = cluster.source("a", workers=3)
    assert [few._size(t) for t in few._tasks.values()] == [1, 1, 1]
    many = cluster.source("b", workers=10)  # 13 workers for 3 trials
    limits = {t: largest_group(cluster.context, cluster.context.space.draw(t), "cpu") for t in range(3)}
    assert [many._size(t) for t in many._tasks.values()] == [min(4, limits[t]) for t in many._tasks]
    assert set(limits.values()) != {1}


def test_auto_makes_no_groups_where_they_would_not_keep_to_bfloat16(cluster):
    config = cluster.context.config
    low = replace(config, search=replace(config.search, precision="bf16"))
    cluster.ranks, cluster.context = "auto", replace(cluster.context, config=low)
    source = cluster.source("a", workers=10)
    assert [source._size(t) for t in source._tasks.values()] == [1, 1, 1]


def test_the_largest_group_follows_batch_and_network():
    context = context_of(400)
    limits = {t: largest_group(context, context.space.draw(t), "cpu") for t in range(400)}
    assert set(limits.values()) <= {1, 2, 4, 8} and limits[max(limits, key=limits.get)] == 4
    on_a_gpu = {largest_group(context, context.space.draw(t), "cuda") for t in range(400)}
    assert on_a_gpu == {1}, "batches of 1000 fill no GPU twice"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_every_trial_is_finished_once(cluster, seed):
    """Members with random numbers of workers join, work, die and are replaced; nobody waits for ever."""
    rng = random.Random(seed)
    cluster.ranks, cluster.trials = rng.choice([2, 3, 4, "auto"]), 6
    cluster.folder.mkdir(exist_ok=True)
    sources, under_way, idle, finished, born = {}, [], {}, [], 0

    def join():
        nonlocal born
        name, workers, born = f"m{born:03d}", rng.randint(1, 3), born + 1
        sources[name], idle[name] = cluster.source(name, workers=workers), workers

    for _ in range(3):
        join()
    for _ in range(4000):
        cluster.now += 0.25
        for name, source in list(sources.items()):
            for task in source.take(idle[name]) if idle[name] else ():
                under_way.append((name, task))
                idle[name] -= 1
            assert idle[name] >= 0
        parties = {}
        for name, task in under_way:
            parties.setdefault(task.seat.attempt if task.seat else task.trial, []).append((name, task))
        for party in parties.values():
            size = party[0][1].seat.size if party[0][1].seat else 1
            lost = party[0][1].seat and groups.ended(party[0][1].seat.folder)
            if len(party) == size and not lost and rng.random() < 0.05:
                first = next(n for n, t in party if t.seat is None or t.seat.rank == 0)
                trial = party[0][1].trial
                cluster.finish(trial, worker=first)
                finished.append(trial)
                sources[first].record({"trial": trial})
            elif not lost:
                continue
            else:
                for name, task in party:
                    sources[name].lost(task, "gone")
            for name, task in party:
                under_way.remove((name, task))
                idle[name] += 1
        if rng.random() < 0.02 and born < 12:
            name = rng.choice(list(sources))
            cluster.dead.add(name)
            for gone, task in [u for u in under_way if u[0] == name]:
                under_way.remove((gone, task))
                if task.seat:
                    groups.end(task.seat.folder, "another rank is gone")
            del sources[name], idle[name]
            join()
        if sources and all(s.done() for s in sources.values()):
            break
    assert sorted(set(finished)) == list(range(6)), "somebody waits for ever"
    assert len(finished) == 6


def test_a_published_file_is_whole_and_the_first_one_stays(tmp_path):
    assert groups.publish(tmp_path / "x.json", {"a": 1}) and not groups.publish(tmp_path / "x.json", {"a": 2})
    assert groups.read(tmp_path / "x.json") == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert not groups.publish(tmp_path / "gone" / "x.json", {}) and groups.read(tmp_path / "y.json") is None
    (tmp_path / "z.json").write_text("{")
    assert groups.read(tmp_path / "z.json") is None
    assert groups.ended(tmp_path / "gone") == "its folder was removed"


def test_rank_0_is_found_on_its_own_host_and_from_others():
    here = {"host": "n1", "network": "boot net"}
    assert groups.address_for(here, [here]) == "127.0.0.1"
    assert groups.address_for(here, [{"host": "127.0.0.1", "network": "other"}]) == "127.0.0.1"
    assert groups.address_for(here, [here, {"host": "no such host.invalid", "network": None}]) == "n1"
    assert groups.interface_of("127.0.0.1") in ("lo", None)
