"""Step 1 as several rungs: all trials on a small subset, the best on larger and larger ones, the last on `p_subset`.

A rung is a step 1 of its own in `OUT/rung<k>`, by the same leases and record files. What does not go on is recorded in
step 1 as "pruned" (a failed trial as failed), with the rung and subset that it reached, so that step 1 has every trial
once. The sampler and the pruner work on the first rung, on which all trials are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from emulator.records import RecordWriter, read_folder
from hpo.members import Crew
from hpo.promotion import going_on
from hpo.proposals import Trial
from hpo.trial import StudyContext


class Chosen:
    """Trials that have come so far, in place of `hpo.proposals.Proposals`."""

    is_batched = False

    def __init__(self, records: list[dict]):
        self._params: Mapping[int, Mapping] = {r["trial"]: r["params"] for r in records}
        self.numbers = sorted(self._params)

    def trial(self, number: int) -> Trial:
        return Trial(params=self._params[number])

    def close(self) -> None:
        """Nothing is under way."""


def rung_context(context: StudyContext, rung: int) -> StudyContext:
    """The study's, for rung 1, 2, ...: another folder and other data."""
    prepared = {1: context.prepared[f"rung{rung}"], 2: context.prepared[2]}
    return replace(context, folder=context.folder / f"rung{rung}", prepared=prepared)


def records_of(context: StudyContext, rung: int) -> list[dict]:
    """Of the trials that the study has."""
    trials = context.config.search.trials
    return [r for r in read_folder(context.folder / f"rung{rung}" / "step1") if r["trial"] < trials]


def close(context: StudyContext, crew: Crew, wait: Callable[[], None]) -> list[dict]:
    """Record in step 1 whatever ended on a rung, by one member; the records of those that go on to `p_subset`.

    Parameters
    ----------
    context : StudyContext
        Of the study, all of whose rungs have ended.
    crew : Crew
    wait : function
        Called while another member does it.
    """
    config = context.config
    left, ended = [], []
    for rung, subset in enumerate(config.search.rungs, start=1):
        records = records_of(context, rung)
        left = going_on(records, config)
        stay = {r["trial"] for r in left}
        for r in records:
            if r["trial"] not in stay:
                state = "failed" if r["state"] == "failed" else "pruned"
                ended.append(r | {"state": state, "rung": rung, "subset": subset})
    folder = context.folder / "step1"
    while True:
        recorded = {r["trial"] for r in read_folder(folder, curves=False)}
        missing = [r for r in ended if r["trial"] not in recorded]
        if not missing:
            return left
        if not crew.leases.take("rungs-ended"):
            wait()
            continue
        with RecordWriter(folder / f"worker-{crew.member.name}-rungs.jsonl") as writer:
            for r in missing:
                writer.append(r)
