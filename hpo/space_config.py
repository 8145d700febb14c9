"""[space] and [train]: what is searched, and how each network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emulator.heads import DIRECT, known_heads
from hpo.checks import dimension, expect, is_in, unknown_keys
from hpo.conditions import possible
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.recipe import NUMERIC_FIELDS, RECIPE_FIELDS, Recipe

# Names as emulator.mlp knows them; repeated here (a test compares) because it imports PyTorch, for which `--help`
# should not wait.
ACTIVATIONS = (
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish", "softplus", "tanh", "sigmoid", "identity",
)  # fmt: skip
NORMALIZATIONS = ("none", "batch", "layer")
WIDTH_POLICIES = ("independent", "same", "funnel")
OUTPUT_ACTIVATIONS = ("auto", "sigmoid", "tanh", "identity")
MAX_DEPTH = 1000
MAX_WIDTH = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """[space]: the architectures; the defaults are the paper's.

    Every value is fixed, a list (choices) or, where it is a number, a table (range).

    Attributes
    ----------
    depth : int, Choices or Range
        Number of hidden layers.
    widths : int, Choices or Range
        What widths are drawn from, as `width_policy` says.
    width_policy : str or Choices
        independent: each layer's for itself, as the paper does. same: one for all layers. funnel: that of the first
        layer; every other has `taper` times the width of the one before it.
    taper : float, Choices or Range
    activation : str or Choices
    normalization : str or Choices
        Between the linear part of a hidden layer and its activation: none, batch (Ioffe & Szegedy 2015) or layer
        (Ba et al. 2016). Batch normalization is folded into the weights of the exported network.
    residual : bool or Choices
        Whether a hidden layer that is as wide as its input adds it to its output (He et al. 2016).
    output_activation : str
        auto: sigmoid where all training outputs lie in 0..1 (they are then not scaled, and the MSE is in physical
        units), identity with standardised outputs else.
    head : str or Choices
        Networks predict the outputs (direct) or what the output head of that name makes outputs of (`emulator.heads`);
        the validation MSE is that of the outputs in either case.
    """

    depth: int | Choices | Range = field(default_factory=lambda: Range(low=1, high=20))
    widths: int | Choices | Range = field(
        default_factory=lambda: Choices(values=(8, 16, 32, 64, 128, 256, 512, 1024, 2048))
    )
    width_policy: str | Choices = "independent"
    taper: float | Choices | Range = 0.5
    activation: str | Choices = "relu"
    normalization: str | Choices = "none"
    residual: bool | Choices = False
    output_activation: str = "auto"
    head: str | Choices = DIRECT

    def __post_init__(self):
        for name, most in (("depth", MAX_DEPTH), ("widths", MAX_WIDTH)):
            value = dimension(name, getattr(self, name), numeric=True, refuse_pair=name == "depth")
            for sample in possible(value):
                whole = type(sample) is int and 1 <= sample <= most
                expect(name, sample, whole, f"whole numbers from 1 to {most}")
            object.__setattr__(self, name, value)
        for name, known in (SPACE_NAMES | {"head": known_heads()}).items():
            value = dimension(name, getattr(self, name), numeric=False)
            for sample in possible(value):
                expect(name, sample, isinstance(sample, str) and sample in known, f"one of {', '.join(known)}")
            object.__setattr__(self, name, value)
        taper = dimension("taper", self.taper, numeric=True)
        for sample in possible(taper):
            expect("taper", sample, is_in(sample, 0.0, 1.0, low_open=True), "above 0, at most 1")
        object.__setattr__(self, "taper", taper)
        residual = dimension("residual", self.residual, numeric=False)
        for sample in possible(residual):
            expect("residual", sample, isinstance(sample, bool), "true or false")
        object.__setattr__(self, "residual", residual)
        for name in ("depth", "widths", "width_policy"):
            if getattr(getattr(self, name), "when", None):
                raise SearchError(f"{name} has a when, but every configuration has {name}; leave the condition out")
        if isinstance(self.output_activation, list):
            raise SearchError("output_activation cannot be searched: it decides the units of the error; choose one")
        known = self.output_activation in OUTPUT_ACTIVATIONS
        expect("output_activation", self.output_activation, known, f"one of {', '.join(OUTPUT_ACTIVATIONS)}")


# Settings of [space] that are one of several names.
SPACE_NAMES = {"width_policy": WIDTH_POLICIES, "activation": ACTIVATIONS, "normalization": NORMALIZATIONS}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """[train]: values of `hpo.recipe.Recipe`, each fixed or a dimension of the search."""

    values: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        defaults = Recipe()
        values = {}
        for name in RECIPE_FIELDS:
            given = self.values.get(name, getattr(defaults, name))
            value = dimension(name, given, numeric=name in NUMERIC_FIELDS)
            for sample in possible(value):
                Recipe(**{name: sample})
            values[name] = value if isinstance(value, (Choices, Range)) else getattr(Recipe(**{name: value}), name)
        unknown_keys("train", set(self.values), RECIPE_FIELDS)
        object.__setattr__(self, "values", values)

    @property
    def searched(self) -> dict[str, Choices | Range]:
        return {k: v for k, v in self.values.items() if isinstance(v, (Choices, Range))}

    @property
    def fixed(self) -> dict[str, object]:
        return {k: v for k, v in self.values.items() if k not in self.searched}


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """[stage]: what a search has taken from another one; written by `hpo.stage` when the study begins.

    Attributes
    ----------
    fixed : mapping
        Values of hyperparameters, by name as in a trial's parameters.
    narrowed : mapping of str to Choices or Range
        What others are drawn from.
    """

    fixed: Mapping[str, object] = field(default_factory=dict)
    narrowed: Mapping[str, Choices | Range] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("fixed", "narrowed"):
            expect(name, getattr(self, name), isinstance(getattr(self, name), Mapping), "a table")
        for name, value in self.fixed.items():
            plain = isinstance(value, (str, bool, int, float, Mapping))
            expect(f"fixed {name}", value, plain, "one value")
        narrowed = {n: dimension(f"narrowed {n}", v, numeric=True) for n, v in self.narrowed.items()}
        for name, value in narrowed.items():
            expect(f"narrowed {name}", value, isinstance(value, (Choices, Range)), "a list or a range")
        object.__setattr__(self, "narrowed", narrowed)

    def to_table(self) -> dict:
        """As it stands in a config file."""
        return {"fixed": dict(self.fixed), "narrowed": {n: d.to_plain() for n, d in self.narrowed.items()}}
