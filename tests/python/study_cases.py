"""Study folders made by hand: records, members and descriptions as a search writes them, without training anything."""

import json
import random
from datetime import UTC, datetime, timedelta

from emulator.records import RecordWriter
from hpo.config import Config
from hpo.space import Space

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_config(**search):
    return Config.from_dict({"data": {"path": "samples.nc"}, "search": {"trials": 40, "top": 4} | search})


def make_record(config, trial, *, step=1, epochs=6, mse=None, error=None, after_s=0.0, seconds=2.0, **more):
    """A record that looks like one of a training; its curve and error come from the trial's number."""
    space = Space(config)
    params = space.draw(trial)
    rng = random.Random(1000 * step + trial)
    curve = [1e-3 * rng.uniform(1.0, 2.0) / (epoch + 1) for epoch in range(epochs)]
    if mse is not None:
        curve[-1] = mse
    best = None if error else min(curve)
    return {
        "schema": 1,
        "step": step,
        "trial": trial,
        "state": "failed" if error else "complete",
        "params": params,
        "hidden": list(space.hidden(params)),
        "activation": "relu",
        "num_parameters": 100 + trial,
        "train": dict(vars(space.recipe(params, step))),
        "validation_mse": best,
        "best_epoch": 0 if error else curve.index(best) + 1,
        "epochs": epochs,
        "curve": {"train_mse": curve, "validation_mse": curve},
        "seconds": seconds,
        "error": error,
        "worker": "node1-1-abc-000",
        "model": None if step == 1 else f"step2/models/trial-{trial:06d}.pt",
        "finished": (BEGIN + timedelta(seconds=after_s)).isoformat(timespec="milliseconds"),
        **({"promoted": "error", "step1_mse": best, "step1_rank": 1} if step == 2 else {}),
        **more,
    }


def append(out, worker, *records):
    """Append to the record file of a worker, as it does."""
    for record in records:
        with RecordWriter(out / f"step{record['step']}" / f"worker-{worker}.jsonl") as writer:
            writer.append(record)


def describe(out, config, *, num_train=None, num_validation=None, **more):
    """A `study.json` as the search writes it."""
    rungs = {f"rung{k}": 40 for k in range(1, len(config.search.rungs) + 1)}
    columns = [{"name": n, "units": "1", "variable": n} for n in ("a", "b", "c")]
    description = {
        "schema": 1,
        "created": BEGIN.isoformat(),
        "config": config.to_dict(),
        "data": {"path": "samples.nc", "checksum": "abc", "num_samples": 2000, "seed": config.search.seed},
        "columns": {"inputs": columns, "outputs": columns[:1]},
        "prepared": {
            "output_activation": "identity",
            "error_units": "standardised",
            "input_transforms": [["none"] * 3],
            "num_train": num_train or {"1": 400, "2": 1600} | rungs,
            "num_validation": num_validation or {"1": 100, "2": 400} | rungs,
        },
        "versions": {},
        "commit": None,
        "runs": [],
        **more,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(json.dumps(description))


def member(out, name, *, host="node1", state="step 1", workers=(), now=None, beat=5, leader=False, **more):
    """A member's file, as if on another host; `now` is seconds after BEGIN."""
    clock = BEGIN.timestamp() + (0.0 if now is None else now)
    content = {
        "schema": 1,
        "name": name,
        "host": host,
        "boot_id": "of another host",
        "pid": 1,
        "pid_start": "1",
        "beat": beat,
        "now": clock,
        "started": BEGIN.isoformat(timespec="seconds"),
        "state": state,
        "leader": leader,
        "devices": [w["device"] for w in workers],
        "slurm": None,
        "workers": list(workers),
        "done": 3,
        "failed": 0,
        "rate": None,
        "error": None,
    }
    (out / "members").mkdir(parents=True, exist_ok=True)
    (out / "members" / f"{name}.json").write_text(json.dumps(content | more))


def worker(slot, *trials, device="cpu", now=0.0, memory=None):
    """A worker in a member's file; `trials`: (step, trial, epoch, seconds under way)."""
    return {
        "slot": slot,
        "device": device,
        "state": "busy" if trials else "idle",
        "trials": [
            {
                "step": step,
                "trial": trial,
                "epoch": epoch,
                "max_epochs": 100,
                "best_mse": 1e-3 / epoch if epoch else None,
                "since": BEGIN.timestamp() + now - seconds,
            }
            for step, trial, epoch, seconds in trials
        ],
        "memory_bytes": memory,
    }
