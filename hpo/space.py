"""The search space: configuration i of a study, as a function of the seed and i alone.

Every number comes from a counter-based generator (Philox, Salmon et al. 2011, doi:10.1145/2063384.2063405) keyed
on seed, trial and the name of what is drawn, so that it does not depend on which trials ran before, on how many
workers there are, or on which other hyperparameters are searched.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from hpo.config import Config
from hpo.dimensions import Choices, Range
from hpo.recipe import Recipe


def stream(seed: int, trial: int, purpose: str) -> np.random.Generator:
    """Random numbers of one trial for one purpose."""
    # the two low counter words count draws, so that streams of different purposes never meet
    counter = [0, 0, zlib.crc32(purpose.encode()), 0]
    return np.random.Generator(np.random.Philox(key=[seed, trial], counter=counter))


class _Streams:
    """`stream` for one after the other: the same numbers from one generator that is set anew, six times as fast.

    The generator is only good until the next call.
    """

    def __init__(self):
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state  # as after its construction: nothing is buffered

    def __call__(self, seed: int, trial: int, purpose: str) -> np.random.Generator:
        inner = self._state["state"]
        inner["key"][:] = seed, trial
        inner["counter"][:] = 0, 0, zlib.crc32(purpose.encode()), 0
        self._philox.state = self._state
        return self._generator


def torch_seed(seed: int, trial: int, purpose: str) -> int:
    """Seed of a `torch.Generator` of one trial for one purpose."""
    return int(stream(seed, trial, purpose).integers(1 << 63))


class Space:
    """What is searched, and what a trial's parameters mean.

    Parameters are named as in the Optuna study: `num_hidden`, `width_1` ... `width_<num_hidden>` (only as many as
    there are layers), and those of `activation`, `transforms` and [train] that are searched.
    """

    def __init__(self, config: Config):
        self.config = config
        self.seed = config.search.seed
        self._streams = _Streams()
        self._depth = _as_dimension(config.space.depth)
        self._width = _as_dimension(config.space.widths)
        others = {"activation": config.space.activation, "transforms": config.data.transforms}
        self._others: dict[str, Choices | Range] = {
            k: v for k, v in others.items() if isinstance(v, (Choices, Range))
        } | config.train.searched

    def draw(self, trial: int) -> dict[str, object]:
        """Parameters of a trial."""
        stream = self._streams
        params = {"num_hidden": self._depth.draw(stream(self.seed, trial, "num_hidden"))}
        for k in range(1, params["num_hidden"] + 1):
            params[f"width_{k}"] = self._width.draw(stream(self.seed, trial, f"width_{k}"))
        for name, dimension in self._others.items():
            params[name] = dimension.draw(stream(self.seed, trial, name))
        return params

    def distributions(self, params: Mapping[str, object]) -> dict:
        """Optuna distribution of every parameter in `params`."""
        return {name: self._dimension(name).distribution() for name in params}

    def _dimension(self, name: str) -> Choices | Range:
        if name == "num_hidden":
            return self._depth
        return self._width if name.startswith("width_") else self._others[name]

    def hidden(self, params: Mapping[str, object]) -> tuple[int, ...]:
        """Width of each hidden layer."""
        return tuple(params[f"width_{k}"] for k in range(1, params["num_hidden"] + 1))

    def activation(self, params: Mapping[str, object]) -> str:
        return params.get("activation", self.config.space.activation)

    def transforms(self, params: Mapping[str, object]):
        """Input transforms: a name, or a table of names."""
        return params.get("transforms", self.config.data.transforms)

    def recipe(self, params: Mapping[str, object], step: int) -> Recipe:
        """How the trial is trained in step 1 or 2."""
        drawn = {name: params[name] for name in self.config.train.searched}
        overrides = self.config.step2 if step == 2 else {}
        return Recipe(**(self.config.train.fixed | drawn | overrides))

    @property
    def input_transforms(self) -> tuple:
        """Every value that `transforms` can have."""
        value = self.config.data.transforms
        return value.values if isinstance(value, Choices) else (value,)


def _as_dimension(value) -> Choices | Range:
    return value if isinstance(value, (Choices, Range)) else Choices(values=(value,))
