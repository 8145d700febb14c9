"""`python -m hpo.search` from end to end, on small samples."""

import json
import shutil

import netCDF4
import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from emulator.bundle import load_bundle
from emulator.candidates import holdout, retrained_networks
from emulator.dataset import SampleFile
from emulator.split import split_rows
from hpo import search
from tests.python.hpo_cases import SMALL, outcomes, raw_records, run, start, write_config, write_samples

SEARCH = {"trials": 6, "top": 2, "seed": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def config(folder):
    return write_config(folder / "c.toml", write_samples(folder / "samples.nc"), search=SEARCH)


@pytest.fixture(scope="module")
def finished(folder, config):
    """A finished search with one worker."""
    out = folder / "one"
    run("--config", config, *SMALL, "--workers", 1, out=out)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "study")


def tmp_config(out, description):
    from hpo.config import to_toml

    path = out / "again.toml"
    path.write_text(to_toml(description["config"]))
    return path


def load(out, name):
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.load_study(study_name=name, storage=storage)


def test_a_search_leaves_what_the_next_commands_read(finished):
    first, second = raw_records(finished, 1), raw_records(finished, 2)
    assert [r["trial"] for r in first] == list(range(6)) and len(second) == 2
    networks = retrained_networks(finished)
    best = sorted(first, key=lambda r: r["validation_mse"])[:2]
    assert {n.trial for n in networks} == {r["trial"] for r in best}
    assert {r["promoted"] for r in second} == {"error"}
    for r in first + second:
        assert r["hidden"] == [r["params"][f"width_{k}"] for k in range(1, r["params"]["num_hidden"] + 1)]
        assert (
            len(r["curve"]["validation_mse"]) == r["epochs"]
            and min(r["curve"]["validation_mse"]) == r["validation_mse"]
        )
    assert not (finished / "cache").exists() and not (finished / "step2/checkpoints").exists()


def test_two_workers_give_the_same_trials_as_one(finished, folder, config):
    out = folder / "two"
    run("--config", config, *SMALL, "--workers", 2, out=out)
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(finished, step)
    assert len(list(out.glob("step1/worker-*.jsonl"))) == 2
    ours, theirs = (load_bundle(retrained_networks(o)[0].model) for o in (out, finished))
    assert all(np.array_equal(ours.state[k], theirs.state[k]) for k in theirs.state)


def test_a_saved_network_repeats_its_validation_error_in_physical_units(finished, folder):
    for network in retrained_networks(finished):
        bundle = load_bundle(network.model)
        data = bundle.provenance["data"]
        samples = SampleFile(data["path"], data["inputs"], data["outputs"])
        parts = split_rows(samples.num_samples, seed=7, test_fraction=0.2, validation_fraction=0.2)
        x, y = samples.read(parts.validation)
        mse = np.mean((bundle.predict(x) - y) ** 2)
        assert mse == pytest.approx(network.error, rel=1e-5)  # float32 outputs and labels
        train_x, _ = samples.read(parts.train)
        assert bundle.inputs.mean[0] == pytest.approx(train_x[:, 0].mean(), rel=1e-12)
        assert bundle.inputs.minimum == pytest.approx(train_x.min(axis=0), rel=0)
        held_out, rows = holdout(bundle.provenance)
        assert np.array_equal(rows, parts.test) and held_out.num_samples == 2000
        assert bundle.provenance["trial"] == network.trial and bundle.provenance["validation_mse"] == network.error


EVERYTHING = {
    "space": {
        "depth": {"low": 1, "high": 3},
        "widths": [8, 16],
        "width_policy": ["independent", "same", "funnel"],
        "activation": ["relu", "gelu", "silu"],
        "normalization": ["none", "batch", "layer"],
        "residual": {"choices": [False, True], "when": {"width_policy": "same"}},
    },
    "train": {
        "max_epochs": 3,
        "batch_size": [32, 64],
        "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
        "optimizer": ["adam", "adamw", "nadam", "radam", "rmsprop", "sgd"],
        "momentum": {"low": 0.8, "high": 0.99, "when": {"optimizer": "sgd"}},
        "learning_rate_schedule": ["constant", "cosine", "one_cycle"],
        "final_learning_rate_fraction": {"low": 0.01, "high": 0.5, "when": {"learning_rate_schedule": "cosine"}},
        "dropout": {"low": 0.0, "high": 0.1, "when": {"normalization": ["none", "layer"]}},
        "loss": ["mse", "mae", "huber"],
        "huber_delta": {"low": 0.01, "high": 0.1, "log": True, "when": {"loss": "huber"}},
    },
}


def test_a_search_over_everything_ends_in_networks_that_repeat_their_errors(tmp_path, folder, config):
    everything = write_config(tmp_path / "c.toml", folder / "samples.nc", **EVERYTHING, search=SEARCH | {"trials": 16})
    run("--config", everything, "--p-subset", "0.1", "--workers", 1, "--quiet", out=tmp_path / "study")
    records = raw_records(tmp_path / "study", 1)
    assert [r["state"] for r in records] == ["complete"] * 16
    for name, parent, values in (
        ("momentum", "optimizer", {"sgd"}),
        ("residual", "width_policy", {"same"}),
        ("dropout", "normalization", {"none", "layer"}),
        ("huber_delta", "loss", {"huber"}),
    ):
        there = {r["params"][parent] in values for r in records if name in r["params"]}
        assert there == {True} and all(r["params"][parent] not in values for r in records if name not in r["params"])
    kinds = {r["params"]["normalization"] for r in records}
    assert kinds == {"none", "batch", "layer"}, "another seed would not show all of them"
    test_a_saved_network_repeats_its_validation_error_in_physical_units(tmp_path / "study", folder)
    trials = load(tmp_path / "study", "step1").trials
    assert {t.user_attrs["trial"]: t.params for t in trials} == {r["trial"]: r["params"] for r in records}


def test_the_optuna_study_shows_the_same_trials(finished):
    for step in (1, 2):
        records = {r["trial"]: r for r in raw_records(finished, step)}
        trials = load(finished, f"step{step}").trials
        assert len(trials) == len(records)
        for t in trials:
            r = records[t.user_attrs["trial"]]
            assert (t.value, t.params) == (r["validation_mse"], r["params"])
            assert list(t.intermediate_values.values()) == r["curve"]["validation_mse"]
            assert t.user_attrs["num_parameters"] == r["num_parameters"]
            assert t.state == optuna.trial.TrialState.COMPLETE
    numbers = [t.number for t in load(finished, "step1").trials]
    assert numbers == [t.user_attrs["trial"] for t in load(finished, "step1").trials] == list(range(6))


@pytest.mark.parametrize("damage", ["torn", "garbage", "missing", "behind", "wrong"])
def test_a_damaged_optuna_study_is_mended_from_the_records(copy, damage):
    journal = copy / "study.journal"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    if damage == "missing":
        journal.unlink()
    else:
        new = {
            "torn": whole[:-40],
            "garbage": whole[:900] + b"\0\0\n" + whole[900:],
            "behind": b"".join(lines[:-3]),
            "wrong": whole.replace(b'"value":0.', b'"value":1.', 1),
        }
        assert new[damage] != whole
        journal.write_bytes(new[damage])
    run("--quiet", out=copy)
    assert [t.value for t in load(copy, "step1").trials] == [r["validation_mse"] for r in raw_records(copy, 1)]
    assert len(load(copy, "step2").trials) == 2


def test_a_finished_search_runs_nothing_again(copy, capsys):
    before = {p: p.read_bytes() for p in copy.glob("step*/**/*") if p.is_file()}
    run(out=copy)
    assert {p: p.read_bytes() for p in copy.glob("step*/**/*") if p.is_file()} == before
    printed = capsys.readouterr().out
    assert "best of 2 retrained networks" in printed and "step 1:" not in printed
    assert "estimated cost: p_subset + p_retrain = 0.25 + 0.3333 = 0.5833" in printed
    assert "measured cost: step 1" in printed and "(estimate: step 1's cost per sample on all samples)" in printed
    assert f"python -m emulator.export {copy}" in printed


def test_a_torn_record_is_run_again_and_only_that(copy, finished):
    (path,) = copy.glob("step1/worker-*.jsonl")
    path.write_bytes(path.read_bytes()[:-10])
    lost = set(range(6)) - {r["trial"] for r in raw_records(copy, 1)}
    assert len(lost) == 1
    stamps = {r["trial"]: r["finished"] for r in raw_records(copy, 1)}
    run("--quiet", "--workers", 1, out=copy)
    for step in (1, 2):
        assert outcomes(copy, step) == outcomes(finished, step)
    again = {r["trial"]: r["finished"] for r in raw_records(copy, 1)}
    assert {t for t in again if again[t] != stamps.get(t)} == lost


def test_more_trials_and_more_retrainings_go_on_from_what_is_there(copy, finished):
    run("--trials", 8, "--top", 3, "--quiet", "--workers", 2, out=copy)
    assert outcomes(copy, 1)[:6] == outcomes(finished, 1)
    assert len(raw_records(copy, 1)) == 8 and len(raw_records(copy, 2)) >= 3
    assert json.loads((copy / "study.json").read_text())["config"]["search"]["trials"] == 8


def test_changed_settings_are_refused_with_old_and_new_value(copy, config, capsys):
    before = (copy / "study.json").read_bytes()
    run("--p-subset", 0.5, "--widths", "4,8", out=copy, status=2)
    error = capsys.readouterr().err
    assert "search.p_subset: was 0.25, now 0.5" in error and "space.widths: was [4, 8, 16]" in error
    assert "Give another --out" in error and "Traceback" not in error
    assert (copy / "study.json").read_bytes() == before


def test_other_samples_are_refused(copy, tmp_path, capsys):
    other = write_samples(tmp_path / "other.nc", seed=9)
    run("--data", other, out=copy, status=2)
    assert "was begun with other samples" in capsys.readouterr().err
    data = json.loads((copy / "study.json").read_text())["data"]["path"]
    moved = shutil.copy(data, tmp_path / "moved.nc")
    run("--data", moved, "--quiet", out=copy)  # the same samples elsewhere are the same


def test_config_file_of_a_study_makes_the_same_study_elsewhere(finished, tmp_path):
    run("--config", finished / "config.toml", "--quiet", "--workers", 2, out=tmp_path / "again")
    for step in (1, 2):
        assert outcomes(tmp_path / "again", step) == outcomes(finished, step)


def test_diverged_trials_are_recorded_and_the_search_goes_on(tmp_path):
    train = {"learning_rate": [1e-3, 1e30]}
    # standardised outputs: a sigmoid would hold even absurd networks within 0..1, where their error is finite
    c = write_config(tmp_path / "c.toml", write_samples(tmp_path / "s.nc", bounded=False), train=train, search=SEARCH)
    run("--config", c, *SMALL, "--workers", 2, out=tmp_path / "out")
    records = raw_records(tmp_path / "out", 1)
    assert len(records) == 6
    for r in records:
        failed = r["params"]["learning_rate"] == 1e30
        assert r["state"] == ("failed" if failed else "complete")
        assert (r["validation_mse"] is None) == failed and bool(r["error"]) == failed
    states = [t.state for t in load(tmp_path / "out", "step1").trials]
    assert {s.name for s in states} == {"COMPLETE", "FAIL"}
    assert all(r["train"]["learning_rate"] == 1e-3 for r in raw_records(tmp_path / "out", 2))


def test_a_search_in_which_all_trials_fail_says_why(tmp_path, capsys):
    samples = write_samples(tmp_path / "s.nc", bounded=False)
    c = write_config(tmp_path / "c.toml", samples, train={"learning_rate": 1e30}, search=SEARCH)
    run("--config", c, *SMALL, "--workers", 1, out=tmp_path / "out", status=2)
    assert "all 6 trials of step 1 failed" in capsys.readouterr().err


def test_outputs_of_any_range_are_standardised_and_come_back_in_their_units(tmp_path):
    samples = write_samples(tmp_path / "s.nc", bounded=False)
    step2 = {"max_epochs": 30, "batch_size": 64, "learning_rate": 5e-3, "learning_rate_schedule": "cosine"}
    search = SEARCH | {"trials": 4, "light_top": 1, "light_factor": 50.0, "keep_step1_models": True}
    c = write_config(
        tmp_path / "c.toml",
        samples,
        search=search,
        step2=step2,
        data={"transforms": ["auto", "none"], "units": {"sst": "degC"}},
        space={"activation": ["relu", "tanh"]},
    )
    out = tmp_path / "out"
    run("--config", c, *SMALL, "--workers", 2, out=out)
    description = json.loads((out / "study.json").read_text())
    assert description["prepared"]["output_activation"] == "identity"
    assert description["prepared"]["error_units"] == "standardised"
    records = raw_records(out, 2)
    assert sorted(r["promoted"] for r in records) == ["error", "error", "light"]
    assert {r["train"]["max_epochs"] for r in records} == {30}
    assert len(list((out / "step1/models").glob("*.pt"))) == 4
    best = load_bundle(retrained_networks(out)[0].model)
    assert [c.name for c in best.output_columns] == ["flux_1", "flux_2"]
    assert [c.units for c in best.input_columns] == ["degC", "m s-1"] + ["g kg-1"] * 3
    file, rows = holdout(best.provenance)
    x, y = file.read(rows)
    r2 = 1 - ((best.predict(x) - y) ** 2).mean(axis=0) / y.var(axis=0)
    assert (r2 > 0.8).all()  # the outputs are in the hundreds: without their scale R² would be far below 0
    for r in records:
        kinds = load_bundle(out / r["model"]).inputs.transforms
        assert kinds[1] == ("log" if r["params"]["transforms"] == "auto" else "none")


def test_recipe_paper_means_plain_z_scores(config, tmp_path):
    out = tmp_path / "out"
    run("--config", config, "--recipe", "paper", *SMALL, "--trials", 2, "--top", 1, "--workers", 1, out=out)
    assert set(load_bundle(retrained_networks(out)[0].model).inputs.transforms) == {"none"}


def test_settings_may_change_while_nothing_is_finished(config, tmp_path, capsys):
    out = tmp_path / "out"
    samples = config.with_name("samples.nc")
    with netCDF4.Dataset(shutil.copy(samples, tmp_path / "bad.nc"), "a") as file:
        file["sst"][:] = 1.0
    run("--config", config, "--data", tmp_path / "bad.nc", *SMALL, "--trials", 2, out=out, status=2)
    assert "column 'sst' is constant" in capsys.readouterr().err
    run("--config", config, *SMALL, "--trials", 2, "--top", 1, "--workers", 1, out=out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.nc"], "samples file nowhere.nc: no such file"),
        (["--config", "nowhere.toml"], "config file nowhere.toml: no such file"),
        (["--trials", "0"], "trials is 0"),
        (["--top", "3", "--p-retrain", "0.1"], "both top = 3 and p_retrain = 0.1"),
        (["--depth", "a:b"], "--depth 'a:b': expected a whole number, a range 1:20 or a list 8,16,32"),
        (["--depth", "4:2"], "range low 4 is above high 2"),
        (["--device", "gpu"], "--device is 'gpu'; expected cpu, cuda"),
        (["--device", "cuda:99"], "PyTorch sees"),
        (["--workers", "0"], "--workers is 0"),
        (["--dry-run"], "it goes with --launch slurm"),
        (["--storage", "nowhere"], "--storage nowhere"),
        (["--storage", "sqlite:///x.db", "--rebuild-study"], "it does not go with --storage"),
    ],
)
def test_wrong_options_give_one_readable_line(config, tmp_path, capsys, arguments, message):
    data = [] if "--data" in arguments or "--config" in arguments else ["--config", str(config)]
    status = search.main([*data, *arguments, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert status == 2 and message in error
    assert error.startswith("hpo.search: ") and "Traceback" not in error
    assert not (tmp_path / "out" / "step1").exists()


@pytest.mark.parametrize(
    ("where", "message"),
    [("/proc/nowhere/study", "--out /proc/nowhere/study cannot be made (No such file or"), ("a", "a is no folder")],
)
def test_a_place_where_nothing_can_be_written_is_refused_in_one_line(config, tmp_path, capsys, where, message):
    (tmp_path / "a").write_text("a file")
    assert search.main(["--config", str(config), "--workers", "1", "--quiet", "--out", str(tmp_path / where)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_names_every_flag_and_default():
    process = start("--help", out="study")
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    for flag in ("--data", "--config", "--recipe", "--trials", "--p-subset", "--top", "--p-retrain", "--seed", "--out"):
        assert flag in text
    for flag in ("--workers", "--device", "--max-epochs", "--widths", "--depth", "--quiet", "--rebuild-study"):
        assert flag in text
    for flag in ("--sampler", "--pruner", "--rungs", "--after", "--fix", "--narrow"):
        assert flag in text
    for flag in ("--gpus-per-trial", "--lease-seconds", "--storage", "--launch", "--dry-run"):
        assert flag in text
    assert "(default: 10000)" in text and "examples:" in text


@pytest.mark.parametrize("option", [("--gpus-per-trial", "0"), ("--lease-seconds", "-1"), ("--launch", "pbs")])
def test_options_out_of_range_are_refused(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        search.main([*option, "--out", str(tmp_path / "out")])
    assert end.value.code == 2 and option[0] in capsys.readouterr().err


def test_a_dry_run_shows_the_script_of_the_same_command(config, tmp_path, capsys):
    c = tmp_path / "c.toml"
    c.write_text(config.read_text() + '[slurm]\nnodes = 2\npartition = "gpu"\n')
    out = tmp_path / "out"
    run("--config", c, "--launch", "slurm", "--trials", 5, "--dry-run", out=out)
    script = capsys.readouterr().out
    assert "--partition=gpu" in script and not out.exists()
    (command,) = [line for line in script.splitlines() if "-m hpo.search" in line and not line.startswith("#")]
    assert "--trials 5" in command and f"--config {c}" in command
    assert "--launch" not in command and "--dry-run" not in command
    run("--config", c, "--launch=slurm", "--trials", 0, out=out, status=2)
    assert "trials is 0" in capsys.readouterr().err


def test_a_study_keeps_the_slurm_table_but_is_not_bound_by_it(config, tmp_path, capsys):
    out = tmp_path / "out"
    few = ["--trials", 2, "--top", 1, "--workers", 1, *SMALL]
    for lines in ("", '[slurm]\naccount = "physics"\n'):
        c = tmp_path / "c.toml"
        c.write_text(config.read_text() + lines)
        run("--config", c, *few, out=out)
    assert "slurm" not in json.loads((out / "study.json").read_text())["config"]
    for again in ([], ["--config", out / "config.toml"]):
        capsys.readouterr()
        run(*again, "--launch", "slurm", "--dry-run", out=out)
        assert "--account=physics" in capsys.readouterr().out


def test_a_study_begun_by_an_older_version_goes_on_if_its_settings_mean_the_same(copy, capsys):
    path = copy / "study.json"
    description = json.loads(path.read_text())
    for table, key in (("data", "stream"), ("search", "precision")):
        del description["config"][table][key]
    path.write_text(json.dumps(description))
    run("--quiet", out=copy)
    del description["config"]["search"]["engine"]  # the loop of that time
    path.write_text(json.dumps(description))
    config = tmp_config(copy, description)
    run("--config", config, out=copy, status=2)
    assert 'search.engine: was "plain", now "fleet"' in capsys.readouterr().err


def test_without_data_the_case_study_is_generated_once(tmp_path):
    options = ["--samples", 1500, "--trials", 2, "--top", 1, "--widths", "8", "--depth", "1", "--max-epochs", "2"]
    stamps = set()
    for _ in range(2):
        process = start(*options, "--p-subset", 0.5, "--workers", 1, out="study", cwd=tmp_path)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        stamps.add((tmp_path / "activation-samples.nc").stat().st_mtime_ns)
    assert len(stamps) == 1
    networks = retrained_networks(tmp_path / "study")
    names = [c.name for c in load_bundle(networks[0].model).output_columns]
    assert names == ["fn_1", "fn_2", "fn_3", "fn_4"]
