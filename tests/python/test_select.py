"""The selector on candidates whose right choice is known by hand."""

import dataclasses
import math

import pytest

from emulator.select import Candidate, Limit, pareto_front, pick


def candidate(trial, error, latency_ns, num_parameters=1000):
    return Candidate(trial=trial, error=error, latency_ns=latency_ns, num_parameters=num_parameters)


# errors fall as latency grows, but for 4, which is beaten by 3 in both
SOME = [
    candidate(1, 1.0e-6, 1000.0),
    candidate(2, 1.9e-6, 100.0),
    candidate(3, 2.1e-6, 50.0),
    candidate(4, 3.0e-6, 60.0),
    candidate(5, 9.0e-5, 10.0),
]


def trial(rule, candidates=SOME, **limits):
    return pick(candidates, rule, **limits).candidate.trial


def test_rules_choose_what_they_say():
    assert trial("best") == 1
    assert trial("lightest", tolerance=1.0) == 2
    assert trial("lightest", tolerance=1.2) == 3
    assert trial("lightest", tolerance=0.0) == 1
    assert trial("fastest") == 5
    assert trial("trial:4") == 4


def test_the_knee_is_the_corner_of_the_front():
    corner = [candidate(1, 1e-6, 1000.0), candidate(2, 2e-6, 11.0), candidate(3, 1e-4, 10.0)]
    assert trial("knee", corner) == 2


def test_the_front_holds_those_that_none_beats_in_both():
    assert [c.trial for c in pareto_front(SOME)] == [5, 3, 2, 1]


def test_parameters_break_a_tie_in_latency_and_errors_break_the_rest():
    tie = [candidate(1, 1.0e-6, 100.0, 5000), candidate(2, 1.5e-6, 102.9, 4000), candidate(3, 1.4e-6, 101.0, 4000)]
    assert trial("lightest", tie) == 3
    apart = [candidate(1, 1.0e-6, 100.0, 5000), candidate(2, 1.5e-6, 103.1, 4000)]
    assert trial("lightest", apart) == 1


def test_limits_hold_for_every_rule():
    assert trial("best", max_latency_ns=55.0) == 3
    assert trial("fastest", max_error=2e-6) == 2
    # the best error is that of the allowed ones
    assert trial("lightest", max_latency_ns=70.0, tolerance=0.5) == 3
    with pytest.raises(ValueError, match="outside the limits"):
        trial("trial:1", max_latency_ns=55.0)
    with pytest.raises(ValueError, match=r"has a latency of at most 1 ns; the fastest takes 10 ns: relax"):
        trial("best", max_latency_ns=1.0)


def test_further_limits_rule_out_and_the_reason_says_what_and_whom():
    cold = {1: 0.5, 2: 0.1, 3: math.nan, 4: 0.2, 5: 0.1}
    some = [dataclasses.replace(c, measures={"cold": cold[c.trial]}) for c in SOME]
    choice = pick(some, "best", limits=[Limit("cold", 0.1)])
    assert choice.candidate.trial == 2
    assert choice.cut == {"cold of at most 0.1": (1, 3, 4)}
    assert "least validation error of 2; ruled out by a cold of at most 0.1: trials 1, 3, 4" in choice.reason
    choice = pick(some, "fastest", max_latency_ns=70.0, max_error=1e-5, limits=[Limit("cold", 0.3)])
    assert choice.candidate.trial == 4
    assert choice.cut == {
        "latency of at most 70 ns": (1, 2),
        "validation MSE of at most 1e-05": (5,),
        "cold of at most 0.3": (1, 3),
    }
    assert pick(some, "best").cut == {}
    with pytest.raises(ValueError, match=r"networks has a cold of at most 0.01; the least cold is 0.1: relax a limit"):
        pick(some, "best", limits=[Limit("cold", 0.01)])


def test_order_of_candidates_does_not_matter():
    for rule in ("best", "lightest", "fastest", "knee"):
        assert trial(rule, SOME[::-1]) == trial(rule)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="rule 'lightset' is unknown"):
        trial("lightset")
    with pytest.raises(ValueError, match="no retrained network"):
        trial("best", [])
    with pytest.raises(ValueError, match="trial '9' has no retrained network; those that have: 1, 2, 3, 4, 5"):
        trial("trial:9")
    with pytest.raises(ValueError, match="tolerance is"):
        trial("lightest", tolerance=math.nan)
