"""`python -m emulator.activation compare` end to end: search, export, Fortran hosts, and the tables of `make demo`."""

import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest

from emulator.activation import compare
from emulator.activation.__main__ import main
from emulator.activation.baselines import INPUT_NAMES, arg_fn
from emulator.activation.constants import Constants
from emulator.activation.fortran_hosts import run_activation_host
from emulator.activation.mass import exact_mass_fractions, mass_from_number
from emulator.bundle import load_bundle
from emulator.candidates import holdout, retrained_networks
from emulator.libemulator import LibEmulator
from tests.host import climate_fixtures as climate
from tests.host import host_fixtures as fixtures
from tests.host.test_activation_host import missing_tools

pytestmark = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


def command(*arguments):
    full = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(full, cwd=fixtures.REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


STUDY = """
[space]
depth = {low = 1, high = 2}
widths = [8, 32]
head = {choices = ["direct", "activation"]}

[search]
trials = 4
p_subset = 0.5
top = 4
seed = 1

[train]
max_epochs = 3
"""


@pytest.fixture(scope="module")
def host():
    build = fixtures.REPOSITORY / "build" / "host-release"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DLIBEMULATOR_EXAMPLES=ON", "-DLIBEMULATOR_TESTS=OFF"]
    subprocess.run(["cmake", "-S", fixtures.REPOSITORY, "-B", build, *options], check=True, capture_output=True)
    targets = ["activation_host"] + (["climate_host"] if climate.missing_tools() is None else [])
    target = ["cmake", "--build", build, "--parallel", "2", "--target", *targets]
    subprocess.run(target, check=True, capture_output=True)
    return next(build.rglob("activation_host"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with samples of the parcel model, a study of networks with and without a head, and exported models."""
    folder = tmp_path_factory.mktemp("demo")
    command("emulator.activation", "generate", "--samples", 1200, "--workers", 1, "--out", folder / "samples.nc")
    (folder / "study.toml").write_text(STUDY)
    search = ["--config", folder / "study.toml", "--data", folder / "samples.nc", "--workers", 1]
    command("hpo.search", *search, "--out", folder / "study")
    for name, options in {"best": ["--pick", "best"], "bare": ["--pick", "best", "--without-head"]}.items():
        command("emulator.export", folder / "study", *options, "--out", folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def compared(host, demo):
    """What the command printed, and its summary."""
    models = ["--model", f"best={demo / 'best.onnx'}", "--model", f"bare={demo / 'bare.onnx'}"]
    out = demo / "summary.json"
    done = command("emulator.activation", "compare", "--host", host, *models, "--repeats", 2, "--out", out)
    return done.stdout, json.loads(out.read_text())


def truth(demo):
    """Inputs, fn and fm of the hold-out rows, fm from the parcel's S_max."""
    samples, rows = holdout(load_bundle(retrained_networks(demo / "study")[0].model).provenance)
    assert tuple(c.name for c in samples.input_columns) == INPUT_NAMES
    x, fn = samples.read(rows)
    smax, temperature = samples.read_variables(("smax", "tair_smax"), rows).T
    return samples, rows, x, fn, exact_mass_fractions(smax, temperature, x[:, 8:12], x[:, 12:16], Constants())


def test_the_true_mass_fraction_follows_from_the_number_fraction_of_a_samples_file(demo):
    with netCDF4.Dataset(demo / "samples.nc") as file:
        assert file["fn"].dtype == np.float32
        v = {n: np.asarray(file[n][:], np.float64) for n in ("fn", "smax", "tair_smax", "r_aer", "kappa")}
    fm = exact_mass_fractions(v["smax"], v["tair_smax"], v["r_aer"], v["kappa"], Constants())
    # fn is rounded to single precision: 6e-8 relative, which fm makes less of the more particles activate
    np.testing.assert_allclose(mass_from_number(v["fn"]), fm, rtol=0, atol=2e-7)


def test_the_summary_holds_errors_of_number_and_mass_and_costs_of_every_scheme(demo, compared):
    _, summary = compared
    schemes = summary["schemes"]
    _, _, x, fn, fm = truth(demo)
    # ARG's constants and formulas are the same; fm of the truth within 2e-7 of that from S_max
    assert schemes["arg"]["fn"]["mse"] == pytest.approx(((arg_fn(x) - fn) ** 2).mean(), rel=1e-9)
    assert schemes["arg"]["fm"]["mse"] == pytest.approx(((arg_fm(x) - fm) ** 2).mean(), rel=1e-5)
    best = retrained_networks(demo / "study")[0]
    assert schemes["best"]["parameters"] == best.num_parameters
    assert tuple(schemes["best"]["hidden"]) == best.hidden
    assert schemes["bare"]["model"] == str(demo / "bare.onnx")
    for name in ("arg", "best", "bare"):
        assert all(schemes[name]["ns_per_point"][batching] > 0 for batching in ("level", "point"))
        for what in ("fn", "fm"):
            assert schemes[name][what]["mse"] == pytest.approx(np.mean(schemes[name][what]["mse_per_mode"]))
            assert schemes[name][what]["r2_per_mode"][2] is None, "the coarse mode has no variance here"
    assert schemes["mbn2014"]["fn"]["mse"] < schemes["arg"]["fn"]["mse"]
    assert schemes["mbn2014"]["fm"]["mse"] < schemes["arg"]["fm"]["mse"]


def arg_fm(x):
    from emulator.activation.arg import activate
    from emulator.activation.baselines import physical

    return activate(**physical(x))[1]


def test_the_last_table_has_a_line_for_every_scheme_with_errors_costs_and_its_share_of_a_step(compared):
    text, summary = compared
    table = text[text.rindex("┏") :]
    rows = {
        cells[0]: cells[1:] for line in table.splitlines() if (cells := line.strip("│ ").split("│")) and "│" in line
    }
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert list(rows) == ["ARG", "MBN 2014", "best", "bare"]
    assert rows["best"][0] == f"{summary['schemes']['best']['parameters']:,}"
    for label, name in {"ARG": "arg", "best": "best", "bare": "bare"}.items():
        scheme = summary["schemes"][name]
        assert rows[label][1:3] == [f"{scheme[what]['mse'] ** 0.5:.4f}" for what in ("fn", "fm")]
        assert rows[label][3:5] == [f"{scheme['ns_per_point'][batching]:.0f}" for batching in ("level", "point")]
        if climate.missing_tools() is None:
            step = scheme["step"]
            assert rows[label][5:] == [f"{step['activation_us']:.1f}", f"{100 * step['share']:.0f} %"]
            assert 0 < step["activation_us"] < step["physics_us"]
            assert step["share"] == pytest.approx(step["activation_us"] / step["physics_us"])


def test_a_host_whose_numbers_are_not_the_networks_is_found_out(host, demo):
    samples, rows, x, fn, _ = truth(demo)
    model = LibEmulator(demo / "bare.onnx")
    provenance = json.loads(model.metadata("libemulator.provenance"))
    results, found = run_activation_host(host, demo / "bare.onnx", samples.path, rows, repeats=1)
    compare._check_fractions("bare", model, provenance, samples, x, found)
    compare._check_errors("bare", "emulator", results["emulator"], found, fn)
    for what in ("fn", "fm"):
        wrong = found | {f"{what}_emulator": found[f"{what}_emulator"] + 1e-3}
        with pytest.raises(RuntimeError, match=f"bare: {what} of the Fortran host and of Python differ by up to 0.001"):
            compare._check_fractions("bare", model, provenance, samples, x, wrong)
        with pytest.raises(RuntimeError, match=f"an MSE of {what} of .* they must agree"):
            compare._check_errors("bare", "emulator", results["emulator"], wrong, fn)


@pytest.mark.parametrize(
    "models, message",
    [
        (["best=none.onnx"], "no such file; python -m emulator.export writes it"),
        (["best=best.onnx", "best=bare.onnx"], "names are to differ"),
        (["arg=best.onnx"], "names are to differ from each other, and from arg and mbn2014"),
        (["best.onnx"], "is not NAME=FILE"),
    ],
)
def test_a_model_that_cannot_be_compared_is_a_message(host, demo, capsys, models, message):
    options = [str(o) for m in models for o in ("--model", m.replace("=", f"={demo}/"))]
    try:
        status = main(["compare", "--host", str(host), *options, "--out", str(demo / "x.json")])
    except SystemExit as refused:  # by the parser of arguments
        status = refused.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (demo / "x.json").exists()


def test_networks_of_different_splits_are_not_compared(host, demo, capsys, monkeypatch):
    splits = iter([slice(None), slice(1, None)])

    def another(provenance, path):
        samples, rows = holdout(provenance, path)
        return samples, rows[next(splits)]

    monkeypatch.setattr(compare, "holdout", another)
    models = ["--model", f"best={demo / 'best.onnx'}", "--model", f"bare={demo / 'bare.onnx'}"]
    assert main(["compare", "--host", str(host), *models, "--repeats", "1", "--out", str(demo / "x.json")]) == 2
    assert "its hold-out samples are others than those of the models before it" in capsys.readouterr().err
    assert not (demo / "x.json").exists()
