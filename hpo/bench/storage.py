"""What it costs to keep trials, a trial: our bookkeeping beside Optuna's storages, at three sizes of the study."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna

from hpo.bench import bookkeeping, peers
from hpo.journal import Journal
from hpo.members import Crew, Member
from hpo.mirror import STUDY_NAMES, Follower
from hpo.observer import Observer
from hpo.space import Space
from hpo.step1 import Step1Source
from hpo.storage import Storage
from hpo.study import Study
from hpo.view import num

SIZES = (10, 1_000, 10_000)
WORKERS = (1, 4, 16)
OURS = "this search"
NAMES = {
    OURS: "this search (with learning curve)",
    "memory": "Optuna, in memory",
    "journal": "Optuna, journal file",
    "sqlite": "Optuna, SQLite",
}
# A worker of Optuna's reads the whole study before its first trial: with 16 on a few cores, minutes.
_LEFT_OUT = {("journal", 10_000, 16), ("sqlite", 10_000, 16), ("sqlite", 10_000, 4)}
_PEER_SECONDS = 2.0
_PEER_TRIALS = 1_000
_DATABASE_TRIALS = 1_000  # enough: 10,000 would take a minute to write and another to read


def measure(folder: Path, say: Callable[[str], None], *, quick: bool = False) -> dict:
    """All costs; `folder` is used for studies, and emptied.

    Returns
    -------
    dict
        rows: one per kind, workers and size; study: keeping the Optuna study; reopening: seconds at the largest size.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sizes, counts = ((10, 40), (1, 2)) if quick else (SIZES, WORKERS)
    shutil.rmtree(folder, ignore_errors=True)
    rows, largest = [], folder / f"ours-{counts[0]}"
    for num_workers in counts:
        say(f"bookkeeping of this search, {num(num_workers, 'worker')}, {sizes[-1]} trials")
        study = folder / f"ours-{num_workers}"
        extent = _extent(sizes[-1])
        notes = bookkeeping.run_study(study, sizes[-1] + extent, num_workers)
        for size in sizes:
            # around that size; the first trial of every worker only sets its clock
            first = max(size - extent, 0) if size > extent else num_workers
            found = bookkeeping.costs(notes, first, min(size + extent, len(notes) - 1))
            rows.append({"kind": OURS, "size": size, "workers": num_workers, **found})
        if study != largest:
            shutil.rmtree(study)
    for kind in ("memory", "journal", "sqlite"):
        for num_workers in counts if kind != "memory" else counts[:1]:
            say(f"{NAMES[kind]}, {num(num_workers, 'worker')}")
            for size in sizes:
                if (kind, size, num_workers) in _LEFT_OUT:
                    continue
                seconds = 0.2 if quick else _PEER_SECONDS
                place = folder / f"{kind}-{num_workers}-{size}"
                found = peers.measure(kind, place, size, num_workers, _PEER_TRIALS, seconds)
                rows.append({"kind": kind, "size": size, "workers": num_workers, **found})
    say("the Optuna study beside a search, and reopening")
    kept = keeping(largest)
    opened = reopening(largest)
    shutil.rmtree(folder)
    return {
        "sizes": list(sizes),
        "workers": list(counts),
        "rows": rows,
        "left_out": [list(c) for c in sorted(_LEFT_OUT)] if not quick else [],
        "study": kept,
        "reopening": opened,
    }


def _extent(largest: int) -> int:
    """Costs at a size are those of so many trials before and after it."""
    return min(200, largest // 4)


def keeping(study: Path) -> list[dict]:
    """Processor time per trial of bringing the Optuna study up to date, in a process beside the search."""
    space = Space(bookkeeping.context(study, len(list(_trials(study)))).config)
    found = []
    for name, place, most in (
        ("study.journal", Journal(study / "study.journal", STUDY_NAMES), None),
        ("SQLite, --storage", Storage(f"sqlite:///{study}/kept.db", STUDY_NAMES, "bench"), _DATABASE_TRIALS),
    ):
        source = study if most is None else _part(study, most)
        warnings: list[str] = []
        cpu = time.process_time()
        follower = Follower(source, place, space, warnings.append)
        if not follower.bring_up_to_date():
            raise RuntimeError(f"{name} was not written: {warnings}")
        trials = len(list(_trials(source)))
        found.append({"name": name, "trials": trials, "cpu_ms": 1e3 * (time.process_time() - cpu) / trials})
    return found


def _trials(study: Path):
    return Study(study).records(1, curves=False)


def _part(study: Path, most: int) -> Path:
    """The first trials of a study, as a study."""
    from emulator.records import RecordWriter

    part = study.parent / "part"
    with RecordWriter(part / "step1" / "worker-part.jsonl", sync_seconds=60.0) as writer:
        for record in Study(study).records(1)[:most]:
            writer.append(record)
    return part


def reopening(study: Path) -> list[dict]:
    """Seconds until a study of the largest size can be gone on with, and until it can be looked at."""
    trials = len(_trials(study))
    made = bookkeeping.context(study, trials + 16)
    found = []

    def clock(name: str, work: Callable[[], object], count: int = trials) -> None:
        begin = time.perf_counter()
        work()
        found.append({"name": name, "trials": count, "seconds": time.perf_counter() - begin})

    def go_on():
        """What a member does before it hands out the first trial."""
        with Member(study, devices=["cpu"]) as member:
            records = Study(study).records(1, curves=False)
            source = Step1Source(made, Crew.of(study, member))
            assert len(records) == trials and len(source.take(1)) == 1

    clock("this search, until its next trial", go_on)
    clock("this search, all records with their curves", lambda: Study(study).records(1))
    clock("this search, the live view's first look", lambda: Observer(study).look())
    command = [sys.executable, "-m", "hpo.status", str(study)]
    root = Path(__file__).parents[2]
    clock("python -m hpo.status", lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=root))
    clock("Optuna, the journal file of the same trials", lambda: peers.load("journal", study / "study.journal").trials)
    database, name = study / "kept.db", "Optuna, SQLite"
    clock(name, lambda: peers.load("sqlite", database).trials, min(trials, _DATABASE_TRIALS))
    return found


def markdown(result: dict) -> str:
    """Tables, and where we lose."""
    lines = [
        "| milliseconds of processor time a trial | workers |" + "".join(f" {n:,} trials |" for n in result["sizes"]),
        "| --- | --: |" + " --: |" * len(result["sizes"]),
    ]
    rows = {(r["kind"], r["workers"], r["size"]): r for r in result["rows"]}
    for kind in NAMES:
        for workers in result["workers"]:
            cells = [rows.get((kind, workers, size)) for size in result["sizes"]]
            if any(cells):
                shown = [f"{c['cpu_ms']:.2f}" if c else "-" for c in cells]
                lines.append(f"| {NAMES[kind]} | {workers} | {' | '.join(shown)} |")
    lines += ["", "All processes together, at that size of the study; Optuna's trials have no learning curve."]
    if result["left_out"]:
        lines.append("Left out (-): every worker of Optuna's reads the whole study first, which takes minutes here.")
    waits = [r for r in result["rows"] if r["size"] == result["sizes"][-1] and r["workers"] == result["workers"][0]]
    listed = ", ".join(f"{NAMES[r['kind']]} {r['wall_ms']:.2f} ms" for r in waits)
    lines.append(f"Wall-clock at the largest size with {num(result['workers'][0], 'worker')}: {listed}.")
    lines += ["", "| keeping the Optuna study, in a process beside the search | ms a trial |", "| --- | --: |"]
    lines += [f"| {k['name']} ({k['trials']:,} trials, 100 epochs) | {k['cpu_ms']:.2f} |" for k in result["study"]]
    lines += ["", "| opening a study | trials | seconds |", "| --- | --: | --: |"]
    lines += [f"| {r['name']} | {r['trials']:,} | {r['seconds']:.2f} |" for r in result["reopening"]]
    lines += ["", *losses(result)]
    return "\n".join(lines)


def losses(result: dict) -> list[str]:
    """Every comparison that this search does not win."""
    ours = {(r["workers"], r["size"]): r for r in result["rows"] if r["kind"] == OURS}
    found = [
        f"{NAMES[r['kind']]} is cheaper at {r['size']:,} trials with {num(r['workers'], 'worker')}: "
        f"{r[unit]:.2f} against {ours[r['workers'], r['size']][unit]:.2f} ms ({what})"
        for r in result["rows"]
        for unit, what in (("cpu_ms", "processor"), ("wall_ms", "wall-clock"))
        if r["kind"] != OURS and r[unit] < ours[r["workers"], r["size"]][unit]
    ]
    return [f"Where we lose: {f}." for f in found] or ["We lose none of these comparisons."]
