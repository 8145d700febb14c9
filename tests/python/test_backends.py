"""ONNX Runtime and LibTorch behind the same calls, and a host in C that switches between them by one option.

`tests/c/backend_host.c` checks on its way, for every backend: floating-point traps, flags, flush-to-zero and OpenMP
settings as they were after each call, nothing printed, the same bits at each call, in Fortran's order and in threads.
"""

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from emulator.export import training_range_samples, write_onnx, write_torchscript
from emulator.libemulator import LibEmulator, ModelFileError, library_path

ROOT = Path(__file__).resolve().parents[2]
ONNXRUNTIME = Path(onnxruntime.__file__).parent / "capi"  # a folder, in which the library looks for the file
TOLERANCE = 1e-5  # of an output's range: emulator.export.VERIFY_TOLERANCE, and its reason


# ---- what the tests run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def plugin():
    """Path of the LibTorch plugin; `make test` builds it."""
    found = os.environ.get("LIBEMULATOR_LIBTORCH")
    if found:
        return Path(found)
    built = sorted(ROOT.glob("build/*/fortran_bridge/libemulator_torch.so"), key=lambda p: p.stat().st_mtime)
    if not built:
        pytest.skip("libemulator_torch.so is not built: configure CMake with -DLIBEMULATOR_TORCH=ON")
    return built[-1]


def compiled(source, target, *flags):
    command = [shutil.which("gcc") or "cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", target]
    done = subprocess.run([*map(str, command), *map(str, flags)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """The program tests/c/backend_host.c."""
    library = library_path()
    return compiled(
        ROOT / "tests/c/backend_host.c",
        tmp_path_factory.mktemp("host") / "host",
        "-fopenmp", f"-I{ROOT}/fortran_bridge/include", library, f"-Wl,-rpath,{library.parent}", "-lm",
    )  # fmt: skip


def run_host(host, model, x_BI, backend="-", library="-", num_threads=1, **environment):
    """Outputs of the host, or the message with which it refused the model."""
    folder = host.parent
    np.ascontiguousarray(x_BI, np.float64).tofile(folder / "x.bin")
    command = [host, model, backend, library, num_threads, folder / "x.bin", folder / "y.bin"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=300, env=os.environ | environment
    )
    if done.returncode == 3:
        return done.stderr
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[:3000]}"
    return np.fromfile(folder / "y.bin").reshape(len(x_BI), -1)


@pytest.fixture
def files(make_bundle, tmp_path):
    """The same emulator as model.onnx and model.pt, samples, and PyTorch's results in float64; sample 3 has a NaN."""
    bundle = make_bundle(hidden=(64, 32), output_activation="sigmoid")
    write_onnx(bundle, tmp_path / "model.onnx")
    write_torchscript(bundle, tmp_path / "model.pt")
    x_BI = training_range_samples(bundle, 300, np.random.default_rng(1))
    truth = bundle.predict(x_BI, dtype=torch.float64) / (bundle.outputs.maximum - bundle.outputs.minimum)
    x_BI[3, 2] = truth[3] = np.nan
    return tmp_path, x_BI, truth, bundle.outputs.maximum - bundle.outputs.minimum


def backend_options(backend, plugin):
    return {"backend": backend, "library": {"onnxruntime": ONNXRUNTIME, "libtorch": plugin}.get(backend)}


# ---- the same emulator through every backend -----------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("file, backend", [
    ("model.onnx", "-"), ("model.onnx", "native"), ("model.onnx", "onnxruntime"), ("model.pt", "-"),
    ("model.pt", "libtorch"),
])  # fmt: skip
def test_a_host_switches_by_file_or_option_and_gets_the_same_results(host, plugin, files, file, backend, num_threads):
    folder, x_BI, truth, output_range = files
    y_BO = run_host(host, folder / file, x_BI, backend, num_threads=num_threads,
                    LIBEMULATOR_ONNXRUNTIME=str(ONNXRUNTIME), LIBEMULATOR_LIBTORCH=str(plugin))  # fmt: skip
    assert np.isnan(y_BO[3]).any() and np.isfinite(np.delete(y_BO, 3, 0)).all()
    difference = np.abs(np.delete(y_BO / output_range - truth, 3, 0))
    assert difference.max() < TOLERANCE


@pytest.mark.parametrize("file, backend", [("model.onnx", "onnxruntime"), ("model.pt", "libtorch")])
def test_names_units_ranges_checks_and_provenance_are_those_of_the_native_engine(plugin, files, file, backend):
    folder = files[0]
    native = LibEmulator(folder / "model.onnx")
    other = LibEmulator(folder / file, **backend_options(backend, plugin))
    assert other.backend == backend
    for name in ("input_names", "input_units", "output_names", "output_units", "num_inputs", "num_outputs"):
        assert getattr(other, name) == getattr(native, name)
    np.testing.assert_array_equal(other.input_range, native.input_range)
    np.testing.assert_array_equal(other.output_range, native.output_range)
    assert other.metadata("libemulator.provenance") == native.metadata("libemulator.provenance")
    assert other.self_check() < TOLERANCE


@pytest.mark.parametrize("file, backend", [("model.onnx", "onnxruntime"), ("model.pt", "libtorch")])
@pytest.mark.parametrize("type", [np.float64, np.float32])
def test_guards_count_and_clamp_as_with_the_native_engine(plugin, files, file, backend, type):
    folder, x_BI, _, output_range = files
    x_BI = x_BI.copy()
    native = LibEmulator(folder / "model.onnx")
    x_BI[10:20, 1] = 2 * native.input_range[1, 1] - native.input_range[0, 1]
    other = LibEmulator(folder / file, **backend_options(backend, plugin))
    y_BO, expected = native.infer_guarded(x_BI.astype(type), clamp=True)
    z_BO, counts = other.infer_guarded(x_BI.astype(type), clamp=True)
    assert expected.num_outside == 11 and counts.num_samples == len(x_BI)
    for name in ("outside", "below", "above", "nan", "num_outside"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(expected, name))
    np.testing.assert_allclose(z_BO / output_range, y_BO / output_range, rtol=0, atol=TOLERANCE, equal_nan=True)


@pytest.mark.parametrize("file, backend", [("model.onnx", "onnxruntime"), ("model.pt", "libtorch")])
@pytest.mark.parametrize("type", [np.float64, np.float32])
def test_many_samples_and_any_strides_give_the_results_of_one_sample(plugin, files, file, backend, type):
    folder, x_BI, _, output_range = files
    model = LibEmulator(folder / file, **backend_options(backend, plugin))
    x_BI = np.tile(np.delete(x_BI, 3, 0), (34, 1)).astype(type)  # 10,166 samples: three blocks, the last one shorter
    y_BO = model.infer(x_BI)
    single = np.concatenate([model.infer(x[None]) for x in x_BI[:299]])
    # another batch size may take another order of summation there: see libemulator.h
    np.testing.assert_allclose(y_BO / output_range, np.tile(single, (34, 1)) / output_range, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(model.infer(np.asfortranarray(x_BI)), y_BO)
    np.testing.assert_array_equal(model.infer(np.repeat(np.repeat(x_BI, 2, 0), 3, 1)[::2, ::3]), y_BO)
    np.testing.assert_array_equal(model.infer(np.ascontiguousarray(x_BI[::-1])[::-1]), y_BO)


# ---- graphs beyond multilayer perceptrons ---------------------------------------------------------------------------


class Convolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = torch.nn.Conv1d(1, 4, 3, padding=1), torch.nn.Linear(4 * 8, 3)

    def forward(self, x):
        x = torch.relu(self.convolution(x[:, None, :])).flatten(1)
        return torch.softmax(self.linear(x), 1)


@pytest.fixture
def convolution(tmp_path):
    """model.onnx and model.pt of a convolution with softmax, float32, and its results."""
    module, x = Convolution().eval(), torch.randn(50, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), tmp_path / "model.onnx", input_names=["x"], dynamo=False,
                          dynamic_axes={"x": {0: "n"}}, opset_version=17)  # fmt: skip
        torch.jit.save(torch.jit.trace(module, x), tmp_path / "model.pt",
                       _extra_files={"libemulator.input_names": "\n".join("abcdefgh")})  # fmt: skip
    return tmp_path, x.numpy(), module(x).detach().numpy()


def test_native_refuses_a_convolution_and_names_the_backend_that_runs_it(convolution):
    with pytest.raises(ModelFileError, match="onnxruntime"):
        LibEmulator(convolution[0] / "model.onnx")


@pytest.mark.parametrize("file, backend", [("model.onnx", "onnxruntime"), ("model.pt", "libtorch")])
def test_a_convolution_with_softmax_runs_through_the_other_backends(host, plugin, convolution, file, backend):
    folder, x_BI, truth = convolution
    library = {"onnxruntime": ONNXRUNTIME, "libtorch": plugin}[backend]
    y_BO = run_host(host, folder / file, x_BI, backend, library)
    np.testing.assert_allclose(y_BO, truth, rtol=0, atol=1e-6)  # float32 sums of at most 32 terms, results below 1


def graph(nodes, x=(TensorProto.FLOAT, ["n", 2]), y=(TensorProto.FLOAT, ["n", 2]), initializers=(), extra_inputs=()):
    """A graph from `x` to `y`, given by type and shape."""
    return helper.make_model(
        helper.make_graph(
            nodes, "graph", [helper.make_tensor_value_info("x", *x), *extra_inputs],
            [helper.make_tensor_value_info("y", *y)], list(initializers),
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip


def by_onnxruntime(model, **options):
    return LibEmulator(model.SerializeToString(), backend="onnxruntime", library=ONNXRUNTIME, **options)


@pytest.mark.parametrize("x_type", [TensorProto.FLOAT, TensorProto.DOUBLE])
@pytest.mark.parametrize("y_type", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_onnxruntime_takes_and_gives_float_and_double(x_type, y_type):
    softmax = [helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Cast", ["s"], ["y"], to=y_type)]
    model = by_onnxruntime(graph(softmax, (x_type, ["n", 2]), (y_type, ["n", 2])))
    x = np.array([[0.0, 1.0], [2.0, -3.0], [0.5, 0.25]])
    truth = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(model.infer(x), truth, rtol=1e-6)
    np.testing.assert_allclose(model.infer(np.asfortranarray(x)), truth, rtol=1e-6)


def test_onnxruntime_runs_a_graph_for_one_sample_sample_by_sample():
    model = by_onnxruntime(graph([helper.make_node("Softmax", ["x"], ["y"])], (1, [1, 2]), (1, [1, 2])))
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(model.infer(x), np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-6)


def test_metadata_is_read_where_the_native_reader_refuses_the_graph(capfd):
    rank_9 = numpy_helper.from_array(np.zeros((1,) * 9, np.float32), "unused")  # ONNX Runtime warns of it: not aloud
    model = graph([helper.make_node("Softmax", ["x"], ["y"])], initializers=[rank_9])
    helper.set_model_props(model, {"libemulator.input_names": "one\ntwo", "libemulator.input_min": "0\n1"})
    with pytest.raises(ModelFileError):
        LibEmulator(model.SerializeToString())
    loaded = by_onnxruntime(model)
    assert loaded.input_names == ("one", "two") and loaded.output_names == ("y_1", "y_2")
    assert loaded.input_range[0].tolist() == [0, 1] and np.isnan(loaded.input_range[1]).all()
    assert capfd.readouterr() == ("", "")


def test_torchscript_without_metadata_takes_its_inputs_from_the_first_weights(plugin, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    x = torch.randn(11, 5)
    save_traced(module, (x,), tmp_path / "model.pt")
    model = LibEmulator(tmp_path / "model.pt", library=plugin)
    assert model.input_names == tuple(f"x_{i}" for i in range(1, 6))
    # float32 sums of at most 7 terms of order 1
    np.testing.assert_allclose(model.infer(x.numpy()), module(x).detach().numpy(), rtol=0, atol=1e-6)


def save_traced(module, example, path, **extra):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, example), path, _extra_files=extra)


# ---- what is refused ------------------------------------------------------------------------------------------------


class Sum(torch.nn.Module):
    def forward(self, a, b):
        return a + b


class Pair(torch.nn.Module):
    def forward(self, a):
        return a, a


class Flat(torch.nn.Module):
    def forward(self, a):
        return a.sum(1)


IDENTITY = [helper.make_node("Identity", ["x"], ["y"])]
SECOND = helper.make_tensor_value_info("b", 1, ["n", 2])


@pytest.mark.parametrize("model, message", [
    (graph([helper.make_node("Add", ["x", "b"], ["y"])], extra_inputs=[SECOND]), "2 inputs, libemulator takes one"),
    (graph(IDENTITY, (1, ["n", 2, 3]), (1, ["n", 2, 3])), "input has 3 dimensions, expected two"),
    (graph(IDENTITY, (1, ["n", "m"]), (1, ["n", "m"])), "states no number of columns"),
    (graph(IDENTITY, (1, [5, 2]), (1, [5, 2])), "exactly 5 samples"),
    (graph(IDENTITY, (7, ["n", 2]), (7, ["n", 2])), "element type 7"),
    (graph([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], y=(1, [])), "each sample must give one row"),
    (graph([helper.make_node("NoSuchOperator", ["x"], ["y"])]), "failed while reading the model.*NoSuchOp"),
])  # fmt: skip
def test_onnxruntime_refuses_other_shapes_and_types_with_the_reason(model, message):
    with pytest.raises(ModelFileError, match=message):
        by_onnxruntime(model)


@pytest.mark.parametrize("module, num_examples, message", [
    (Sum(), 2, "takes 2 inputs, libemulator gives one"),
    (Pair(), 1, "expected one tensor"),
    (Flat(), 1, r"expected float or double \[2, num_outputs\]"),
    (torch.nn.Linear(4, 3), 1, r"trial run with zeros of shape \[2, 2\] failed"),
])  # fmt: skip
def test_libtorch_refuses_other_modules_with_the_reason(plugin, tmp_path, module, num_examples, message):
    columns = 4 if isinstance(module, torch.nn.Linear) else 2
    save_traced(module, (torch.ones(3, columns),) * num_examples, tmp_path / "model.pt",
                **{"libemulator.input_names": "a\nb"})  # fmt: skip
    with pytest.raises(ModelFileError, match=message):
        LibEmulator(tmp_path / "model.pt", library=plugin)


def test_a_module_without_names_or_weights_is_refused(plugin, tmp_path):
    save_traced(Flat(), (torch.ones(3, 2),), tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="does not say how many inputs"):
        LibEmulator(tmp_path / "model.pt", library=plugin)


@pytest.mark.parametrize("file, backend, message", [
    ("model.pt", "onnxruntime", "TorchScript file.*use the backend 'libtorch'"),
    ("model.onnx", "libtorch", "no TorchScript file.*'native' or 'onnxruntime'"),
    ("model.pt", "native", "TorchScript file"),
])  # fmt: skip
def test_a_file_of_the_wrong_kind_is_refused_with_the_backend_for_it(plugin, files, file, backend, message):
    with pytest.raises(ModelFileError, match=message):
        LibEmulator(files[0] / file, **backend_options(backend, plugin))


@pytest.mark.parametrize("file, backend", [("model.onnx", "onnxruntime"), ("model.pt", "libtorch")])
def test_a_damaged_file_is_refused(plugin, files, file, backend):
    content = (files[0] / file).read_bytes()
    for damaged in (content[: len(content) // 2], content[:64] + bytes(len(content) - 64)):
        with pytest.raises(ModelFileError, match=r"ONNX Runtime failed|LibTorch \d"):
            LibEmulator(damaged, **backend_options(backend, plugin))


@pytest.mark.parametrize("file, backend, what", [
    ("model.onnx", "onnxruntime", "libonnxruntime.so.1"), ("model.pt", "libtorch", "libemulator_torch.so"),
])  # fmt: skip
def test_a_missing_library_is_reported_with_the_places_looked_at(files, tmp_path, monkeypatch, file, backend, what):
    monkeypatch.delenv(f"LIBEMULATOR_{backend.upper()}", raising=False)
    empty, missing = tmp_path / "empty", tmp_path / "missing.so"
    empty.mkdir()
    with pytest.raises(ModelFileError, match=f"emu_options.library names the folder '{empty}', which holds no {what}"):
        LibEmulator(files[0] / file, backend=backend, library=empty)
    with pytest.raises(ModelFileError, match=f"emu_options.library names '{missing}'"):
        LibEmulator(files[0] / file, backend=backend, library=missing)
    with pytest.raises(ModelFileError, match="is another one"):
        LibEmulator(files[0] / file, backend=backend, library=library_path())
    monkeypatch.setenv(f"LIBEMULATOR_{backend.upper()}", str(missing))
    with pytest.raises(ModelFileError, match=f"LIBEMULATOR_{backend.upper()} names '{missing}'"):
        LibEmulator(files[0] / file, backend=backend)


def test_without_any_setting_the_search_path_is_named(host, files):
    folder, x_BI, _, _ = files
    message = run_host(host, folder / "model.onnx", x_BI, "onnxruntime", LIBEMULATOR_ONNXRUNTIME="")
    assert "looked for libonnxruntime.so.1, libonnxruntime.so on the loader's search path" in message
    y_BO = run_host(host, folder / "model.onnx", x_BI, "onnxruntime", next(ONNXRUNTIME.glob("libonnxruntime.so*")))
    assert np.isfinite(y_BO[0]).all()


def test_an_onnxruntime_that_is_too_old_is_refused_in_silence(files, tmp_path, capfd):
    (tmp_path / "old.c").write_text("""
        #include <stddef.h>
        #include <stdint.h>
        #include <stdio.h>
        static const void *get_api(uint32_t version) { fprintf(stderr, "no %u\\n", version); return NULL; }
        static const char *get_version(void) { return "1.18.1"; }
        static const struct { const void *(*api)(uint32_t); const char *(*version)(void); }
            base = {get_api, get_version};
        const void *OrtGetApiBase(void); const void *OrtGetApiBase(void) { return &base; }""")
    old = compiled(tmp_path / "old.c", tmp_path / "libonnxruntime.so.1", "-shared", "-fPIC")
    with pytest.raises(ModelFileError, match=r"ONNX Runtime 1\.18\.1.*use 1\.19 or later"):
        LibEmulator(files[0] / "model.onnx", backend="onnxruntime", library=old)
    assert capfd.readouterr() == ("", "")


# ---- failures while evaluating ---------------------------------------------------------------------------------------


class Lookup(torch.nn.Module):
    def forward(self, x):
        return torch.arange(6.0).reshape(3, 2)[x[:, 0].long()]


def failing_models(tmp_path, plugin):
    """Models that fail where the first input is not 0, 1 or 2, by backend."""
    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")
    column = numpy_helper.from_array(np.array(0), "column")
    nodes = [
        helper.make_node("Gather", ["x", "column"], ["first"], axis=1),
        helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"], axis=0),
    ]
    save_traced(Lookup(), (torch.ones(3, 2),), tmp_path / "model.pt", **{"libemulator.input_names": "a\nb"})
    return {
        "onnxruntime": lambda: by_onnxruntime(graph(nodes, initializers=[table, column])),
        "libtorch": lambda: LibEmulator(tmp_path / "model.pt", library=plugin),
    }


@pytest.mark.parametrize("backend", ["onnxruntime", "libtorch"])
def test_a_failure_inside_the_other_library_is_a_status_and_the_model_stays_usable(backend, plugin, tmp_path, capfd):
    model = failing_models(tmp_path, plugin)[backend]()
    x = np.array([[2.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(model.infer(x), [[4, 5], [2, 3]])
    with pytest.raises(RuntimeError, match="EMU_ERR_BACKEND"):
        model.infer(np.array([[7.0, 0.0]]))
    np.testing.assert_array_equal(model.infer(x), [[4, 5], [2, 3]])
    assert capfd.readouterr() == ("", "")
