"""`python -m emulator.evaluate` on a study's network, its exported files, other models and other files."""

import csv
import io
import json
import shutil

import netCDF4
import numpy as np
import onnx
import pytest
import torch

from emulator import evaluate
from emulator.bundle import load_bundle, save_bundle
from emulator.candidates import rows_of_part
from emulator.dataset import SampleFile
from emulator.evaluation_text import _number
from emulator.export import write_onnx, write_torchscript
from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.scores import AbsoluteErrorQuantiles
from emulator.split import split_rows

NUM = 2000
INPUTS, OUTPUTS = ["sst", "profile"], ["flux"]


def write_samples(path, *, order=(0, 1, 2), units=None, without=(), seed=3):
    """sst [degC], profile [g kg-1] (2 columns), flux [W m-2] (2 columns), written in that order of variables."""
    rng = np.random.default_rng(seed)
    sst, profile = rng.uniform(0, 30, NUM), rng.uniform(1, 2, (NUM, 2))
    flux = np.column_stack([sst * profile[:, 0], 5 * profile[:, 1] - sst])
    variables = [("sst", "degC", sst), ("profile", "g kg-1", profile), ("flux", "W m-2", flux)]
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("case", NUM)
        file.createDimension("two", 2)
        for name, unit, values in (variables[k] for k in order):
            if name in without:
                continue
            variable = file.createVariable(name, "f8", ("case", "two")[: values.ndim])
            variable.units = (units or {}).get(name, unit)
            variable[:] = values
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """samples.nc; two networks as a study keeps them; the first one exported. Weights are random."""
    folder = tmp_path_factory.mktemp("study")
    samples = SampleFile(write_samples(folder / "samples.nc"), INPUTS, OUTPUTS)
    parts = split_rows(NUM, seed=5, test_fraction=0.3, validation_fraction=0.25)
    x, y = samples.read(parts.train)
    for name, seed in (("one", 1), ("two", 2)):
        spec = MLPSpec(num_inputs=3, hidden=(8,), num_outputs=2, output_activation="identity")
        save_bundle(
            folder / f"{name}.pt",
            spec=spec,
            state=build_mlp(spec, torch.Generator().manual_seed(seed)).state_dict(),
            inputs=Normaliser.fit(x, samples.input_columns),
            outputs=Normaliser.fit(y, samples.output_columns),
            input_columns=samples.input_columns,
            output_columns=samples.output_columns,
            provenance={
                "trial": seed,
                "num_train": len(parts.train),
                "num_validation": len(parts.validation),
                "data": {
                    "path": str(samples.path),
                    "checksum": samples.checksum(),
                    "num_samples": NUM,
                    "inputs": INPUTS,
                    "outputs": OUTPUTS,
                    "units": {},
                    "seed": 5,
                    "test_fraction": 0.3,
                },
            },
        )
    bundle = load_bundle(folder / "one.pt")
    write_onnx(bundle, folder / "model.onnx")
    write_torchscript(bundle, folder / "model.pt")
    return folder


def run(capsys, *arguments, status=0):
    assert evaluate.main([*map(str, arguments), "--quiet"]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def run_json(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json"))


def truth(study, rows, model="one.pt"):
    """Inputs, outputs and predictions in float64 of some rows."""
    x, y = SampleFile(study / "samples.nc", INPUTS, OUTPUTS).read(rows)
    return x, y, load_bundle(study / model).predict(x, torch.float64)


def test_every_file_through_every_backend_gives_the_errors_of_pytorch_on_the_holdout(study, capsys):
    rows = split_rows(NUM, seed=5, test_fraction=0.3, validation_fraction=0.25).test
    _, y, predicted = truth(study, rows)
    error = predicted - y
    against = [f"--against={study / m}" for m in ("model.onnx@onnxruntime", "model.pt", "one.pt")]
    against += [f"--against={study / 'one.pt'}@{b}" for b in ("native", "onnxruntime")]
    found = run_json(capsys, study / "model.onnx", *against)
    assert (found["part"], found["num_selected"]) == ("test", 600)
    assert {(m["kind"], m["backend"]) for m in found["models"].values()} == {
        *(("onnx", b) for b in ("native", "onnxruntime")),
        ("torchscript", "torch"),
        *(("bundle", b) for b in ("native", "onnxruntime", "torch")),
    }
    for scores in found["scores"]["all"].values():
        for o, name in enumerate(("flux_1", "flux_2")):
            s = scores[name]
            want = [(error[:, o] ** 2).mean(), abs(error[:, o]).mean(), error[:, o].mean(), abs(error[:, o]).max()]
            # float32 layers of the deployed forms
            np.testing.assert_allclose([s["mse"], s["mae"], s["bias"], s["largest"]], want, rtol=1e-5)
            assert s["r2"] == pytest.approx(1 - want[0] / y[:, o].var(), rel=1e-5)
            exact = np.quantile(abs(error[:, o]), 0.99, method="inverted_cdf")
            assert s["quantiles"]["0.99"] == pytest.approx(exact, rel=AbsoluteErrorQuantiles.RELATIVE_ERROR + 1e-5)
        assert scores["all"]["mse"] == pytest.approx((error**2).mean(), rel=1e-5)


def test_blocks_do_not_change_the_scores_and_are_all_that_is_held(study, capsys, monkeypatch):
    whole = run_json(capsys, study / "one.pt", "--part", "all")
    held = []
    original = SampleFile.read
    monkeypatch.setattr(SampleFile, "read", lambda self, rows: held.append(len(rows)) or original(self, rows))
    monkeypatch.setattr("emulator.samples._BLOCK_ROWS", 64)
    by_blocks = run_json(capsys, study / "one.pt", "--part", "all")
    assert max(held) == 64
    assert sum(held) == NUM
    for name, s in whole["scores"]["all"]["one.pt (torch)"].items():
        blocks = by_blocks["scores"]["all"]["one.pt (torch)"][name]
        assert blocks["quantiles"] == s["quantiles"]
        assert blocks["mse"] == pytest.approx(s["mse"], rel=1e-12)
    assert by_blocks["worst"] == whole["worst"]


def test_worst_cases_are_rows_of_the_file_with_their_inputs(study, capsys):
    found = run_json(capsys, study / "one.pt", "--part", "all", "--worst", "3")
    x, y, predicted = truth(study, np.arange(NUM))
    error = abs(predicted - y)
    worst = found["worst"]["one.pt (torch)"]
    assert [c["row"] for c in worst["per_output"]["flux_2"]] == list(np.argsort(-error[:, 1])[:3])
    case = worst["over_all"][0]
    row, o = np.unravel_index(error.argmax(), error.shape)
    assert (case["row"], case["output"]) == (row, f"flux_{o + 1}")
    assert case["inputs"] == dict(zip(("sst", "profile_1", "profile_2"), x[row], strict=True))
    text = run(capsys, study / "one.pt", "--part", "all", "--worst", "3")
    assert f"row {row}: flux_{o + 1} is" in text
    assert f"sst {x[row, 0]:.4g}" in text


def test_parts_are_the_studys_own(study, capsys):
    parts = split_rows(NUM, seed=5, test_fraction=0.3, validation_fraction=0.25)
    for part in ("train", "validation", "test"):
        found = rows_of_part(load_bundle(study / "one.pt").provenance, part)
        np.testing.assert_array_equal(found, getattr(parts, part))
        _, y, predicted = truth(study, getattr(parts, part))
        found = run_json(capsys, study / "one.pt", "--part", part)
        assert found["part"] == part
        assert found["scores"]["all"]["one.pt (torch)"]["all"]["mse"] == pytest.approx(((predicted - y) ** 2).mean())
    text = run(capsys, study / "one.pt", "--part", "train")
    assert "note: one.pt (torch) was trained on some of these samples" in text
    assert "trained on" not in run(capsys, study / "one.pt")


def test_samples_outside_the_training_ranges_are_told_apart(study, tmp_path, capsys):
    path = tmp_path / "warm.nc"
    shutil.copy(study / "samples.nc", path)
    with netCDF4.Dataset(path, "a") as file:
        file["sst"][:5] = 60.0
        file["profile"][5:7, 1] = 0.0
    low, high = (getattr(load_bundle(study / "one.pt").inputs, m) for m in ("minimum", "maximum"))
    x, y = SampleFile(path, INPUTS, OUTPUTS).read(np.arange(NUM))
    outside = ((x < low) | (x > high)).any(axis=1)
    assert 7 <= outside.sum() < 20
    error = (load_bundle(study / "one.pt").predict(x) - y) ** 2
    found = run_json(capsys, study / "one.pt", "--data", path)
    assert found["part"] == "all"
    for group, rows in (("inside", ~outside), ("outside", outside)):
        s = found["scores"][group]["one.pt (torch)"]["all"]
        assert (s["num_samples"], s["mse"]) == (rows.sum(), pytest.approx(error[rows].mean()))
    counts = {c["name"]: (c["below"], c["above"]) for c in found["outside_training_ranges"]}
    assert counts["sst"] == ((x[:, 0] < low[0]).sum(), (x[:, 0] > high[0]).sum())
    assert counts["profile_2"][0] == (x[:, 2] < low[2]).sum()
    text = run(capsys, study / "one.pt", "--data", path)
    assert f"{outside.sum()} of 2,000 samples lie outside the training ranges" in text


def test_a_condition_selects_samples(study, capsys):
    found = run_json(capsys, study / "one.pt", "--part", "all", "--where", "sst < 5 and profile[2] >= 1.5")
    x, y, predicted = truth(study, np.arange(NUM))
    rows = (x[:, 0] < 5) & (x[:, 2] >= 1.5)
    assert (found["num_read"], found["num_selected"]) == (NUM, rows.sum())
    s = found["scores"]["all"]["one.pt (torch)"]["all"]
    assert s["mse"] == pytest.approx(((predicted - y)[rows] ** 2).mean())


def test_columns_are_found_by_name_in_any_order_of_model_and_file(study, tmp_path, capsys):
    bundle = load_bundle(study / "one.pt")
    turned = [2, 0, 1]  # the same network with its inputs in another order

    def some(n):
        arrays = ("lower", "upper", "mean", "std", "minimum", "maximum")
        return {"transforms": [n.transforms[k] for k in turned]} | {a: getattr(n, a)[turned] for a in arrays}

    save_bundle(
        tmp_path / "turned.pt",
        spec=bundle.spec,
        state=dict(bundle.state) | {"0.weight": bundle.state["0.weight"][:, turned]},
        inputs=Normaliser(**some(bundle.inputs)),
        outputs=bundle.outputs,
        input_columns=[bundle.input_columns[k] for k in turned],
        output_columns=bundle.output_columns,
        provenance=bundle.provenance,
    )
    other = write_samples(tmp_path / "other.nc", order=(2, 1, 0))
    against = f"--against={tmp_path / 'turned.pt'}"
    found = run_json(capsys, study / "one.pt", "--data", other, against)["scores"]["all"]
    one, two = (found[f"{name} (torch)"]["all"]["mse"] for name in ("one.pt", "turned.pt"))
    assert one == pytest.approx(two, rel=1e-6)
    assert one == pytest.approx(((np.subtract(*truth(study, np.arange(NUM))[1:])) ** 2).mean(), rel=1e-6)


def test_baselines_come_from_the_registry(study, capsys, monkeypatch):
    class Point:
        def load(self):
            return lambda inputs, outputs: {"zero": lambda x: np.zeros((len(x), 2))} if inputs[0] == "sst" else {}

    monkeypatch.setattr("emulator.models.entry_points", lambda group: {"emulator.baselines": [Point()]}[group])
    found = run_json(capsys, study / "one.pt")
    y = truth(study, rows_of_part(load_bundle(study / "one.pt").provenance, "test"))[1]
    assert found["scores"]["all"]["zero"]["all"]["mse"] == pytest.approx((y**2).mean())
    assert "zero" not in run_json(capsys, study / "one.pt", "--no-baselines")["scores"]["all"]


def test_a_network_from_elsewhere_takes_names_from_the_command_line(study, tmp_path, capsys):
    model = onnx.load(study / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    data = ("--data", study / "samples.nc")
    names = ("--inputs", "sst,profile_1,profile_2", "--outputs", "flux_1,flux_2")
    found = run_json(capsys, tmp_path / "bare.onnx", *data, *names)
    want = run_json(capsys, study / "model.onnx", "--part", "all")
    assert found["scores"]["all"]["bare.onnx (native)"] == want["scores"]["all"]["model.onnx (native)"]
    assert "carries no names of its inputs" in run(capsys, tmp_path / "bare.onnx", *data, status=2)
    assert "carries names itself" in run(capsys, study / "model.onnx", "--inputs", "a,b", status=2)


def test_csv_has_the_numbers_of_the_json(study, capsys):
    rows = list(csv.DictReader(io.StringIO(run(capsys, study / "one.pt", "--against", study / "two.pt", "--csv"))))
    found = run_json(capsys, study / "one.pt", "--against", study / "two.pt")["scores"]
    assert {r["group"] for r in rows} == set(found)
    for r in rows:
        s = found[r["group"]][r["model"]][r["output"]]
        assert (float(r["mse"]), float(r["quantile_0.999"])) == (s["mse"], s["quantiles"]["0.999"])
    assert len(rows) == len(found) * 2 * 3


def test_no_line_of_the_table_is_longer_than_80(study, capsys):
    text = run(capsys, study / "one.pt", "--part", "all", "--where", "sst < 5 or profile_1 > 1 and not profile_2 > 1")
    lines = text.splitlines()
    # the first line names a file that may have any length
    assert max(len(line) for line in lines if "samples.nc" not in line and "/" not in line) <= 80
    assert any("flux_1" in line for line in lines)


def test_a_model_of_another_split_is_pointed_out(study, tmp_path, capsys):
    bundle = load_bundle(study / "two.pt")
    used = bundle.provenance["data"] | {"seed": 6}
    save_bundle(tmp_path / "other.pt", **vars(bundle) | {"provenance": bundle.provenance | {"data": used}})
    text = run(capsys, study / "one.pt", "--against", tmp_path / "other.pt")
    assert "other.pt (torch) comes from another split" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.onnx"], "gone.onnx: no such file"),
        (["samples.nc"], "not an ONNX file, nor one of PyTorch, or cut off"),
        (["one.pt", "--data", "gone.nc"], "gone.nc: no such file"),
        (["one.pt", "--data", "one.pt"], "cannot be read as netCDF"),
        (["one.pt", "--data", "without.nc"], "no variable for the model's column 'profile_1'"),
        (["one.pt", "--data", "units.nc"], "sst is in 'K', the model has 'degC'"),
        (["one.pt", "--data", "units.nc", "--part", "test"], "units differ"),
        (["one.pt", "--data", "other.nc", "--part", "test"], "only that file has such a part"),
        (["one.pt", "--where", "sst < -5"], "none of 600 samples satisfies the condition 'sst < -5'"),
        (["one.pt", "--where", "sst <"], "expected a name or a number"),
        (["one.pt", "--where", "flux_1 < 2"], "there is no 'flux_1'"),
        (["model.onnx", "--backend", "torch"], "take the model.pt"),
        (["model.pt", "--backend", "native"], "take the model.onnx"),
        (["one.pt", "--worst", "-1"], "expected 0 or more"),
    ],
)
def test_what_is_wrong_is_said(study, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(study)
    write_samples(study / "without.nc", without=("profile",))
    write_samples(study / "units.nc", units={"sst": "K"})
    write_samples(study / "other.nc", seed=4)
    assert message in run(capsys, *arguments, status=2)


def test_an_interrupt_is_a_status_and_leaves_no_half_output(study, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("emulator.samples.ModelSamples.blocks", stop)
    assert evaluate.main([str(study / "one.pt")]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "interrupted" in captured.err


def test_progress_is_told_on_standard_error(study, capsys):
    assert evaluate.main([str(study / "one.pt")]) == 0
    assert "600 of 600 samples (100 %)" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(["--help"])
    text = capsys.readouterr().out
    for option in ("--data", "--backend", "--against", "--part", "--where", "--worst", "--json", "--csv"):
        assert option in text


def test_a_number_fits_its_column_whatever_its_sign_and_size():
    sizes = [s * m * 10.0**e for s in (1, -1) for m in (1, 1.2345678, 9.99996) for e in range(-12, 13)]
    for value in sizes:
        text = _number(value)
        assert len(text) <= 7, text
        assert float(text) == pytest.approx(value, rel=0.2)  # one digit of -1.2e-12, four where there is room
