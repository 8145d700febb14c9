"""The benchmark of the search in its quick mode: what it writes, and how it judges. No time is asserted."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.bench import agreement, storage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Result and table of a quick run, into a file that has an earlier training part."""
    folder = tmp_path_factory.mktemp("bench")
    out = folder / "search.json"
    out.write_text(json.dumps({"schema": 1, "training": [{"device": "of yesterday"}]}))
    command = [sys.executable, "-m", "hpo.bench", "--quick", "--only", "storage", "--folder", folder, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in folder.iterdir()] == ["search.json"], "studies of the benchmark are left behind"
    return json.loads(out.read_text()), done.stdout


def test_every_kind_size_and_number_of_workers_has_a_finite_positive_cost(quick):
    result, _ = quick
    part = result["storage"]
    found = {(r["kind"], r["workers"], r["size"]) for r in part["rows"]}
    shared = {(k, w, s) for k in ("this search", "journal", "sqlite") for w in (1, 2) for s in (10, 40)}
    assert found == shared | {("memory", 1, 10), ("memory", 1, 40)}
    for r in part["rows"]:
        assert 0.0 < r["cpu_ms"] < math.inf and 0.0 < r["wall_ms"] < math.inf and r["trials_measured"] > 0
    assert all(k["cpu_ms"] > 0.0 and k["trials"] == 50 for k in part["study"])
    assert len(part["reopening"]) == 6 and all(r["seconds"] > 0.0 for r in part["reopening"])


def test_the_file_tells_machine_and_versions_and_keeps_the_part_that_was_not_run(quick):
    result, printed = quick
    assert {"cpu", "cores", "system"} <= set(result["machine"]) and {"optuna", "torch"} <= set(result["versions"])
    assert result["schema"] == 1 and result["quick"] is True
    assert result["training"] == [{"device": "of yesterday"}]
    assert "| this search (with learning curve) | 2 |" in printed and "lose" in printed


def test_the_table_says_where_we_lose():
    def row(kind, cpu_ms, wall_ms):
        return {"kind": kind, "workers": 1, "size": 10, "cpu_ms": cpu_ms, "wall_ms": wall_ms}

    rows = [row("this search", 0.9, 1.0), row("memory", 0.5, 2.0), row("journal", 5.0, 6.0)]
    assert storage.losses({"rows": rows}) == [
        "Where we lose: Optuna, in memory is cheaper at 10 trials with 1 worker: 0.50 against 0.90 ms (processor)."
    ]
    assert storage.losses({"rows": rows[::2]}) == ["We lose none of these comparisons."]


def test_an_agreement_made_in_pieces_is_that_made_at_once(tmp_path):
    small = agreement.Comparison(max_width=16, num_samples=96, batch_size=32, max_epochs=4, number=3)
    whole = agreement.compare(small, tmp_path / "whole", 3600.0)
    assert whole["draws"] == 3 and whole["part_of_the_arithmetic"] == 1.0 and whole["median_relative_difference"] < 1e-6
    found, calls = None, 0
    while found is None or found["draws"] < 3:
        ticks = itertools.count()
        found = agreement.compare(small, tmp_path / "pieces", 6.0, clock=lambda ticks=ticks: float(next(ticks)))
        calls += 1
        assert calls < 100
    assert calls > 1 and found == whole
    assert not list((tmp_path / "pieces" / small.key).glob("*.pt")), "checkpoints of what is finished are left behind"
    assert "3 of 3 draws" in agreement.table([found]) and "same epoch in 3" in agreement.table([found])
