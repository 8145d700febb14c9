"""What a running search says: lines about what happens, a picture on a terminal, nothing that could end it."""

import io
import re
import time

from rich.console import Console

from hpo.observer import Observer
from hpo.progress import LiveView, Reporter
from tests.python.study_cases import BEGIN, append, describe, make_config, make_record, member, worker

CONFIG = make_config(trials=10, top=2)
STAMPED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d \S")


class Search:
    """A search told by hand, and what is written about it."""

    def __init__(self, out, *, every_s=1e9, me="node1-1-aa", config=CONFIG):
        self.out, self.lines, self.seconds = out, [], 0.0
        describe(out, config)
        self.observer = Observer(out, clock=lambda: BEGIN.timestamp() + self.seconds)
        self.reporter = Reporter(self.lines.append, me=me, every_s=every_s)

    def look(self, **options):
        """New lines of one look."""
        self.lines.clear()
        self.reporter.take(self.observer.look(), **options)
        return list(self.lines)


def test_lines_tell_who_comes_goes_dies_and_leads(tmp_path):
    s = Search(tmp_path / "study")
    member(s.out, "node0-1-zz", state="left")
    member(s.out, "node1-1-aa", leader=True, state="preparing")
    assert s.look() == []
    member(s.out, "node2-1-bb", host="node2", state="starting", workers=[worker(0), worker(1)])
    assert s.look() == ["member node2-1-bb joined: 2 workers (cpu), on node2"]
    member(s.out, "node3-1-cc", host="node3", state="starting")
    s.look()
    member(s.out, "node3-1-cc", host="node3", state="left", error="no such device")
    assert s.look() == ["member node3-1-cc left: no such device"]
    s.seconds = 100.0
    member(s.out, "node2-1-bb", host="node2", state="starting", leader=True, now=100.0, beat=9)
    assert s.look() == ["member node1-1-aa died; its trials go to others", "member node2-1-bb leads now"]
    assert s.look() == []


def test_steps_begin_and_end_once_and_in_between_there_is_a_line_now_and_then(tmp_path):
    s = Search(tmp_path / "study")
    member(s.out, "node1-1-aa", leader=True, workers=[worker(0, (1, 0, 1, 1.0))])
    assert s.look() == ["step 1 began: 10 trials; 1 member, 1 worker (1 busy)"]
    append(s.out, "w", *(make_record(CONFIG, t, after_s=t) for t in range(4)))
    assert s.look() == []
    s.reporter._last -= 2e9
    s.seconds = 4.0
    [line] = s.look()
    assert line.startswith("step 1: 4/10 trials, 1 running, 0 failed, best MSE"), "it has begun another"
    assert line.endswith(" left")
    append(s.out, "w", *(make_record(CONFIG, t, after_s=t) for t in range(4, 10)))
    [line] = s.look()
    assert line.startswith("step 1 ended: 10/10 trials, 0 failed, best MSE")
    member(s.out, "node1-1-aa", leader=True, state="step 2", workers=[worker(0)])
    assert s.look() == ["step 2 began: 2 trials; 1 member, 1 worker (0 busy)"]
    append(s.out, "w", *(make_record(CONFIG, t, step=2) for t in s.observer._promoted[1]))
    assert s.look()[0].startswith("step 2 ended: 2/2 trials") and s.look() == []


def test_rungs_have_lines_of_their_own(tmp_path):
    s = Search(tmp_path / "study", config=make_config(trials=8, top=2, rungs=[0.01], reduction=4))
    records = [make_record(CONFIG, t, mse=1e-5 * (t + 1)) for t in range(8)]
    member(s.out, "node1-1-aa", leader=True, rung=1, workers=[worker(0, (1, 0, 1, 1.0))])
    assert s.look() == ["rung 1 (p = 0.01) began: 8 trials; 1 member, 1 worker (1 busy)"]
    append(s.out / "rung1", "w", *records)
    [line] = s.look()
    assert line.startswith("rung 1 (p = 0.01) ended: 8/8 trials, 0 failed, 2 go on, best MSE 1.000e-05 (trial 0)")
    append(s.out, "r", *(r | {"state": "pruned", "rung": 1, "subset": 0.01} for r in records[2:]))
    member(s.out, "node1-1-aa", leader=True, workers=[worker(0, (1, 0, 1, 1.0))])
    assert s.look() == ["step 1 began: 2 trials; 1 member, 1 worker (1 busy)"]
    append(s.out, "w", *records[:2])
    [line] = s.look()
    assert line.startswith("step 1 ended: 2/2 trials, 0 failed, 6 ended on rungs, best MSE")


def test_a_study_that_goes_on_does_not_tell_its_past_again(tmp_path):
    s = Search(tmp_path / "study")
    append(s.out, "w", *(make_record(CONFIG, t) for t in range(10)))
    member(s.out, "node1-1-aa", leader=True, state="step 2", workers=[worker(0)])
    assert s.look() == ["step 2 began: 2 trials; 1 member, 1 worker (0 busy)"]


def run(out, console, *, leads=True, quiet=False):
    """A live view over a study that is being finished."""
    describe(out, CONFIG)
    member(out, "node1-1-aa", leader=True, now=time.time() - BEGIN.timestamp(), workers=[worker(0, (1, 3, 5, 1.0))])
    with LiveView(out, me="node1-1-aa", is_leader=lambda: leads, console=console, quiet=quiet) as view:
        while leads and not (out / "log").exists():
            time.sleep(0.01)
        if not leads:
            time.sleep(0.1)
        append(out, "w", *(make_record(CONFIG, t) for t in range(10)))
    return view


def test_the_leader_writes_a_log_with_times_and_prints_the_same_lines_without_a_terminal(tmp_path, capsys):
    run(tmp_path / "study", Console(file=io.StringIO()))
    log = (tmp_path / "study/log").read_text().splitlines()
    assert all(STAMPED.match(line) for line in log)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 2)[2] for line in log] == printed
    assert printed[0].startswith("step 1 began: 10 trials") and printed[-1].startswith("step 1 ended: 10/10 trials")


def test_a_member_that_does_not_lead_is_silent_and_quiet_leaves_the_log_alone(tmp_path, capsys):
    run(tmp_path / "joined", Console(file=io.StringIO()), leads=False)
    assert not (tmp_path / "joined/log").exists()
    run(tmp_path / "quiet", Console(file=io.StringIO()), quiet=True)
    assert capsys.readouterr().out == "" and len((tmp_path / "quiet/log").read_text().splitlines()) >= 2


def test_a_member_that_joined_draws_on_its_terminal_too_and_leaves_the_bars(tmp_path, capsys):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=24, color_system=None)
    run(tmp_path / "study", console, leads=False)
    last = screen.getvalue().rpartition("step 1 ")[2]
    assert "10/10  100 %" in last and capsys.readouterr().out == ""
    assert not (tmp_path / "study/log").exists(), "the leader writes it"


def test_a_view_of_a_folder_that_is_gone_harms_nobody(tmp_path):
    with LiveView(tmp_path / "none", me="a", is_leader=lambda: True, console=Console(file=io.StringIO())):
        time.sleep(0.05)
