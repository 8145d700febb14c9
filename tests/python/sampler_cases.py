"""A search without trainings: configurations of known error, driven through the layer that proposes."""

import json
import math
from pathlib import Path

from hpo.config import Config
from hpo.history import Finished
from hpo.proposals import Proposals
from hpo.space import Space

# The best configuration; its error is 1e-4.
BEST = {"num_hidden": 2, "width_1": 32, "width_2": 8, "learning_rate": 10**-2.3, "activation": "tanh"}


def config(learning_rate=None, **search):
    learning_rate = learning_rate or {"low": 1e-4, "high": 1e-1, "log": True}
    return Config.from_dict(
        {
            "data": {"path": "samples.nc"},
            "space": {"depth": {"low": 1, "high": 3}, "widths": [4, 8, 16, 32, 64], "activation": ["relu", "tanh"]},
            "train": {"learning_rate": learning_rate, "max_epochs": 36},
            "search": {"trials": 60, "top": 3, **search},
        }
    )


def error(params):
    """Of a configuration: decades above the best one's 1e-4, each hyperparameter on its own."""
    away = (math.log10(params["learning_rate"]) + 2.3) ** 2 + 0.3 * abs(params["num_hidden"] - 2)
    away += 0.1 * abs(math.log2(params["width_1"]) - 5) + 0.2 * (params["activation"] == "relu")
    away += 0.1 * abs(math.log2(params["width_2"]) - 3) if "width_2" in params else 0.3
    return 10 ** (away - 4)


def outcome(params, limits=(), *, epochs=36, failed=False):
    """Of a training whose error falls by a power of its epochs, as far as `limits` let it."""
    if failed:
        return Finished("failed", None, (), parameters(params))
    curve = tuple(error(params) * (epochs / k) ** 1.5 for k in range(1, epochs + 1))
    for epoch, most in limits:
        if curve[epoch - 1] > most:
            return Finished("pruned", curve[epoch - 1], curve[:epoch], parameters(params))
    return Finished("complete", curve[-1], curve, parameters(params))


def recorded(task):
    """Of a task (`hpo.trial.Task`), as a worker records it."""
    found = outcome(task.params, task.limits)
    curve = {"validation_mse": list(found.best)}
    plain = {"state": found.state, "validation_mse": found.mse, "num_parameters": found.num_parameters}
    return {"params": task.params, "curve": curve} | plain


def parameters(params):
    return sum(params[f"width_{k}"] ** 2 for k in range(1, params["num_hidden"] + 1))


def search(folder, config, *, failing=lambda params: False, members=1, rng=None):
    """All trials of a search, as [(params, outcome)]; `members` that join and finish trials in an order that `rng`
    shuffles, each with a layer of its own."""
    layers = [Proposals(Path(folder), Space(config)) for _ in range(members)]
    trials, done, todo = config.search.trials, {}, {}
    while len(done) < trials:
        for layer in layers if rng is None else rng.sample(layers, members):
            opened = layer.open_next()
            if opened is not None:
                todo |= {t: layer.trial(t) for t in opened if t < trials}
        waiting = [t for t in todo if t not in done]
        for t in waiting if rng is None else rng.sample(waiting, rng.randint(1, len(waiting))):
            trial = todo[t]
            done[t] = (trial.params, outcome(trial.params, trial.limits, failed=failing(trial.params)))
            for layer in layers:
                layer.finished(t, done[t][1])
    return [done[t] for t in range(trials)]


def plain(found):
    """Comparable bit for bit."""
    return [json.dumps([p, vars(f)], sort_keys=True) for p, f in found]


def least(found):
    return min(f.mse for _, f in found if f.state == "complete")
