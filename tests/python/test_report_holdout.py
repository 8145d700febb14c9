"""What the report says of the hold-out, on samples and networks whose errors are known (see report_cases)."""

import re
from dataclasses import replace

import numpy as np
import pytest

from emulator.variables import Column
from hpo.report import holdout, quality
from hpo.report.studies import read_studies
from hpo.report.style import NothingToDraw
from hpo.report.words import typeset
from tests.python import report_cases as cases


def old_scheme(x_NI):
    y = np.log10(x_NI[:, 0]) + x_NI[:, 1] + 0.5
    return np.column_stack([y, np.ones(len(y))])


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    study = read_studies([cases.make_study(tmp_path_factory.mktemp("holdout") / "study")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holdout, "baselines", lambda bundle: {"OLD": old_scheme})
        return holdout.judge(study, data=None, most=10**6, progress=lambda text: None)


def test_roles_go_to_the_best_three_the_lightest_and_the_heaviest_that_did_not_go_wrong(judged):
    # trial 6 has gone wrong; trial 7 has most parameters of the rest
    assert [j.name for j in judged.judged] == [
        "trial 2 (best)",
        "trial 3 (second best)",
        "trial 30 (third best and lightest)",
        "trial 7 (heaviest)",
        "OLD",
    ]
    assert len(judged.rows) == judged.total == 1000 and judged.words == "the 1,000 hold-out samples"


def test_parity_states_the_errors_of_networks_and_scheme(judged):
    beyond = judged.x_NI[:, 1] > 0.95
    part = beyond.mean()
    # y is off by 0.1 where b > 0.95, z never: a half of the mean over outputs; the others are off by a constant more
    mse = {t: 0.5 * (part * (0.1 - cases.OFFSET[t]) ** 2 + (1 - part) * cases.OFFSET[t] ** 2) for t in (2, 3, 30, 7)}
    old = 0.5 * (part * 0.4**2 + (1 - part) * 0.5**2)
    variance = judged.truth_NO[:, 0].var()
    said = quality.parity(judged).sentences
    assert said[
        0
    ] == f"On the 1,000 hold-out samples, trial 2 (best) has an MSE of {mse[2]:.2e} over all outputs.".replace(
        "e-0", "e-"
    )
    spans = re.search(r"span a factor of (\S+) in parameters and (\S+) in error", said[1])
    assert float(spans[1]) == pytest.approx(1070 / 40, rel=0.005)
    assert float(spans[2]) == pytest.approx(max(mse.values()) / min(mse.values()), rel=0.005)
    assert said[2] == (
        f"OLD has an MSE of {old:.3g}, {old / mse[2]:.3g} times that of the best network; the least R² of an output is "
        f"{1 - 2 * old / variance:.4f} against {1 - 2 * mse[2] / variance:.4f}."
    )
    assert said[3] == "`z` hardly varies on the hold-out (R² would have no meaning) and is not drawn."
    assert {k[1] for k in judged.mse} == set(cases.STEP2)  # the table has all nine
    assert judged.mse[0, 3] == pytest.approx(mse[3], rel=1e-5)


@pytest.mark.parametrize(
    ("units", "words"),
    [(("1", "1"), ""), (("W m-2", "W m-2"), " (W m⁻²)²"), (("K", "1"), " (each in its own unit, squared)")],
)
def test_the_error_over_all_outputs_has_its_unit(judged, units, words):
    columns = tuple(replace(c, units=u) for c, u in zip(judged.output_columns, units, strict=True))
    first = quality.parity(replace(judged, output_columns=columns)).sentences[0]
    assert first.endswith(f"e-4{words} over all outputs.")


def test_parity_panels_carry_mse_and_r2_of_their_output(judged):
    section = quality.parity(judged)
    assert [part.title for part in section.folded] == ["y"]
    assert len(section.folded[0].panels) == 5
    mse = judged.best.scores.mse_per_output[0]
    assert typeset(f"MSE {mse:.2e}".replace("e-0", "e-")) in section.folded[0].panels[0].alt
    assert "4 layers, 1,020 parameters" in section.folded[0].panels[0].alt


def test_error_maps_name_the_cells(judged):
    said = quality.error_maps(judged, []).all_sentences()
    assert re.match(r"The mean squared error of the best network varies most along `b` \(.*\) and `a`", said[0])
    # the largest errors lie at b > 0.95, and the scheme errs by 0.4 or more everywhere
    text = next(s for s in said if s.startswith("Over `b` and `a`, the network's RMSE of `y` is from"))
    low, high = map(float, re.search(r"largest at `b` (\S+) to (\S+) and", text).groups())
    assert low < 0.95 < high
    cells = re.search(r"it errs less than OLD in (\d+) of (\d+) cells", text)
    assert cells[1] == cells[2] and int(cells[1]) > 20


def test_a_map_of_inputs_asked_for_is_drawn(judged):
    section = quality.error_maps(judged, [("a", "b")])
    assert section.folded[0].sentences[0].startswith("Over `a` and `b`")
    assert [p.name for p in section.all_panels()] == ["map-y-a-b-network", "map-y-a-b-old"]


def test_the_worst_samples_are_those_with_the_error_built_in(judged):
    beyond = judged.x_NI[:, 1] > 0.95
    said = quality.worst(judged).sentences
    assert said[0] == (
        "The worst 100 of 1,000 samples (10 %) carry 100 % of the best network's squared error; their largest error is "
        "0.1, and 100 of them err most in `y`."
    )
    assert said[1].startswith("The worst samples share high `b` (median ")
    assert said[2] == "On 0 of these 100, OLD is closer to the truth than the network."
    found = holdout.worst_samples(
        judged.x_NI, judged.input_columns, np.where(beyond, 0.01, 0.0), most=int(beyond.sum())
    )
    assert set(found.index) == set(np.flatnonzero(beyond)) and found.share == pytest.approx(1.0)
    shift = found.shifts[0]
    # all of the worst have a larger b than all others
    assert shift.column.name == "b" and shift.biserial == 1.0 and shift.ks == 1.0
    assert shift.median_worst == np.median(judged.x_NI[beyond, 1])
    assert shift.words == (
        f"high `b` (median {shift.median_worst:.3g} against {shift.median_rest:.3g}; rank-biserial +1.00)"
    )


def test_worst_samples_that_share_nothing_are_said_to():
    rng = np.random.default_rng(2)
    columns = [Column(name=n, units="1", variable=n) for n in "abc"]
    found = holdout.worst_samples(rng.normal(size=(2000, 3)), columns, rng.random(2000))
    assert len(found.index) == 100 and found.shared == []


def test_worst_samples_at_both_ends_or_in_the_middle_of_an_input_are_seen():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1.0, 1.0, (2000, 2))
    columns = [Column(name=n, units="K", variable=n) for n in "ab"]
    ends = holdout.worst_samples(x, columns, np.abs(x[:, 0]))
    assert [s.words.partition(" (")[0] for s in ends.shared] == ["both ends of `a`"]
    middle = holdout.worst_samples(x, columns, 1.0 - np.abs(x[:, 1]))
    assert [s.words.partition(" (")[0] for s in middle.shared] == ["a narrower range of `b`"]


def test_too_few_samples_have_no_worst():
    columns = [Column(name="a", units="1", variable="a")]
    assert holdout.worst_samples(np.ones((49, 1)), columns, np.ones(49)) is None
    assert len(holdout.worst_samples(np.ones((50, 1)), columns, np.arange(50.0)).index) == 5


def test_inputs_are_ranked_by_what_they_explain_of_the_error():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.0, 1.0, (6000, 3))
    squared = np.where(x[:, 1] > 11 / 12, 6.0, 2.0) + np.where(x[:, 2] > 0.5, 0.5, 0.0)
    explained, factor = holdout.inputs_of_error(x, squared)
    assert np.argsort(-explained).tolist() == [1, 2, 0]
    assert factor[1] == pytest.approx(6.25 / 2.25, rel=0.03)
    flat, ones = holdout.inputs_of_error(x, np.ones(6000))
    assert not flat.any() and (ones == 1.0).all()


def test_cells_of_a_map_hold_root_mean_squares():
    x = np.repeat(np.linspace(0.0, 1.0, 28), 400)
    y = np.tile(np.linspace(0.0, 1.0, 400), 28)
    found = holdout.error_map(x, y, np.where(x > 0.5, 4.0, 9.0))
    assert found.rmse[:, 0] == pytest.approx(3.0) and found.rmse[:, -1] == pytest.approx(2.0)
    value, xs, _ = found.cell(worst=True)
    assert value == pytest.approx(3.0) and xs[1] <= 0.55


def test_logarithmic_inputs_get_logarithmic_cells():
    rng = np.random.default_rng(0)
    assert holdout.is_log(10.0 ** rng.uniform(0, 3, 1000)) and not holdout.is_log(rng.uniform(1, 1000, 1000))
    edges = holdout.edges_of(10.0 ** rng.uniform(0, 3, 1000))
    assert np.ptp(np.diff(np.log(edges))) < 1e-9


def test_samples_are_drawn_at_random_if_there_are_too_many(tmp_path):
    study = read_studies([cases.make_study(tmp_path / "s", step2=(2, 3), latency=False)])
    some = holdout.judge(study, data=None, most=200, progress=lambda text: None)
    assert len(some.rows) == 200 and some.words == "200 of the 1,000 hold-out samples"
    assert (np.diff(some.rows) > 0).all() and some.rows.max() > 500
    assert some.baseline is None
    assert len(quality.parity(some).sentences) == 3  # nothing about a scheme
    assert [p.name for p in quality.error_maps(some, []).all_panels()] == ["map-y-b-a-network"]


def test_samples_that_are_gone_or_changed_are_said_so(tmp_path):
    folder = cases.make_study(tmp_path / "s", step2=(2, 3), latency=False)
    study = read_studies([folder])
    with open(tmp_path / "s.nc", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(NothingToDraw, match=r"cannot be read.*checksum"):
        holdout.judge(study, data=None, most=200, progress=lambda text: None)
    (tmp_path / "s.nc").unlink()
    with pytest.raises(NothingToDraw, match="no such file"):
        holdout.judge(study, data=None, most=200, progress=lambda text: None)
