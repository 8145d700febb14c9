"""The fleet against the plain loop: 64 draws of the paper's space, trained to their ends by both.

That is hours of work for one core. It is done in pieces: a draw that both have finished is a file, a training under way
a checkpoint, and the next call goes on from there, smallest networks first. What was trained by other code, another
PyTorch or with other settings does not count.

    python -m hpo.bench --only agreement --minutes 3     another three minutes of it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import emulator.mlp
import hpo.flat
import hpo.network
import hpo.optimizers
import hpo.products
import hpo.train
from hpo.bench.training import (
    DRAWS,
    NUM_SAMPLES,
    agreed,
    agreement_text,
    draws,
    outcome,
    samples,
    seeds,
)
from hpo.checkpoint import Checkpoint
from hpo.flat import FlatTraining
from hpo.fleet import Fleet
from hpo.recipe import Recipe
from hpo.train import Progress, Training, TrainingData, training_flop
from hpo.workers import WORKER_ENVIRONMENT

KINDS = {"fleet": FlatTraining, "plain": Training}
_SOURCES = (hpo.flat, hpo.network, hpo.optimizers, hpo.products, hpo.train, emulator.mlp)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared; the defaults are the paper's space, samples and recipe."""

    dtype: str = "float32"
    max_width: int = 2048
    num_samples: int = NUM_SAMPLES
    batch_size: int = 1024
    max_epochs: int = 100
    number: int = DRAWS

    @property
    def recipe(self) -> Recipe:
        return Recipe(batch_size=self.batch_size, max_epochs=self.max_epochs)

    @property
    def key(self) -> str:
        """Of the settings and of all that the numbers depend on."""
        found = hashlib.sha256(json.dumps([asdict(self), torch.__version__]).encode())
        for module in _SOURCES:
            found.update(Path(module.__file__).read_bytes())
        return f"{self.dtype}-{found.hexdigest()[:12]}"


COMPARISONS = (Comparison(), Comparison(dtype="float64"))


def compare(comparison: Comparison, folder: Path, seconds: float, clock: Callable[[], float] = time.monotonic) -> dict:
    """Go on with a comparison for about so long; gives what `summary` gives."""
    folder = folder / comparison.key
    folder.mkdir(parents=True, exist_ok=True)
    until = clock() + seconds
    specs = draws(comparison.max_width, comparison.number)
    num_samples = comparison.num_samples
    data = samples(torch.device("cpu"), num_samples, getattr(torch, comparison.dtype))
    for draw in sorted(range(len(specs)), key=lambda k: training_flop(specs[k], num_samples, num_samples, 1)):
        path = folder / f"{draw:03d}.json"
        if path.exists():
            continue
        trained = {}
        for name in KINDS:
            if clock() >= until:
                return summary(comparison, folder)
            checkpoint = folder / f"{draw:03d}-{name}.pt"
            training, seconds_spent = _train(name, specs[draw], comparison.recipe, data, draw, checkpoint, until, clock)
            if training is None:
                return summary(comparison, folder)
            trained[name] = outcome(training) | {"curve": training.validation_curve, "seconds": seconds_spent}
        _write(path, {"draw": draw, "hidden": list(specs[draw].hidden)} | trained)
        for name in KINDS:
            (folder / f"{draw:03d}-{name}.pt").unlink(missing_ok=True)
    return summary(comparison, folder)


def _train(name, spec, recipe, data: TrainingData, draw, path, until, clock) -> tuple[Progress | None, float]:
    """The training at its end, and the processor seconds it took; None if the time is up before."""
    checkpoint, fleet = Checkpoint(path, 1e9, name), Fleet(data.device)

    def make(lane):
        kind = {"lane": lane} if name == "fleet" else {}
        training = KINDS[name](spec, recipe, data, **seeds(draw), **kind)
        return training, checkpoint.restore(training)

    fleet.start(draw, make)
    while clock() < until:
        for landing in fleet.advance(1.0):
            if landing.error is not None:
                raise landing.error
            checkpoint.write(landing.flight.training, landing.flight.seconds)
            return landing.flight.training, landing.flight.seconds
    flight = fleet.flights[0]
    checkpoint.write(flight.training, flight.seconds)
    return None, flight.seconds


def summary(comparison: Comparison, folder: Path) -> dict:
    """How far the two agree in the draws that both have finished; None where there is none yet."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    pairs = [(f["fleet"], f["plain"]) for f in found]
    specs = draws(comparison.max_width, comparison.number)
    flop = [training_flop(s, comparison.num_samples, comparison.num_samples, 1) for s in specs]
    return asdict(comparison) | {
        "draws": len(found),
        "part_of_the_arithmetic": sum(flop[f["draw"]] for f in found) / sum(flop),
        **agreed(pairs),
        "other_epochs": [
            {"hidden": f["hidden"], "fleet": f["fleet"]["epochs"], "plain": f["plain"]["epochs"]}
            for f in found
            if f["fleet"]["epochs"] != f["plain"]["epochs"]
        ],
    }


def _write(path: Path, content: dict) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content) + "\n")
    os.replace(temporary, path)


def measure(folder: Path, seconds: float) -> list[dict]:
    """All comparisons, `seconds` in all, in a process of its own with the environment of a worker."""
    command = [sys.executable, "-m", "hpo.bench.agreement", str(folder), str(seconds)]
    done = subprocess.run(command, env=os.environ | WORKER_ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def table(results: list[dict]) -> str:
    """What `measure` gave, as text."""
    lines = []
    for r in results:
        head = (
            f"{r['dtype']}: {r['draws']} of {r['number']} draws trained to their ends, {r['max_epochs']} epochs at most"
        )
        if not r["draws"]:
            lines.append(f"{head}.")
            continue
        lines.append(f"{head}, {r['part_of_the_arithmetic']:.0%} of the arithmetic of all: {agreement_text(r)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.bench.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--dtype", choices=[c.dtype for c in COMPARISONS], help="only this one")
    parser.add_argument("--epochs", type=int, default=Comparison.max_epochs, help="at most; the recipe's: %(default)s")
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    until, results = time.monotonic() + a.seconds, []
    wanted = [c.dtype for c in COMPARISONS if a.dtype in (None, c.dtype)]
    for comparison in (replace(c, max_epochs=a.epochs) for c in COMPARISONS):
        left = 0.0
        if comparison.dtype in wanted:
            left = max(until - time.monotonic(), 0.0) / (len(wanted) - wanted.index(comparison.dtype))
        results.append(compare(comparison, a.folder, left))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
