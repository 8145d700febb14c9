"""Exporting a choice: verified in every runtime, or nothing is written."""

import itertools
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import netCDF4
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console

from emulator import candidate_errors, export, export_text, latency
from emulator.bundle import Bundle, load_bundle, save_bundle
from emulator.candidates import retrained_networks
from emulator.dataset import SampleFile
from emulator.libemulator import LibEmulator
from emulator.mlp import ACTIVATIONS, NORMALIZATIONS, MLPSpec, build_mlp, fold_batch_norm
from emulator.normalise import Normaliser
from emulator.records import RecordWriter
from emulator.split import split_rows
from emulator.variables import Column
from hpo.retrain import repeats_folder

HIDDEN = {3: (64, 64), 5: (8,), 9: (512, 512, 512)}  # trial: architecture
ERROR = {3: 1.0e-4, 5: 1.8e-4, 9: 0.9e-4}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose three networks have the errors and widths above (their weights are untrained)."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    x, y = rng.lognormal(size=(1000, 2)), rng.random(1000)
    with netCDF4.Dataset(folder / "samples.nc", "w") as file:
        file.createDimension("n", 1000)
        for name, values in {"q": x[:, 0], "w": x[:, 1], "f": y}.items():
            variable = file.createVariable(name, "f8", ("n",))
            variable.units = "1"
            variable[:] = values
    samples = SampleFile(folder / "samples.nc", ["q", "w"], ["f"])
    data = {
        "path": str(samples.path),
        "checksum": samples.checksum(),
        "num_samples": 1000,
        "inputs": ["q", "w"],
        "outputs": ["f"],
        "units": {},
        "seed": 1,
        "test_fraction": 0.2,
    }
    (folder / "study.json").write_text(json.dumps({"schema": 1}))
    with RecordWriter(folder / "step2" / "worker-0.jsonl") as records:
        for trial, hidden in HIDDEN.items():
            spec = MLPSpec(num_inputs=2, hidden=hidden, num_outputs=1)
            model = f"step2/models/trial-{trial:06d}.pt"
            save_bundle(
                folder / model,
                spec=spec,
                state=build_mlp(spec, torch.Generator().manual_seed(trial)).state_dict(),
                inputs=Normaliser.fit(x, samples.input_columns, "log"),
                outputs=Normaliser.fit(y[:, None], samples.output_columns, standardise=False),
                input_columns=samples.input_columns,
                output_columns=samples.output_columns,
                provenance={"trial": trial, "data": data, "num_train": 600, "num_validation": 200},
            )
            records.append(
                {
                    "trial": trial,
                    "state": "complete",
                    "validation_mse": ERROR[trial],
                    "num_parameters": spec.num_parameters,
                    "hidden": list(hidden),
                    "model": model,
                }
            )
        records.append({"trial": 11, "state": "failed", "validation_mse": None, "model": None})
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "model.onnx"


def run(study, out, *options):
    return export.main([str(study), "--out", str(out), *options])


def test_the_lightest_is_exported_and_runs_in_every_runtime(study, out, capsys):
    assert run(study, out, "--pick", "lightest") == 0
    text = capsys.readouterr().out
    assert "trial 5: least latency among the 3" in text
    assert "hold-out error, 200 samples" in text
    x = np.random.default_rng(7).lognormal(size=(50, 2))
    by_onnxruntime = onnxruntime.InferenceSession(str(out)).run(None, {"x": x})[0]
    with torch.no_grad():
        by_torchscript = torch.jit.load(str(out.with_suffix(".pt")))(torch.from_numpy(x)).numpy()
    by_libemulator = LibEmulator(out).infer(x)
    # sigmoid outputs of float32 sums over 8 terms
    np.testing.assert_allclose(by_onnxruntime, by_libemulator, atol=1e-6)
    np.testing.assert_allclose(by_torchscript, by_libemulator, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "trial"),
    [(["--pick", "best"], 9), (["--pick", "trial:3"], 3), (["--pick", "lightest", "--tolerance", "0.2"], 3)],
)
def test_rules_and_tolerance_reach_the_selector(study, out, capsys, options, trial):
    assert run(study, out, "--format", "onnx", "--no-holdout", *options) == 0
    assert f"\ntrial {trial}: " in capsys.readouterr().out
    assert json.loads(LibEmulator(out).metadata("libemulator.provenance"))["trial"] == trial
    assert not out.with_suffix(".pt").exists()


def test_latencies_are_kept_with_the_study_and_measured_once(study, out, monkeypatch):
    assert run(study, out, "--no-holdout") == 0
    kept = json.loads((study / "latency.json").read_text())
    assert set(kept["trials"]) == {"3", "5", "9"}
    assert set(kept["trials"]["3"]) == {"1", "16", "128", "1024"}
    assert kept["trials"]["9"]["16"] > kept["trials"]["5"]["16"]
    monkeypatch.setattr(latency, "measure", lambda *_: pytest.fail("measured again"))
    assert run(study, out, "--no-holdout") == 0


@pytest.mark.parametrize(
    "network",
    [
        *({"activation": name} for name in ACTIVATIONS),
        *(
            {"normalization": norm, "residual": residual, "hidden": (16, 16, 5, 5), "activation": name}
            for norm, residual, name in itertools.product(NORMALIZATIONS, (False, True), ("relu", "gelu"))
        ),
    ],
    ids=lambda network: "-".join(str(v) for v in network.values()),
)
def test_every_kind_of_network_is_the_same_function_in_every_runtime(make_bundle, tmp_path, network):
    bundle = make_bundle(output_activation="sigmoid", scale_outputs=False, **network)
    x = export.training_range_samples(bundle, 300, np.random.default_rng(1))
    assert np.ptp(bundle.predict(x), axis=0).min() > 1e-3, "outputs that hardly vary would show nothing"
    targets = {"onnx": tmp_path / "model.onnx", "torchscript": tmp_path / "model.pt"}
    checked = export.export(bundle, targets, x, 2e-6)  # float32 sums of at most 16 terms, five layers
    assert set(checked.differences) == {"PyTorch float32", "ONNX Runtime", "libemulator", "TorchScript"}
    operators = [node.op_type for node in onnx.load(targets["onnx"]).graph.node]
    assert "BatchNormalization" not in operators
    assert "batch_norm" not in str(torch.jit.load(targets["torchscript"]).inlined_graph)
    assert ("LayerNormalization" in operators) == (bundle.spec.normalization == "layer")


def test_batch_normalization_is_folded_from_the_running_statistics(make_bundle):
    bundle = make_bundle(hidden=(7, 9), normalization="batch")
    spec, state = fold_batch_norm(bundle.spec, bundle.state)
    assert spec == replace(bundle.spec, normalization="none")
    assert sum(v.numel() for v in state.values()) == spec.num_parameters == bundle.spec.num_parameters
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    folded = build_mlp(spec, torch.Generator()).double()
    folded.load_state_dict(state)
    with torch.no_grad():
        # weights rounded once to float32
        torch.testing.assert_close(folded(x), bundle.mlp().double()(x), rtol=1e-5, atol=1e-6)


def validation_errors(study, trial):
    """Inputs and errors of a network on the validation samples, by the split of the study."""
    rows = split_rows(1000, seed=1, test_fraction=0.2, validation_fraction=0.25).validation
    x, y = SampleFile(study / "samples.nc", ["q", "w"], ["f"]).read(rows)
    return x, load_bundle(study / f"step2/models/trial-{trial:06d}.pt").predict(x) - y


def test_limits_on_the_largest_error_and_on_regions_choose(study, out, capsys):
    largest, inside = {}, {}
    for trial in HIDDEN:
        x, error = validation_errors(study, trial)
        largest[trial] = abs(error).max()
        inside[trial] = (error[x[:, 0] < 0.5] ** 2).mean()
    middle = 1.0001 * float(sorted(largest.values())[1])  # PyTorch's sums depend on the batch
    assert run(study, out, "--no-holdout", "--pick", "best", "--max-error-of", f"f={middle!r}") == 0
    text = " ".join(capsys.readouterr().out.split())
    kept = [t for t in largest if largest[t] <= middle]
    gone = next(t for t in largest if largest[t] > middle)
    assert f"trial {min(kept, key=ERROR.get)}: least validation error of 2" in text
    assert f"ruled out by a largest error of f of at most {middle:g}: trial {gone}" in text
    assert f"{largest[gone]:.3g}" in text
    worst = max(inside, key=inside.get)
    limit = ["--region", "q  < 0.5", "--max-region-mse", f"{float(0.999 * inside[worst])!r}"]
    assert run(study, out, "--no-holdout", "--pick", "best", *limit) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"ruled out by a MSE where q < 0.5 of at most {0.999 * inside[worst]:g}: trial {worst}" in text


def test_errors_are_computed_once_and_again_when_a_model_file_changes(study, out, monkeypatch):
    measured = []
    original = candidate_errors._measure

    def counted(networks, texts, data):
        measured.append(([n.trial for n in networks], list(texts)))
        return original(networks, texts, data)

    monkeypatch.setattr(candidate_errors, "_measure", counted)
    networks = retrained_networks(study)
    (study / "errors.json").unlink(missing_ok=True)
    first = candidate_errors.candidate_errors(study, networks, ["q < 1"])
    assert measured == [([9, 3, 5], ["q < 1"])]
    assert candidate_errors.candidate_errors(study, networks, ["q < 1"]) == first
    candidate_errors.candidate_errors(study, networks, ["q < 1", "w < 1"])
    assert measured[1:] == [([9, 3, 5], ["w < 1"])]
    x, error = validation_errors(study, 5)
    assert first[5]["largest"]["f"] == pytest.approx(abs(error).max())
    assert first[5]["regions"]["q < 1"] == pytest.approx((error[x[:, 0] < 1] ** 2).mean())
    model = study / "step2/models/trial-000005.pt"
    content = model.read_bytes()
    try:
        fields = vars(load_bundle(model))
        state = dict(fields["state"])
        state["2.bias"] = state["2.bias"] + 1.0
        save_bundle(model, **fields | {"state": state})
        changed = candidate_errors.candidate_errors(study, networks, ["q < 1"])
        assert measured[2:] == [([5], ["q < 1"])]
        assert changed[5] != first[5]
        assert changed[3]["largest"] == first[3]["largest"]
    finally:
        model.write_bytes(content)


def test_bounds_and_order_reach_the_file_and_the_holdout_table(study, out, capsys):
    assert run(study, out, "--bounds", "f=0.45:0.55") == 0
    assert "without bounds and order" in capsys.readouterr().out
    x = np.random.default_rng(7).lognormal(size=(50, 2))
    y = LibEmulator(out).infer(x)
    assert ((y >= 0.45) & (y <= 0.55)).all()
    assert json.loads(LibEmulator(out).metadata("libemulator.output_constraints"))["bounds"] == {"f": [0.45, 0.55]}


@pytest.fixture
def untimed(study):
    """The study without its latencies, which come back afterwards."""
    path = study / "latency.json"
    kept = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    yield study
    path.unlink(missing_ok=True) if kept is None else path.write_bytes(kept)


def test_what_is_timed_is_what_is_exported(untimed, out, capsys, monkeypatch):
    """Trials 3 and 9 take their time; bounds cost trial 5 more than its layers do."""
    study, timed = untimed, []

    def measure(model, batch_sizes):
        metadata = LibEmulator(model).metadata
        trial = json.loads(metadata("libemulator.provenance"))["trial"]
        timed.append((trial, metadata("libemulator.output_constraints") is not None))
        return {b: {3: 20.0, 5: 10.0 + 30.0 * timed[-1][1], 9: 30.0}[trial] for b in batch_sizes}

    monkeypatch.setattr(latency, "measure", measure)
    assert run(study, out, "--no-holdout") == 0 and "\ntrial 5: " in capsys.readouterr().out
    assert run(study, out, "--no-holdout", "--bounds", "f=0:1") == 0
    text = capsys.readouterr().out
    assert "\ntrial 3: " in text and "retrained networks, with bounds or order; latency" in text
    assert sorted(timed) == [(t, b) for t in (3, 5, 9) for b in (False, True)]
    kept = json.loads((study / "latency.json").read_text())
    assert kept["trials"]["5"]["16"] == 10.0, "what the report draws are the networks as they were trained"
    assert [rows["5"]["16"] for rows in kept["variants"].values()] == [40.0]
    for options in ([], ["--bounds", "f=0:1"]):
        assert run(study, out, "--no-holdout", *options) == 0
    assert len(timed) == 6, "both are kept"
    assert run(study, out, "--no-holdout", "--bounds", "f=0:2") == 0
    assert len(timed) == 9, "other bounds are another file"


def test_latency_may_be_that_of_any_batch_size(study, out, capsys):
    assert run(study, out, "--no-holdout", "--batch", "7") == 0
    text = capsys.readouterr().out
    kept = json.loads((study / "latency.json").read_text())["trials"]["5"]
    assert f"takes {kept['7']:.4g} ns per sample" in text


@pytest.fixture
def repeats(study):
    """Trial 9, the best by luck: its other trainings are worse than those of trial 3."""
    for trial, errors in ((9, [3.0e-4, 3.2e-4, 2.8e-4]), (3, [1.1e-4, 1.0e-4, 0.95e-4])):
        with RecordWriter(repeats_folder(study, trial) / "step2" / "worker-0.jsonl") as records:
            for k, mse in enumerate(errors):
                records.append({"trial": k, "of_trial": trial, "state": "complete", "validation_mse": mse})
            records.append({"trial": 3, "of_trial": trial, "state": "failed", "validation_mse": None})
    yield
    shutil.rmtree(study / "repeats")


def test_a_choice_that_is_luck_shows_and_can_be_avoided(study, out, capsys, repeats):
    assert run(study, out, "--no-holdout", "--pick", "best") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "trial 9: least validation error of 3." in text
    # trial 9 has one error below all of trial 3, in a quarter of the draws
    share = float(re.search(r"trial 9 in ([\d.]+) %", text)[1])
    assert 20 < share < 30
    assert "4 of trial 3, 4 of trial 9; 1,000 draws" in text
    assert run(study, out, "--no-holdout", "--pick", "best", "--stability", "1") == 0
    text = " ".join(capsys.readouterr().out.split())
    mean, std = np.mean([1.0e-4, 1.1e-4, 1.0e-4, 0.95e-4]), np.std([1.0e-4, 1.1e-4, 1.0e-4, 0.95e-4], ddof=1)
    assert "trial 3: least validation error of 2." in text
    assert f"a mean validation MSE + 1 std of {mean + std:.3e} over 4 seeds" in text


def test_a_file_that_computes_something_else_is_not_left_at_the_target(study, out, monkeypatch, capsys):
    out.parent.mkdir(parents=True)
    out.write_text("what stood here before")
    original = export.write_onnx

    def with_another_bias(bundle: Bundle, path, tolerance):
        state = dict(bundle.state)
        state["0.bias"] = state["0.bias"] + 1e-3
        fields = bundle.__dict__ | {"state": state}
        original(Bundle(**fields), path, tolerance)

    monkeypatch.setattr(export, "write_onnx", with_another_bias)
    assert run(study, out) == 2
    assert "ONNX Runtime gives" in capsys.readouterr().err
    assert out.read_text() == "what stood here before"
    assert [p.name for p in out.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pick", "nicest"], "rule 'nicest' is unknown"),
        (["--pick", "trial:11"], "trial '11' has no retrained network"),
        (["--max-latency", "0.001"], "relax a limit"),
        (["--format", "tflite"], "unknown ['tflite']"),
        (["--max-error-of", "f"], "expected OUTPUT=ERROR"),
        (["--max-error-of", "f=-1"], "expected OUTPUT=ERROR"),
        (["--max-error-of", "g=1"], "there is no 'g'"),
        (["--max-error-of", "f=1e-9"], "the least largest error of f is"),
        (["--region", "q < 1", "--max-region-mse", "1", "--max-region-mse", "2"], "one limit for each region"),
        (["--region", "q < -1"], "no validation sample satisfies"),
        (["--region", "f < 1"], "there is no 'f'"),
        (["--stability", "1"], "hpo.study retrain"),
        (["--bounds", "f=2:1"], "a lower bound that is not above"),
        (["--order", "f"], "at least two outputs"),
        (["--batch", "0"], "expected 1 or more"),
        (["--out", "model.h5"], "expected a name that ends in .onnx or .pt"),
        (["--without-head"], "no network of the study has an output head to leave out"),
    ],
)
def test_a_wrong_option_is_a_message_and_no_file(study, out, capsys, options, message):
    assert run(study, out, *options) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("units", "mean"), [(("K", "K"), True), (("K", "W m-2"), False)])
def test_the_holdout_table_has_a_mean_over_outputs_only_where_they_have_one_unit(capsys, units, mean):
    columns = [Column(name=f"out_{i}", units=u, variable=f"out_{i}") for i, u in enumerate(units)]
    scores = SimpleNamespace(num_samples=7, mse=2.5, mse_per_output=[2.0, 3.0], r2_per_output=[0.5, None])
    export_text.print_holdout(Console(width=120), columns, {"network": scores})
    text = capsys.readouterr().out
    assert ("all outputs" in text and "2.500e+00" in text) == mean
    assert "2.00e+00 (0.5000)" in text and "3.00e+00 (-)" in text


def test_changed_data_are_refused_rather_than_scored(study, out, tmp_path, capsys):
    other = tmp_path / "other.nc"
    other.write_bytes((study / "samples.nc").read_bytes())
    with netCDF4.Dataset(other, "a") as file:
        file["q"][0] = 2.0
    assert run(study, out, "--data", str(other)) == 2
    assert "the file has changed" in capsys.readouterr().err


def test_a_folder_that_is_no_study_is_refused(tmp_path, capsys):
    assert export.main([str(tmp_path)]) == 2
    assert "is not a study" in capsys.readouterr().err


def test_help_names_every_rule(capsys):
    with pytest.raises(SystemExit, match="0"):
        export.main(["--help"])
    text = capsys.readouterr().out
    for rule in ("best", "lightest", "fastest", "knee", "trial:N"):
        assert rule in text
