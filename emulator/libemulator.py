"""libemulator from Python: the very library that the Fortran host calls, through ctypes.

Axes: B samples, I inputs, O outputs. The contract of every call is `fortran_bridge/include/libemulator.h`.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

ABI_VERSION = 1  # EMU_ABI_VERSION of libemulator.h
MESSAGE_SIZE = 1024
DISTRIBUTION = "libemulator"
LIBRARY_NAMES = ("libemulator.so", "libemulator.dylib")

_PACKAGE = Path(__file__).resolve().parent


class ModelFileError(ValueError):
    """The file is damaged (EMU_ERR_FORMAT), holds what the library cannot evaluate (EMU_ERR_UNSUPPORTED), or
    exceeds its limits (EMU_ERR_LIMIT)."""


class ModelCheckError(ValueError):
    """The self-check failed, or names or units differ."""


class BackendError(RuntimeError):
    """Another library (ONNX Runtime, LibTorch) failed while it evaluated."""


class LibraryNotFoundError(ImportError):
    """The compiled library is nowhere to be found; the message says where it was looked for."""


_ERRORS = {
    1: ValueError,
    2: OSError,
    3: ModelFileError,
    4: ModelFileError,
    5: ModelFileError,
    6: MemoryError,
    7: ModelCheckError,
    8: ModelCheckError,
    9: BackendError,
}


# ---- where the library and its tools are -----------------------------------------------------------------------


def _installed(names: tuple[str, ...], folder: str) -> list[Path]:
    """Files of the installed distribution with one of those names (an editable install keeps them elsewhere)."""
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    # The environment's own bin/ has commands of the tools' names, which start the tools.
    return [Path(str(f.locate())) for f in files if f.name in names and f.parts[-3:-1] == (_PACKAGE.name, folder)]


def _built(names: tuple[str, ...]) -> list[Path]:
    """Files of a CMake build in the repository's build/ or build/*/, newest first."""
    found = []
    for folder in (_PACKAGE.parent / "build" / "fortran_bridge", *(_PACKAGE.parent / "build").glob("*/fortran_bridge")):
        for name in names:
            try:
                found.append(((folder / name).stat().st_mtime, folder / name))
            except FileNotFoundError:  # not in this build, or just being built
                continue
    return [path for _, path in sorted(found, reverse=True)]


def _find(names: tuple[str, ...], folder: str, what: str) -> Path:
    candidates = [_PACKAGE / folder / name for name in names] + _installed(names, folder) + _built(names)
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(dict.fromkeys(str(p) for p in candidates))
    raise LibraryNotFoundError(
        f"{what} was not found; looked at {looked} and under {_PACKAGE.parent / 'build'}. Build it with `pip install "
        "--editable .` or `cmake -S . -B build/release && cmake --build build/release` in the repository, or set "
        "LIBEMULATOR_LIBRARY to the path of libemulator.so"
    )


def library_path() -> Path:
    """Path of the shared library that :class:`LibEmulator` uses.

    Looked for in this order: the environment variable LIBEMULATOR_LIBRARY; `lib/` beside this file; the files of the
    installed distribution; the newest CMake build under the repository's `build/`.

    Raises
    ------
    LibraryNotFoundError
        It is nowhere, or LIBEMULATOR_LIBRARY names no file.
    """
    named = os.environ.get("LIBEMULATOR_LIBRARY")
    if named:
        if not Path(named).is_file():
            raise LibraryNotFoundError(f"LIBEMULATOR_LIBRARY is {named!r}, which is no file; correct or unset it")
        return Path(named)
    return _find(LIBRARY_NAMES, "lib", "libemulator")


def find_tool(name: str) -> Path:
    """Path of a command-line tool of the library (`emu-info`, `emu-bench`), looked for as the library is.

    A library named by LIBEMULATOR_LIBRARY brings its tools along: beside it, or in `../bin`.

    Raises
    ------
    LibraryNotFoundError
    """
    named = os.environ.get("LIBEMULATOR_LIBRARY")
    if named:
        for folder in (Path(named).parent, Path(named).parent.parent / "bin"):
            if (folder / name).is_file():
                return folder / name
    return _find((name,), "bin", name)


# ---- the C functions -------------------------------------------------------------------------------------------

_pointer, _text, _int64, _double, _size = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int64,
    ctypes.c_double,
    ctypes.c_size_t,
)


class _Options(ctypes.Structure):
    """emu_options"""

    _fields_ = (
        ("size", _size),
        ("backend", _text),
        ("isa", _text),
        ("library", _text),
        ("precision", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
    )


class _Guard(ctypes.Structure):
    """emu_guard"""

    _fields_ = (
        ("size", _size),
        ("clamp", ctypes.c_int32),
        ("outside", _pointer),
        ("below", _pointer),
        ("above", _pointer),
        ("nan", _pointer),
        ("num_samples", _int64),
        ("num_outside", _int64),
    )


_infer = [_pointer, _int64, _pointer, _int64, _int64, _pointer, _int64, _int64, _pointer, _size]
_with = [ctypes.POINTER(_Options), ctypes.POINTER(_pointer), _pointer, _size]
_by_index = [_pointer, _int64]
_SIGNATURES = {
    "emu_abi_version": (ctypes.c_int, []),
    "emu_version": (_text, []),
    "emu_load_with": (ctypes.c_int, [_text, *_with]),
    "emu_load_bytes_with": (ctypes.c_int, [_text, _size, *_with]),
    "emu_free": (None, [_pointer]),
    "emu_status_name": (_text, [ctypes.c_int]),
    "emu_isa": (_text, [_pointer]),
    "emu_backend": (_text, [_pointer]),
    "emu_precision": (ctypes.c_int, [_pointer]),
    "emu_num_inputs": (_int64, [_pointer]),
    "emu_num_outputs": (_int64, [_pointer]),
    "emu_num_layers": (_int64, [_pointer]),
    "emu_num_parameters": (_int64, [_pointer]),
    "emu_layer_width": (_int64, _by_index),
    **{f"emu_{side}_{what}": (_text, _by_index) for side in ("input", "output") for what in ("name", "unit")},
    **{f"emu_{side}_{what}": (_double, _by_index) for side in ("input", "output") for what in ("min", "max")},
    "emu_metadata": (_text, [_pointer, _text]),
    "emu_infer_guarded_f64": (ctypes.c_int, [*_infer, ctypes.POINTER(_Guard)]),
    "emu_infer_guarded_f32": (ctypes.c_int, [*_infer, ctypes.POINTER(_Guard)]),
    "emu_self_check": (ctypes.c_int, [_pointer, ctypes.POINTER(_double), _pointer, _size]),
    "emu_measure": (ctypes.c_int, [_pointer, _int64, ctypes.c_int, _double, ctypes.POINTER(_double)]),
}


@functools.cache
def _library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise LibraryNotFoundError(
                f"{path} has no {name}: it is not the libemulator of this package; build it again"
            )
        function.restype, function.argtypes = result, arguments
    if library.emu_abi_version() != ABI_VERSION:
        raise LibraryNotFoundError(
            f"{path} has ABI version {library.emu_abi_version()}, this package expects {ABI_VERSION}; build it again"
        )
    return library


@dataclass(frozen=True, kw_only=True)
class GuardCounts:
    """What a guarded call found at the ends of the training ranges.

    Attributes
    ----------
    outside : (B,) int32 array
        For each sample the number of its inputs that are outside their range or NaN.
    below, above, nan : (I,) int64 arrays
        For each input the number of samples in which it is below its range, above it, or NaN.
    num_samples, num_outside : int
        Samples seen, and samples with at least one input outside its range or NaN.
    """

    outside: np.ndarray
    below: np.ndarray
    above: np.ndarray
    nan: np.ndarray
    num_samples: int
    num_outside: int


class LibEmulator:
    """A model file, evaluated by libemulator.

    Parameters
    ----------
    source : path or bytes
        `model.onnx` (or `model.pt`), or its content.
    backend : str, optional
        'native', 'onnxruntime' or 'libtorch'; by default 'native' for an ONNX file, 'libtorch' for a TorchScript file.
    isa : str, optional
        native: the instruction set, as in LIBEMULATOR_ISA, which it overrides; by default the fastest.
    library : path, optional
        onnxruntime, libtorch: the shared library to open.
    precision : int
        native: 32 or 64, the bits of the layers' arithmetic.
    num_threads : int
        onnxruntime, libtorch: threads of one call.

    Raises
    ------
    ModelFileError
        The model is damaged or holds what the backend cannot evaluate (the message names operator and node), or this
        build does not have the backend, or its library is nowhere to be found.
    ValueError
        There is no such backend, instruction set, precision or number of threads.
    OSError
        The file cannot be read.
    MemoryError
    LibraryNotFoundError
        The compiled library is missing.
    """

    def __init__(
        self,
        source: str | os.PathLike | bytes,
        *,
        backend: str | None = None,
        isa: str | None = None,
        library: str | os.PathLike | None = None,
        precision: int = 32,
        num_threads: int = 1,
    ) -> None:
        self._handle = ctypes.c_void_p()
        self._c = _library(library_path())
        texts = [None if text is None else os.fsencode(text) for text in (backend, isa, library)]
        options = ctypes.byref(_Options(ctypes.sizeof(_Options), *texts, precision, num_threads))
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        handle = ctypes.byref(self._handle)
        if isinstance(source, (bytes, bytearray, memoryview)):
            content = bytes(source)
            status = self._c.emu_load_bytes_with(content, len(content), options, handle, message, MESSAGE_SIZE)
        else:
            status = self._c.emu_load_with(os.fsencode(source), options, handle, message, MESSAGE_SIZE)
        self._check(status, message)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._c.emu_free(self._handle)

    def __repr__(self) -> str:
        widths = "-".join(map(str, (self.num_inputs, *self.layer_widths)))
        return f"LibEmulator({widths}, {self.num_parameters} parameters, {self.isa or self.backend})"

    def _check(self, status: int, message: ctypes.Array | None = None) -> None:
        if status == 0:
            return
        text = message.value.decode("utf-8", "replace") if message is not None else ""
        name = self._c.emu_status_name(status).decode()
        raise _ERRORS.get(status, RuntimeError)(text or name)

    def _texts(self, function, n: int) -> tuple[str, ...]:
        return tuple(function(self._handle, i).decode("utf-8", "replace") for i in range(n))

    # ---- about the model ----

    @property
    def num_inputs(self) -> int:
        return self._c.emu_num_inputs(self._handle)

    @property
    def num_outputs(self) -> int:
        return self._c.emu_num_outputs(self._handle)

    @property
    def num_parameters(self) -> int:
        return self._c.emu_num_parameters(self._handle)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Outputs of each layer, the last being the model's."""
        return tuple(self._c.emu_layer_width(self._handle, i) for i in range(self._c.emu_num_layers(self._handle)))

    @property
    def isa(self) -> str:
        """Instruction set of the kernels: 'avx512', 'avx2' or 'portable'; '' for other backends than native."""
        return self._c.emu_isa(self._handle).decode()

    @property
    def backend(self) -> str:
        """What evaluates the model: 'native', 'onnxruntime' or 'libtorch'."""
        return self._c.emu_backend(self._handle).decode()

    @property
    def precision(self) -> int:
        """Bits of the layers' arithmetic, 32 or 64; 0 if unknown."""
        return self._c.emu_precision(self._handle)

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._texts(self._c.emu_input_name, self.num_inputs)

    @property
    def input_units(self) -> tuple[str, ...]:
        return self._texts(self._c.emu_input_unit, self.num_inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._texts(self._c.emu_output_name, self.num_outputs)

    @property
    def output_units(self) -> tuple[str, ...]:
        return self._texts(self._c.emu_output_unit, self.num_outputs)

    @property
    def input_range(self) -> np.ndarray:
        """(2, I): smallest and largest training value, physical units; NaN where unknown."""
        c, n = self._c, self.num_inputs
        return np.array([[f(self._handle, i) for i in range(n)] for f in (c.emu_input_min, c.emu_input_max)])

    @property
    def output_range(self) -> np.ndarray:
        """(2, O): smallest and largest training value, physical units; NaN where unknown."""
        c, n = self._c, self.num_outputs
        return np.array([[f(self._handle, i) for i in range(n)] for f in (c.emu_output_min, c.emu_output_max)])

    def metadata(self, key: str) -> str | None:
        """Text stored in the file under `key`, for instance 'libemulator.provenance'."""
        found = self._c.emu_metadata(self._handle, key.encode())
        return None if found is None else found.decode("utf-8", "replace")

    # ---- evaluation ----

    def infer(self, x: ArrayLike) -> np.ndarray:
        """Evaluate samples.

        Parameters
        ----------
        x : (B, I) array
            Physical units; float64 or float32 with any strides (neither copied nor transposed), other types become
            float64.

        Returns
        -------
        (B, O) array of the same precision, physical units

        Raises
        ------
        ValueError
            The shape does not fit.
        """
        return self._infer(x, None)

    def infer_guarded(self, x: ArrayLike, *, clamp: bool = False) -> tuple[np.ndarray, GuardCounts]:
        """Evaluate samples and look for inputs outside the training ranges.

        Parameters
        ----------
        x : (B, I) array
            As for :meth:`infer`.
        clamp : bool
            Evaluate with each input moved to the nearest end of its range. NaN stays NaN.

        Returns
        -------
        (B, O) array of the same precision, physical units, and what was found

        Raises
        ------
        ValueError
            The shape does not fit.
        """
        n = self.num_inputs
        below, above, nan = (np.zeros(n, np.int64) for _ in range(3))
        outside = np.zeros(np.shape(x)[0] if np.ndim(x) == 2 else 0, np.int32)
        pointers = (array.ctypes.data for array in (outside, below, above, nan))
        guard = _Guard(ctypes.sizeof(_Guard), int(clamp), *pointers, 0, 0)
        y_BO = self._infer(x, guard)
        return y_BO, GuardCounts(
            outside=outside,
            below=below,
            above=above,
            nan=nan,
            num_samples=guard.num_samples,
            num_outside=guard.num_outside,
        )

    def _infer(self, x: ArrayLike, guard: _Guard | None) -> np.ndarray:
        x_BI = np.asarray(x)
        if x_BI.dtype not in (np.float64, np.float32) or not x_BI.dtype.isnative:
            x_BI = x_BI.astype(np.float64)
        if x_BI.ndim != 2 or x_BI.shape[1] != self.num_inputs:
            raise ValueError(f"x has shape {x_BI.shape}, expected (samples, {self.num_inputs})")
        if not x_BI.flags.aligned or any(s % x_BI.itemsize for s in x_BI.strides):
            x_BI = x_BI.copy()
        y_BO = np.empty((len(x_BI), self.num_outputs), x_BI.dtype)
        if len(x_BI) == 0:
            return y_BO
        size = x_BI.itemsize
        function = self._c.emu_infer_guarded_f64 if size == 8 else self._c.emu_infer_guarded_f32
        x_sample, x_feature = (s // size for s in x_BI.strides)
        status = function(self._handle, len(x_BI), x_BI.ctypes.data, x_sample, x_feature,
                          y_BO.ctypes.data, self.num_outputs, 1, None, 0, guard)  # fmt: skip
        self._check(status)
        return y_BO

    def self_check(self) -> float:
        """Largest difference of the file's check samples from the results stored beside them, in units of the output's
        training range.

        Raises
        ------
        ModelCheckError
            It exceeds the tolerance stored in the file, or the file holds no check samples.
        """
        difference = ctypes.c_double()
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        self._check(self._c.emu_self_check(self._handle, ctypes.byref(difference), message, MESSAGE_SIZE), message)
        return difference.value

    def measure(self, batch_size: int, *, features_fastest: bool = False, seconds: float = 0.2) -> float:
        """Median nanoseconds per sample of calls with `batch_size` samples, timed inside the library."""
        nanoseconds = ctypes.c_double()
        self._check(
            self._c.emu_measure(self._handle, batch_size, int(features_fastest), seconds, ctypes.byref(nanoseconds))
        )
        return nanoseconds.value
