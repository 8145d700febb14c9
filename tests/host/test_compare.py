"""The whole chain in small: search, export, Fortran host, and the summary that `make demo` prints."""

import json
import subprocess
import sys

import pytest

from emulator.activation.baselines import baselines
from emulator.bundle import load_bundle
from emulator.candidates import holdout, retrained_networks
from emulator.evaluate import evaluate
from tests.host import host_fixtures as fixtures
from tests.host.test_activation_host import missing_tools

pytestmark = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


def command(*arguments, check=True):
    full = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(full, cwd=fixtures.REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def host():
    build = fixtures.REPOSITORY / "build" / "host-release"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DLIBEMULATOR_EXAMPLES=ON", "-DLIBEMULATOR_TESTS=OFF"]
    subprocess.run(["cmake", "-S", fixtures.REPOSITORY, "-B", build, *options], check=True, capture_output=True)
    target = ["cmake", "--build", build, "--target", "activation_host", "--parallel", "2"]
    subprocess.run(target, check=True, capture_output=True)
    return next(build.rglob("activation_host"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with samples, a study of three networks, and two exported models."""
    folder = tmp_path_factory.mktemp("demo")
    fixtures.write_samples(folder / "samples.nc", fixtures.make_samples(3000))
    search = ["--trials", 4, "--top", 3, "--p-subset", 0.5, "--widths", "8,32", "--depth", "1:2", "--max-epochs", 3]
    command("hpo.search", "--data", folder / "samples.nc", "--out", folder / "study", "--workers", 1, *search)
    for rule in ("best", "fastest"):
        command("emulator.export", folder / "study", "--pick", rule, "--out", folder / f"{rule}.onnx")
    return folder


def test_the_summary_holds_what_python_finds_on_the_hold_out(host, demo):
    out = demo / "summary.json"
    models = ["--lightest", demo / "fastest.onnx", "--best", demo / "best.onnx"]
    text = command("emulator.activation", "compare", "--host", host, *models, "--repeats", 2, "--out", out).stdout
    summary = json.loads(out.read_text())
    best = retrained_networks(demo / "study")[0]
    bundle = load_bundle(best.model)
    samples, rows = holdout(bundle.provenance)
    names = [c.name for c in bundle.input_columns], [c.name for c in bundle.output_columns]
    scores = evaluate({"best": bundle.predict, **baselines(*names)}, samples, rows)
    # float32 layers in two runtimes, and sums in another order
    assert summary["best"]["mse"] == pytest.approx(scores["best"].mse, rel=1e-5)
    assert summary["arg"]["mse_per_mode"] == pytest.approx(list(scores["ARG"].mse_per_output), rel=1e-9)
    assert summary["best"]["parameters"] == best.num_parameters
    assert tuple(summary["best"]["hidden"]) == best.hidden
    assert summary["best"]["model"] == str(demo / "best.onnx")
    for name in ("arg", "lightest", "best"):
        assert summary[name]["ns_per_point"] > 0
        assert len(summary[name]["r2_per_mode"]) == 4
        assert summary[name]["r2_per_mode"][2] is None, "mode 3 has no variance here"
    assert summary["mbn2014"]["mse"] > 0
    assert "ns/point" in text


def test_a_missing_model_is_a_message(host, demo):
    models = ["--lightest", demo / "none.onnx", "--best", demo / "best.onnx"]
    done = command(
        "emulator.activation", "compare", "--host", host, *models, "--out", demo / "x.json", check=False
    )
    assert done.returncode == 2
    assert "no such file; python -m emulator.export writes it" in done.stderr
    assert not (demo / "x.json").exists()
