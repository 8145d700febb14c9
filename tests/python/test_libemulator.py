"""libemulator against ONNX Runtime and a float64 reference, on random emulators of every kind the exporter writes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from emulator.libemulator import (
    DISTRIBUTION,
    LibEmulator,
    LibraryNotFoundError,
    ModelCheckError,
    ModelFileError,
    _installed,
    find_tool,
    library_path,
)
from tests.python.onnx_models import emulator_graph, plain_graph, random_net, reference, sample_inputs

TRANSFORMS = ("none", "log", "log10", "sqrt", "logit")


def onnx_runtime(content: bytes, x_BI: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x_BI})[0]


def random_case(seed):
    """A net of 1 to 20 layers with widths of 1 to 300 and any mix of transforms and activations."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 21))
    widths = [int(w) for w in np.exp(rng.uniform(0, np.log(300), depth + 1)).round()]
    return random_net(
        seed,
        widths,
        activation=str(rng.choice(["relu", "sigmoid", "tanh"])),
        output_activation=str(rng.choice(["none", "sigmoid", "tanh", "relu"])),
        input_transforms=[str(k) for k in rng.choice(TRANSFORMS, widths[0])],
        output_transforms=[str(k) for k in rng.choice(TRANSFORMS, widths[-1])],
        normalise_outputs=bool(rng.integers(2)),
    )


def scaled_differences(y, truth):
    """Largest and root-mean-square difference, in units of each output's size (a random net may give constants)."""
    size = np.maximum(truth.std(axis=0), 0.1 * np.abs(truth).max(axis=0)) + 1e-30
    differences = np.abs(y - truth) / size
    return differences.max(), np.sqrt(np.mean(differences**2))


@pytest.mark.parametrize("seed", range(60))
def test_equals_float64_reference_and_onnx_runtime_on_random_emulators(seed):
    net = random_case(seed)
    x_BI = sample_inputs(net, 200, seed + 1000)
    content = emulator_graph(net)
    truth, y = reference(net, x_BI), LibEmulator(content).infer(x_BI)
    ours, ours_rms = scaled_differences(y, truth)
    theirs, theirs_rms = scaled_differences(onnx_runtime(content, x_BI), truth)
    # float32 layers round each sum to some 2^-24; twenty layers of random weights and an exponential output transform
    # magnify that, at worst (seed 26, a narrow net with outputs near 0) to 3e-5.
    assert ours_rms <= 5e-5
    # ONNX Runtime does the same arithmetic in another order. 2^-20: nets whose error is a few single roundings.
    assert ours <= 4 * theirs + 2**-20
    assert ours_rms <= 3 * theirs_rms + 2**-20


@pytest.mark.parametrize("matmul", [False, True], ids=["gemm", "matmul-add"])
@pytest.mark.parametrize("seed", range(12))
def test_reads_plain_float32_graphs(seed, matmul):
    rng = np.random.default_rng(seed)
    widths = [int(w) for w in rng.integers(1, 130, rng.integers(2, 8))]
    net = random_net(seed, widths, activation=str(rng.choice(["relu", "tanh"])), output_activation="sigmoid")
    x_BI = sample_inputs(net, 100, seed).astype(np.float32)
    content = plain_graph(net, matmul=matmul)
    y = LibEmulator(content).infer(x_BI)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, onnx_runtime(content, x_BI), atol=3e-5, rtol=0)  # float32 normalisation in the graph


@pytest.fixture(scope="module")
def net():
    kinds = ["none", "log", "log10", "sqrt", "logit", "log", "none"]
    return random_net(
        3, [7, 40, 70, 12, 5], output_activation="none", input_transforms=kinds, output_transforms=list(TRANSFORMS),
        normalise_outputs=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "widths",
    [[65536, 3], [2, 65536, 2], [3, *[5] * 1000, 2], [3000, 5, 4000]],
    ids=["wide-input", "wide-layer", "deep", "bottleneck"],
)
def test_very_wide_and_very_deep_networks(widths):
    net = random_net(1, widths, activation="tanh", input_transforms=(["none", "log"] * widths[0])[: widths[0]])
    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 70, 1)
    y = model.infer(x_BI)
    assert scaled_differences(y, reference(net, x_BI))[1] <= 1e-5  # float32 sums of up to 65,536 terms
    assert all(np.array_equal(model.infer(x_BI[i : i + 1]), y[i : i + 1]) for i in (0, 17, 69))


def test_limits_are_refused_with_their_number():
    with pytest.raises(ModelFileError, match="1031 layers; at most 1024"):
        LibEmulator(emulator_graph(random_net(1, [2, *[5] * 1030, 2])))
    with pytest.raises(ModelFileError, match="65537 columns; at most 65536"):
        LibEmulator(emulator_graph(random_net(1, [65537, 2])))


def test_any_strides_and_order_of_samples_give_the_same_bits(net):
    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 101, 5)
    y = model.infer(x_BI)
    wide = np.full((101, 20), np.nan)
    wide[:, 3:17:2] = x_BI
    order = np.random.default_rng(0).permutation(101)
    assert np.array_equal(model.infer(np.asfortranarray(x_BI)), y)
    assert np.array_equal(model.infer(wide[:, 3:17:2]), y)
    assert np.array_equal(model.infer(x_BI[::-1]), y[::-1])
    assert np.array_equal(model.infer(x_BI[order]), y[order])
    assert np.array_equal(np.concatenate([model.infer(x_BI[i : i + 1]) for i in range(101)]), y)
    assert np.array_equal(model.infer(np.broadcast_to(x_BI[7], (50, 7))), np.broadcast_to(y[7], (50, 5)))


def test_unaligned_and_foreign_arrays_are_taken_by_value(net):
    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 9, 5)
    buffer = bytearray(x_BI.nbytes + 1)
    buffer[1:] = x_BI.tobytes()
    unaligned = np.frombuffer(buffer, dtype=np.float64, offset=1).reshape(9, 7)
    assert np.array_equal(model.infer(unaligned), model.infer(x_BI))
    assert np.array_equal(model.infer(x_BI.astype(">f8")), model.infer(x_BI))
    assert np.array_equal(model.infer(x_BI.tolist()), model.infer(x_BI))
    assert model.infer(np.empty((0, 7))).shape == (0, 5)


def test_values_below_the_training_minimum_are_raised_to_it_where_a_logarithm_needs_it(net):
    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 3, 1)
    at_floor, below = x_BI.copy(), x_BI.copy()
    at_floor[:, 1] = net.low_I[1]
    below[:, 1] = [0.0, -5.0, net.low_I[1] / 2]
    assert np.array_equal(model.infer(below), model.infer(at_floor))
    assert np.all(np.isfinite(model.infer(below)))


def test_nan_stays_with_its_sample(net):
    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 70, 2)
    y = model.infer(x_BI)
    for column in range(7):
        holed = x_BI.copy()
        holed[[0, 17, 69], column] = np.nan
        z = model.infer(holed)
        assert np.isnan(z[[0, 17, 69]]).all()
        kept = np.setdiff1d(np.arange(70), [0, 17, 69])
        assert np.array_equal(z[kept], y[kept])


def with_metadata(net, **changes):
    x_BI = sample_inputs(net, 6, 9)
    entries = {
        "libemulator.schema": "1",
        "libemulator.input_names": "\n".join(f"in_{i}" for i in range(net.widths[0])),
        "libemulator.input_units": "\n".join(["K", "hPa", "1", "µm", "cm s-1", "", "kg"][: net.widths[0]]),
        "libemulator.output_names": "\n".join(f"out_{i}" for i in range(net.widths[-1])),
        "libemulator.output_units": "\n".join(["1"] * net.widths[-1]),
        "libemulator.input_min": "\n".join(f"{v:.17g}" for v in net.low_I),
        "libemulator.input_max": "\n".join(f"{v:.17g}" for v in net.high_I),
        "libemulator.output_min": "\n".join(["0"] * net.widths[-1]),
        "libemulator.output_max": "\n".join(["1"] * net.widths[-1]),
        "libemulator.check_inputs": "\n".join(" ".join(f"{v:.17g}" for v in row) for row in x_BI),
        "libemulator.check_outputs": "\n".join(" ".join(f"{v:.17g}" for v in row) for row in reference(net, x_BI)),
        "libemulator.check_tolerance": "1e-4",
        "libemulator.provenance": '{"trial": 7}',
    }
    entries.update({f"libemulator.{k}": v for k, v in changes.items() if v is not None})
    for key in [k for k, v in changes.items() if v is None]:
        del entries[f"libemulator.{key}"]
    return emulator_graph(net, entries)


def test_names_units_ranges_and_metadata_come_from_the_file(net):
    model = LibEmulator(with_metadata(net))
    assert model.input_names == tuple(f"in_{i}" for i in range(7))
    assert model.input_units == ("K", "hPa", "1", "µm", "cm s-1", "", "kg")
    assert model.output_names[4] == "out_4"
    assert np.array_equal(model.input_range, [net.low_I, net.high_I])
    assert np.array_equal(model.output_range, [[0] * 5, [1] * 5])
    assert model.metadata("libemulator.provenance") == '{"trial": 7}'
    assert model.metadata("absent") is None
    assert model.num_parameters == sum(w.size for w in net.weights) + sum(b.size for b in net.biases)
    assert model.layer_widths == tuple(net.widths[1:])


def test_a_file_without_metadata_has_numbered_names_and_no_ranges(net):
    model = LibEmulator(emulator_graph(net))
    assert model.input_names == tuple(f"x_{i}" for i in range(1, 8))
    assert model.output_units == ("",) * 5
    assert np.isnan(model.input_range).all()
    with pytest.raises(ModelCheckError, match="no check samples"):
        model.self_check()


def test_self_check_passes_on_a_good_file_and_names_the_output_that_differs(net):
    assert 0 < LibEmulator(with_metadata(net)).self_check() < 1e-4
    x_BI = sample_inputs(net, 6, 9)
    wrong = reference(net, x_BI)
    wrong[2, 3] += 0.01
    table = "\n".join(" ".join(f"{v:.17g}" for v in row) for row in wrong)
    with pytest.raises(ModelCheckError, match=r"sample 3, output 'out_3'.*0\.01"):
        LibEmulator(with_metadata(net, check_outputs=table)).self_check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "9"}, "schema.*'9'"),
        ({"input_names": "a\nb"}, "input_names.*2 lines.*7 columns"),
        ({"output_max": "1\n2\nx\n4\n5"}, "output_max.*line 3.*'x'"),
        ({"input_min": "1"}, "input_min.*1 lines.*7"),
        ({"check_inputs": None}, "0 check inputs.*6 check outputs"),
        ({"check_inputs": "1 2 3"}, "check"),
        ({"check_tolerance": "-1"}, "check_tolerance"),
        ({"check_tolerance": "nan"}, "check_tolerance"),
    ],
)
def test_metadata_that_contradicts_the_graph_is_refused(net, change, message):
    with pytest.raises(ModelFileError, match=message):
        LibEmulator(with_metadata(net, **change))


def test_numbers_are_read_with_a_point_whatever_the_locale(net):
    """In a child process, since setlocale changes all of a process."""
    names = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
    comma = [n for n in names if re.match(r"(de|fr|es|it)_", n)]
    if not comma:
        pytest.skip("no locale with a decimal comma is installed; Debian: locale-gen de_DE.UTF-8")
    code = (
        "import locale, sys; locale.setlocale(locale.LC_ALL, sys.argv[1]);"
        "from emulator.libemulator import LibEmulator; print(LibEmulator(sys.stdin.buffer.read()).self_check())"
    )
    done = subprocess.run([sys.executable, "-c", code, comma[0]], input=with_metadata(net), capture_output=True)
    assert done.returncode == 0, done.stderr


def test_errors_are_python_exceptions_with_the_librarys_words(tmp_path):
    with pytest.raises(OSError, match=r"absent\.onnx.*cannot open"):
        LibEmulator(tmp_path / "absent.onnx")
    with pytest.raises(OSError, match="not a regular file"):
        LibEmulator(tmp_path)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelFileError, match="empty"):
        LibEmulator(tmp_path / "empty.onnx")
    with pytest.raises(ModelFileError, match="not a valid ONNX file"):
        LibEmulator(b"this is no protobuf message")


def test_wrong_shapes_are_refused(net):
    model = LibEmulator(emulator_graph(net))
    for shape in [(3, 6), (7,), (2, 3, 7)]:
        with pytest.raises(ValueError, match=r"expected \(samples, 7\)"):
            model.infer(np.zeros(shape))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_every_instruction_set_gives_the_same_bits(net, isa, monkeypatch):
    x_BI = sample_inputs(net, 83, 4)
    expected = LibEmulator(emulator_graph(net)).infer(x_BI)
    monkeypatch.setenv("LIBEMULATOR_ISA", isa)
    try:
        model = LibEmulator(emulator_graph(net))
    except ValueError as error:
        assert f"'{isa}'" in str(error)
        pytest.skip(f"this machine has no {isa}")
    assert model.isa == isa
    assert np.array_equal(model.infer(x_BI), expected)


def test_an_unknown_instruction_set_is_an_error(net, monkeypatch):
    monkeypatch.setenv("LIBEMULATOR_ISA", "sse9")
    with pytest.raises(ValueError, match="LIBEMULATOR_ISA is 'sse9'"):
        LibEmulator(emulator_graph(net))


def test_the_library_is_found_where_the_environment_says_or_the_message_says_where(monkeypatch, tmp_path):
    assert library_path().is_file()
    monkeypatch.setenv("LIBEMULATOR_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(LibraryNotFoundError, match=r"none\.so.*no file"):
        library_path()
    monkeypatch.delenv("LIBEMULATOR_LIBRARY")
    with pytest.raises(ImportError, match=r"emu-nothing was not found; looked at .*cmake -S"):
        find_tool("emu-nothing")


def test_tools_are_the_programs_and_not_the_environments_commands_that_start_them(monkeypatch, tmp_path):
    assert find_tool("emu-bench").read_bytes()[:4] == b"\x7fELF"
    info = tmp_path / f"{DISTRIBUTION}-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 0\n")
    # pip's RECORD of an editable installation: sorted, the environment's bin/ before the package's
    (info / "RECORD").write_text("../../../bin/emu-bench,,\nemulator/bin/emu-bench,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _installed(("emu-bench",), "bin") == [tmp_path / "emulator/bin/emu-bench"]


def test_only_symbols_of_the_contract_are_exported():
    done = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in done.stdout.splitlines()}
    header = (Path(__file__).parents[2] / "fortran_bridge/include/libemulator.h").read_text()
    declared = set(re.findall(r"\b(emu_\w+)\(", "".join(re.findall(r"EMU_API [^;]*;", header))))
    assert exported == declared
    assert len(declared) >= 30


def test_needs_nothing_but_libc_and_libm():
    done = subprocess.run(["ldd", library_path()], capture_output=True, text=True, check=True)
    needed = {line.split()[0].split("/")[-1] for line in done.stdout.splitlines()}
    assert {n.split(".")[0] for n in needed} <= {"linux-vdso", "libm", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_nothing_in_it_can_print_end_the_process_or_start_a_thread():
    done = subprocess.run(["nm", "-D", "--undefined-only", library_path()], capture_output=True, text=True, check=True)
    imported = {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}
    assert "snprintf" in imported  # messages are made in the caller's buffer
    forbidden = re.compile(
        r"_*(v?f?d?printf|f?putc?s?|putchar|perror|f?write|stdout|stderr|syslog|exit|abort|raise|kill|assert_fail|"
        r"pthread_create|thrd_create|v?fork|execv?e?|system|setlocale|signal|sigaction|GOMP_.*|omp_.*)(_chk)?"
    )
    assert {name for name in imported if forbidden.fullmatch(name)} == set()


def test_emu_info_prints_what_the_file_holds(net, tmp_path):
    (tmp_path / "m.onnx").write_bytes(with_metadata(net))
    done = subprocess.run([find_tool("emu-info"), "--check", tmp_path / "m.onnx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for expected in ("7-40-70-12-5", "in_4", "cm s-1", "µm", '{"trial": 7}', "self-check    passed", "instructions"):
        assert expected in done.stdout
    assert f"{net.low_I[1]:.6g} to {net.high_I[1]:.6g}" in done.stdout
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    done = subprocess.run([find_tool("emu-info"), tmp_path / "bad.onnx"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "bad.onnx" in done.stderr and "EMU_ERR_FORMAT" in done.stderr


def test_emu_bench_prints_json_for_the_batch_sizes_asked_for(net, tmp_path):
    import json

    (tmp_path / 'a"b.onnx').write_bytes(with_metadata(net))
    command = [find_tool("emu-bench"), "--json", "--batch", "1,7", "--seconds", "0.01", tmp_path / 'a"b.onnx']
    for extra in ([], ["--layout", "features"]):
        done = subprocess.run([*command, *extra], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["results"]
        assert [r["batch"] for r in rows] == [1, 7]
        assert all(r["ns_per_sample"] > 0 for r in rows)
    for bad in (["--batch", "0"], ["--batch", "1,x"], ["--seconds", "-1"], ["--layout", "x"], ["--what"], []):
        assert subprocess.run([find_tool("emu-bench"), *bad], capture_output=True).returncode == 2


# ---- options ----


def test_options_choose_instruction_set_and_precision_and_are_checked(net, tmp_path, monkeypatch):
    content = emulator_graph(net)
    (tmp_path / "m.onnx").write_bytes(content)
    monkeypatch.setenv("LIBEMULATOR_ISA", "nonsense")
    for source in (content, tmp_path / "m.onnx"):
        model = LibEmulator(source, isa="portable", backend="native", num_threads=7)
        assert (model.isa, model.backend, model.precision) == ("portable", "native", 32)
        with pytest.raises(ValueError, match="expected native, onnxruntime or libtorch"):
            LibEmulator(source, backend="tensorflow")
        with pytest.raises(ValueError, match="precision is 16, expected 32 or 64"):
            LibEmulator(source, precision=16)
        with pytest.raises(ValueError, match="isa is 'sse9'"):
            LibEmulator(source, isa="sse9")
        with pytest.raises(ValueError, match="num_threads is -2"):
            LibEmulator(source, num_threads=-2)
        with pytest.raises(ModelFileError, match="nowhere"):
            LibEmulator(source, backend="onnxruntime", library="/nowhere/libonnxruntime.so")


def test_float64_layers_are_as_exact_as_the_reference(net):
    x_BI = sample_inputs(net, 50, 8)
    model = LibEmulator(emulator_graph(net), precision=64)
    assert model.precision == 64
    single, _ = scaled_differences(LibEmulator(emulator_graph(net)).infer(x_BI), reference(net, x_BI))
    double, _ = scaled_differences(model.infer(x_BI), reference(net, x_BI))
    assert double < 1e-11 < 1e-9 < single  # 2^-53 a rounding, magnified by exponential transforms as float32's 2^-24 is


# ---- guards ----


def guard_reference(net, x_BI):
    """numpy's counts and clamped inputs."""
    below, above, nan = x_BI < net.low_I, x_BI > net.high_I, np.isnan(x_BI)
    return below, above, nan, np.where(nan, x_BI, np.clip(x_BI, net.low_I, net.high_I))


@pytest.mark.parametrize("order", ["C", "F"])
def test_guards_count_flag_and_clamp_as_numpy_does(net, order):
    model = LibEmulator(with_metadata(net))
    rng = np.random.default_rng(3)
    x_BI = np.array(sample_inputs(net, 500, 5), order=order)
    hit = rng.random(x_BI.shape) < 0.02
    x_BI[hit] = np.resize([1e300, -1e300, np.nan, np.inf, -np.inf], hit.sum())
    below, above, nan, clamped = guard_reference(net, x_BI)
    y, found = model.infer_guarded(x_BI, clamp=True)
    expected = model.infer(clamped)
    assert np.array_equal(y, expected, equal_nan=True)
    assert np.array_equal(found.outside, (below | above | nan).sum(axis=1))
    assert np.array_equal([found.below, found.above, found.nan], [m.sum(axis=0) for m in (below, above, nan)])
    assert (found.num_samples, found.num_outside) == (500, np.count_nonzero(found.outside)) and found.num_outside > 50
    unclamped, again = model.infer_guarded(x_BI)
    assert np.array_equal(unclamped, model.infer(x_BI), equal_nan=True)
    assert np.array_equal(again.outside, found.outside)


def test_a_guard_of_a_model_without_ranges_finds_only_nan(net):
    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 9, 5)
    x_BI[4, 2] = np.nan
    x_BI[5] *= 3
    y, found = model.infer_guarded(x_BI, clamp=True)
    assert np.array_equal(y, model.infer(x_BI), equal_nan=True)
    assert found.outside.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert found.nan[2] == 1 and found.below.sum() + found.above.sum() == 0
    with pytest.raises(ValueError, match="shape"):
        model.infer_guarded(x_BI[0])
    assert model.infer_guarded(np.empty((0, 7)))[1].num_samples == 0


def test_a_thread_pool_shares_one_model(net):
    """ctypes releases the interpreter's lock, so these calls do overlap."""
    from concurrent.futures import ThreadPoolExecutor

    model = LibEmulator(emulator_graph(net))
    x_BI = sample_inputs(net, 500, 6)
    y = model.infer(x_BI)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(z, y) for z in pool.map(lambda _: model.infer(x_BI), range(40)))


def test_measure_gives_nanoseconds(net):
    assert 1 < LibEmulator(emulator_graph(net)).measure(16, seconds=0.01) < 1e6
