"""Trials per hour: the fleet, the plain loop, and the loop that users of a search library write.

All train the same draws of the paper's space on the same samples with the paper's recipe (Adam, batch 1024), one
thread, in turns. The third is what a KerasTuner or Optuna example shows: a DataLoader over the samples, the default
Adam, one trial at a time, the best weights kept. Nothing is left out of any of them, building the network included.

`measure` runs in a process of its own: the setting of the C library's allocator that our workers have must be there
from the start, and it favours the other two loops as well.

Small draws are also trained to their end by the fleet and the plain loop, on every device; those of the whole space
take hours (hpo.bench.agreement).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from emulator.latency import machine
from emulator.mlp import MLPSpec, build_mlp
from hpo.config import Config
from hpo.flat import FlatTraining
from hpo.fleet import Fleet, use_precision
from hpo.recipe import Recipe
from hpo.space import Space, torch_seed
from hpo.train import Progress, Training, TrainingData, train
from hpo.workers import WORKER_ENVIRONMENT

DRAWS = 64
NUM_SAMPLES = 2465  # for training, and as many for validation: p = 0.00025 of the paper's
NUM_INPUTS, NUM_OUTPUTS = 16, 4  # the paper's
# Draws that one loop trains before the next takes its turn.
_TURN = 8


@dataclass(frozen=True)
class Case:
    """Draws from the widths up to `max_width`, trained for `epochs` epochs each."""

    name: str
    max_width: int
    epochs: int


# Minutes on one core: few epochs, so that making and warming up a network, once in 100 epochs of the paper's recipe,
# weighs more here than there.
CPU_CASES = (Case("widths up to 256", 256, 8), Case("the paper's space", 2048, 2))
CUDA_CASES = (Case("widths up to 256", 256, 50), Case("the paper's space", 2048, 50))


def draws(max_width: int, number: int = DRAWS) -> list[MLPSpec]:
    """Networks of the paper's space, as trials 0, 1, ... of a study with seed 0 draw them."""
    paper = Config()
    widths = [w for w in paper.space.widths.values if w <= max_width]
    space = Space(Config.from_dict({"space": {"widths": widths}}))
    return [
        MLPSpec(num_inputs=NUM_INPUTS, hidden=space.hidden(space.draw(i)), num_outputs=NUM_OUTPUTS)
        for i in range(number)
    ]


def samples(device: torch.device, num_samples: int = NUM_SAMPLES, dtype: torch.dtype = torch.float32) -> TrainingData:
    """A smooth function within 0..1, of the paper's number of inputs and outputs."""
    g = torch.Generator().manual_seed(99)
    first, second = (torch.randn(*shape, generator=g) / shape[0] ** 0.5 for shape in ((NUM_INPUTS, 32), (32, 4)))
    x_NI = torch.randn(2 * num_samples, NUM_INPUTS, generator=g)
    y_NO = torch.sigmoid(3.0 * torch.sin(2.0 * torch.tanh(x_NI @ first)) @ second)
    x_NI, y_NO = x_NI.to(device, dtype), y_NO.to(device, dtype)
    parts = (t.contiguous() for t in (x_NI[:num_samples], y_NO[:num_samples], x_NI[num_samples:], y_NO[num_samples:]))
    return TrainingData(*parts)


def fleet(specs: Sequence[MLPSpec], recipe: Recipe, data: TrainingData, first: int = 0) -> list[Progress]:
    """Train all; `first` is the number of the first draw."""
    ships, done = Fleet(data.device), {}
    waiting = list(enumerate(specs, start=first))
    while waiting or ships.flights:
        while waiting and len(ships.flights) < ships.capacity:
            trial, spec = waiting.pop(0)

            def make(lane, trial=trial, spec=spec):
                return FlatTraining(spec, recipe, data, **seeds(trial), lane=lane), 0.0

            ships.start(trial, make)
        for landing in ships.advance(0.2):
            if landing.error is not None:
                raise landing.error
            done[landing.key] = landing.flight.training
    return [done[k] for k in sorted(done)]


def plain(specs: Sequence[MLPSpec], recipe: Recipe, data: TrainingData, first: int = 0) -> list[Progress]:
    """The same, one by one, in the plain loop."""
    trained = []
    for trial, spec in enumerate(specs, start=first):
        training = Training(spec, recipe, data, **seeds(trial))
        train(training)
        trained.append(training)
    return trained


def dataloader(specs: Sequence[MLPSpec], recipe: Recipe, data: TrainingData, first: int = 0) -> list[float]:
    """The same as users write it; gives the least validation MSE of each."""
    device = data.device
    train_set = TensorDataset(data.x_train_NI.cpu(), data.y_train_NO.cpu())
    validation_set = TensorDataset(data.x_validation_NI.cpu(), data.y_validation_NO.cpu())
    found = []
    for trial, spec in enumerate(specs, start=first):
        torch.manual_seed(trial)
        train_loader = DataLoader(train_set, batch_size=recipe.batch_size, shuffle=True)
        validation_loader = DataLoader(validation_set, batch_size=recipe.batch_size)
        model = build_mlp(spec, torch.Generator().manual_seed(trial)).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        criterion = nn.MSELoss()
        best, best_epoch, best_state = float("inf"), 0, None
        for epoch in range(recipe.max_epochs):
            model.train()
            for x, y in train_loader:
                optimizer.zero_grad()
                loss = criterion(model(x.to(device)), y.to(device))
                loss.backward()
                optimizer.step()
            model.eval()
            total = 0.0
            with torch.no_grad():
                for x, y in validation_loader:
                    total += criterion(model(x.to(device)), y.to(device)).item() * len(x)
            mse = total / len(validation_set)
            if mse < best:
                best, best_epoch, best_state = mse, epoch, copy.deepcopy(model.state_dict())
            elif recipe.patience and epoch - best_epoch >= recipe.patience:
                break
        model.load_state_dict(best_state)
        found.append(best)
    return found


LOOPS: dict[str, Callable] = {"fleet": fleet, "plain": plain, "dataloader": dataloader}


def seeds(trial: int) -> dict[str, int]:
    return {f"{what}_seed": torch_seed(0, trial, what) for what in ("weights", "batch")}


def time_case(case: Case, device: torch.device, precision: str = "float32") -> dict:
    """Seconds per trial and epoch of every loop, in turns over the draws."""
    use_precision(precision, device)
    data, specs = samples(device), draws(case.max_width)
    recipe = Recipe(max_epochs=case.epochs, patience=0)
    for loop in LOOPS.values():  # libraries load what they need
        loop(specs[:1], Recipe(max_epochs=1), data)
    spent = dict.fromkeys(LOOPS, 0.0)
    turn = len(specs) if device.type == "cuda" else _TURN
    for k, first in enumerate(range(0, len(specs), turn)):
        names = list(LOOPS)
        for name in names[k % 3 :] + names[: k % 3]:
            start = _clock(device)
            LOOPS[name](specs[first : first + turn], recipe, data, first)
            spent[name] += _clock(device) - start
    per_epoch = {name: s / (len(specs) * case.epochs) for name, s in spent.items()}
    return {
        "case": case.name,
        "draws": len(specs),
        "epochs": case.epochs,
        "precision": precision,
        "ms_per_trial_epoch": {name: 1e3 * s for name, s in per_epoch.items()},
        "trials_per_hour_of_100_epochs": {name: 36.0 / s for name, s in per_epoch.items()},
        "times_faster_than_dataloader": {
            name: per_epoch["dataloader"] / s for name, s in per_epoch.items() if name != "dataloader"
        },
    }


def _clock(device: torch.device) -> float:
    """Processor time of this thread's process, which others on the machine do not lengthen; on a GPU time itself."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def agreement(max_width: int, num_samples: int, batch_size: int, dtype: torch.dtype, device: torch.device) -> dict:
    """64 draws trained to their end by the fleet and by the plain loop."""
    data, specs = samples(device, num_samples, dtype), draws(max_width)
    recipe = Recipe(batch_size=batch_size)
    pairs = zip(fleet(specs, recipe, data), plain(specs, recipe, data), strict=True)
    return {
        "draws": len(specs),
        "max_width": max_width,
        "num_samples": num_samples,
        "batch_size": batch_size,
        "dtype": str(dtype).removeprefix("torch."),
        **agreed([(outcome(a), outcome(b)) for a, b in pairs]),
    }


def outcome(training: Progress) -> dict:
    """What a training came to."""
    return {"epochs": training.epoch, "best_epoch": training.best_epoch, "validation_mse": training.best_mse}


def agreed(pairs: Sequence[tuple[dict, dict]]) -> dict:
    """How far outcomes of the fleet and of the plain loop agree; None where there are none."""
    differences = [abs(a["validation_mse"] - b["validation_mse"]) / b["validation_mse"] for a, b in pairs]
    return {
        "same_best_epoch": sum(a["best_epoch"] == b["best_epoch"] for a, b in pairs),
        "same_last_epoch": sum(a["epochs"] == b["epochs"] for a, b in pairs),
        "epochs": sum(b["epochs"] for _, b in pairs) / max(len(pairs), 1),
        "median_relative_difference": statistics.median(differences) if differences else None,
        "largest_relative_difference": max(differences, default=None),
    }


def agreement_text(found: dict) -> str:
    """`agreed` in words."""
    return (
        f"fleet and plain loop stop at the same epoch in {found['same_last_epoch']}; validation MSE differs by "
        f"{found['median_relative_difference']:.1e} (median), {found['largest_relative_difference']:.1e} (largest)."
    )


def devices() -> list[torch.device]:
    found = [torch.device("cpu")]
    return [*found, torch.device("cuda", 0)] if torch.cuda.is_available() else found


def run() -> list[dict]:
    """All timings of this machine, one entry per device."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    results = []
    for device in devices():
        name = machine() if device.type == "cpu" else torch.cuda.get_device_name(device)
        rows = [time_case(case, device) for case in (CPU_CASES if device.type == "cpu" else CUDA_CASES)]
        if device.type == "cuda":
            rows += [time_case(case, device, "tf32") for case in CUDA_CASES]
        agrees = [agreement(64, 512, 256, dtype, device) for dtype in (torch.float32, torch.float64)]
        results.append({"device": device.type, "machine": name, "threads": 1, "rows": rows, "agreement": agrees})
    return results


def measure() -> list[dict]:
    """`run` in a process of its own, with the environment of a worker."""
    command = [sys.executable, "-m", "hpo.bench.training", "--json"]
    done = subprocess.run(command, env=os.environ | WORKER_ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def table(results: list[dict]) -> str:
    """What `measure` gave, as Markdown."""
    lines = [
        "| device | draws from | fleet | plain loop | DataLoader loop | fleet against DataLoader |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for result in results:
        for row in result["rows"]:
            ms, precision = row["ms_per_trial_epoch"], row["precision"]
            device = result["machine"] + ("" if precision == "float32" else f" ({precision})")
            cells = [f"{ms[name]:.1f}" for name in LOOPS]
            ratio = row["times_faster_than_dataloader"]["fleet"]
            lines.append(f"| {device} | {row['case']} | {' | '.join(cells)} | {ratio:.2f}x |")
    epochs = ", ".join(dict.fromkeys(f"{row['epochs']} for {row['case']}" for r in results for row in r["rows"]))
    lines += ["", f"Milliseconds per trial and epoch, over so many epochs: {epochs}; one thread on a CPU.", ""]
    for result in results:
        for a in result["agreement"]:
            lines.append(f"{a['draws']} trials to their end on {result['device']}, {a['dtype']}: {agreement_text(a)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.bench.training", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    a = parser.parse_args(argv)
    if a.json:
        print(json.dumps(run()))
    else:
        print(table(measure()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
