"""The host run with the parcel model, emulators and ARG side by side: `python -m emulator.activation online`."""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys

import matplotlib.image
import netCDF4
import numpy as np
import pytest

from emulator.activation import online, online_study
from emulator.activation.arg import EXP45_MODE, GAS_CONSTANT_DRY_AIR
from emulator.activation.modes import LN_SIGMA_G
from emulator.activation.namelist import write_namelist
from emulator.activation.online_measures import measure, relative_rms
from emulator.activation.online_run import piece_path
from emulator.activation.parcel import simulate
from emulator.activation.settings import ParcelSettings
from emulator.activation.states import States
from tests.host import climate_fixtures as climate
from tests.host import host_fixtures as fixtures

EPS = np.spacing(1.0)
RUNS = ("parcel", "perturbed", "net", "arg")


pytestmark = pytest.mark.skipif(climate.missing_tools() is not None, reason=str(climate.missing_tools()))


@pytest.fixture(scope="module")
def library():
    return climate.build("Release").library


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    fixtures.write_model(path, fixtures.make_samples(200))
    return path


def command(library, model, out, *, steps=4, **more):
    settings = {"host": library, "out": out, "steps": steps, "columns": 4, "levels": 6, "piece": 4, "workers": 2} | more
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    parser = argparse.ArgumentParser()
    online.add_arguments(parser)
    return online.run(parser.parse_args([*words, "--model", f"net={model}"]))


@pytest.fixture(scope="module")
def study(library, model, tmp_path_factory):
    """A finished study of 4 steps, in one piece."""
    folder = tmp_path_factory.mktemp("online") / "study"
    assert command(library, model, folder) == 0
    return folder


def variables(folder, run, kind="history", ends=(4,)):
    """Every variable of a run's pieces, joined along the steps."""
    parts = {}
    for end in ends:
        with netCDF4.Dataset(piece_path(folder / run, kind, end)) as dataset:
            for name, variable in dataset.variables.items():
                parts.setdefault(name, []).append(np.asarray(variable[:]))
    return {name: np.concatenate([np.atleast_1d(x) for x in arrays]) for name, arrays in parts.items()}


def test_the_parcel_model_in_the_host_gives_what_it_gives_in_python_at_the_same_points(library, tmp_path):
    grid = {"num_columns": 5, "num_levels": 6, "pcols": 3, "num_steps": 3}
    files = {"history": tmp_path / "history.nc", "restart_out": tmp_path / "restart.nc"}
    write_namelist(tmp_path / "climate.nml", "climate_nl", {**grid, **files, "scheme": "external"})
    script = fixtures.REPOSITORY / "tests" / "host" / "online_points.py"
    done = subprocess.run(
        [sys.executable, script, library, tmp_path / "climate.nml", tmp_path / "points.npz"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = np.load(tmp_path / "points.npz")
    assert len(points["w"]) > 20

    # The mapping, written again: pressure, median radius, units; and all points in one call.
    radius = np.cbrt(3.0 * points["volume"] / (4.0 * math.pi * EXP45_MODE * points["na"]))
    states = States(
        tair=points["tair"],
        pressure=points["rhoair"] * GAS_CONSTANT_DRY_AIR * points["tair"] / 100.0,
        rh=np.clip(points["rh"], 0.70, 0.999),
        wbar=points["w"] * 100.0,
        num_aer=points["na"] * 1e-6,
        r_aer=radius * 1e6,
        kappa=points["hygro"],
    )
    expected = simulate(states, ParcelSettings())
    assert (expected.status == 0).all()
    # Inputs differ in their last bits (order of multiplications); where a parcel's steps are chosen by its errors, that
    # grows to some 1e-13 in S_max.
    np.testing.assert_allclose(points["fn"], expected.fn, rtol=0, atol=1e-11)

    # What the host's history says was activated is what it was given: no point was lost or exchanged.
    with netCDF4.Dataset(tmp_path / "history.nc") as dataset:
        for site in ("GROW", "BASE"):
            for mode in range(4):
                told = np.asarray(dataset[f"FN_{site}{mode + 1}"][:])
                assert np.isin(told[told != 0.0], points["fn"][:, mode]).all()
        told = np.asarray(dataset["FN_BASE1"][:])
        assert (told != 0.0).any()
    # Mass, from a quadrature of the lognormal above the size that number tells
    z = np.linspace(-12.0, 12.0, 48001)
    for n in range(0, len(points["w"]), 7):
        for mode, sigma in enumerate(LN_SIGMA_G):
            fn = points["fn"][n, mode]
            if not 1e-6 < fn < 1.0 - 1e-6:
                continue
            weight = np.exp(-0.5 * z**2)
            above = np.cumsum(weight[::-1])[::-1] / weight.sum()
            mass = weight * np.exp(3.0 * sigma * z)
            share = np.cumsum(mass[::-1])[::-1] / mass.sum()
            # the grid of z, 5e-4 wide
            assert np.interp(fn, above[::-1], share[::-1]) == pytest.approx(points["fm"][n, mode], abs=2e-3)


def test_a_study_leaves_its_numbers_and_a_figure(study):
    summary = json.loads((study / "online.json").read_text())
    assert tuple(summary["runs"]) == RUNS
    number = {run: variables(study, run)["NUMLIQ"] for run in RUNS}
    for run in RUNS:
        found = summary["runs"][run]["fields"]["droplet_number"]
        assert found["mean"] == pytest.approx(number[run][2:].mean(), rel=1e-14)
        assert summary["runs"][run]["series"]["droplet_number"]["mean"] == pytest.approx(
            number[run].mean(axis=(1, 2)), rel=1e-14
        )
    assert summary["runs"]["parcel"]["fields"]["droplet_number"]["rms_last"] == 0.0
    assert summary["runs"]["parcel"]["counts"]["points"] > 0
    # One ulp of the temperature does something, and after four steps not much.
    perturbed = relative_rms(number["perturbed"], number["parcel"])
    assert 0.0 < perturbed.max() < 1e-9
    assert relative_rms(number["arg"], number["parcel"]).max() > 1e-3
    image = matplotlib.image.imread(study / "online.png")
    assert image.shape[0] > 300 and image.shape[1] > 800
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50


def test_a_stopped_study_goes_on_and_equals_one_in_a_piece(library, model, study, tmp_path, monkeypatch, capfd):
    def interrupted(self, count):
        raise KeyboardInterrupt

    folder = tmp_path / "study"
    with monkeypatch.context() as patch:
        patch.setattr(online_study.Progress, "advance", interrupted)
        assert command(library, model, folder, piece=2) == online.EXIT_INTERRUPTED
    assert "the same command goes on" in capfd.readouterr().err
    assert not (folder / "online.json").exists()
    assert 1 <= len(list(folder.glob("*/counts_*.json"))) < 2 * len(RUNS)
    assert command(library, model, folder, piece=2) == 0
    for run in RUNS:
        for kind, ends in (("history", (2, 4)), ("restart", (4,))):
            found, expected = variables(folder, run, kind, ends), variables(study, run, kind)
            assert found.keys() == expected.keys()
            for name in found:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{run} {kind} {name}")
    found, expected = (json.loads((f / "online.json").read_text())["runs"] for f in (folder, study))
    assert found == expected


def test_more_steps_go_on_from_what_is_there(library, model, study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/history_*.nc")}
    assert command(library, model, folder, steps=5) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(json.loads((folder / "online.json").read_text())["series_steps"]) == 5


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"levels": 7}, online.EXIT_ERROR, "levels: 6 there, 7 now"),
        ({"steps": 0}, online.EXIT_USAGE, "--steps is 0; expected at least 1"),
        ({"constants": "mine"}, online.EXIT_USAGE, "expected one of: pyrcel, e3sm"),
        ({"host": "nowhere.so"}, online.EXIT_ERROR, "'nowhere.so' is no file; `cmake"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(library, model, study, capsys, more, status, said):
    assert command(library, model, study, **more) == status
    assert said in capsys.readouterr().err


def test_a_host_that_fails_is_quoted(library, tmp_path, capsys):
    (tmp_path / "net.onnx").write_bytes(b"nonsense")
    assert command(library, tmp_path / "net.onnx", tmp_path / "study") == online.EXIT_ERROR
    said = capsys.readouterr().err
    assert "run 'net' ended with status 1" in said and "net.onnx" in said


def test_measures_of_a_known_drift():
    steps = np.arange(100.0)
    reference = np.full((100, 2, 3), 50.0)
    # Columns drift by 0, 0.01 and 0.02 a step.
    field = reference + 0.01 * steps[:, None, None] * np.array([0.0, 1.0, 2.0])
    found = measure(field, reference)
    assert found["mean"] == pytest.approx(50.0 + 0.01 * 74.5)
    assert found["difference_percent"] == pytest.approx(100.0 * 0.745 / 50.0)
    assert found["difference_percent_uncertainty"] == pytest.approx(100.0 * 0.745 / 50.0 / math.sqrt(3.0))
    assert found["drift_percent"] == pytest.approx(100.0 * 0.01 * 1000 / 50.0)
    assert found["drift_percent_uncertainty"] == pytest.approx(100.0 * 0.01 * 1000 / 50.0 / math.sqrt(3.0))
    over_columns = math.sqrt(5.0 / 3.0)
    assert found["rms_first"] == pytest.approx(0.01 * 4.5 * over_columns / 50.0)
    assert found["rms_last"] == pytest.approx(0.745 * over_columns / 50.0)
    # 2.58e-4 at the second step, 1.03e-3 at the fifth
    assert found["first_step_above"] == {"1e-06": 2, "0.001": 5, "0.1": None}
    assert measure(field[:, :, :1], reference[:, :, :1])["difference_percent_uncertainty"] is None
