"""The search space: configuration i of a study, as a function of the seed and i alone.

Every number comes from a counter-based generator (Philox, Salmon et al. 2011, doi:10.1145/2063384.2063405) keyed
on seed, trial and the name of what is drawn, so that it does not depend on which trials ran before, on how many
workers there are, or on which other hyperparameters are searched.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import numpy as np

from hpo.conditions import Parameter, conditions_of, possible, resolved
from hpo.config import Config
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.recipe import RECIPE_FIELDS, Recipe
from hpo.space_config import SpaceConfig, StageConfig


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

    Parameters are named as in the Optuna study: `num_hidden`; `width_1` ... `width_<num_hidden>` (only as many as there
    are layers), or `width` where layers have no widths of their own; and whatever else is searched. One whose
    conditions do not hold in a trial is not among its parameters, and has its default there.

    Parameters
    ----------
    config : Config
    fixed : mapping, optional
        Values of parameters that are not searched any more, beside those of the config's [stage].
    narrowed : mapping of str to Choices or Range, optional
        What parameters are drawn from instead, likewise.

    Raises
    ------
    SearchError
        `fixed` or `narrowed` names what the config does not search.
    """

    def __init__(
        self,
        config: Config,
        *,
        fixed: Mapping[str, object] | None = None,
        narrowed: Mapping[str, Choices | Range] | None = None,
    ):
        self.config = config
        self.seed = config.search.seed
        self._streams = _Streams()
        stage = config.stage or StageConfig()
        fixed, narrowed = {**stage.fixed, **(fixed or {})}, {**stage.narrowed, **(narrowed or {})}
        searched = {p.name: p for p in _parameters(config)}
        for name in (*fixed, *narrowed):
            if name not in searched:
                raise SearchError(f"{name!r} is not searched here; expected one of {', '.join(searched)}")
        settings = config.hyperparameters
        self._values = {k: v for k, v in settings.items() if k not in searched} | fixed
        defaults = {f.name: getattr(SpaceConfig(), f.name) for f in fields(SpaceConfig)} | vars(Recipe())
        self._absent = {k: defaults[k] for k in settings if k in defaults}
        left = [replace(p, dimension=narrowed.get(n, p.dimension)) for n, p in searched.items()]
        self._parameters = tuple(resolved([p for p in left if p.name not in self._values], self._values))
        self._distributions: dict[str, object] = {}
        self._by_name = {p.name: p for p in left}

    def parameters(self) -> tuple[Parameter, ...]:
        """Everything that a trial may have drawn, in order of drawing: after what it depends on."""
        return self._parameters

    def assemble(self, choose: Callable[[Parameter], object]) -> dict[str, object]:
        """Parameters of a trial; `choose` gives the value of each that it has, one after the other."""
        params: dict[str, object] = {}
        for parameter in self._parameters:
            if parameter.is_active(params):
                params[parameter.name] = choose(parameter)
        return params

    def draw(self, trial: int) -> dict[str, object]:
        """Parameters of a trial, at random."""
        return self.assemble(lambda p: p.dimension.draw(self._streams(self.seed, trial, p.name)))

    def distributions(self, params: Mapping[str, object]) -> dict:
        """Optuna distribution of every parameter in `params`."""
        for name in params:
            if name not in self._distributions:
                self._distributions[name] = self._by_name[name].dimension.distribution()
        return {name: self._distributions[name] for name in params}

    def value(self, params: Mapping[str, object], name: str):
        """Value of a hyperparameter in a trial: drawn, fixed, or the default where its conditions do not hold."""
        return params[name] if name in params else self._values.get(name, self._absent.get(name))

    def settled(self, params: Mapping[str, object]) -> dict[str, object]:
        """All that is known of a trial by name: what it drew, and what is fixed for all."""
        return {n: v for n, v in self._values.items() if not isinstance(v, (Choices, Range))} | dict(params)

    def hidden(self, params: Mapping[str, object]) -> tuple[int, ...]:
        """Width of each hidden layer."""
        depth, policy = self.value(params, "num_hidden"), self.value(params, "width_policy")
        if policy == "independent":
            return tuple(self.value(params, f"width_{k}") for k in range(1, depth + 1))
        width, taper = self.value(params, "width"), self.value(params, "taper") if policy == "funnel" else 1.0
        return tuple(max(1, round(width * taper**k)) for k in range(depth))

    def architecture(self, params: Mapping[str, object]) -> dict[str, object]:
        """What an `MLPSpec` needs to know beyond the numbers of inputs and outputs and the output activation."""
        named = {name: self.value(params, name) for name in ("activation", "normalization", "residual")}
        return {"hidden": self.hidden(params)} | named

    def activation(self, params: Mapping[str, object]) -> str:
        return self.value(params, "activation")

    def head(self, params: Mapping[str, object]) -> str:
        """Output head: `direct` or the name of one (`emulator.heads`)."""
        return self.value(params, "head")

    @property
    def heads(self) -> tuple[str, ...]:
        """Every value that `head` can have."""
        return possible(self.config.space.head)

    def transforms(self, params: Mapping[str, object]):
        """Input transforms: a name, or a table of names."""
        return self.value(params, "transforms")

    def recipe(self, params: Mapping[str, object], step: int) -> Recipe:
        """How the trial is trained in step 1 or 2."""
        values = {name: self.value(params, name) for name in RECIPE_FIELDS}
        return Recipe(**(values | (self.config.step2 if step == 2 else {})))

    @property
    def input_transforms(self) -> tuple:
        """Every value that `transforms` can have."""
        value = self.config.data.transforms
        return value.values if isinstance(value, Choices) else (value,)


def _parameters(config: Config) -> list[Parameter]:
    """All that is searched, widths of layers included, with all conditions."""
    settings = config.hyperparameters
    depth, policy = _as_dimension(settings.pop("num_hidden")), settings.pop("width_policy")
    found = [Parameter(name="num_hidden", dimension=depth)]
    by_policy = {}
    if isinstance(policy, Choices):
        found.append(Parameter(name="width_policy", dimension=policy))
        by_policy = {name: {"width_policy": Choices(values=names)} for name, names in _WIDTHS_OF.items()}
    widths = _as_dimension(config.space.widths)
    policies = set(possible(policy))
    if policies & set(_WIDTHS_OF["width"]):
        found.append(Parameter(name="width", dimension=widths, when=by_policy.get("width", {})))
    if policies & set(_WIDTHS_OF["width_k"]):
        least, most = min(depth.samples()), max(depth.samples())
        for k in range(1, most + 1):
            there = {"num_hidden": Range(low=k, high=most)} if k > least else {}
            found.append(Parameter(name=f"width_{k}", dimension=widths, when=there | by_policy.get("width_k", {})))
    if "funnel" not in policies:
        del settings["taper"]
    for name, value in settings.items():
        if isinstance(value, (Choices, Range)):
            when = conditions_of(value)
            if name == "taper" and by_policy:
                when = {"width_policy": Choices(values=("funnel",))} | when
            found.append(Parameter(name=name, dimension=value, when=when))
    return found


# Widths that a trial has, by the policies under which it has them.
_WIDTHS_OF = {"width": ("same", "funnel"), "width_k": ("independent",)}


def _as_dimension(value) -> Choices | Range:
    return value if isinstance(value, (Choices, Range)) else Choices(values=(value,))
