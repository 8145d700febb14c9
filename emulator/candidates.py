"""What a study offers to the selector: its retrained networks, and the hold-out rows of its data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulator.dataset import SampleFile
from emulator.records import read_folder
from emulator.split import RowOrder


@dataclass(frozen=True)
class RetrainedNetwork:
    """One completed trial of step 2."""

    trial: int
    error: float
    num_parameters: int
    hidden: tuple[int, ...]
    model: Path


def retrained_networks(study: Path) -> list[RetrainedNetwork]:
    """Completed trials of step 2, in order of error.

    Raises
    ------
    FileNotFoundError
        No study there.
    ValueError
        Step 2 has no finished trial yet, or a model file is missing.
    """
    study_description(study)
    networks = []
    for record in read_folder(study / "step2"):
        if record["state"] != "complete":
            continue
        model = study / record["model"]
        if not model.exists():
            raise ValueError(
                f"{study}: trial {record['trial']} is recorded with the model {record['model']}, which is missing"
            )
        networks.append(
            RetrainedNetwork(
                trial=record["trial"],
                error=record["validation_mse"],
                num_parameters=record["num_parameters"],
                hidden=tuple(record["hidden"]),
                model=model,
            )
        )
    if not networks:
        raise ValueError(f"{study}: step 2 has no finished network yet; run `python -m hpo.search --out {study}`")
    return sorted(networks, key=lambda n: (n.error, n.trial))


def study_description(study: Path) -> dict:
    """The study's `study.json`."""
    path = study / "study.json"
    if not path.exists():
        raise FileNotFoundError(f"{study} is not a study (it has no study.json); give the --out of hpo.search")
    return json.loads(path.read_text())


PARTS = ("train", "validation", "test")


def holdout(provenance: dict, data: Path | None = None) -> tuple[SampleFile, np.ndarray]:
    """Samples file and hold-out rows that a network never saw.

    Parameters
    ----------
    provenance : dict
        Of the network's bundle; its `data` entry names the file and the split.
    data : path, optional
        Where the file is now, if it was moved.

    Raises
    ------
    FileNotFoundError, ValueError
        The file is gone, or is not the one that the study used.
    """
    samples = study_samples(provenance, data)
    return samples, rows_of_part(provenance, "test")


def study_samples(provenance: dict, data: Path | None = None) -> SampleFile:
    """The samples file that a study used; raises as `holdout` does."""
    used = provenance["data"]
    samples = SampleFile(data or used["path"], used["inputs"], used["outputs"], used.get("units"))
    checksum = samples.checksum()
    if checksum != used["checksum"]:
        raise ValueError(
            f"{samples.path} has checksum {checksum}, the study used {used['checksum']}: the file has changed; "
            "the hold-out error would not be one"
        )
    return samples


def rows_of_part(provenance: dict, part: str) -> np.ndarray:
    """Rows, increasing, that a retrained network was trained on (`train`), stopped by (`validation`), or never saw
    (`test`).

    Parameters
    ----------
    provenance : dict
        Of the network: its `data` entry and, for training and validation, `num_train` and `num_validation`.

    Raises
    ------
    ValueError
        The part is empty, or the provenance does not say where it is.
    """
    used = provenance["data"]
    order = RowOrder(used["num_samples"], used["seed"])
    num_test = round(used["num_samples"] * used["test_fraction"])
    if part == "test":
        start, stop = 0, num_test
    else:
        missing = sorted({"num_train", "num_validation"} - set(provenance))
        if missing:
            raise ValueError(f"the model's provenance has no {' and no '.join(missing)}: its {part} part is unknown")
        start = num_test if part == "train" else num_test + provenance["num_train"]
        stop = start + provenance["num_train" if part == "train" else "num_validation"]
    if start == stop:
        raise ValueError(f"the {part} part of the study's samples is empty (test_fraction {used['test_fraction']:g})")
    return np.sort(order.rows(start, stop))
