"""Optuna's own storages under the same trivial trials: ask, 21 categorical parameters, tell; no learning curve.

    python -m hpo.bench.peers '{"kind": "journal", "path": ..., ...}'

is one worker: it opens the study, waits for the others, and runs trials for a while.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from hpo.journal import Journal
from hpo.storage import Storage

_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_DISTRIBUTIONS = {"num_hidden": optuna.distributions.CategoricalDistribution(range(1, 21))} | {
    f"width_{k}": optuna.distributions.CategoricalDistribution(_WIDTHS) for k in range(1, 21)
}
NAMES = {1: "step1", 2: "step2"}


def trials(count: int) -> list[FrozenTrial]:
    """Finished trials to fill a study with."""
    return [
        optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            params={n: d.choices[(i * 7 + k) % len(d.choices)] for k, (n, d) in enumerate(_DISTRIBUTIONS.items())},
            distributions=_DISTRIBUTIONS,
            value=float(i),
            user_attrs={"trial": i},
        )
        for i in range(count)
    ]


def fill(kind: str, path: Path, count: int) -> None:
    """Make a study with `count` trials by our own batches: Optuna's way would take many minutes."""
    place = Journal(path, NAMES) if kind == "journal" else Storage(f"sqlite:///{path}", NAMES, "bench")
    place.open({1: {}, 2: {}})
    made = trials(count)
    for first in range(0, count, 500):
        place.add(1, made[first : first + 500])


def load(kind: str, path: Path | None) -> optuna.Study:
    """The study as a user of Optuna opens it."""
    if kind == "memory":
        return optuna.create_study(storage=InMemoryStorage())
    if kind == "journal":
        # the default lock, a symbolic link, costs more and never breaks a stale lock
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        return optuna.load_study(study_name="step1", storage=storage)
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 100}})
    return optuna.load_study(study_name="step1" if kind == "sqlite" else kind, storage=storage)


def one_trial(study: optuna.Study) -> None:
    trial = study.ask()
    for name, distribution in _DISTRIBUTIONS.items():
        trial.suggest_categorical(name, distribution.choices)
    study.tell(trial, 0.5)


def run_trials(study: optuna.Study, most: int, seconds: float) -> dict:
    """Trials until there were `most`, or time is up."""
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < most and time.perf_counter() - begin < seconds:
        one_trial(study)
        done += 1
    return {"trials": done, "wall_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}


def measure(kind: str, folder: Path, size: int, num_workers: int, most: int, seconds: float) -> dict:
    """Milliseconds per trial of the next trials of a study that has `size`."""
    if kind == "memory":
        study = load(kind, None)
        study.add_trials(trials(size))
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        results = [run_trials(study, most, seconds)]
    else:
        folder.mkdir(parents=True)
        path = folder / "study"
        fill(kind, path, size)
        told = {"kind": kind, "path": str(path), "num_workers": num_workers, "most": most, "seconds": seconds}
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "hpo.bench.peers", json.dumps(told | {"seed": k})],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for k in range(num_workers)
        ]
        results = [json.loads(p.communicate()[0]) for p in processes]
    done = sum(r["trials"] for r in results)
    return {
        "cpu_ms": 1e3 * sum(r["cpu_s"] for r in results) / done,
        "wall_ms": 1e3 * max(r["wall_s"] for r in results) / done,
        "trials_measured": done,
    }


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    told = json.loads(sys.argv[1])
    path = Path(told["path"])
    study = load(told["kind"], path)
    study.sampler = optuna.samplers.RandomSampler(seed=told["seed"])
    one_trial(study)  # the first one reads the whole study
    ready = path.parent / f"ready-{told['seed']}"
    ready.touch()
    while len(list(path.parent.glob("ready-*"))) < told["num_workers"]:
        time.sleep(0.02)
    print(json.dumps(run_trials(study, told["most"], told["seconds"])))


if __name__ == "__main__":
    main()
