"""The drop-in through ctypes, models for it to evaluate, and host states."""

import ctypes
import re
import shutil
import subprocess
from dataclasses import dataclass, field

import numpy as np
import torch

from emulator.activation.constants import Constants
from emulator.activation.head import ATTRIBUTES, ActivationHead
from emulator.activation.modes import NUM_MODES
from emulator.activation.states import sample_states
from emulator.bundle import Bundle
from emulator.export import write_onnx
from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.variables import columns_of
from tests.host.host_fixtures import REPOSITORY

FLANGS = ("flang-new-19", "flang-new-20", "flang-new", "flang")  # before 19 it cannot compile polymorphic procedures
GAS_CONSTANT_DRY_AIR = 6.02214e26 * 1.38065e-23 / 28.966  # as E3SM has it
SIGMA = np.array([1.8, 1.6, 1.8, 1.6])
UNITS = {"tair": "K", "pressure": "hPa", "rh": "1", "wbar": "cm s-1", "num_aer": "cm-3", "r_aer": "um", "kappa": "1"}
INPUTS = tuple(
    c for k, (name, unit) in enumerate(UNITS.items()) for c in columns_of(name, unit, NUM_MODES if k > 3 else None)
)
COUNTERS = ("points", "early_returns", "prescribed", "arg", "emulated", "fallbacks", "failures")
NUM_TRAINING = 4000
NAMES = [c.name for c in INPUTS]


def training_inputs(n, seed=None):
    """Inputs (n, 16) of the case study's sampler, in the emulator's units; with a seed, none beyond those without."""
    x = np.column_stack([np.asarray(a, np.float64) for a in sample_states(n, seed=seed or 0).arrays()])
    if seed is None:
        return x
    training = training_inputs(NUM_TRAINING)
    return np.clip(x, training.min(axis=0), training.max(axis=0))


def write_models(folder, order=None):
    """Networks of random weights in the project's graph, with training ranges: fn direct, the activation head
    within the graph, and the same network without it (ln S_max). `order` permutes the inputs."""
    x = training_inputs(NUM_TRAINING)
    inputs = INPUTS if order is None else tuple(INPUTS[k] for k in order)
    x = x if order is None else x[:, order]
    outputs = tuple(columns_of("fn", "1", NUM_MODES))
    e3sm = Constants.e3sm()
    head = ActivationHead(inputs, outputs, {n: getattr(e3sm, n.removeprefix("constant_")) for n in ATTRIBUTES})
    ln_smax = np.random.default_rng(0).normal(np.log(5e-3), 1.0, (len(x), 1))
    fn = head.fractions(x, ln_smax)[0]

    def bundle(head, seed):
        spec = MLPSpec(
            num_inputs=16, hidden=(24, 20), num_outputs=1 if head else 4,
            output_activation="identity" if head else "sigmoid",
        )  # fmt: skip
        state = build_mlp(spec, torch.Generator().manual_seed(seed)).state_dict()
        if not head:
            for name in [n for n in state if n.startswith("4.")]:  # so that fn is not always near 1/2
                state[name] = 20.0 * state[name]
        return Bundle(
            spec=spec, state=state, inputs=Normaliser.fit(x, inputs, "auto"),
            outputs=Normaliser.fit(fn, outputs, standardise=False), input_columns=inputs, output_columns=outputs,
            provenance={}, head=head, targets=Normaliser.fit(ln_smax, head.targets) if head else None,
        )  # fmt: skip

    write_onnx(bundle(None, 1), folder / "direct.onnx")
    tied = bundle(head, 2)
    write_onnx(tied, folder / "headed.onnx")
    write_onnx(tied.without_head(), folder / "ln_smax.onnx")
    return head


@dataclass
class States:
    """Native host state of n points, SI; modes along axis 1."""

    w: np.ndarray
    tair: np.ndarray
    rhoair: np.ndarray
    rh: np.ndarray
    na: np.ndarray
    volume: np.ndarray
    hygro: np.ndarray

    def __len__(self):
        return len(self.w)

    def __getitem__(self, rows):
        return States(*(np.ascontiguousarray(a[rows]) for a in vars(self).values()))


def host_states(x):
    """Native state of the emulator inputs x (n, 16)."""
    return States(
        w=0.01 * x[:, 3],
        tair=x[:, 0].copy(),
        rhoair=100.0 * x[:, 1] / (GAS_CONSTANT_DRY_AIR * x[:, 0]),
        rh=x[:, 2].copy(),
        na=1e6 * x[:, 4:8],
        volume=4 / 3 * np.pi * np.exp(4.5 * np.log(SIGMA) ** 2) * (1e-6 * x[:, 8:12]) ** 3 * 1e6 * x[:, 4:8],
        hygro=x[:, 12:16].copy(),
    )


@dataclass
class Result:
    fn: np.ndarray
    fm: np.ndarray
    fluxn: np.ndarray
    fluxm: np.ndarray
    full: np.ndarray
    fn_difference: np.ndarray
    fm_difference: np.ndarray
    stat: int
    message: str
    counts: dict
    low: dict = field(default_factory=dict)
    high: dict = field(default_factory=dict)
    nan: dict = field(default_factory=dict)

    def arrays(self):
        return (self.fn, self.fm, self.fluxn, self.fluxm, self.full, self.fn_difference, self.fm_difference)

    def same_bits(self, other):
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(self.arrays(), other.arrays(), strict=True))


def _pointer(array):
    if array is None:
        return None
    assert array.flags.f_contiguous or array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)


def _result(arrays, stat, message, counts):
    tables = [dict(zip(NAMES, counts[k : k + 16].tolist(), strict=True)) for k in (7, 23, 39)]
    return Result(
        *arrays, stat.value, message.value.decode(), dict(zip(COUNTERS, counts[:7].tolist(), strict=True)), *tables
    )


def compile_sources(folder, library, compiler, *flags):
    """The drop-in as a host compiles it that takes the sources into its own build: with its compiler and flags. Path of
    the shared library in `folder`; `library`: the libemulator.so to link."""
    bridge = REPOSITORY / "fortran_bridge"
    ours = re.findall(r"aerosol_activation_\w+\.F90", (bridge / "activation" / "CMakeLists.txt").read_text())
    sources = [bridge / "fortran" / f"{name}.F90" for name in ("libemulator_c", "libemulator_guard", "libemulator")]
    sources += [bridge / "activation" / name for name in ours]
    sources.append(REPOSITORY / "tests" / "host" / "activation_emulator_c" / "activation_emulator_c.F90")
    modules = "-module-dir" if "flang" in compiler else "-J"
    link = [f"-L{library.parent}", "-lemulator", f"-Wl,-rpath,{library.parent}"]
    for command in (
        ["cc", "-fPIC", "-I", bridge / "include", "-c", *(bridge / "fortran").glob("*.c")],
        [compiler, *flags, "-fPIC", "-shared", modules, ".", *sources, "fortran_handle.o", "fortran_infer.o", *link,
         "-o", "libactivation_emulator_c.so"],
    ):  # fmt: skip
        done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
        # with -pedantic: flang's word for what is not standard or not everywhere
        portable = re.search(r"/fortran_bridge/\S+ portability:", done.stderr) is None
        assert done.returncode == 0 and portable, done.stdout + done.stderr
    return folder / "libactivation_emulator_c.so"


def flang():
    """The first LLVM Fortran compiler that can compile the library's module; None if there is none."""
    return next((name for name in FLANGS if shutil.which(name)), None)


class DropIn:
    """Emulators by number (1 to 16) in the shared library."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))

    def connect(self, handle, path, scheme="emulator", result_of="emulator", fallback=True, margin=0.01, rh=None):
        """(stat, message)"""
        stat, message = ctypes.c_int(), ctypes.create_string_buffer(512)
        rh = None if rh is None else ctypes.byref(ctypes.c_double(rh))
        self.c.c_connect(
            handle, str(path).encode().ljust(512), scheme.encode().ljust(16), result_of.encode().ljust(16),
            int(fallback), ctypes.c_double(margin), rh, ctypes.byref(stat), message,
        )  # fmt: skip
        return stat.value, message.value.decode()

    def connect_bytes(self, handle, data):
        stat, message = ctypes.c_int(), ctypes.create_string_buffer(512)
        self.c.c_connect_bytes(handle, len(data), data, ctypes.byref(stat), message)
        return stat.value, message.value.decode()

    def describe(self, handle):
        """(is there a model?, scheme, the line for the log)"""
        connected, message = ctypes.c_int(), ctypes.create_string_buffer(512)
        self.c.c_describe(handle, ctypes.byref(connected), message)
        return bool(connected.value), *message.value.decode().split(" | ")

    def batched(self, handle, states, nmode=4, ncol=None, with_rh=True, smax=None, needs_first_mode=True, fill=-7.0):
        """The batched form over the first ncol points; what it leaves alone is `fill`."""
        n = len(states)
        f = [np.asfortranarray(a[:, :nmode]) for a in (states.na, states.volume, states.hygro)]
        fn, fm, fluxn, fluxm, d, e = (np.full((n, nmode), fill, order="F") for _ in range(6))
        full, counts = np.full(n, fill), np.zeros(55, np.int64)
        stat, message = ctypes.c_int(), ctypes.create_string_buffer(512)
        smax = None if smax is None else ctypes.byref(ctypes.c_double(smax))
        self.c.c_activate(
            handle, n, n if ncol is None else ncol, nmode, *map(_pointer, (states.w, states.tair, states.rhoair)),
            _pointer(states.rh if with_rh else None), *map(_pointer, (*f, fn, fm, fluxn, fluxm, full, d, e)), smax,
            int(needs_first_mode), _pointer(counts), ctypes.byref(stat), message,
        )  # fmt: skip
        return _result((fn, fm, fluxn, fluxm, full, d, e), stat, message, counts)

    def points(self, handle, states, form=2, nmode=4, with_rh=True, smax=None, sigw=0.0, wdiab=0.0):
        """One call a point: form 1 is E3SM's current one, 2 the refactored one; handle 0: what `use` has set."""
        n = len(states)
        inputs = [np.ascontiguousarray(a) for a in (states.na, states.volume, states.hygro)]
        fn, fm, fluxn, fluxm, d, e = (np.full((n, 4), -7.0) for _ in range(6))
        full, counts = np.full(n, -7.0), np.zeros(55, np.int64)
        stat, message = ctypes.c_int(), ctypes.create_string_buffer(512)
        smax = None if smax is None else ctypes.byref(ctypes.c_double(smax))
        self.c.c_activate_points(
            handle, form, n, nmode, _pointer(states.w), ctypes.c_double(sigw), ctypes.c_double(wdiab),
            *map(_pointer, (states.tair, states.rhoair)), _pointer(states.rh if with_rh else None),
            *map(_pointer, (*inputs, fn, fm, fluxn, fluxm, full, d, e)), smax, _pointer(counts), ctypes.byref(stat),
            message,
        )  # fmt: skip
        return _result((fn, fm, fluxn, fluxm, full, d, e), stat, message, counts)

    def relative_humidity(self, humidity, tair, pressure):
        rh = np.empty_like(tair)
        self.c.c_relative_humidity(len(tair), *map(_pointer, (humidity, tair, pressure, rh)))
        return rh
