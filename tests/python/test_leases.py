"""Leases and members: one owner each, the dead are noticed, a zombie does no harm."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from hpo import leases as leases_module
from hpo.errors import SearchError
from hpo.leader import Leadership
from hpo.leases import Leases
from hpo.members import Crew, Member, Roster, boot_id, new_name, process_start, read_members

NUM_PROCESSES = 4


def leases(folder, owner, dead=()):
    return Leases(folder, owner, lambda name: name in dead)


def test_a_lease_has_one_owner(tmp_path):
    a, b = leases(tmp_path, "a"), leases(tmp_path, "b")
    assert a.take("step1-0-3") and not b.take("step1-0-3")
    assert a.take("step1-0-3"), "it stays ours"
    assert b.take("step1-4-7")
    assert (a.holder("step1-4-7"), b.holder("step1-0-3"), a.holder("step2-9")) == ("b", "a", None)
    assert a.is_mine("step1-0-3") and not b.is_mine("step1-0-3")
    assert a.taken("step1") == {"step1-0-3", "step1-4-7"} and a.taken("step2") == set()


def test_the_lease_of_a_dead_owner_goes_to_one_other_and_a_zombie_sees_it(tmp_path):
    zombie = leases(tmp_path, "a")
    assert zombie.take("leader")
    b, c = leases(tmp_path, "b", {"a"}), leases(tmp_path, "c", {"a"})
    assert c.holder("leader") == "a"
    assert b.take("leader") and not c.take("leader")
    assert c.holder("leader") == "b"
    assert not zombie.is_mine("leader") and not zombie.take("leader")


def test_a_released_lease_is_free_for_one(tmp_path):
    a, b, c = (leases(tmp_path, name) for name in "abc")
    assert a.take("forming") and not b.take("forming")
    b.release("forming")
    assert a.is_mine("forming"), "only its owner releases it"
    a.release("forming")
    assert b.holder("forming") is None and not a.is_mine("forming")
    assert c.take("forming") and not b.take("forming") and not a.take("forming")
    c.release("forming")
    assert a.take("forming"), "as often as wanted"


def grab(folder, name, start, keys, found):
    mine = leases(folder, name)
    start.wait()
    found.put((name, [k for k in keys if mine.take(k)]))


def test_processes_that_race_for_the_same_leases_share_them_out(tmp_path):
    keys = [f"step2-{k}" for k in range(300)]
    start, found = multiprocessing.Event(), multiprocessing.Queue()
    names = [f"m{k}" for k in range(NUM_PROCESSES)]
    processes = [multiprocessing.Process(target=grab, args=(tmp_path, n, start, keys, found)) for n in names]
    for p in processes:
        p.start()
    start.set()
    shares = dict(found.get(timeout=300) for _ in processes)
    for p in processes:
        p.join()
    assert sorted(k for share in shares.values() for k in share) == sorted(keys)
    reader = leases(tmp_path, "reader")
    assert all(reader.holder(k) == name for name, share in shares.items() for k in share)


def test_a_link_whose_answer_was_lost_counts_for_its_maker(tmp_path, monkeypatch):
    link = os.link

    def unlucky(source, target):
        link(source, target)
        raise FileExistsError(17, "File exists")  # what NFS says when it repeats a link that had worked

    monkeypatch.setattr(os, "link", unlucky)
    assert leases(tmp_path, "a").take("leader")
    monkeypatch.setattr(os, "link", link)
    assert not leases(tmp_path, "b").take("leader")


def test_more_leases_than_a_file_may_have_links(tmp_path, monkeypatch):
    monkeypatch.setattr(leases_module, "_MOST_LINKS", 3)
    a = leases(tmp_path, "a")
    assert all(a.take(f"k{i}") for i in range(10))
    assert max(os.stat(p).st_nlink for p in tmp_path.glob("k*")) <= 4


def test_leases_survive_that_the_folder_is_tidied_up(tmp_path):
    a = leases(tmp_path / "leases", "a")
    assert a.take("step1-0-3") and a.take("leader")
    a.forget("step1")
    assert a.taken() == {"leader"}
    a.close()
    assert not list(tmp_path.glob("leases/.*"))
    assert a.take("step1-4-7") and a.take("step1-0-3")


def test_a_lease_is_taken_while_the_leader_of_a_new_run_sweeps_the_folder(tmp_path, monkeypatch):
    """Whoever starts a little later makes its token while the leader removes what a killed search has left."""
    fsync, sweeps = os.fsync, iter(range(2))

    def swept(number):
        fsync(number)
        if next(sweeps, None) is not None:
            for path in tmp_path.glob(".*"):
                path.unlink()

    monkeypatch.setattr(os, "fsync", swept)
    a, b = leases(tmp_path, "a"), leases(tmp_path, "b")
    assert a.take("leader") and a.is_mine("leader") and not b.take("leader")
    for path in tmp_path.glob(".*"):
        path.unlink()
    a.release("leader")
    assert b.take("leader")


def test_a_leader_that_ends_the_search_at_the_very_moment_has_no_successor(tmp_path):
    leader = Member(tmp_path, devices=[])
    with Member(tmp_path, devices=[]) as other, leader:
        roster = Roster(tmp_path, other.name)

        def is_dead(name):  # it ends between our look at it and our wish to lead
            leader.update(finished=True, state="left")
            return True

        roster.is_dead = is_dead
        assert leases(tmp_path / "leases", leader.name).take("leader")
        leadership = Leadership(Crew(other, roster, Leases(tmp_path / "leases", other.name, is_dead)), None, None)
        assert not leadership.has_finished()
        assert not leadership.take_over() and leadership.has_finished()


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SearchError, match="has no hard links"):
        leases(tmp_path, "a").take("leader")


# -- members ------------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def write_member(folder, name, **values):
    content = {"schema": 1, "name": name, "host": "elsewhere", "boot_id": "other", "pid": 1, "pid_start": "1"}
    content |= {"beat": 1, "state": "step 1", "devices": ["cpu"]} | values
    (folder / "members").mkdir(exist_ok=True)
    (folder / "members" / f"{name}.json").write_text(json.dumps(content))


def test_a_member_elsewhere_is_dead_when_its_counter_stands_still_on_our_clock(tmp_path):
    clock = Clock()
    roster = Roster(tmp_path, "me", lease_seconds=30.0, clock=clock)
    write_member(tmp_path, "a")
    for beat in range(2, 6):
        assert not roster.is_dead("a")
        clock.now += 29.0
        write_member(tmp_path, "a", beat=beat)
    assert not roster.is_dead("a")
    clock.now += 29.9
    assert not roster.is_dead("a") and [m["name"] for m in roster.others()] == ["a"]
    clock.now += 0.5
    assert roster.is_dead("a") and roster.others() == []
    write_member(tmp_path, "a", beat=9)
    assert roster.is_dead("a"), "what was taken over is not given back"


def test_a_member_that_left_is_dead_at_once_and_one_without_a_file_after_a_while(tmp_path):
    clock = Clock()
    roster = Roster(tmp_path, "me", lease_seconds=30.0, clock=clock)
    write_member(tmp_path, "a", state="left")
    assert roster.is_dead("a") and not roster.is_dead("never seen") and not roster.is_dead("me")
    clock.now += 31.0
    assert roster.is_dead("never seen") and not roster.is_dead("me")


def test_a_file_that_vanishes_or_is_torn_for_a_moment_kills_nobody(tmp_path):
    clock = Clock()
    roster = Roster(tmp_path, "me", lease_seconds=30.0, clock=clock)
    write_member(tmp_path, "a")
    assert not roster.is_dead("a")
    path = tmp_path / "members" / "a.json"
    for damage in (path.unlink, lambda: path.write_text('{"schema": 1, "na')):
        damage()
        clock.now += 20.0
        assert not roster.is_dead("a")
        write_member(tmp_path, "a", beat=int(clock.now))
        clock.now += 1.0
        assert not roster.is_dead("a")
        assert [m["name"] for m in read_members(tmp_path)] == ["a"]


def test_a_death_on_the_same_host_is_seen_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    clock = Clock()
    roster = Roster(tmp_path, "me", clock=clock)
    write_member(tmp_path, "a", boot_id=boot_id(), pid=process.pid, pid_start=process_start(process.pid))
    assert not roster.is_dead("a")
    process.kill()  # not waited for: a zombie process is dead too
    deadline = time.monotonic() + 120
    while process_start(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    clock.now += 1.0
    assert roster.is_dead("a")
    process.wait()
    write_member(tmp_path, "b", boot_id=boot_id(), pid=os.getpid(), pid_start="12")
    assert roster.is_dead("b"), "another process has the number now"
    write_member(tmp_path, "c", boot_id=boot_id(), pid=os.getpid(), pid_start=process_start(os.getpid()))
    assert not roster.is_dead("c")
    clock.now += 31.0
    assert roster.is_dead("c"), "a process that is there and does nothing (SIGSTOP) is dead too"


def test_a_member_keeps_its_file_alive_and_says_that_it_left(tmp_path):
    with Member(tmp_path, devices=["cpu", "cpu"], lease_seconds=0.1) as member:
        member.watch(lambda: {"done": 7})
        roster = Roster(tmp_path, lease_seconds=600.0)
        first = roster.read(member.name)["beat"]
        deadline = time.monotonic() + 120
        while (now := roster.read(member.name))["beat"] < first + 3 or now["done"] != 7:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        member.update(state="step 1")
        (content,) = read_members(tmp_path)
        assert content["state"] == "step 1" and content["name"] == member.name == new_name()[:-6] + member.name[-6:]
        assert content["devices"] == ["cpu", "cpu"] and not roster.is_dead(member.name)
    (content,) = read_members(tmp_path)
    assert content["state"] == "left" and content["error"] is None
    assert not list(tmp_path.glob("**/.*"))


def test_the_files_of_the_dead_are_removed_and_half_written_ones_are_nobody(tmp_path):
    clock = Clock()
    write_member(tmp_path, "dead", state="left")
    write_member(tmp_path, "alive")
    for name in ("dead", "alive"):
        (tmp_path / "members" / f".{name}.json").write_text((tmp_path / "members" / f"{name}.json").read_text())
    assert [m["name"] for m in read_members(tmp_path)] == ["alive", "dead"]
    roster = Roster(tmp_path, "me", clock=clock)
    assert [m["name"] for m in roster.others()] == ["alive"]
    roster.bury()
    assert {p.name for p in (tmp_path / "members").iterdir()} == {"alive.json", ".alive.json"}


def test_a_file_server_that_is_away_for_a_moment_ends_no_member(tmp_path, monkeypatch):
    with Member(tmp_path, devices=["cpu"], lease_seconds=60.0) as member:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(116, "Stale file handle")))
        member.update(state="step 1")
        monkeypatch.setattr(os, "replace", replace)
        member.update()
        assert read_members(tmp_path)[0]["state"] == "step 1"


def test_a_member_that_fails_leaves_its_reason(tmp_path):
    with pytest.raises(SearchError), Member(tmp_path, devices=["cpu"]):
        raise SearchError("column 'sst' is constant")
    assert read_members(tmp_path)[0]["error"] == "column 'sst' is constant"


def test_a_member_inside_slurm_is_named_by_job_and_task(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_PROCID", "4")
    assert new_name().startswith("123.4-")
