"""Training data of both steps, read once, normalised once, and shared by all workers.

The normalised samples lie in `OUT/cache` as plain arrays that every worker maps: the operating system keeps one
copy, however many workers there are. Files may be larger than memory: all is read, looked at and written in blocks.
The cache can be removed at any time; it is made again when needed.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emulator.dataset import SampleFile
from emulator.heads import DIRECT, Head, load_head
from emulator.normalise import Normaliser
from emulator.split import Parts, split_rows
from hpo.config import Config, DataConfig
from hpo.errors import SearchError

SCHEMA = 2
_BLOCK_ROWS = 1 << 17  # rows read and normalised at a time: 16 float64 columns are 16 MiB
_RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}  # what an output activation can give


@dataclass(frozen=True)
class Prepared:
    """One step's data in the cache.

    Attributes
    ----------
    folder : Path
    num_train, num_validation : int
    inputs : list of Normaliser
        One for each value that `transforms` can have.
    outputs : Normaliser
    output_activation : str
        What `auto` became.
    stream : bool
        Training reads the samples from the files, chunk by chunk.
    targets : dict of str to Normaliser
        By output head, of what its networks predict.
    heads : dict of str to Head
        That networks may have; the cache does not hold them.
    """

    folder: Path
    num_train: int
    num_validation: int
    inputs: list[Normaliser]
    outputs: Normaliser
    output_activation: str
    stream: bool = False
    targets: Mapping[str, Normaliser] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)

    def files(self, variant: int, head: str = DIRECT) -> dict[str, Path]:
        """Files of x_train (N, I), y_train (N, O), x_validation, y_validation: float32 arrays as NumPy saves them.

        With a head y_train is (N, T), what its networks predict; y_validation are the outputs themselves.
        """
        names = {
            "x_train": f"x_train-{variant}",
            "y_train": "y_train" if head == DIRECT else f"y_train-{head}",
            "x_validation": f"x_validation-{variant}",
            "y_validation": "y_validation",
        }
        return {k: self.folder / f"{name}.npy" for k, name in names.items()}

    def arrays(self, variant: int, head: str = DIRECT) -> dict[str, np.ndarray]:
        """The same, mapped copy-on-write."""
        return {k: np.load(path, mmap_mode="c") for k, path in self.files(variant, head).items()}

    @property
    def num_bytes(self) -> int:
        """Size of one variant's samples."""
        rows = self.num_train + self.num_validation
        return 4 * rows * (len(self.outputs.transforms) + len(self.inputs[0].transforms))


def open_samples(data: DataConfig) -> SampleFile:
    """The samples file of a config; errors are the user's to mend."""
    try:
        return SampleFile(data.path, data.inputs, data.outputs, dict(data.units))
    except (ValueError, OSError) as error:
        raise SearchError(str(error)) from None


def open_heads(names: Sequence[str], samples: SampleFile) -> dict[str, Head]:
    """Those of the output heads named that are one; what the samples lack is the user's to mend."""
    heads = {}
    for name in names:
        if name == DIRECT:
            continue
        try:
            heads[name] = load_head(name, samples.input_columns, samples.output_columns, samples.attributes())
            samples.check_variables(heads[name].variables, f"output head {name!r}")
        except ValueError as error:
            raise SearchError(str(error)) from None
    return heads


def rows_of(config: Config, num_samples: int, subset: float) -> Parts:
    """Rows of the training, validation and hold-out parts for a subset of relative size `subset`.

    The rows of a subset lie inside those of every larger one; the hold-out part is the same for all.
    """
    try:
        return split_rows(
            num_samples,
            seed=config.search.seed,
            test_fraction=config.data.test_fraction,
            validation_fraction=config.data.validation_fraction_at(subset),
            subset=subset,
        )
    except ValueError as error:
        raise SearchError(str(error)) from None


def choose_output_activation(wanted: str, minimum: Sequence[float], maximum: Sequence[float], names) -> str:
    """Output activation for training outputs of that range: auto resolved, others checked.

    Raises
    ------
    SearchError
        A bounded activation cannot give some output.
    """
    if wanted == "auto":
        return "sigmoid" if min(minimum) >= 0.0 and max(maximum) <= 1.0 else "identity"
    low, high = _RANGES.get(wanted, (-np.inf, np.inf))
    for name, a, b in zip(names, minimum, maximum, strict=True):
        if a < low or b > high:
            raise SearchError(
                f"output {name!r} reaches from {a:g} to {b:g}, a {wanted} output only from {low:g} to {high:g}; set "
                "output_activation = 'identity' (outputs are then standardised) or 'auto' in [space]"
            )
    return wanted


def prepare(
    folder: Path,
    samples: SampleFile,
    parts: Parts,
    *,
    input_transforms: Sequence[str | Mapping[str, str]],
    output_transforms: str | Mapping[str, str],
    output_activation: str,
    key: dict,
    say: Callable[[str], None],
    heads: Mapping[str, Head] | None = None,
) -> Prepared:
    """Read, normalise and cache one step's samples, or take them from the cache.

    Statistics come from the training part alone. Outputs of a sigmoid or tanh network without output transform are
    not scaled; all others are standardised.

    Parameters
    ----------
    folder : path
        Of this step inside the cache.
    input_transforms : sequence
        Every value that `transforms` can have; 'auto' is resolved here.
    output_activation : str
        As the config has it ('auto' included).
    key : dict
        Plain data that says what the cache holds; a folder with another key is replaced.
    say : function of a text
    heads : mapping of str to Head
        Output heads that networks may have.

    Raises
    ------
    SearchError
        Missing values, constant columns, values outside a transform's domain, an impossible output activation.
    """
    found = load(folder, key)
    if found is not None:
        return found
    say(f"reading {parts.train.size:,} + {parts.validation.size:,} samples of {samples.path}")
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _build(building, samples, parts, input_transforms, output_transforms, output_activation, key, heads or {})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    except ValueError as error:
        raise SearchError(str(error)) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return load(folder, key)


def _build(folder, samples, parts, input_transforms, output_transforms, output_activation, key, heads) -> None:
    train = _read(folder, samples, parts.train, "train")
    validation = _read(folder, samples, parts.validation, "validation")
    names = [c.name for c in samples.output_columns]
    inputs = [Normaliser.fit(train["x"], samples.input_columns, t) for t in input_transforms]
    outputs = Normaliser.fit(
        train["y"], samples.output_columns, output_transforms, standardise=False, allow_constant=True
    )
    if set(outputs.transforms) == {"none"}:
        activation = choose_output_activation(output_activation, outputs.minimum, outputs.maximum, names)
    elif output_activation in ("auto", "identity"):
        activation = "identity"
    else:
        raise SearchError(
            f"output_activation {output_activation!r} goes without output transforms; set it to 'identity' or 'auto', "
            "or output_transforms to 'none'"
        )
    if activation == "identity":
        outputs = Normaliser.fit(train["y"], samples.output_columns, output_transforms, allow_constant=True)
    for name, part in (("train", train), ("validation", validation)):
        for variant, normaliser in enumerate(inputs):
            _normalise(folder / f"x_{name}-{variant}.npy", part["x"], normaliser)
        _normalise(folder / f"y_{name}.npy", part["y"], outputs)
    targets = {name: _targets(folder, samples, parts.train, train["x"], head) for name, head in heads.items()}
    del train, validation
    for raw in folder.glob("raw-*.npy"):
        raw.unlink()
    meta = {
        "key": {"schema": SCHEMA, **key},
        "num_train": int(parts.train.size),
        "num_validation": int(parts.validation.size),
        "inputs": [n.to_dict() for n in inputs],
        "outputs": outputs.to_dict(),
        "output_activation": activation,
        "targets": {name: normaliser.to_dict() for name, normaliser in targets.items()},
    }
    (folder / "prepared.json").write_text(json.dumps(meta))


def _targets(folder: Path, samples: SampleFile, rows: np.ndarray, x_NI: _RawArray, head: Head) -> Normaliser:
    """Write what the networks of a head are to predict, standardised."""
    raw = _RawArray(folder / f"raw-{head.name}.npy", (rows.size, len(head.targets)))
    with open(raw.path, "wb") as file:
        for start in range(0, rows.size, _BLOCK_ROWS):
            v_NV = samples.read_variables(head.variables, rows[start : start + _BLOCK_ROWS])
            np.ascontiguousarray(head.target(x_NI[start : start + _BLOCK_ROWS], v_NV), np.float64).tofile(file)
    normaliser = Normaliser.fit(raw, head.targets)
    _normalise(folder / f"y_train-{head.name}.npy", raw, normaliser)
    return normaliser


def _read(folder: Path, samples: SampleFile, rows: np.ndarray, name: str) -> dict[str, _RawArray]:
    """Raw float64 samples as arrays on disk, so that they need not fit into memory."""
    raw = {
        "x": _RawArray(folder / f"raw-x_{name}.npy", (rows.size, len(samples.input_columns))),
        "y": _RawArray(folder / f"raw-y_{name}.npy", (rows.size, len(samples.output_columns))),
    }
    with open(raw["x"].path, "wb") as x_file, open(raw["y"].path, "wb") as y_file:
        for start in range(0, rows.size, _BLOCK_ROWS):
            for file, block in zip((x_file, y_file), samples.read(rows[start : start + _BLOCK_ROWS]), strict=True):
                block.tofile(file)
    return raw


class _RawArray:
    """Float64 rows in a file, of which ranges can be had; read rather than mapped, so that nothing stays in memory."""

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path, self.shape = path, shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        width = self.shape[1]
        return np.fromfile(self.path, np.float64, (stop - start) * width, offset=8 * start * width).reshape(-1, width)


def _normalise(path: Path, raw_NC: _RawArray, normaliser: Normaliser) -> None:
    with open(path, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": raw_NC.shape})
        for start in range(0, raw_NC.shape[0], _BLOCK_ROWS):
            normaliser.forward(raw_NC[start : start + _BLOCK_ROWS]).astype(np.float32).tofile(file)


def load(folder: Path, key: dict) -> Prepared | None:
    """What `prepare` left in a folder under that key; None if there is nothing, or something else."""
    try:
        meta = json.loads((folder / "prepared.json").read_text())
    except (OSError, ValueError):
        return None
    if meta["key"] != json.loads(json.dumps({"schema": SCHEMA, **key})):
        return None
    return Prepared(
        folder=folder,
        num_train=meta["num_train"],
        num_validation=meta["num_validation"],
        inputs=[Normaliser.from_dict(n) for n in meta["inputs"]],
        outputs=Normaliser.from_dict(meta["outputs"]),
        output_activation=meta["output_activation"],
        targets={name: Normaliser.from_dict(n) for name, n in meta.get("targets", {}).items()},
    )
