"""Samplers that learn from finished trials: TPE, Gaussian process, NSGA-II (Optuna's) and CMA-ES (the cmaes package).

They propose batches. The proposals of batch b are a function of the seed, b, the proposals of all batches before it
and the outcomes of batches up to b-2: they do not depend on who computes them, or when. Batch b-1 is known to be
under way.

All minimise log10 of the validation MSE. A failed trial is told as the worst known until then, so that its
surroundings are avoided. A pruned trial is told to TPE as such, with its learning curve (with Hyperband this is BOHB,
Falkner et al. 2018, arXiv:1807.01774), to the others with the error that it had reached.

- `tpe` (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127): multivariate; parameters that only some
  configurations have are modelled among those.
- `gp`: expected improvement of a Gaussian process. Its cost grows with the cube of the number of trials, so that it
  sees at most `MOST_GP_TRIALS`: the best and the latest.
- `cmaes` (Hansen 2016, arXiv:1604.00772; with margin, Hamano et al. 2022, arXiv:2205.13482): a batch is a generation.
- `nsga2` (Deb et al. 2002, doi:10.1109/4235.996017): error, and number of parameters or latency, whose logarithms it
  minimises. Measured times are not the same twice, and no search could be repeated: the latency is what a model says
  that the study keeps (`hpo.latency_model`).

Where all is chosen from lists, samplers come back to what they have proposed. Such a proposal is asked for again, up to
so many times (`_ATTEMPTS`); not for CMA-ES, whose generation needs its points.

For all but TPE every configuration has a value of every parameter, of which those that it does not have are ignored.
Numbers to choose from are ordered; for CMA-ES so are names, in the order given.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.history import Finished, score
from hpo.samplers import value_at
from hpo.space import Space, stream

MOST_GP_TRIALS = 400  # some 1 s for a proposal in ten dimensions
DEFAULT_POPULATION = 20
# A Gaussian process takes seconds to find its best point once more.
_ATTEMPTS = {"tpe": 10, "nsga2": 10, "gp": 2}
_SIGMA = 0.25  # of CMA-ES at its start, in a unit cube


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Parameters of a trial, and what its sampler has to know of it later (plain JSON data)."""

    params: Mapping[str, object]
    asked: object = None
    notes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Proposals for consecutive trials; `notes` are of the search as a whole."""

    proposals: tuple[Proposal, ...]
    notes: Mapping[str, object] = field(default_factory=dict)


class Adaptive(Protocol):
    """A sampler that learns."""

    def propose(self, batches: Sequence[Batch], outcomes: Mapping[int, Finished]) -> Batch:
        """The next batch, after all `batches` so far; `outcomes` of the trials of all but the last of them."""


def adaptive_sampler(space: Space) -> Adaptive:
    """The sampler that the search asks for.

    Raises
    ------
    SearchError
        It cannot sample the space, or a package is missing.
    """
    name = space.config.search.sampler
    searched = [p for p in space.parameters() if not _is_fixed(p.dimension)]
    if not searched:
        raise SearchError(f"sampler {name!r} has nothing to choose: every hyperparameter is fixed")
    return CmaEs(space) if name == "cmaes" else OptunaSearch(space)


def _is_fixed(dimension: Choices | Range) -> bool:
    if isinstance(dimension, Choices):
        return len(dimension.values) == 1
    return dimension.low == dimension.high


def _ordered(dimension: Choices | Range) -> Choices | Range:
    """Numbers to choose from by size."""
    if isinstance(dimension, Choices) and all(type(v) in (int, float) for v in dimension.values):
        return Choices(values=sorted(dimension.values))
    return dimension


class _Code:
    """How a dimension looks to Optuna: numbers to choose from by their rank, names by their place, ranges as such."""

    def __init__(self, dimension: Choices | Range):
        from optuna.distributions import CategoricalDistribution, IntDistribution

        self._values = None
        if isinstance(dimension, Choices):
            self._values = _ordered(dimension).values
            numeric = all(type(v) in (int, float) for v in self._values)
            last = len(self._values) - 1
            self.distribution = IntDistribution(0, last) if numeric else CategoricalDistribution(tuple(range(last + 1)))
        else:
            self._whole = dimension.is_integer
            self.distribution = dimension.distribution()

    def suggest(self, trial, name: str):
        """Let Optuna choose."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            coded = trial.suggest_categorical(name, d.choices)
        elif isinstance(d, IntDistribution):
            coded = trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
        else:
            coded = trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
        return self.decode(coded)

    def decode(self, coded):
        if self._values is not None:
            return self._values[coded]
        return int(coded) if self._whole else float(coded)


class OptunaSearch:
    """TPE, Gaussian process or NSGA-II, in an Optuna study in memory that is made again from batches and outcomes."""

    def __init__(self, space: Space):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._search = space, space.config.search
        self._name = self._search.sampler
        self._codes = {p.name: _Code(p.dimension) for p in space.parameters()}
        self._conditional = any(p.when for p in space.parameters())
        self._forget()

    def _forget(self) -> None:
        import optuna

        directions = ["minimize"] * (2 if self._name == "nsga2" else 1)
        self._study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
        self._present: list[Batch] = []
        self._known: set[str] = set()  # parameters of their proposals
        self._ids: list[int] = []  # in the study, of all trials in it
        self._told = 0  # batches
        self._worst: list[float] = []  # of each objective

    def propose(self, batches: Sequence[Batch], outcomes: Mapping[int, Finished]) -> Batch:
        try:
            return self._propose(batches, outcomes)
        except (AttributeError, ImportError, TypeError) as error:
            import optuna

            raise SearchError(
                f"sampler {self._name!r} relies on more of Optuna than its public interface (known to do with 4.0 to "
                f"5.0), and with Optuna {optuna.__version__} it fails: {type(error).__name__}: {error}"
            ) from error

    def _propose(self, batches: Sequence[Batch], outcomes: Mapping[int, Finished]) -> Batch:
        with warnings.catch_warnings(), _one_thread(self._name == "gp"):
            warnings.simplefilter("ignore")  # what Optuna calls experimental
            if self._name == "gp" or list(batches[: len(self._present)]) != self._present:
                self._forget()
            if self._name == "gp":
                batches, outcomes = self._few(batches, outcomes)
            for k, batch in enumerate(batches):
                if k >= len(self._present):
                    self._add(batch)
                if k >= 1 and k > self._told:  # the batch before it is finished
                    self._tell(batches, k - 1, outcomes)
            return self._ask(len(batches))

    def _few(self, batches: Sequence[Batch], outcomes: Mapping[int, Finished]):
        """What a Gaussian process is shown, renumbered: batches may come shorter, or empty."""
        done = [t for t, f in outcomes.items() if f.mse is not None]
        if len(outcomes) <= MOST_GP_TRIALS:
            return batches, outcomes
        kept = set(sorted(done, key=lambda t: (outcomes[t].mse, t))[: MOST_GP_TRIALS // 2])
        kept |= set(sorted(outcomes)[-(MOST_GP_TRIALS // 2) :])
        worst = max((outcomes[t].mse for t in done), default=None)
        shown, told, first, new = [], {}, 0, 0
        for batch in batches:
            numbers = range(first, first + len(batch.proposals))
            first += len(batch.proposals)
            chosen = [t for t in numbers if t in kept or t not in outcomes]
            shown.append(Batch(proposals=tuple(batch.proposals[t - numbers.start] for t in chosen)))
            for t in chosen:
                if t in outcomes:
                    f = outcomes[t]
                    told[new] = f if f.mse is not None else Finished("complete", worst, (), f.num_parameters)
                new += 1
        return shown, told

    # -- the study in memory ---------------------------------------------------------------------------------------

    def _add(self, batch: Batch) -> None:
        """Trials under way."""
        import optuna
        from optuna.trial import TrialState

        storage, study_id = self._study._storage, self._study._study_id
        for key, value in batch.notes.items():
            storage.set_study_system_attr(study_id, key, value)
        for p in batch.proposals:
            template = optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=dict(p.asked),
                distributions={name: self._codes[name].distribution for name in p.asked},
                system_attrs=dict(p.notes),
            )
            self._ids.append(storage.create_new_trial(study_id, template_trial=template))
            self._known.add(_text(p.params))
        self._present.append(batch)

    def _tell(self, batches: Sequence[Batch], k: int, outcomes: Mapping[int, Finished]) -> None:
        from optuna.trial import TrialState

        storage = self._study._storage
        first = sum(len(b.proposals) for b in batches[:k])
        numbers = range(first, first + len(batches[k].proposals))
        told = {t: self._values(outcomes[t]) for t in numbers if outcomes[t].mse is not None}
        self._worst = [max(v) for v in zip(*told.values(), *([self._worst] if self._worst else []), strict=True)]
        for t in numbers:
            finished, trial_id = outcomes[t], self._ids[t]
            values = told.get(t, self._worst)
            if not values:  # nothing but failures so far
                storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
            elif self._name == "tpe" and finished.state == "pruned":
                for epoch, best in enumerate(finished.best, start=1):
                    storage.set_trial_intermediate_value(trial_id, epoch, score(best))
                storage.set_trial_state_values(trial_id, state=TrialState.PRUNED, values=values)
            else:
                storage.set_trial_state_values(trial_id, state=TrialState.COMPLETE, values=values)
        self._told = k + 1

    def _values(self, finished: Finished) -> list[float]:
        """What is minimised, of a trial that did not fail."""
        if self._name != "nsga2":
            return [score(finished.mse)]
        light = finished.latency_ns if self._search.by_latency else finished.num_parameters
        return [score(finished.mse), math.log10(light)]

    def _ask(self, number: int) -> Batch:
        """A batch, which is under way in the study from now on."""
        study, storage = self._study, self._study._storage
        study.sampler = self._sampler(number)
        before = dict(storage.get_study_system_attrs(study._study_id))
        proposals, asked_again = [], False
        for _ in range(self._search.batch):
            trial, params = self._ask_one()
            for _ in range(_ATTEMPTS[self._name]):
                if _text(params) not in self._known:
                    break
                trial, params = self._ask_one()
                asked_again = True
            self._known.add(_text(params))
            trial_notes = storage.get_trial_system_attrs(trial._trial_id)
            proposals.append(Proposal(params=params, asked=trial.params, notes=trial_notes))
            self._ids.append(trial._trial_id)
        after = storage.get_study_system_attrs(study._study_id)
        notes = {k: v for k, v in after.items() if before.get(k) != v}
        batch = Batch(proposals=tuple(proposals), notes=notes)
        self._present.append(batch)  # a rebuild finds the same
        if asked_again:  # but for trials that the study has and the search does not
            self._forget()
        return batch

    def _ask_one(self):
        """A trial of Optuna's, and the parameters that it stands for."""
        if self._name == "tpe":
            trial = self._study.ask()
            return trial, self._space.assemble(lambda p: self._codes[p.name].suggest(trial, p.name))
        trial = self._study.ask(fixed_distributions={n: c.distribution for n, c in self._codes.items()})
        return trial, self._space.assemble(lambda p: self._codes[p.name].decode(trial.params[p.name]))

    def _sampler(self, number: int):
        """Of one batch, with its own random numbers."""
        from optuna import samplers

        seed, startup = _seed(self._space.seed, number, self._name), self._search.startup
        if self._name == "tpe":
            return samplers.TPESampler(
                n_startup_trials=startup, seed=seed, multivariate=True, group=self._conditional, constant_liar=True
            )
        if self._name == "gp":
            return samplers.GPSampler(n_startup_trials=startup, seed=seed)
        return samplers.NSGAIISampler(population_size=self._search.population or DEFAULT_POPULATION, seed=seed)


@contextlib.contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """PyTorch with one thread: the cores have trials to train, and sums come out the same on machines of any size."""
    if not wanted:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _text(params: Mapping[str, object]) -> str:
    """The same for equal parameters."""
    return json.dumps(params, sort_keys=True)


def _seed(seed: int, number: int, name: str) -> int:
    return int(stream(seed, number, f"sampler {name}").integers(1 << 32))


class CmaEs:
    """CMA-ES with margin over a unit cube. A generation is a batch; it is sampled before the outcomes of the one
    before it are known, and told when they are.

    A search that has converged begins anew somewhere else.

    Raises
    ------
    SearchError
        The space has one dimension.
    """

    def __init__(self, space: Space):
        self._space, self._size = space, space.config.search.batch
        self._parameters = [p for p in space.parameters() if not _is_fixed(p.dimension)]
        if len(self._parameters) < 2:
            raise SearchError(
                f"sampler 'cmaes' needs two hyperparameters or more; only {self._parameters[0].name} is searched"
            )
        self._cells = [_cells(p.dimension) for p in self._parameters]
        self._forget()

    def _forget(self) -> None:
        self._restarts, self._asked, self._worst = 0, 0, None
        self._begin()

    def _begin(self) -> None:
        import numpy as np
        from cmaes import CMAwM

        rng = stream(self._space.seed, self._restarts, "start of cmaes")
        steps = np.array([1.0 / n if n else 0.0 for n in self._cells])
        mean = np.full(len(steps), 0.5) if self._restarts == 0 else rng.uniform(0.2, 0.8, len(steps))
        self._optimizer = CMAwM(
            mean=mean,
            sigma=_SIGMA,
            bounds=np.stack([steps / 2, 1.0 - steps / 2], axis=1),
            steps=steps,
            population_size=self._size,
            seed=int(rng.integers(1 << 32)),
        )

    def propose(self, batches: Sequence[Batch], outcomes: Mapping[int, Finished]) -> Batch:
        if self._asked > len(batches):
            self._forget()
        while self._asked < len(batches):  # the same random numbers are drawn, whoever proposed those batches
            self._generation(batches, outcomes)
        return self._generation(batches, outcomes)

    def _generation(self, batches: Sequence[Batch], outcomes: Mapping[int, Finished]) -> Batch:
        if self._asked >= 2:
            self._tell(batches[self._asked - 2], (self._asked - 2) * self._size, outcomes)
        self._asked += 1
        return Batch(proposals=tuple(self._ask() for _ in range(self._size)))

    def _ask(self) -> Proposal:
        point, to_tell = self._optimizer.ask()
        at = {p.name: float(u) for p, u in zip(self._parameters, point, strict=True)}
        params = self._space.assemble(lambda p: value_at(_ordered(p.dimension), at.get(p.name, 0.0)))
        return Proposal(params=params, asked=to_tell.tolist(), notes={"restarts": self._restarts})

    def _tell(self, batch: Batch, first: int, outcomes: Mapping[int, Finished]) -> None:
        import numpy as np

        finished = [outcomes[first + k] for k in range(len(batch.proposals))]
        errors = [score(f.mse) for f in finished if f.mse is not None]
        self._worst = max([*errors, *([] if self._worst is None else [self._worst])], default=None)
        # of before a restart, or nothing but failures: no generation to learn from
        if self._worst is None or any(p.notes["restarts"] != self._restarts for p in batch.proposals):
            return
        values = [self._worst if f.mse is None else score(f.mse) for f in finished]
        points = [np.array(p.asked) for p in batch.proposals]
        self._optimizer.tell(list(zip(points, values, strict=True)))
        if self._optimizer.should_stop():
            self._restarts += 1
            self._begin()


def _cells(dimension: Choices | Range) -> int:
    """Number of values that divide a dimension evenly; 0: it is continuous."""
    if isinstance(dimension, Choices):
        return len(dimension.values)
    if dimension.log or (dimension.step is None and not dimension.is_integer):
        return 0
    return round((dimension.high - dimension.low) / (dimension.step or 1)) + 1
