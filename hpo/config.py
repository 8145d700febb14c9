"""What a search is asked to do: frozen tables, read from TOML, every value checked when it is built.

[space] and [train] are in `hpo.space_config`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from hpo.checks import dimension, expect, is_in, unknown_keys
from hpo.conditions import check_conditions, possible
from hpo.dimensions import Choices, Range
from hpo.engine import flat_refuses
from hpo.errors import SearchError
from hpo.latency_model import DEFAULT_BATCH
from hpo.recipe import APPLIES, RECIPE_FIELDS, Recipe
from hpo.slurm import SlurmConfig
from hpo.space_config import SpaceConfig, StageConfig, TrainConfig

# Names as emulator.normalise knows them; repeated here (a test compares) because it imports PyTorch, for which `--help`
# should not wait.
TRANSFORMS = ("auto", "none", "log", "log10", "sqrt", "logit")
ENGINES = ("fleet", "plain")
PRECISIONS = ("float32", "tf32", "bf16")
SAMPLERS = ("random", "grid", "sobol", "tpe", "gp", "cmaes", "nsga2")
PRUNERS = ("none", "median", "asha", "hyperband")
ADAPTIVE_SAMPLERS = ("tpe", "gp", "cmaes", "nsga2")
SECOND_OBJECTIVES = ("parameters", "latency")
LEAST_CMAES_BATCH = 4  # half of a batch, at least two, make the next one's mean

# The paper trains and validates on halves of its three smallest subsets (p = 0.005, 0.0005, 0.00025), on 80 and
# 20 % of the larger ones.
SMALL_SUBSET = 0.005
SMALL_VALIDATION_FRACTION = 0.5
VALIDATION_FRACTION = 0.2
DEFAULT_TOP = 50  # the paper's


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """[data]: which samples, which variables, how they are split and transformed.

    Attributes
    ----------
    path : str
        Samples file (netCDF).
    inputs, outputs : tuple of str or None
        Variables; None: the case study's.
    units : mapping of str to str
        Expected units, or those of variables without any.
    transforms : str, mapping, or Choices of str
        Of the inputs: for all, or per variable or column (`default` for the rest), or searched.
    output_transforms : str or mapping
        Of the outputs.
    test_fraction : float
        Hold-out part that no search ever reads. (The paper's, on 98.6 million samples: 0.8.)
    validation_fraction : float or 'auto'
        Of the samples used; auto: 0.5 for subsets of at most 0.005, else 0.2, as in the paper.
    stream : bool or 'auto'
        Train from the disk, in chunks, on data that no device's memory holds; auto: where it does not.
    """

    path: str = ""
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    transforms: str | Mapping[str, str] | Choices = "auto"
    output_transforms: str | Mapping[str, str] = "none"
    test_fraction: float = 0.2
    validation_fraction: float | str = "auto"
    stream: bool | str = "auto"

    def __post_init__(self):
        expect("path", self.path, isinstance(self.path, (str, os.PathLike)), "a file name")
        object.__setattr__(self, "path", os.fspath(self.path))
        for name in ("inputs", "outputs"):
            value = getattr(self, name)
            if value is not None:
                expect(name, value, _strings(value) and len(value) > 0, "a list of variable names")
                object.__setattr__(self, name, tuple(value))
        expect("units", self.units, _string_table(self.units), "a table of variable = 'unit'")
        choices = isinstance(self.transforms, Mapping) and isinstance(self.transforms.get("choices"), list)
        if isinstance(self.transforms, list) or choices:
            object.__setattr__(self, "transforms", dimension("transforms", self.transforms, numeric=False))
        self._check_transforms("transforms", self.transforms)
        if isinstance(self.output_transforms, (list, Choices)):
            raise SearchError(
                "output_transforms cannot be searched: errors under different output transforms are in different "
                "units and have no order; choose one, or run two searches"
            )
        self._check_transforms("output_transforms", self.output_transforms)
        number = "a number from 0, below 1"
        expect("test_fraction", self.test_fraction, is_in(self.test_fraction, 0.0, 1.0, high_open=True), number)
        if self.validation_fraction != "auto":
            valid = is_in(self.validation_fraction, 0.0, 1.0, low_open=True, high_open=True)
            expect("validation_fraction", self.validation_fraction, valid, "'auto' or a number between 0 and 1")
        expect("stream", self.stream, self.stream == "auto" or isinstance(self.stream, bool), "'auto', true or false")

    @staticmethod
    def _check_transforms(name, value):
        if isinstance(value, Choices):
            kinds = value.values
        elif isinstance(value, Mapping):
            kinds = tuple(value.values())
        else:
            kinds = (value,)
        for kind in kinds:
            expect(name, kind, isinstance(kind, str) and kind in TRANSFORMS, f"one of {', '.join(TRANSFORMS)}")

    def validation_fraction_at(self, subset: float) -> float:
        """Validation fraction of a subset of relative size `subset`."""
        if self.validation_fraction != "auto":
            return float(self.validation_fraction)
        return SMALL_VALIDATION_FRACTION if subset <= SMALL_SUBSET else VALIDATION_FRACTION


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """[search]: how many trials, on how much data, and which go on to step 2.

    Attributes
    ----------
    trials : int
        Configurations evaluated in step 1.
    p_subset : float
        Part of the samples (without the hold-out part) that step 1 uses.
    top, p_retrain : int or None, float or None
        Trials retrained in step 2, as a number (default 50) or as a fraction of `trials`.
    seed : int
    keep_step1_models : bool
        Off by default: 10,000 networks of the paper's space are 80 GB.
    light_top : int
        Also retrain this many light trials: see `hpo.promotion.promote`.
    light_factor : float
        Largest step-1 error of a light trial, as a multiple of the best.
    checkpoint_seconds : float
        A training is written down this often, so that a kill costs no more.
    engine : {'fleet', 'plain'}
        How networks are trained: as `hpo.fleet` does, or by the plain loop that it is measured against.
    precision : {'float32', 'tf32', 'bf16'}
        Of the matrix products; the last two on GPUs that have them.
    sampler : {'random', 'grid', 'sobol', 'tpe', 'gp', 'cmaes', 'nsga2'}
        Where configurations come from: see `hpo.samplers` and `hpo.adaptive`.
    batch : int
        Trials that an adaptive sampler or a pruner decides on together, knowing all but the batch before. Workers wait
        for its slowest trials: five times as many as there are workers keep them busy.
    startup : int
        Finished trials from which an adaptive sampler begins to learn, and finished trials at an epoch from which a
        pruner compares there.
    population : int or None
        Of `nsga2`; None: 20.
    second_objective : {'parameters', 'latency'}
        What `nsga2` minimises beside the error. latency: of the exported network on a CPU, as a model says that is
        fitted to measured ones when the study begins: see `hpo.latency_model`.
    latency_batch : int
        Samples in a call whose latency counts.
    latency_model : str or None
        Take the model from this file, the `latency_model.json` of another study, instead of measuring here.
    pruner : {'none', 'median', 'asha', 'hyperband'}
        Which trainings of step 1 end early: see `hpo.pruners`.
    min_epochs : int
        No training is pruned before.
    reduction : int
        One in so many goes on from a rung to the next: of so many times the epochs (asha, hyperband), or of `rungs`.
    rungs : tuple of float
        Growing subsets, below `p_subset`, on which step 1 tries trials first: see `hpo.rungs`.
    after : str or None
        Folder of a study from which this one starts: see `hpo.stage`.
    fix : tuple of str
        Hyperparameters that get the values of its best trial; `widths` stands for those of all layers.
    narrow : int or None
        All others are searched only as far as its best so many trials reach.
    """

    trials: int = 10_000
    p_subset: float = 0.05
    top: int | None = None
    p_retrain: float | None = None
    seed: int = 0
    keep_step1_models: bool = False
    light_top: int = 0
    light_factor: float = 3.0
    checkpoint_seconds: float = 30.0
    engine: str = "fleet"
    precision: str = "float32"
    sampler: str = "random"
    batch: int = 10
    startup: int = 10
    population: int | None = None
    second_objective: str = "parameters"
    latency_batch: int = DEFAULT_BATCH
    latency_model: str | None = None
    pruner: str = "none"
    min_epochs: int = 4
    reduction: int = 3
    rungs: tuple[float, ...] = ()
    after: str | None = None
    fix: tuple[str, ...] = ()
    narrow: int | None = None

    def __post_init__(self):
        expect("trials", self.trials, type(self.trials) is int and self.trials >= 1, "a whole number of at least 1")
        expect("p_subset", self.p_subset, is_in(self.p_subset, 0.0, 1.0, low_open=True), "above 0, at most 1")
        if self.top is not None and self.p_retrain is not None:
            raise SearchError(f"both top = {self.top} and p_retrain = {self.p_retrain} are given; give one of them")
        if self.top is not None:
            expect("top", self.top, type(self.top) is int and self.top >= 1, "a whole number of at least 1")
        if self.p_retrain is not None:
            expect("p_retrain", self.p_retrain, is_in(self.p_retrain, 0.0, 1.0, low_open=True), "above 0, at most 1")
        elif self.top is None:
            object.__setattr__(self, "top", DEFAULT_TOP)
        seed = type(self.seed) is int and 0 <= self.seed < 1 << 63
        expect("seed", self.seed, seed, "a whole number from 0 to 2^63 - 1")
        expect("keep_step1_models", self.keep_step1_models, isinstance(self.keep_step1_models, bool), "true or false")
        light = type(self.light_top) is int and self.light_top >= 0
        expect("light_top", self.light_top, light, "a whole number of at least 0")
        expect("light_factor", self.light_factor, is_in(self.light_factor, 1.0, math.inf), "a number of at least 1")
        seconds = self.checkpoint_seconds
        expect("checkpoint_seconds", seconds, is_in(seconds, 0.0, math.inf), "0 or more")
        named = {"engine": ENGINES, "precision": PRECISIONS, "sampler": SAMPLERS, "pruner": PRUNERS}
        named |= {"second_objective": SECOND_OBJECTIVES}
        for name, known in named.items():
            expect(name, getattr(self, name), getattr(self, name) in known, f"one of {', '.join(known)}")
        least_batch = LEAST_CMAES_BATCH if self.sampler == "cmaes" else 1
        whole = {
            "batch": least_batch,
            "startup": 1,
            "population": 2,
            "latency_batch": 1,
            "min_epochs": 1,
            "reduction": 1 if self.pruner == "none" else 2,
        }
        for name, least in whole.items():
            value = getattr(self, name)
            valid = (type(value) is int and value >= least) or (name == "population" and value is None)
            expect(name, value, valid, f"a whole number of at least {least}")

        parts = [*self.rungs, self.p_subset] if isinstance(self.rungs, (list, tuple)) else [0]
        valid = all(is_in(a, 0.0, 1.0, low_open=True) for a in parts)
        grows = valid and all(a < b for a, b in itertools.pairwise(parts))
        expected = f"growing parts of the samples, above 0 and below p_subset = {self.p_subset}"
        expect("rungs", self.rungs, grows, expected)
        object.__setattr__(self, "rungs", tuple(self.rungs))
        self._check_latency()
        self._check_stage()

    def _check_latency(self) -> None:
        model = self.latency_model
        expect("latency_model", model, model is None or _is_path(model), "a latency_model.json")
        if model is not None:
            object.__setattr__(self, "latency_model", os.fspath(model))
        if self.by_latency and self.sampler != "nsga2":
            raise SearchError(
                f"second_objective = 'latency' is for sampler 'nsga2', and {self.sampler!r} minimises the error alone; "
                "set sampler = 'nsga2', or leave second_objective out"
            )
        if model is not None and not self.by_latency:
            raise SearchError("latency_model is given, and second_objective is 'parameters'; set it to 'latency'")

    def _check_stage(self) -> None:
        expect("after", self.after, self.after is None or _is_path(self.after), "the folder of a study")
        if self.after is not None:
            object.__setattr__(self, "after", os.fspath(self.after))
        expect("fix", self.fix, _strings(self.fix), "a list of hyperparameters")
        object.__setattr__(self, "fix", tuple(self.fix))
        narrow = self.narrow is None or (type(self.narrow) is int and self.narrow >= 1)
        expect("narrow", self.narrow, narrow, "a whole number of at least 1")
        wanted = bool(self.fix) or self.narrow is not None
        if wanted and self.after is None:
            raise SearchError("fix and narrow take from another study; give its folder as after")
        if self.after is not None and not wanted:
            raise SearchError(f"after is {self.after!r}; say with fix or narrow what is taken from that study")

    @property
    def is_batched(self) -> bool:
        """Whether a trial depends on what came of earlier ones."""
        return self.sampler in ADAPTIVE_SAMPLERS or self.pruner != "none"

    @property
    def by_latency(self) -> bool:
        """Whether the search minimises latency beside the error."""
        return self.second_objective == "latency"

    @property
    def num_top(self) -> int:
        """Trials that step 2 retrains for their error."""
        wanted = self.top if self.top is not None else max(1, round(self.p_retrain * self.trials))
        return min(wanted, self.trials)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole search. `step2` holds values of [train] that step 2 replaces.

    `stage` is what `[search] after` came to, once a study has begun. `slurm` says how a search is run, not what is
    searched: it is no part of `to_dict`.
    """

    data: DataConfig = field(default_factory=DataConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchSettings = field(default_factory=SearchSettings)
    step2: Mapping[str, object] = field(default_factory=dict)
    stage: StageConfig | None = None
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self):
        unknown_keys("step2", set(self.step2), RECIPE_FIELDS)
        for name, value in self.step2.items():
            if isinstance(value, (list, dict, Choices, Range)):
                raise SearchError(f"[step2] {name} is {value!r}; expected one value: step 2 searches nothing")
            try:
                Recipe(**{name: value})
            except SearchError as error:
                raise SearchError(f"[step2] {error}") from None
        check_conditions(self.hyperparameters, _check_value)
        self._check_combinations()

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Fixed value or dimension of everything that can be searched, by the name it has in a trial's parameters.

        The widths of layers are left out: they follow from `widths` and `width_policy`. The order is that of drawing,
        but for conditions.
        """
        space = {f.name: getattr(self.space, f.name) for f in fields(SpaceConfig)}
        for name in ("depth", "widths", "output_activation"):
            del space[name]
        return {"num_hidden": self.space.depth} | space | {"transforms": self.data.transforms} | self.train.values

    def _check_combinations(self) -> None:
        """Refuse what each table allows, but not both together."""
        values = self.hyperparameters
        later = {name: (value,) for name, value in self.step2.items()}
        applies = APPLIES | {"taper": ("width_policy", ("funnel",))}
        for name, (parent, meaningful) in applies.items():
            value = values[name]
            if not isinstance(value, (Choices, Range)) or value.when:
                continue
            if not set(meaningful) & {*possible(values[parent]), *later.get(parent, ())}:
                raise SearchError(
                    f"{name} is searched, but it means something only for {parent} = {' or '.join(meaningful)}, and "
                    f"{parent} is {_plain(values[parent])!r}; leave it out, or let {parent} be one of these"
                )
        sizes = {*possible(values["batch_size"]), *later.get("batch_size", ())}
        if "batch" in possible(values["normalization"]) and 1 in sizes:
            raise SearchError(
                "normalization can be 'batch' and batch_size 1; one sample has no variance: batches of at least 2"
            )
        if self.search.precision == "bf16":
            for name, value in values.items():
                for sample in (*possible(value), *later.get(name, ())):
                    why = flat_refuses({name: sample})
                    if why:
                        raise SearchError(
                            f"precision 'bf16' is not there for {why}, which the plain loop trains; set 'float32'"
                        )

    def to_dict(self) -> dict:
        """Plain tables, as in a config file; `from_dict` of it is the same config."""
        tables = {"train": {k: _plain(v) for k, v in self.train.values.items()}}
        for name in ("data", "space", "search"):
            part = getattr(self, name)
            values = {f.name: _plain(getattr(part, f.name)) for f in fields(part)}
            tables[name] = {k: v for k, v in values.items() if v is not None}
        stage = {} if self.stage is None else {"stage": self.stage.to_table()}
        return {k: tables[k] for k in ("data", "space", "train", "search")} | {"step2": dict(self.step2)} | stage

    @classmethod
    def from_dict(cls, tables: Mapping, source: str = "config") -> Config:
        """Build from plain tables.

        Raises
        ------
        SearchError
            Unknown tables or keys, wrong types, values out of range; `source` is named.
        """
        try:
            unknown_keys("", set(tables), ("data", "space", "train", "search", "step2", "stage", "slurm"))
            for name, table in tables.items():
                expect(f"[{name}]", table, isinstance(table, Mapping), "a table")
            parts = {}
            for name, kind in (("data", DataConfig), ("space", SpaceConfig), ("search", SearchSettings)):
                table = tables.get(name, {})
                unknown_keys(name, set(table), [f.name for f in fields(kind)])
                parts[name] = _built(name, kind, table)
            parts["train"] = _built("train", TrainConfig, {"values": tables.get("train", {})})
            stage = None
            if "stage" in tables:
                unknown_keys("stage", set(tables["stage"]), [f.name for f in fields(StageConfig)])
                stage = _built("stage", StageConfig, tables["stage"])
            slurm = SlurmConfig.from_table(tables.get("slurm", {}))
            return cls(**parts, step2=dict(tables.get("step2", {})), stage=stage, slurm=slurm)
        except SearchError as error:
            raise SearchError(f"{source}: {error}") from None


def read_toml(path: str | os.PathLike) -> dict:
    """Tables of a TOML file; a relative [data] path counts from the current folder."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SearchError(f"config file {path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SearchError(f"config file {path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SearchError(f"config file {path} cannot be read: {error}") from None


def to_toml(tables: Mapping) -> str:
    """Tables of plain values as TOML text."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def differences(old: Mapping, new: Mapping) -> list[tuple[str, object, object]]:
    """(key, old value, new value) where two `Config.to_dict()` differ; None stands for absent."""
    found = []
    for table in sorted(set(old) | set(new)):
        a, b = old.get(table, {}), new.get(table, {})
        for key in sorted(set(a) | set(b)):
            if a.get(key) != b.get(key):
                found.append((f"{table}.{key}", a.get(key), b.get(key)))
    return found


# -- helpers ------------------------------------------------------------------------------------------------------


def _is_path(value) -> bool:
    return isinstance(value, (str, os.PathLike)) and str(value) != ""


def _strings(value) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)


def _string_table(value) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())


def _check_value(name: str, value) -> None:
    """Refuse what a hyperparameter can never be."""
    if name == "transforms":
        DataConfig(transforms=value)
    elif name in RECIPE_FIELDS:
        Recipe(**{name: value})
    else:
        SpaceConfig(**{"depth" if name == "num_hidden" else name: value})


def _built(name, kind, values):
    try:
        return kind(**values)
    except SearchError as error:
        text = str(error)
        raise SearchError(text if text.startswith(f"[{name}]") else f"[{name}] {text}") from None


def _plain(value):
    if isinstance(value, (Choices, Range)):
        return value.to_plain()
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _toml(value) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
