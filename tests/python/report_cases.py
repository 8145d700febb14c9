"""A study made by hand for the report: every number that its page states follows from the lines below.

Step 1 has 60 trials in rank order of their number: trial k has the error 1e-3 * 2^(k/40) up to trial 40, then 16-fold
more over the last 20 steps. Step 2 retrained trials 0 to 7 for their error and 30 for being light.

The samples: a is log-uniform in 1..100, b uniform in 0..1, y = log10(a) + b, but 0.1 more where b > 0.95; z = 1.
The best network (trial 2) is exactly log10(a) + b, so that it errs by 0.1 where b > 0.95 and nowhere else; the others
are that plus a constant. The scheme they replace is log10(a) + b + 0.5.
"""

import json

import netCDF4
import numpy as np
import torch

from emulator.bundle import save_bundle
from emulator.dataset import SampleFile
from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.records import RecordWriter
from hpo.config import Config

NUM_TRIALS, FLAT, TOP = 60, 40, 8
NUM_SAMPLES = 2000
# Step-2 errors and numbers of parameters of the retrained trials; the network of a trial is off by `OFFSET`.
STEP2 = {0: 4e-4, 1: 2e-4, 2: 1e-4, 3: 1.05e-4, 4: 8e-4, 5: 3e-4, 6: 5e-3, 7: 6e-4, 30: 1.9e-4}
OFFSET = {0: 0.03, 1: 0.02, 2: 0.0, 3: 0.01, 4: 0.1, 5: 0.025, 6: 0.6, 7: 0.05, 30: 0.015}


def step1_error(k):
    inside, beyond = min(k, FLAT - 1), max(0, k - (FLAT - 1))
    return 1e-3 * 2.0 ** (inside / (FLAT - 1)) * 16.0 ** (beyond / (NUM_TRIALS - FLAT))


def hidden_of(k):
    """One layer for trial 30 alone, then two to four in turn."""
    return (8,) if k == 30 else (8 * (1 + k % 3),) * (2 + k % 3)


def parameters_of(k):
    return 40 if k == 30 else 1000 + 10 * k


def record(step, trial, mse, *, state="complete", epochs=4, promoted=None):
    curve = [mse * f for f in (4.0, 2.0, 1.0, 1.5)][:epochs] if mse else []
    return {
        "schema": 1,
        "step": step,
        "trial": trial,
        "state": state,
        "params": {},
        "hidden": list(hidden_of(trial)),
        "activation": "relu",
        "num_parameters": parameters_of(trial),
        "train": {"max_epochs": 4 if trial == 2 else 10, "batch_size": 100},
        "validation_mse": mse,
        "best_epoch": min(3, epochs) if mse else 0,
        "epochs": len(curve),
        "curve": {"train_mse": curve, "validation_mse": curve},
        "seconds": 2.0 if step == 1 else 30.0,
        "error": "diverged" if state == "failed" else None,
        "worker": "worker-000",
        "model": f"step2/models/trial-{trial:06d}.pt" if mse and step == 2 else None,
        "finished": "2026-01-01T00:00:00.000+00:00",
    } | ({"promoted": promoted, "step1_mse": step1_error(trial), "step1_rank": trial + 1} if step == 2 else {})


def write_samples(path):
    rng = np.random.default_rng(5)
    a, b = 10.0 ** rng.uniform(0.0, 2.0, NUM_SAMPLES), rng.uniform(0.0, 1.0, NUM_SAMPLES)
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("n", NUM_SAMPLES)
        values = {"a": a, "b": b, "y": np.log10(a) + b + np.where(b > 0.95, 0.1, 0.0), "z": np.ones(NUM_SAMPLES)}
        for name, v in values.items():
            variable = file.createVariable(name, "f8", ("n",))
            variable.units = "m" if name == "a" else "1"
            variable[:] = v
    return path


def write_network(path, samples, provenance, offset):
    """A bundle that computes y = log10(a) + b + offset and z = 1."""
    spec = MLPSpec(num_inputs=2, hidden=(2,), num_outputs=2, activation="identity", output_activation="identity")
    state = build_mlp(spec, torch.Generator()).state_dict()
    first, second = (k for k in state if k.endswith("weight"))
    state[first], state[second] = torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    state[first.replace("weight", "bias")] = torch.zeros(2)
    state[second.replace("weight", "bias")] = torch.tensor([offset, 1.0])
    x, y = samples.read(np.arange(NUM_SAMPLES))
    transforms = {"a": "log10", "b": "none"}
    save_bundle(
        path,
        spec=spec,
        state=state,
        inputs=Normaliser.fit(x, samples.input_columns, transforms, standardise=False),
        outputs=Normaliser.fit(y, samples.output_columns, standardise=False, allow_constant=True),
        input_columns=samples.input_columns,
        output_columns=samples.output_columns,
        provenance=provenance,
    )


def make_study(folder, *, trials=NUM_TRIALS, step2=tuple(STEP2), p_subset=0.1, factor=1.0, more=(), latency=True):
    """A finished study; `factor` multiplies its step-1 errors, `more` are further records of step 1."""
    folder.mkdir(parents=True)
    samples = SampleFile(write_samples(folder.parent / f"{folder.name}.nc"), ["a", "b"], ["y", "z"])
    search = {"trials": max(trials, 1), "top": TOP, "p_subset": p_subset, "seed": 4, "light_top": 1}
    data = {"path": str(samples.path), "inputs": ["a", "b"], "outputs": ["y", "z"], "test_fraction": 0.5}
    config = Config.from_dict({"data": data, "search": search})
    used = {
        "path": str(samples.path),
        "checksum": samples.checksum(),
        "num_samples": NUM_SAMPLES,
        "inputs": ["a", "b"],
        "outputs": ["y", "z"],
        "units": {"a": "m", "b": "1", "y": "1", "z": "1"},
        "seed": 4,
        "test_fraction": 0.5,
    }
    description = {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "config": config.to_dict(),
        "data": used,
        "columns": {
            "inputs": [c.to_dict() for c in samples.input_columns],
            "outputs": [c.to_dict() for c in samples.output_columns],
        },
        "prepared": {
            "error_units": "physical",
            "output_activation": "identity",
            "input_transforms": [["log10", "none"]],
            "num_train": {"1": 80, "2": 800},
            "num_validation": {"1": 20, "2": 200},
        },
    }
    (folder / "study.json").write_text(json.dumps(description))
    step1 = [record(1, k, factor * step1_error(k)) for k in range(trials)]
    with RecordWriter(folder / "step1/worker-000.jsonl") as writer:
        for r in (*step1, *more):
            writer.append(r)
    if step2:
        with RecordWriter(folder / "step2/worker-000.jsonl") as writer:
            for k in step2:
                writer.append(record(2, k, STEP2[k], promoted="light" if k == 30 else "error"))
        for k in step2:
            path = folder / f"step2/models/trial-{k:06d}.pt"
            write_network(path, samples, {"data": used, "trial": k}, OFFSET[k])
    if latency and step2:
        # batch 1 and 16: 1 ns per parameter and 40 ns; 1024: half of the former
        rows = {str(k): {"1": n + 40.0, "16": n + 40.0, "1024": n / 2} for k in step2 if (n := parameters_of(k))}
        known = {"schema": 1, "machine": "some CPU", "batch_sizes": [1, 16, 1024], "trials": rows}
        (folder / "latency.json").write_text(json.dumps(known))
    return folder
