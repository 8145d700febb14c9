"""One trial trained with several seeds."""

import shutil

import numpy as np
import pytest

from emulator.bundle import load_bundle
from hpo import study_command
from hpo.errors import SearchError
from hpo.retrain import chosen_trial, epoch_rows, repeats, repeats_folder
from tests.python.hpo_cases import SMALL, outcomes, run, write_config, write_samples
from tests.python.study_cases import append, describe, make_config, make_record


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrain")
    config = write_config(folder / "c.toml", write_samples(folder / "samples.nc"), search={"trials": 3, "top": 1})
    run("--config", config, *SMALL, "--workers", 1, out=folder / "study")
    return folder / "study"


def retrain(out, *arguments):
    return study_command.main(["retrain", str(out), *arguments, "--device", "cpu", "--workers", "1", "--quiet"])


def test_repeats_differ_by_seed_alone_and_are_the_same_when_run_again_or_extended(study, tmp_path, capsys):
    again = shutil.copytree(study, tmp_path / "again")
    assert retrain(study, "--seeds", "3") == 0
    trial = chosen_trial(study, "best")
    home = repeats_folder(study, trial)
    records = repeats(study, trial)
    assert [(r["trial"], r["of_trial"]) for r in records] == [(0, trial), (1, trial), (2, trial)]
    (original,) = [r for r in _step2(study) if r["trial"] == trial]
    for r in records:
        assert all(r[k] == original[k] for k in ("params", "hidden", "train", "num_parameters"))
    assert len({r["validation_mse"] for r in (*records, original)}) == 4
    provenance = load_bundle(study / home.relative_to(study) / records[0]["model"]).provenance
    assert provenance["of_trial"] == trial
    assert "trained 3 times" in capsys.readouterr().out
    assert not list(home.glob("cache*")) and (home / "epochs.png").exists()

    assert retrain(again, "--seeds", "1") == 0 and retrain(again, "--seeds", "3") == 0
    assert outcomes(repeats_folder(again, trial), 2) == outcomes(home, 2)


def _step2(study):
    from emulator.records import read_folder

    return read_folder(study / "step2")


def test_the_table_and_the_file_hold_mean_and_standard_deviation_of_every_epoch(tmp_path):
    records = [{"curve": {"validation_mse": c}} for c in ([4.0, 2.0, 1.0], [2.0, 4.0], [3.0, 3.0])]
    rows = epoch_rows(records)
    assert [(r.epoch, r.repeats) for r in rows] == [(1, 3), (2, 3), (3, 1)]
    assert [r.mean for r in rows] == [3.0, 3.0, 1.0]
    assert rows[0].deviation == pytest.approx(1.0) and rows[2].deviation is None  # n - 1 of 4, 2, 3
    assert np.isclose(rows[1].deviation, 1.0)


def test_the_trial_is_chosen_by_error_by_size_or_by_number(tmp_path):
    config = make_config()
    describe(tmp_path, config)
    append(tmp_path, "w", *(make_record(config, t, mse=1e-5) for t in range(4)))
    with pytest.raises(SearchError, match=r"step 2 of .* has no finished trial"):
        chosen_trial(tmp_path, "best")
    for trial, mse, parameters in ((0, 1.0e-6, 900), (1, 1.9e-6, 80), (2, 2.1e-6, 10)):
        append(tmp_path, "w", make_record(config, trial, step=2, mse=mse, num_parameters=parameters))
    assert chosen_trial(tmp_path, "best") == 0
    assert chosen_trial(tmp_path, "lightest") == 1, "trial 2 is beyond twice the best error"
    assert chosen_trial(tmp_path, "3") == 3
    with pytest.raises(SearchError, match="no record of trial 9"):
        chosen_trial(tmp_path, "9")
    with pytest.raises(SearchError, match="expected a number, best or lightest"):
        chosen_trial(tmp_path, "heaviest")


def test_samples_that_changed_are_refused(study, tmp_path, capsys):
    copy = shutil.copytree(study, tmp_path / "copy", ignore=shutil.ignore_patterns("repeats"))
    text = (copy / "study.json").read_text()
    other = write_samples(tmp_path / "other.nc", seed=4)
    (copy / "study.json").write_text(text.replace(str(study.parent / "samples.nc"), str(other)))
    assert retrain(copy, "--seeds", "1") == 2
    assert "the file has changed" in capsys.readouterr().err


def test_list_shows_every_study_below_a_folder(study, capsys):
    assert study_command.main(["list", str(study.parent)]) == 0
    out = capsys.readouterr().out
    assert "study" in out and "3" in out
    assert study_command.main(["list", str(study / "step1")]) == 2
    assert "no study" in capsys.readouterr().err
