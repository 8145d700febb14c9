"""The Fortran host: its numbers are Python's, its bits do not depend on its layout, its errors are clear."""

import os
import shutil
import subprocess

import netCDF4
import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="the emulator's reference; pip install onnxruntime")

from emulator.activation import arg  # noqa: E402
from emulator.activation.mass import mass_from_number  # noqa: E402
from emulator.libemulator import LibEmulator  # noqa: E402
from tests.host import activation_emulator_fixtures as emulators  # noqa: E402
from tests.host import climate_fixtures as climate  # noqa: E402
from tests.host import host_fixtures as fixtures  # noqa: E402

NUM_SAMPLES = 500  # on 7 levels: 72 columns, the last one partly filled; with pcols = 16 the last chunk holds 8
EPS = np.spacing(1.0)
ARG_INPUTS = ("tair", "pressure", "wbar", "num_aer", "r_aer", "kappa")


def missing_tools():
    if shutil.which("cmake") is None or shutil.which(os.environ.get("FC", "gfortran")) is None:
        return "needs cmake and a Fortran compiler; Debian: apt install cmake gfortran"
    if shutil.which("nf-config") is None:
        return "needs netCDF-Fortran; Debian: apt install libnetcdff-dev"
    return None


pytestmark = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


@pytest.fixture(scope="session", params=["Release", "Debug"])
def program(request):
    """activation_host, built as a user would; Debug traps invalid, zero and overflow and starts from signalling NaN."""
    build = fixtures.REPOSITORY / "build" / f"host-{request.param.lower()}"
    options = [f"-DCMAKE_BUILD_TYPE={request.param}", "-DLIBEMULATOR_EXAMPLES=ON", "-DLIBEMULATOR_TESTS=OFF"]
    for command in (
        ["cmake", "-S", str(fixtures.REPOSITORY), "-B", str(build), *options],
        ["cmake", "--build", str(build), "--target", "activation_host", "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return next(build.rglob("activation_host"))


@pytest.fixture
def folder(tmp_path):
    """A folder with samples.nc and model.onnx; the samples are kept as an attribute of the module's helper."""
    samples = fixtures.make_samples(NUM_SAMPLES)
    fixtures.write_samples(tmp_path / "samples.nc", samples)
    fixtures.write_model(tmp_path / "model.onnx", samples)
    return tmp_path


def onnx_fn(folder, samples, columns=fixtures.COLUMNS):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": fixtures.flat_inputs(samples, columns)})[0]


def arg_fn(samples):
    return arg.activate(*(samples[name] for name in ARG_INPUTS))[0]


def test_host_numbers_equal_python_numbers(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    done, _, fractions = fixtures.run_host(program, folder, pver=7)
    assert done.returncode == 0, done.stderr
    # libm, libmvec and numpy differ by a few ulp in log, pow and erf
    np.testing.assert_allclose(fractions["fn_arg"], arg_fn(samples), rtol=0, atol=32 * EPS)
    # float32 layers of at most 24 terms, summed in another order, then a sigmoid (slope 1/4)
    np.testing.assert_allclose(fractions["fn_emulator"], onnx_fn(folder, samples), rtol=0, atol=2e-6)
    fm = arg.activate(*(samples[name] for name in ARG_INPUTS))[1]
    np.testing.assert_allclose(fractions["fm_arg"], fm, rtol=0, atol=32 * EPS)
    # the same relation by other formulas: fm is steep in fn where few activate
    np.testing.assert_allclose(fractions["fm_emulator"], mass_from_number(fractions["fn_emulator"]), rtol=0, atol=1e-13)
    for scheme in ("arg", "emulator"):
        number = (fractions[f"fn_{scheme}"] * samples["num_aer"]).sum(axis=1) * 1e6
        np.testing.assert_allclose(fractions[f"nact_{scheme}"], number, rtol=16 * EPS)
        updraft = 0.01 * samples["wbar"]
        np.testing.assert_allclose(fractions[f"flux_fullact_{scheme}"], updraft, rtol=EPS)
        for f in ("n", "m"):
            flux = fractions[f"f{f}_{scheme}"] * updraft[:, None]
            np.testing.assert_allclose(fractions[f"flux{f}_{scheme}"], flux, rtol=4 * EPS)


def test_reported_errors_are_those_of_the_written_fractions(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    done, results, fractions = fixtures.run_host(program, folder, pver=7)
    assert done.returncode == 0, done.stderr
    truth = {"fn": samples["fn"], "fm": mass_from_number(samples["fn"])}
    for scheme in ("arg", "emulator"):
        number_error = fractions[f"nact_{scheme}"] * 1e-6 - (samples["fn"] * samples["num_aer"]).sum(axis=1)
        found = results[scheme]
        for what, true in truth.items():
            error = fractions[f"{what}_{scheme}"] - true
            mse = (error**2).mean(axis=0)
            r2 = 1 - mse[[0, 1, 3]] / true.var(axis=0)[[0, 1, 3]]
            np.testing.assert_allclose(found[what]["mse_per_mode"], mse, rtol=1e-12)  # 500 terms in another order
            np.testing.assert_allclose(found[what]["mse"], mse.mean(), rtol=1e-12)
            np.testing.assert_allclose(np.array(found[what]["r2_per_mode"])[[0, 1, 3]].astype(float), r2, rtol=1e-11)
            assert found[what]["r2_per_mode"][2] is None  # fn of mode 3 is always 1: no variance
            np.testing.assert_allclose(found[what]["max_error_per_mode"], np.abs(error).max(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found["number_rmse_cm3"], np.sqrt((number_error**2).mean()), rtol=1e-12)
        np.testing.assert_allclose(found["number_bias_cm3"], number_error.mean(), rtol=1e-9)
        assert found["ns_per_point"] > 0
    assert results["samples"] == NUM_SAMPLES
    assert results["points"] == 72 * 7
    assert "network of 992 parameters that gives fn" in results["emulator"]["described"]
    for scheme in ("arg", "emulator"):
        of_number, of_mass = (line.split() for line in done.stdout.splitlines() if line.split()[:1] == [scheme])
        assert float(of_number[2]) == pytest.approx(results[scheme]["fn"]["mse"], rel=1e-3)  # four digits printed
        assert float(of_mass[1]) == pytest.approx(results[scheme]["fm"]["mse"], rel=1e-3)
        assert (of_number[8], of_mass[7]) == ("(-)", "(-)")
    r2 = float(of_number[4].strip("()")) if of_number[4] != "(<0)" else -1.0
    assert r2 == pytest.approx(max(-1.0, results["emulator"]["fn"]["r2_per_mode"][0]), abs=6e-4)


@pytest.mark.parametrize("kind", ["headed", "ln_smax"])
def test_networks_that_predict_ln_smax_serve_with_their_head_in_the_file_and_without(program, folder, kind):
    head = emulators.write_models(folder)
    x = emulators.training_inputs(300, seed=1)
    samples = {name: x[:, k] for k, name in enumerate(("tair", "pressure", "rh", "wbar"))}
    samples |= {name: x[:, 4 + 4 * k : 8 + 4 * k] for k, name in enumerate(("num_aer", "r_aer", "kappa"))}
    ln_smax = LibEmulator(folder / "ln_smax.onnx").infer(x)
    fn, fm = head.fractions(x, ln_smax)
    fixtures.write_samples(folder / "samples.nc", {**samples, "fn": fn})
    reference = None
    for batching in ("point", "level", "chunk"):
        done, results, fractions = fixtures.run_host(program, folder, model=f"{kind}.onnx", batching=batching, pver=7)
        assert done.returncode == 0, done.stderr
        assert results["emulator"]["fallbacks"] == 0
        # float32 layers whose inputs may differ in the last bit; and one fn less than 1 - 1e-7 for another in float32
        np.testing.assert_allclose(fractions["fn_emulator"], fn, rtol=0, atol=1e-5)
        np.testing.assert_allclose(fractions["fm_emulator"], fm, rtol=0, atol=1e-4)
        assert results["emulator"]["fn"]["mse"] < 1e-11
        assert results["emulator"]["fm"]["mse"] < 1e-9
        reference = reference or fractions
        assert all(np.array_equal(fractions[name], reference[name]) for name in fractions)


def test_points_outside_of_the_training_range_are_args_and_are_counted_unless_asked_otherwise(program, folder):
    climate.write_model(folder / "model.onnx")  # trained on 268 K and warmer
    samples = fixtures.make_samples(NUM_SAMPLES)
    cold = samples["tair"] < 0.99 * 268.0  # a margin of one per cent
    done, results, fractions = fixtures.run_host(program, folder, pver=1, pcols=NUM_SAMPLES)
    assert done.returncode == 0, done.stderr
    for name in ("fn", "fm", "fluxn", "fluxm", "flux_fullact"):
        same = (fractions[f"{name}_emulator"] == fractions[f"{name}_arg"]).reshape(NUM_SAMPLES, -1)
        assert same[cold].all()
        assert name == "flux_fullact" or not same[~cold].all(axis=1).any()
    assert results["emulator"]["fallbacks"] == cold.sum()
    assert results["emulator"]["emulated"] == NUM_SAMPLES - cold.sum()
    assert f"tair beyond its range: below {cold.sum()}, above 0" in done.stdout
    _, results, held = fixtures.run_host(program, folder, pver=1, fallback=False)
    assert results["emulator"]["fallbacks"] == 0
    assert not (held["fn_emulator"] == held["fn_arg"])[cold].all(axis=1).any()


def test_bits_do_not_depend_on_chunk_size_threads_or_batching(program, folder):
    reference = None
    for threads, pcols, pver, batching in [
        (1, 16, 7, "level"),
        (2, 16, 7, "level"),
        (1, 1, 7, "level"),
        (2, 7, 7, "level"),
        (1, 16, 7, "point"),
        (2, 16, 7, "chunk"),
        (1, 7, 3, "chunk"),
        (1, 600, 1, "level"),
    ]:
        done, results, fractions = fixtures.run_host(
            program, folder, threads=threads, pcols=pcols, pver=pver, batching=batching
        )
        assert done.returncode == 0, done.stderr
        assert results["threads"] == threads
        reference = reference or fractions
        for name, values in fractions.items():
            assert np.array_equal(values, reference[name]), (name, threads, pcols, pver, batching)


def test_two_threads_give_the_bits_of_one_on_many_points(program, folder):
    # enough points that work space shared by mistake shows: a saved local array, in use for a few lines, mostly did
    fixtures.write_samples(folder / "samples.nc", fixtures.make_samples(40_000, seed=1))
    _, _, one = fixtures.run_host(program, folder, threads=1)
    for _ in range(3):
        done, _, two = fixtures.run_host(program, folder, threads=2)
        assert done.returncode == 0, done.stderr
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_model_inputs_and_outputs_in_another_order_give_the_same_function(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    _, _, expected = fixtures.run_host(program, folder, pver=7)
    columns = list(np.random.default_rng(3).permutation(fixtures.COLUMNS))
    fixtures.write_model(folder / "model.onnx", samples, columns, outputs=("fn_3", "fn_1", "fn_4", "fn_2"))
    done, _, fractions = fixtures.run_host(program, folder, pver=7)
    assert done.returncode == 0, done.stderr
    # the same products summed in another order, in float32
    np.testing.assert_allclose(fractions["fn_emulator"], expected["fn_emulator"], rtol=0, atol=2e-6)


def test_a_model_may_take_fewer_inputs_than_the_host_can_make(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    columns = [name for name in fixtures.COLUMNS if name not in ("rh", "kappa_3")]
    fixtures.write_model(folder / "model.onnx", samples, columns)
    done, _, fractions = fixtures.run_host(program, folder, pver=7)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(fractions["fn_emulator"], onnx_fn(folder, samples, columns), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["text", "netcdf"])
def test_only_the_given_rows_are_used_in_their_order(program, folder, kind):
    samples = fixtures.make_samples(NUM_SAMPLES)
    rows = np.array([499, 3, 3, 250, 0, 77])
    if kind == "text":
        (folder / "rows").write_text("\n".join(map(str, rows)) + "\n")
    else:
        with netCDF4.Dataset(folder / "rows", "w") as dataset:
            dataset.createDimension("n", len(rows))
            dataset.createVariable("sample_rows", "i8", ("n",))[:] = rows
    done, results, fractions = fixtures.run_host(program, folder, sample_rows="rows", pver=4)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(fractions["fn_arg"], arg_fn(samples)[rows], rtol=0, atol=32 * EPS)
    mse = ((fractions["fn_arg"] - samples["fn"][rows]) ** 2).mean()
    np.testing.assert_allclose(results["arg"]["fn"]["mse"], mse, rtol=1e-12)
    assert results["samples"] == 6
    assert results["points"] == 8  # two columns of four; the two points too many repeat the first samples


def test_a_scheme_that_is_not_asked_for_does_not_run(program, folder):
    (folder / "model.onnx").unlink()
    done, results, fractions = fixtures.run_host(program, folder, scheme="arg")
    assert done.returncode == 0, done.stderr
    assert set(fractions) == {f"{name}_arg" for name in ("fn", "fm", "fluxn", "fluxm", "flux_fullact", "nact")}
    assert "emulator" not in results
    assert "model" not in results["arg"]


def assert_refused(done, *texts):
    assert done.returncode == 1, (done.returncode, done.stderr)
    for text in texts:
        assert text in done.stderr, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "settings, texts",
    [
        ({"scheme": "tabulated"}, ["scheme = 'tabulated'", "'arg', 'emulator' or 'both'"]),
        ({"batching": "all"}, ["batching = 'all'", "'point', 'level' or 'chunk'"]),
        ({"pcols": 0}, ["pcols = 0", "1 to"]),
        ({"pver": -3}, ["pver = -3", "1 to"]),
        ({"repeats": 0}, ["repeats = 0"]),
        ({"num_samples": -1}, ["num_samples = -1"]),
        ({"colour": "red"}, ["colour", "it knows scheme"]),
        ({"output": ""}, ["output is not set"]),
        ({"samples": "absent.nc"}, ["absent.nc", "cannot be opened"]),
        ({"samples": ""}, ["samples is not set"]),
        ({"model": ""}, ["model is not set"]),
        ({"model": "absent.onnx"}, ["absent.onnx"]),
        ({"model": "samples.nc"}, ["samples.nc"]),
        ({"sample_rows": "absent.txt"}, ["absent.txt", "cannot be opened"]),
        ({"output": "no/such/folder/host.json"}, ["no/such/folder/host.json", "cannot be written"]),
        ({"fractions": "no/such/folder/f.nc"}, ["no/such/folder/f.nc", "cannot be created"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(program, folder, settings, texts):
    done, _, _ = fixtures.run_host(program, folder, **settings)
    if settings.get("output") or "fractions" in settings:
        done.stdout = ""  # found only when it comes to writing: the table has been printed, and is worth keeping
    assert_refused(done, *texts)


def test_a_missing_namelist_is_named(program, tmp_path):
    done = subprocess.run([program, "absent.nml"], cwd=tmp_path, capture_output=True, text=True)
    assert_refused(done, "absent.nml")


def test_help_says_what_the_namelist_sets(program, tmp_path):
    done = subprocess.run([program, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    for name in ("scheme", "batching", "model", "fallback", "samples", "sample_rows", "pcols", "pver", "repeats"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "change, texts",
    [
        ({"units": {"wbar": "m s-1"}}, ["wbar", "m s-1", "cm s-1"]),
        ({"num_modes": 3}, ["nmodes is 3", "expected 4"]),
        ({"drop": "rh"}, ["rh is missing"]),
        ({"nan": "kappa"}, ["kappa", "row 17"]),
        ({"flatten": "num_aer"}, ["num_aer", "wrong dimensions", "(nsamples, nmodes)"]),
    ],
)
def test_samples_that_do_not_fit_are_refused(program, folder, change, texts):
    samples = fixtures.make_samples(NUM_SAMPLES)
    if "drop" in change:
        del samples[change["drop"]]
    if "nan" in change:
        samples[change["nan"]][17, 2] = np.nan
    if "flatten" in change:
        samples[change["flatten"]] = samples[change["flatten"]][:, 0]
    fixtures.write_samples(folder / "samples.nc", samples, change.get("units"), change.get("num_modes", 4))
    done, _, _ = fixtures.run_host(program, folder)
    assert_refused(done, "samples.nc", *texts)


@pytest.mark.parametrize(
    "rows, texts", [("3\n500\n", ["3 to 500", "0 to 499"]), ("3\nx\n", ["entry 2"]), ("", ["no rows"])]
)
def test_rows_that_do_not_fit_are_refused(program, folder, rows, texts):
    (folder / "rows.txt").write_text(rows)
    done, _, _ = fixtures.run_host(program, folder, sample_rows="rows.txt")
    assert_refused(done, *texts)


def test_a_model_in_other_units_is_refused_with_the_librarys_message(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    fixtures.write_model(folder / "model.onnx", samples, units={"wbar": "m s-1"})
    done, _, _ = fixtures.run_host(program, folder)
    assert_refused(done, "model.onnx", "wbar", "m s-1", "cm s-1")


def test_a_model_with_an_input_that_the_host_does_not_know_is_refused(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    fixtures.write_model(folder / "model.onnx", samples)
    model = fixtures.onnx.load(str(folder / "model.onnx"))
    for prop in model.metadata_props:
        prop.value = prop.value.replace("kappa_2", "soot_age")
    fixtures.onnx.save(model, str(folder / "model.onnx"))
    done, _, _ = fixtures.run_host(program, folder)
    assert_refused(done, "soot_age", "kappa_1")


def test_a_model_without_every_fn_is_refused(program, folder):
    samples = fixtures.make_samples(NUM_SAMPLES)
    fixtures.write_model(folder / "model.onnx", samples, outputs=("fn_1", "fn_2", "fn_4"))
    done, _, _ = fixtures.run_host(program, folder)
    assert_refused(done, "fn_3")
