"""Training data of both steps, read once, normalised once, and shared by all workers.

The normalised samples lie in `OUT/cache` as plain arrays that every worker maps: the operating system keeps one
copy, however many workers there are. The cache can be removed at any time; it is made again when needed.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulator.dataset import SampleFile
from emulator.normalise import Normaliser
from emulator.split import Parts, split_rows
from hpo.config import Config, DataConfig
from hpo.errors import SearchError

SCHEMA = 1
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
    """

    folder: Path
    num_train: int
    num_validation: int
    inputs: list[Normaliser]
    outputs: Normaliser
    output_activation: str

    def arrays(self, variant: int) -> dict[str, np.ndarray]:
        """Float32 arrays x_train (N, I), y_train (N, O), x_validation, y_validation, mapped copy-on-write."""
        files = {
            "x_train": f"x_train-{variant}",
            "y_train": "y_train",
            "x_validation": f"x_validation-{variant}",
            "y_validation": "y_validation",
        }
        return {k: np.load(self.folder / f"{name}.npy", mmap_mode="c") for k, name in files.items()}


def open_samples(data: DataConfig) -> SampleFile:
    """The samples file of a config; errors are the user's to mend."""
    try:
        return SampleFile(data.path, data.inputs, data.outputs, dict(data.units))
    except (ValueError, OSError) as error:
        raise SearchError(str(error)) from None


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

    Raises
    ------
    SearchError
        Missing values, constant columns, values outside a transform's domain, an impossible output activation.
    """
    key = {"schema": SCHEMA, **key}
    found = load(folder, key)
    if found is not None:
        return found
    say(f"reading {parts.train.size:,} + {parts.validation.size:,} samples of {samples.path}")
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _build(building, samples, parts, input_transforms, output_transforms, output_activation, key)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    except ValueError as error:
        raise SearchError(str(error)) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return load(folder, key)


def _build(folder, samples, parts, input_transforms, output_transforms, output_activation, key) -> None:
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
    del train, validation
    for raw in folder.glob("raw-*.npy"):
        raw.unlink()
    meta = {
        "key": key,
        "num_train": int(parts.train.size),
        "num_validation": int(parts.validation.size),
        "inputs": [n.to_dict() for n in inputs],
        "outputs": outputs.to_dict(),
        "output_activation": activation,
    }
    (folder / "prepared.json").write_text(json.dumps(meta))


def _read(folder: Path, samples: SampleFile, rows: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Raw float64 samples as arrays on disk, so that they need not fit into memory beside their transforms."""
    shapes = {"x": len(samples.input_columns), "y": len(samples.output_columns)}
    raw = {
        k: np.lib.format.open_memmap(folder / f"raw-{k}_{name}.npy", "w+", np.float64, (rows.size, width))
        for k, width in shapes.items()
    }
    for start in range(0, rows.size, _BLOCK_ROWS):
        stop = start + _BLOCK_ROWS
        raw["x"][start:stop], raw["y"][start:stop] = samples.read(rows[start:stop])
    return raw


def _normalise(path: Path, raw_NC: np.ndarray, normaliser: Normaliser) -> None:
    out = np.lib.format.open_memmap(path, "w+", np.float32, raw_NC.shape)
    for start in range(0, len(raw_NC), _BLOCK_ROWS):
        out[start : start + _BLOCK_ROWS] = normaliser.forward(raw_NC[start : start + _BLOCK_ROWS])
    out.flush()


def load(folder: Path, key: dict) -> Prepared | None:
    """What lies in the cache; None if it is nothing, or of another key. (`key` as for `prepare`.)"""
    try:
        meta = json.loads((folder / "prepared.json").read_text())
    except (OSError, ValueError):
        return None
    if meta["key"] != json.loads(json.dumps(key)):
        return None
    return Prepared(
        folder=folder,
        num_train=meta["num_train"],
        num_validation=meta["num_validation"],
        inputs=[Normaliser.from_dict(n) for n in meta["inputs"]],
        outputs=Normaliser.from_dict(meta["outputs"]),
        output_activation=meta["output_activation"],
    )
