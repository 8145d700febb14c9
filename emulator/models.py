"""Any model file behind one face: names, units, ranges, and a function of inputs in physical units.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np

BACKENDS = ("native", "onnxruntime", "torch")
# Rows that ONNX Runtime and PyTorch take at a time: a layer of 2048 has 64 MiB for them.
_ROWS = 8192
_METADATA = "libemulator."
_METADATA_KEYS = (
    *(f"{side}_{what}" for side in ("input", "output") for what in ("names", "units", "min", "max")),
    "provenance",
)

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that can be run.

    Attributes
    ----------
    path : Path
    kind : {'onnx', 'torchscript', 'bundle'}
        What the file is; a bundle is a network as a study keeps it.
    backend : {'native', 'onnxruntime', 'torch'}
        What runs it: libemulator's own engine, ONNX Runtime, PyTorch.
    input_names, output_names : tuple of str
    input_units, output_units : tuple of str
        Empty where the file says nothing.
    input_range, output_range : (2, I) and (2, O) float64 arrays
        Smallest and largest training values; NaN where the file says nothing.
    provenance : dict
        Where it comes from; empty where the file says nothing.
    predict : function of (N, I) float64 to (N, O) float64, physical units
    """

    path: Path
    kind: str
    backend: str
    input_names: tuple[str, ...]
    input_units: tuple[str, ...]
    output_names: tuple[str, ...]
    output_units: tuple[str, ...]
    input_range: np.ndarray
    output_range: np.ndarray
    provenance: dict
    predict: Predict

    def __str__(self) -> str:
        return f"{self.path.name} ({self.backend})"


def load_model(
    path: str | os.PathLike,
    backend: str | None = None,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Model:
    """Open `model.onnx`, a TorchScript `model.pt`, or a study's bundle (`.pt`).

    Parameters
    ----------
    path : path
    backend : str, optional
        One of `BACKENDS`; by default native for an ONNX file, torch for the others. A bundle runs in all of them.
    inputs, outputs : sequence of str, optional
        Names of the columns, in order; used if the file carries none.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not a model, one that the backend cannot run, or one without names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model {path}: no such file")
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; expected one of {', '.join(BACKENDS)}")
    kind = _kind_of(path)
    if kind == "bundle":
        backend, metadata, predict = _open_bundle(path, backend or "torch")
    elif kind == "torchscript":
        backend, metadata, predict = _open_torchscript(path, backend or "torch")
    else:
        backend, metadata, predict = _open_onnx(path, path.read_bytes(), backend or "native")
    names = {}
    for side, given in (("input", inputs), ("output", outputs)):
        kept = _lines(metadata.get(f"{side}_names"))
        names[side] = kept or tuple(given or ())
        if not names[side]:
            raise ValueError(f"{path} carries no names of its {side}s; give them in order with --{side}s a,b,c")
    return Model(
        path=path,
        kind=kind,
        backend=backend,
        input_names=names["input"],
        output_names=names["output"],
        input_units=_units(metadata.get("input_units"), len(names["input"])),
        output_units=_units(metadata.get("output_units"), len(names["output"])),
        input_range=_range(metadata, "input", len(names["input"])),
        output_range=_range(metadata, "output", len(names["output"])),
        provenance=json.loads(metadata.get("provenance") or "{}"),
        predict=predict,
    )


def baselines(input_names: Sequence[str], output_names: Sequence[str]) -> dict[str, Predict]:
    """Schemes that a network with those names replaces, by name: functions of inputs (N, I) to outputs (N, O).

    Packages offer them as entry points of the group `emulator.baselines`: a function that takes the lists of input
    and output names and returns such a mapping, empty where the names are not its own.
    """
    found: dict[str, Predict] = {}
    for point in entry_points(group="emulator.baselines"):
        found |= point.load()(list(input_names), list(output_names))
    return found


def _kind_of(path: Path) -> str:
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return "onnx"
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path}: a damaged file of PyTorch ({error})") from None
    return "torchscript" if any("/code/" in n for n in names) else "bundle"


def _open_onnx(path: Path, content: bytes, backend: str) -> tuple[str, dict[str, str], Predict]:
    import onnx

    if backend == "torch":
        raise ValueError(
            f"{path}: PyTorch does not run ONNX files; take the model.pt that emulator.export writes beside it, or "
            "--backend native or onnxruntime"
        )
    try:
        read = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own kinds
        raise ValueError(
            f"{path}: not an ONNX file, nor one of PyTorch, or cut off or damaged ({error}); export it again, or "
            "compare checksums if it was copied"
        ) from None
    if not read.graph.node:
        raise ValueError(f"{path}: not an ONNX file (it has no graph), nor one of PyTorch")
    metadata = {p.key.removeprefix(_METADATA): p.value for p in read.metadata_props if p.key.startswith(_METADATA)}
    if backend == "native":
        from emulator.libemulator import LibEmulator

        return backend, metadata, LibEmulator(content).infer
    return backend, metadata, _onnxruntime(content)


def _onnxruntime(content: bytes) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: they come as exceptions too
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    kind = np.float32 if taken.type == "tensor(float)" else np.float64

    def run(x_NI: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {taken.name: x_NI.astype(kind)})[0], np.float64).reshape(len(x_NI), -1)

    return _by_blocks(run)


def _open_torchscript(path: Path, backend: str) -> tuple[str, dict[str, str], Predict]:
    import torch

    if backend != "torch":
        raise ValueError(
            f"{path}: a TorchScript file runs in PyTorch only; take the model.onnx that emulator.export writes beside "
            "it, or --backend torch"
        )
    extra = dict.fromkeys((f"{_METADATA}{key}" for key in _METADATA_KEYS), "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces TorchScript's retirement at every call
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)

    def run(x_NI: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(np.ascontiguousarray(x_NI))).to(torch.float64).numpy()

    texts = {k: v.decode() if isinstance(v, bytes) else v for k, v in extra.items()}
    return backend, {k.removeprefix(_METADATA): v for k, v in texts.items() if v}, _by_blocks(run)


def _open_bundle(path: Path, backend: str) -> tuple[str, dict[str, str], Predict]:
    import torch

    from emulator.bundle import load_bundle
    from emulator.onnx_graph import build_onnx, metadata

    bundle = load_bundle(path)
    middle = 0.5 * (bundle.inputs.minimum + bundle.inputs.maximum)[None, :]
    if backend != "torch":
        return _open_onnx(path, build_onnx(bundle, middle, 1.0).SerializeToString(), backend)
    module = bundle.module()

    def run(x_NI: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(np.ascontiguousarray(x_NI))).numpy()

    texts = {k.removeprefix(_METADATA): v for k, v in metadata(bundle, middle, 1.0).items()}
    return backend, texts, _by_blocks(run)


def _by_blocks(run: Predict) -> Predict:
    def predict(x_NI: np.ndarray) -> np.ndarray:
        return np.concatenate([run(x_NI[k : k + _ROWS]) for k in range(0, max(len(x_NI), 1), _ROWS)])

    return predict


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


def _units(text: str | None, count: int) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text is not None and text.count("\n") == count - 1 else ("",) * count


def _range(metadata: Mapping[str, str], side: str, count: int) -> np.ndarray:
    ends = [_lines(metadata.get(f"{side}_{end}")) for end in ("min", "max")]
    if any(len(e) != count for e in ends):
        return np.full((2, count), np.nan)
    return np.array(ends, dtype=np.float64)
