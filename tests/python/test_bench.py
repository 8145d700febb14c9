"""The benchmark, in its quick mode: what it writes, that its backends agree, and how it judges. No time is asserted."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

REPOSITORY = Path(__file__).resolve().parents[2]
BENCH = REPOSITORY / "fortran_bridge/bench"
BUILD = REPOSITORY / "build/bench"  # as `make bench` has it: one build serves both

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None,
    reason="needs cmake and a C++ compiler; Debian: apt install cmake g++",
)


def run_bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(BENCH / "run.py"), "--quick", "--folder", str(BUILD), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Result and table of a quick run, built on the way."""
    out = tmp_path_factory.mktemp("bench") / "engine.json"
    done = run_bench("--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("bench_report", BENCH / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_complete_finite_and_positive_for_every_peer_that_was_found(quick):
    result, _ = quick
    assert {"native", "onnxruntime", "libtorch"} <= set(result["peers"])
    assert set(result["peers"]) | set(result["missing"]) >= {"native", "onnxruntime", "onednn", "libtorch", "ftorch"}
    found = {(row["model"], row["batch"], row["backend"]) for row in result["rows"]}
    assert found == {(m, b, p) for m in ("L", "L+log") for b in (1, 16) for p in result["peers"]}
    for row in result["rows"]:
        assert {"model", "batch", "backend", "variant", "ns_per_sample", "gflops"} <= set(row)
        weights = 16 * 64 + 64 * 64 + 64 * 32 + 32 * 4
        assert math.isclose(row["gflops"], 2 * weights / row["ns_per_sample"], rel_tol=1e-6)
        assert 0 < row["ns_per_sample"] < math.inf


def test_the_file_tells_machine_peak_loads_arg_and_saw_tooth(quick):
    result, _ = quick
    assert result["schema"] == 1
    assert {"cpu", "architecture", "compiler", "commit"} <= set(result["machine"])
    assert 0.0 < result["peak_gflops"] < math.inf
    loads = {f["backend"]: f for f in result["footprint"]}
    assert set(loads) == set(result["peers"])
    for load in loads.values():
        for key in ("open_ms", "load_ms", "first_call_ms", "resident_kb", "disk_bytes"):
            assert 0 < load[key] < math.inf, (load["backend"], key)
    assert any(name.startswith("libemulator.so") for name in loads["native"]["files"])
    if "arg" not in result["missing"]:
        assert {(a["batch"], a["what"]) for a in result["arg"]} == {
            (b, w) for b in (1, 16, 1152) for w in ("number", "all", "mapping")
        }
        assert all(0 < a["ns_per_point"] < math.inf for a in result["arg"])
    (saw,) = result["sawtooth"]
    assert saw["model"] == "L"
    assert len(saw["ns_per_call"]) == saw["batches"] == 48
    assert saw["smooth"]["ratio"] >= 1.0
    assert saw["monotone"]["ratio"] >= 1.0


def test_every_backend_computes_the_same_to_1e_5_of_an_outputs_range(quick):
    result, _ = quick
    assert {(a["model"], a["backend"]) for a in result["agreement"]} == {
        (m, p) for m in ("L", "L+log") for p in result["peers"]
    }
    assert all(0 < a["difference"] <= 1e-5 for a in result["agreement"])


def test_there_is_no_table_when_a_backend_computes_something_else(quick, tmp_path):
    shutil.copytree(BUILD / "models", tmp_path / "models", ignore=shutil.ignore_patterns("M", "B"))
    path = tmp_path / "models/L/model.onnx"
    model = onnx.load(path)
    (weight,) = (t for t in model.graph.initializer if t.name == "weight_2")
    changed = numpy_helper.to_array(weight).copy()
    changed[3, 5] += np.float32(0.1)
    weight.CopyFrom(numpy_helper.from_array(changed, "weight_2"))
    onnx.save(model, path)
    done = run_bench("--data", tmp_path / "models", "--out", tmp_path / "engine.json")
    assert done.returncode == 3
    assert "do not compute the same" in done.stderr
    assert "|" not in done.stdout
    assert not (tmp_path / "engine.json").exists()


def test_a_missing_peer_is_named_in_table_and_file(quick, tmp_path):
    out = tmp_path / "engine.json"
    done = run_bench("--out", out, ENGINE_BENCH_ONNXRUNTIME=str(tmp_path / "nowhere.so"))
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert "onnxruntime" in result["missing"]
    assert "onnxruntime" not in result["peers"]
    assert "Missing: ONNX Runtime" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| L | 16 |"))
    assert line.split("|")[5].strip() == "missing"


def lines(ns, model="L", batch=16, backend="native", variant=""):
    row = {"model": model, "batch": batch, "backend": backend, "variant": variant, "weights": 100, "ns_per_sample": ns}
    return [{"peak": {"isa": "avx2", "gflops": 10.0}}, {"row": row}]


def test_the_median_of_the_runs_is_reported_and_of_a_peers_variants_the_fastest(report):
    runs = [
        lines(a) + lines(b, backend="onnxruntime", variant="one") + lines(c, backend="onnxruntime", variant="two")
        for a, b, c in ((20.0, 90.0, 50.0), (70.0, 30.0, 60.0), (21.0, 80.0, 55.0))
    ]
    rows = {r["backend"]: r for r in report.merge(runs)["rows"]}
    assert rows["native"]["ns_per_sample"] == 21.0
    assert rows["native"]["percent_of_peak"] == pytest.approx(100 * 200 / 21.0 / 10.0)
    assert (rows["onnxruntime"]["variant"], rows["onnxruntime"]["ns_per_sample"]) == ("two", 55.0)


def test_where_native_is_slower_the_table_says_that_we_lose(report):
    result = report.merge([lines(20.0) + lines(19.0, backend="onednn")])
    result |= {"machine": {"cpu": "c", "compiler": "d"}, "num_runs": 1, "footprint": [], "targets": [], "quick": False}
    text = report.markdown(result)
    assert "**19.0 (0.95), we lose**" in text
    assert "- L at batch 16: oneDNN takes 95.0 % of native's time" in text


def test_the_smooth_envelope_of_a_saw_tooth_free_cost_is_that_cost(report):
    n = np.arange(1, 385)
    for cost in (100.0 + 7.0 * n, 130.0 * n**0.9 + 5.0 * n, 3.0 * n):
        np.testing.assert_allclose(report.smooth_envelope(list(cost)), cost, rtol=1e-9)


def test_a_tooth_shows_in_both_ratios_with_its_batch(report):
    n = np.arange(1, 385)
    cost = 100.0 + 60.0 * n
    cost[16] *= 1.3  # 17 samples
    saw = report.merge([[*lines(1.0), {"calls": {"model": "L", "ns_per_call": list(cost)}}]])["sawtooth"][0]
    assert saw["smooth"]["batch"] == saw["monotone"]["batch"] == 17
    assert saw["smooth"]["ratio"] == pytest.approx(1.3, rel=1e-3)  # the envelope is a chord across the tooth
    # a call of 18 samples costs 1180, one of 17 should have cost 1120
    assert saw["monotone"]["ratio"] == pytest.approx(1.3 * 1120.0 / 1180.0)


def test_stairs_of_sixteen_samples_are_teeth_of_the_smooth_envelope(report):
    cost = 1000.0 * np.ceil(np.arange(1, 385) / 16)
    ratios = cost / report.smooth_envelope(list(cost))
    # n = 17 costs two steps. The envelope runs through (1, 1000) and the ends of steps.
    assert ratios.argmax() + 1 == 17
    assert ratios.max() > 1.3
