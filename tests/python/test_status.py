"""`hpo.status` and what the live view is drawn from: folders of every kind, told from files alone."""

import ast
import io
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from hpo import status
from hpo.lines import folded
from hpo.observer import Observer
from hpo.view import screen
from tests.python.study_cases import BEGIN, append, describe, make_config, make_record, member, worker

CONFIG = make_config(trials=40, top=4)


@pytest.fixture
def out(tmp_path):
    """40 trials, 20 of them finished in the first 100 s, one failed; two members at second 100."""
    out = tmp_path / "study"
    describe(out, CONFIG)
    for t in range(20):
        error = "diverged: the loss was infinite in epoch 3" if t == 7 else None
        append(out, f"m-{t % 2}", make_record(CONFIG, t, error=error, after_s=5.0 * (t + 1), seconds=10.0))
    member(out, "node1-11-aa", now=100.0, leader=True, workers=[worker(0, (1, 20, 50, 10.0), now=100.0), worker(1)])
    member(out, "node2-12-bb", host="node2", now=98.0, workers=[worker(0, (1, 21, 0, 2.0), now=98.0)])
    return out


def observer(out, seconds):
    return Observer(out, clock=lambda: BEGIN.timestamp() + seconds, patience_s=0.0)


def look(out, seconds=100.0):
    return observer(out, seconds).look()


def drawn(overview, width, height):
    console = Console(width=width, height=height, force_terminal=True, color_system=None, file=io.StringIO())
    console.print(screen(overview, width, height))
    return console.file.getvalue().rstrip("\n").split("\n")


# -- what the files say ----------------------------------------------------------------------------------------------


def test_counts_members_workers_failures_and_the_best(out):
    o = look(out)
    first, second = o.steps
    assert (first.total, first.done, first.failed, first.running) == (40, 20, 1, 2)
    records = [make_record(CONFIG, t) for t in range(20) if t != 7]
    ranked = sorted(records, key=lambda r: r["validation_mse"])
    assert [b.trial for b in first.best] == [r["trial"] for r in ranked[:5]]
    assert first.errors == (("diverged: the loss was infinite in epoch 3", 1),)
    assert second.total is None and o.stage == "running"
    assert [m.name for m in o.alive] == ["node1-11-aa", "node2-12-bb"] and o.leader.name == "node1-11-aa"
    assert [m.busy for m in o.alive] == [1, 1]
    lines = status.report(o)
    assert any(line.startswith("step 1: 20/40 trials (50.0 %), 2 running, 1 failed, best MSE") for line in lines)
    assert "  failed 1x: diverged: the loss was infinite in epoch 3" in lines
    assert "step 2: begins when step 1 is finished" in lines


def test_throughput_and_time_left_weigh_trials_by_their_arithmetic(out):
    first = look(out).steps[0]
    assert first.rate == pytest.approx(20 / 100.0)
    o = observer(out, 100.0)
    o.look()
    done = sum(d.flop for d in o._tallies[1].done.values()) + o._draw(1, 20)  # at epoch 50: the others stopped at 6
    left = sum(o._draw(1, t) for t in range(21, 40))
    assert first.seconds_left == pytest.approx(100.0 * left / done, rel=0.05)  # the first began 5 s before the study


def test_the_arithmetic_of_trials_is_the_one_that_the_search_has(out):
    from emulator.mlp import MLPSpec
    from hpo import trial
    from hpo.train import training_flop

    space = trial.Space(CONFIG)
    params = space.draw(3)
    spec = MLPSpec(num_inputs=3, hidden=space.hidden(params), num_outputs=1, activation="relu")
    o = observer(out, 100.0)
    o.look()
    steps = 1 * 100  # 400 samples at batch 1024, 100 epochs
    overhead = trial._OVERHEAD_FLOP * steps * (len(spec.hidden) + 2)
    assert o._draw(1, 3) == pytest.approx(training_flop(spec, 400, 100, 100) + overhead)


def test_only_the_last_minutes_count_for_the_rate_not_a_run_of_yesterday(out):
    day = 86_400.0
    append(out, "m-0", make_record(CONFIG, 22, after_s=day + 50.0, seconds=10.0))
    for name in ("node1-11-aa", "node2-12-bb"):
        member(out, name, now=day + 100.0, workers=[worker(0)])
    first = look(out, day + 100.0).steps[0]
    assert first.rate == pytest.approx(1 / 60.0)  # begun at second 40 of the day


def test_the_rate_is_that_of_the_members_at_work_not_of_a_run_minutes_before(out):
    for name in ("node1-11-aa", "node2-12-bb"):
        begun = (BEGIN + timedelta(seconds=60)).isoformat(timespec="seconds")
        member(out, name, now=100.0, started=begun, workers=[worker(0)])
    assert look(out).steps[0].rate == pytest.approx(8 / 40.0)  # the eight trials of seconds 65 to 100


def test_step_2_stands_where_its_records_and_running_trials_say(out):
    for t in range(20, 40):
        append(out, "m-0", make_record(CONFIG, t, after_s=90.0))
    o = observer(out, 100.0)
    assert o.look().steps[1].total == 4
    chosen = list(o._promoted[1])
    append(out, "m-1", make_record(CONFIG, chosen[0], step=2, after_s=95.0, epochs=50))
    member(out, "node1-11-aa", now=100.0, state="step 2", workers=[worker(0, (2, chosen[1], 25, 50.0), now=100.0)])
    second = o.look().steps[1]
    assert (second.done, second.running, second.total) == (1, 1, 4)
    assert second.seconds_left >= 50.0  # the one under way alone, if it stops where the other did


def test_a_trial_that_a_group_of_ranks_trains_is_running_once(out):
    for t in range(20, 40):
        append(out, "m-0", make_record(CONFIG, t))
    o = observer(out, 100.0)
    o.look()
    trial = o._promoted[1][0]
    folder = out / f"groups/trial-{trial:06d}.a002"
    folder.mkdir(parents=True)
    for name, content in (
        ("open", {"trial": trial, "size": 3, "opener": "node1-11-aa"}),
        ("seat-0", {"member": "node1-11-aa"}),
        ("seat-1", {"member": "node2-12-bb"}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    [group] = o.look().groups
    assert (group.trial, group.attempt, group.state, group.size) == (trial, 2, "forming", 3)
    (folder / "closed.json").write_text(json.dumps({"size": 2}))
    for name in ("node1-11-aa", "node2-12-bb"):
        member(out, name, now=100.0, state="step 2", workers=[worker(0, (2, trial, 25, 50.0), now=100.0)])
    overview = o.look()
    assert overview.groups[0].state == "training" and overview.groups[0].members == ("node1-11-aa", "node2-12-bb")
    assert overview.steps[1].running == 1
    told = f"group of 2 on trial {trial} (attempt 2): training, node1-11-aa, node2-12-bb"
    assert told in status.report(overview)
    (folder / "ended.json").write_text("{}")
    assert o.look().groups == ()


# -- rungs -----------------------------------------------------------------------------------------------------------

ON_RUNGS = make_config(trials=20, top=2, rungs=[0.005, 0.02], reduction=4)


@pytest.fixture
def climbing(tmp_path):
    """20 trials, all of them finished on the first rung (one failed); 5 go on to the second, which 2 have finished."""
    out = tmp_path / "study"
    sizes = {"rung1": 40, "rung2": 160, "1": 400, "2": 1600}
    describe(out, ON_RUNGS, num_train=sizes, num_validation=sizes)
    error = "diverged: the loss was infinite in epoch 3"
    records = [make_record(ON_RUNGS, t, error=error if t == 7 else None, after_s=t) for t in range(20)]
    append(out / "rung1", "m", *records)
    whole = sorted((r for r in records if not r["error"]), key=lambda r: r["validation_mse"])
    best = sorted(r["trial"] for r in whole[:5])
    append(out / "rung2", "m", *(make_record(ON_RUNGS, t, after_s=60.0, seconds=20.0) for t in best[:2]))
    member(out, "node1-1-aa", now=100.0, leader=True, rung=2, workers=[worker(0, (1, best[2], 50, 20.0), now=100.0)])
    return out, best


def test_a_search_on_rungs_stands_where_its_rungs_stand(climbing, capsys):
    out, best = climbing
    o = look(out)
    one, two = o.rungs
    assert (one.total, one.done, one.failed, one.running, one.going_on, one.finished) == (20, 20, 1, 0, 5, True)
    assert (two.total, two.done, two.failed, two.running, two.going_on, two.finished) == (5, 2, 0, 1, None, False)
    assert [(s.total, s.done, s.running) for s in o.steps] == [(None, 0, 0), (None, 0, 0)] and o.stage == "running"
    assert one.best[0].trial in best and o.members[0].state == "rung 2"
    lines = status.report(o)
    assert any(x.startswith("rung 1 (p = 0.005): 20/20 trials (100.0 %), 1 failed, 5 go on, best MSE") for x in lines)
    assert any(x.startswith("rung 2 (p = 0.02): 2/5 trials (40.0 %), 1 running, 0 failed, best MSE") for x in lines)
    assert "step 1: begins when rung 2 is finished" in lines and "step 2: begins when step 1 is finished" in lines
    assert sum(x.startswith("  1. trial") for x in lines) == 1, "the best of the rung under way"
    status.main([str(out), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [(s["subset"], s["done"]) for s in told["rungs"]] == [(0.005, 20), (0.02, 2)] and len(told["steps"]) == 2
    picture = drawn(o, 100, 30)
    assert picture[0].startswith("rung 2 ━") and picture[0].endswith("2/5  40 %")
    assert ["0", "cpu", "rung", "2"] in [line.split()[:4] for line in picture]


def test_the_time_left_on_a_rung_is_that_of_its_own_trials(climbing):
    out, best = climbing
    o = observer(out, 100.0)
    rung = o.look().rungs[1]
    for params in (o._tallies["rung1"].done[t].record["params"] for t in best):
        hidden = o._space.hidden(params)
        on_rung, in_step = (o._cost(part, hidden, {"batch_size": 1024, "max_epochs": 100}) for part in ("rung2", 1))
        assert on_rung < in_step
    cost = {t: o._draw("rung2", t) for t in best}
    done = sum(cost[t] for t in best[:3])  # the third has run 50 epochs, the others stopped after 6 of 100
    left = sum(cost[t] for t in best[3:])
    assert rung.seconds_left == pytest.approx(60.0 * left / done, rel=0.01), "since the first of them began, at 40 s"


def test_step_1_after_rungs_has_the_trials_that_came_so_far(climbing):
    out, best = climbing
    append(out / "rung2", "m", *(make_record(ON_RUNGS, t, after_s=90.0) for t in best[2:]))
    o = observer(out, 100.0)
    left = o.look()
    assert left.rungs[1].going_on == 2 and left.steps[0].total == 2, "one in four, and no fewer than are retrained"
    chosen = sorted(o._chosen(1))
    records = [make_record(ON_RUNGS, t, after_s=10.0) for t in range(20) if t not in chosen]
    ended = [r | {"state": "pruned", "rung": 1 if r["trial"] not in best else 2, "subset": 0.02} for r in records]
    append(out, "m-rungs", *ended)
    member(out, "node1-1-aa", now=100.0, workers=[worker(0, (1, chosen[1], 50, 5.0), now=100.0)])
    append(out, "m", make_record(ON_RUNGS, chosen[0], after_s=99.0))
    o = look(out)
    first = o.steps[0]
    assert (first.total, first.done, first.pruned, first.left_on_rungs, first.running) == (2, 1, 0, 18, 1)
    assert first.begun == pytest.approx(BEGIN.timestamp() + 97.0), "not when trials of the rungs were"
    [line] = [x for x in status.report(o) if x.startswith("step 1: ")]
    assert line.startswith("step 1: 1/2 trials (50.0 %), 1 running, 0 failed, 18 ended on rungs, best MSE")
    append(out, "m", make_record(ON_RUNGS, chosen[1], after_s=100.0))
    assert look(out).steps[1].total == 2


# -- who is alive ----------------------------------------------------------------------------------------------------


def test_a_member_whose_heartbeat_is_old_is_dead_and_one_that_left_has_left(out):
    member(out, "node3-13-cc", now=10.0, workers=[worker(0, (1, 30, 5, 3.0))])
    member(out, "node4-14-dd", now=50.0, state="left", error="out of memory")
    o = look(out)
    states = {m.name: m.state for m in o.members}
    assert states["node3-13-cc"] == "dead" and states["node4-14-dd"] == "left" and len(o.alive) == 2
    assert o.steps[0].running == 2, "a dead member's trials are not running"
    lines = status.report(o)
    assert "  node3-13-cc: last sign of life 1 min 30 s ago" in lines and "  node4-14-dd: out of memory" in lines


def test_a_counter_that_moves_is_believed_more_than_the_clocks_of_two_hosts(out):
    member(out, "node3-13-cc", now=10.0, beat=5)
    o = observer(out, 100.0)
    assert {m.name: m.state for m in o.look().members}["node3-13-cc"] == "dead"
    member(out, "node3-13-cc", now=12.0, beat=6)
    assert {m.name: m.state for m in o.look().members}["node3-13-cc"] == "step 1"


# -- folders of every kind -------------------------------------------------------------------------------------------


def test_a_missing_and_an_empty_folder_have_no_search(tmp_path, capsys):
    assert status.main([str(tmp_path / "nothing")]) == 2
    assert "no search has begun here" in capsys.readouterr().out
    assert status.main([str(tmp_path)]) == 2


def test_a_finished_study_says_so_and_what_comes_next(out, capsys):
    for path in (out / "members").glob("*"):
        path.unlink()
    for t in range(20, 40):
        append(out, "m-0", make_record(CONFIG, t))
    o = observer(out, 100.0)
    o.look()
    append(out, "m-1", *(make_record(CONFIG, t, step=2) for t in o._promoted[1]))
    assert status.main([str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"study {out}: finished" in printed and f"next: python -m hpo.report {out}" in printed
    assert "step 2: 4/4 trials" in printed


def test_a_study_that_nobody_works_on_says_how_to_go_on(out, capsys):
    for path in (out / "members").glob("*"):
        path.unlink()
    status.main([str(out)])
    printed = capsys.readouterr().out
    assert "not running" in printed and f"go on with: python -m hpo.search --out {out}" in printed


def test_a_broken_folder_is_told_as_far_as_it_can_be_read(out):
    (out / "members" / "node9-1-zz.json").write_text('{"schema": 1, "name"')
    (out / "members" / "node8-1-yy.json").write_text('{"schema": 1, "name": "node8-1-yy"}')
    path = out / "step1/worker-m-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]) + b"torn")
    (out / "step1/worker-x.jsonl").mkdir()
    o = look(out)
    assert o.steps[0].done == 19 and len(o.members) == 2
    lines = "\n".join(status.report(o))
    assert "worker-m-0.jsonl: line 2 is damaged" in lines and "worker-x.jsonl cannot be read" in lines
    (out / "study.json").write_text("{")
    o = look(out)
    assert "study.json cannot be read" in "\n".join(status.report(o))


def test_json_has_every_worker_and_can_be_read_back(out, capsys):
    assert status.main([str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1 and len(told["members"]) == 2
    assert [len(m["workers"]) for m in told["members"]] in ([2, 1], [0, 0])  # long ago by the real clock: dead
    assert told["steps"][0]["done"] == 20


def test_status_imports_neither_pytorch_nor_optuna(out):
    code = (
        "import sys, hpo.status\nhpo.status.main([sys.argv[1]])\n"
        "print([m for m in ('torch', 'optuna') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, cwd=root, check=True)
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []


def test_a_watch_of_no_seconds_is_refused(out, capsys):
    with pytest.raises(SystemExit):
        status.main([str(out), "--watch", "0"])
    assert "--watch is 0; expected seconds above 0" in capsys.readouterr().err


# -- on a terminal ---------------------------------------------------------------------------------------------------


def test_a_line_a_worker_shows_trial_epoch_best_time_and_memory(out):
    cuda = worker(0, (1, 20, 50, 190.0), (1, 25, 10, 30.0), device="cuda:0", now=100.0, memory=3 << 30)
    member(out, "node2-12-bb", host="node2", now=100.0, workers=[cuda])
    lines = drawn(look(out), 100, 30)
    assert lines[0].startswith("step 1 ━") and lines[0].endswith("20/40  50 %")
    assert "1 failed" in lines[1] and "left" in lines[1]
    [row] = [line for line in lines if line.startswith("node2/0")]
    assert row.split() == ["node2/0", "cuda:0", "1", "20", "+1", "10/100", "2.000e-05", "3:10", "3.0", "GiB"]
    assert any(line.split() == ["node1/1", "cpu", "idle"] for line in lines)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_long_line_breaks_after_commas_and_never_inside_a_number(width):
    line = "step 1: 312/10000 trials, 3 failed, best MSE 3.2e-04 (trial 12), 1,234.5 trials/s, 12 min 00 s left"
    lines = folded(line, width).split("\n")
    assert all(len(part) <= width for part in lines)
    assert " ".join(part.strip() for part in lines) == line, "and loses nothing"
    for value in ("312/10000 trials", "best MSE 3.2e-04 (trial 12)", "1,234.5 trials/s", "12 min 00 s left"):
        if len(value) < width - 8:
            assert sum(value in part for part in lines) == 1
    path = "/scratch/" + 30 * "very-long-"
    assert folded(f"study {path}: finished", width).split()[1] == f"{path}:", "a path can still be copied"


def test_status_folds_its_lines_on_a_narrow_terminal(out, monkeypatch, capsys):
    member(out, "a-member-on-a-rather-long-host-name-12-bb", host="node2", now=100.0, workers=[worker(0)])
    whole = status.report(look(out))
    assert max(map(len, whole)) > 80
    status._print(look(out), False, Console(width=80, force_terminal=True))
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80 and " ".join(" ".join(shown).split()) == " ".join(" ".join(whole).split())
    status._print(look(out), False, Console(width=80, force_terminal=False))
    assert capsys.readouterr().out.splitlines() == whole, "a file has whole lines"


@pytest.mark.parametrize(("num_members", "num_workers"), [(1, 2), (3, 4), (2, 64), (16, 8), (100, 8), (3, 0)])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (40, 10), (200, 8)])
def test_the_picture_never_outgrows_the_terminal(out, num_members, num_workers, width, height):
    for path in (out / "members").glob("*"):
        path.unlink()
    for k in range(num_members):
        workers = [worker(s, (1, 20 + s, 7, 3.0), device=f"cuda:{s}", memory=9 << 30) for s in range(num_workers)]
        host = f"a-rather-long-host-name-{k}"
        member(out, f"{host}-1-aa", host=host, now=100.0, workers=workers)
    lines = drawn(look(out), width, height)
    assert len(lines) <= height and max(len(line) for line in lines) <= width
    assert lines[0].startswith("step 1 ━")


def test_many_workers_fold_by_member_and_many_members_into_the_last_line(out):
    for k in range(40):
        workers = [worker(s, (1, 20, 7, 3.0)) for s in range(8)]
        member(out, f"node{k + 1}-1-aa", host=f"node{k + 1}", now=100.0, workers=workers)
    (out / "members/node1-11-aa.json").unlink()
    (out / "members/node2-12-bb.json").unlink()
    o = look(out)
    rows = drawn(o, 80, 60)
    assert sum(line.split()[1:3] == ["cpu", "8/8"] for line in rows if line.startswith("node")) == 40
    rows = drawn(o, 80, 24)
    assert rows[-1].startswith("23 more members") or rows[-1].split()[1:3] == ["more", "members"]
    shown = sum(line.startswith("node") for line in rows)
    assert rows[-1].split()[0] == str(40 - shown) and f"{8 * (40 - shown)}/{8 * (40 - shown)}" in rows[-1]
    assert rows.index(next(r for r in rows if r.startswith("node2 "))) < rows.index(
        next(r for r in rows if r.startswith("node10 "))
    )
