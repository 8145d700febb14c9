"""Which trials run, in what order, and which are promoted."""

from pathlib import Path

import numpy as np

from emulator.normalise import Normaliser
from emulator.variables import Column
from hpo import step1, step2
from hpo.config import Config
from hpo.prepare import Prepared
from hpo.progress import duration
from hpo.proposals import Proposals
from hpo.trial import StudyContext

UNIT = Normaliser(("none",), *(np.zeros(1) for _ in range(6)))


def context(trials):
    config = Config.from_dict({"search": {"trials": trials}})
    parts = {
        step: Prepared(
            folder=Path("."), num_train=n, num_validation=n, inputs=[UNIT], outputs=UNIT, output_activation="sigmoid"
        )
        for step, n in ((1, 100), (2, 1000))
    }
    column = Column(name="x", units="1", variable="x")
    return StudyContext(
        folder=Path("."),
        config=config,
        prepared=parts,
        input_columns=(column,),
        output_columns=(column,),
        provenance={},
    )


def record(trial, mse, parameters=10):
    state = "failed" if mse is None else "complete"
    params = context(40).space.draw(trial)
    return {"trial": trial, "state": state, "params": params, "validation_mse": mse, "num_parameters": parameters}


def chosen(promotions):
    return [(p.trial, p.promoted) for p in promotions]


def test_top_trials_are_those_of_least_error_ties_by_number():
    records = [record(0, 0.3), record(1, 0.1), record(2, None), record(3, 0.1), record(4, 0.2)]
    promotions = step2.promote(records, top=3, light_top=0, light_factor=3.0)
    assert chosen(promotions) == [(1, "error"), (3, "error"), (4, "error")]
    assert [(p.step1_rank, p.step1_mse) for p in promotions] == [(1, 0.1), (2, 0.1), (3, 0.2)]
    assert len(step2.promote(records, top=50, light_top=0, light_factor=3.0)) == 4


def test_light_trials_come_front_by_front_lightest_first_within_the_factor():
    records = [
        record(0, 0.10, 5000),  # best
        record(1, 0.12, 900),  # first front
        record(2, 0.25, 100),  # first front, lightest
        record(3, 0.26, 120),  # second front
        record(4, 0.13, 950),  # second front
        record(5, 0.31, 10),  # lightest of all, beyond three times the best
        record(6, 0.14, 5000),  # third front
    ]

    def light(n, top=1):
        return [
            t for t, why in chosen(step2.promote(records, top=top, light_top=n, light_factor=3.0)) if why == "light"
        ]

    assert light(1) == [2]
    assert light(2) == [2, 1]
    assert light(4) == [2, 1, 3, 4]
    assert light(9) == [2, 1, 3, 4, 6]
    assert light(1, top=2) == [2], "a trial promoted for its error does not use up the light ones"
    assert light(2, top=2) == [2, 3]
    assert step2.promote([record(0, None)], top=1, light_top=1, light_factor=3.0) == []


def test_step1_runs_in_order_of_number_and_the_last_eighth_largest_first():
    c = context(40)
    order = step1.order(c, Proposals(Path(), c.space))
    assert order[:35] == list(range(35)) and sorted(order[35:]) == list(range(35, 40))
    flop = [c.flop(c.space, c.space.draw(t), 1) for t in order[35:]]
    assert flop == sorted(flop, reverse=True) and order[35:] != list(range(35, 40))
    assert step1.order(context(7), Proposals(Path(), context(7).space)) == list(range(7))


def test_blocks_cover_the_trials_and_end_as_single_ones():
    for trials in (1, 40, 255, 513, 10_000):
        found = step1.blocks(trials)
        assert [t for first, last in found for t in range(first, last + 1)] == list(range(trials))
        sizes = [last - first + 1 for first, last in found]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] <= 16 and sizes[-1] == 1
    assert step1.blocks(40) == [(t, t) for t in range(40)], "few trials are shared out one by one"
    assert len(step1.blocks(10_000)) < 1600


def test_step2_runs_the_largest_first_and_only_what_is_missing():
    c = context(40)
    records = [record(i, 0.01 * (i + 1)) for i in range(40)]
    promotions = step2.promote(records, top=10, light_top=0, light_factor=3.0)
    todo = step2.tasks(c, promotions, finished=[4])
    assert sorted(t.trial for t in todo) == [i for i in range(10) if i != 4]
    assert [t.flop for t in todo] == sorted((t.flop for t in todo), reverse=True)
    assert todo[0].extra.keys() == {"promoted", "step1_mse", "step1_rank"}


def test_durations_read_well():
    texts = [duration(s) for s in (0.25, 42.4, 185, 7620, 273_600)]
    assert texts == ["0.2 s", "42 s", "3 min 05 s", "2 h 07 min", "3 d 04 h"]
