"""The trials of step 1: what each is to be, and, where that depends on earlier trials, from when on it can be known.

A sampler that learns works in batches (see `hpo.adaptive`), and so does a pruner (see `hpo.pruners`): what a trial is
to be, and the errors at which it ends early, follow from the outcomes of all batches but the one before its own. Any
member may compute a batch, all come to the same, and the first to put it at `OUT/proposals/batch-<b>.json` counts for
all. So a member that dies takes nothing with it, and a study goes on with what was proposed even under another
version of the sampler.

A proposal may take seconds where there are many trials. A search has it computed by one of its members, in a thread,
while its workers run the batch before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

from hpo.adaptive import Adaptive, Batch, Proposal, adaptive_sampler
from hpo.conditions import possible
from hpo.errors import SearchError
from hpo.groups import publish
from hpo.history import Finished
from hpo.pruners import pruner_of
from hpo.samplers import Sampler, sampler_of
from hpo.space import Space

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial of step 1 is to be; `limits` are the pruner's (see `hpo.train.Progress`)."""

    params: Mapping[str, object]
    limits: tuple[tuple[int, float], ...] = ()


Run = Callable[[Callable[[], None]], Future]


def at_once(work: Callable[[], None]) -> Future:
    """Do it now; what it raises is raised by the result."""
    future: Future = Future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future


def in_thread(work: Callable[[], None]) -> Future:
    """Do it in a thread, which ends with the process."""
    future: Future = Future()

    def run():
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="proposals", daemon=True).start()
    return future


class Proposals:
    """The trials of step 1 in order, as far as they can be known.

    Parameters
    ----------
    folder : path
        Of the study.
    space : Space
    run : function
        Does what it is given, `at_once` or `in_thread`.
    may_compute : function of a batch's number to bool
        Whether this member is the one to compute it; asked again until the batch is there.

    Raises
    ------
    SearchError
        The sampler cannot sample the space.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        *,
        run: Run = at_once,
        may_compute: Callable[[int], bool] = lambda number: True,
    ):
        self._folder, self._space = folder / "proposals", space
        self._search = space.config.search
        self._sampler: Sampler | None = sampler_of(space)
        self._adaptive: Adaptive | None = None
        self._pruner = pruner_of(self._search, max(possible(space.config.train.values["max_epochs"])))
        self._batches: list[Batch] = []
        self._limits: list[list] = []  # of the trials of each batch
        self._finished: dict[int, Finished] = {}
        self._run, self._may_compute = run, may_compute
        self._computing: Future | None = None

    @property
    def is_batched(self) -> bool:
        return self._search.is_batched

    @property
    def numbers(self) -> range:
        return range(self._search.trials)

    def finished(self, trial: int, outcome: Finished) -> None:
        """A trial is finished, whoever ran it."""
        self._finished[trial] = outcome

    def trial(self, number: int) -> Trial:
        """A trial that can be known: any of a sampler that does not learn, else one of a batch that is open."""
        if not self.is_batched:
            return Trial(params=self._sampler.params(number))
        batch, place = divmod(number, self._search.batch)
        limits = tuple((epoch, mse) for epoch, mse in self._limits[batch][place])
        return Trial(params=self._batches[batch].proposals[place].params, limits=limits)

    def open_next(self) -> range | None:
        """Numbers of the trials of the next batch, if they can be known now; trials that the study does not have are
        among them."""
        number, size = len(self._batches), self._search.batch
        if not all(t in self._finished for t in range(max(0, (number - 1) * size))):
            return None
        path = self._folder / f"batch-{number}.json"
        content = _read(path)
        if content is None:
            self._compute(number, path)
            content = _read(path)
        if content is None:  # under way, here or elsewhere, or not to be seen yet on this host
            return None
        proposals = tuple(Proposal(**p) for p in content["proposals"])
        self._batches.append(Batch(proposals=proposals, notes=content["notes"]))
        self._limits.append(content["limits"])
        return range(number * size, number * size + len(proposals))

    def close(self) -> None:
        """Wait for what is under way: a thread in the middle of PyTorch may not outlive the interpreter."""
        if self._computing is not None:
            wait([self._computing])

    def _compute(self, number: int, path: Path) -> None:
        """See to it that somebody computes a batch."""
        self._settle()
        if self._computing is None and self._may_compute(number):
            # a snapshot: what becomes known meanwhile is for later batches
            known = {t: self._finished[t] for t in range(max(0, (number - 1) * self._search.batch))}
            batches = tuple(self._batches)
            self._folder.mkdir(parents=True, exist_ok=True)
            self._computing = self._run(lambda: publish(path, self._next(batches, known)))
            self._settle()

    def _settle(self) -> None:
        """Take note of what is computed; an error in it is raised."""
        if self._computing is not None and self._computing.done():
            done, self._computing = self._computing, None
            done.result()

    def _next(self, batches: Sequence[Batch], known: Mapping[int, Finished]) -> dict:
        """The batch after these: plain JSON data. `known`: what came of the trials of all but the last of them."""
        size = self._search.batch
        first = len(batches) * size
        if self._sampler is not None:
            most = self._sampler.size
            last = first + size if most is None else min(first + size, most)
            batch = Batch(proposals=tuple(Proposal(params=self._sampler.params(t)) for t in range(first, last)))
        else:
            self._adaptive = self._adaptive or adaptive_sampler(self._space)
            batch = self._adaptive.propose(batches, known)
        limits = []
        for trial, proposal in enumerate(batch.proposals, start=first):
            max_epochs = self._space.recipe(proposal.params, 1).max_epochs
            limits.append(self._pruner.limits(trial, max_epochs, known) if self._pruner else [])
        proposals = [{"params": p.params, "asked": p.asked, "notes": p.notes} for p in batch.proposals]
        return {"schema": SCHEMA, "proposals": proposals, "notes": batch.notes, "limits": limits}


def _read(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SearchError(f"{path} cannot be read: {error}; remove it, and it is made again") from None
    if content.get("schema") != SCHEMA:
        raise SearchError(f"{path} has schema {content.get('schema')}; this version reads schema {SCHEMA}")
    return content
