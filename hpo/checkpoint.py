"""A trial in the middle, on disk, so that whoever takes it up again loses little."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import torch

from hpo.train import Progress


class Checkpoint:
    """The state of one trial in one file that is replaced whole; removed when the trial is recorded.

    Parameters
    ----------
    path : Path
        See `checkpoint_path`.
    every_seconds : float
        `write_if_due` writes this often.
    writer : str
        Name of the worker: two that write at once (one was thought dead) do not meet.
    """

    def __init__(self, path: Path, every_seconds: float, writer: str):
        self.path, self._seconds, self._writer = path, every_seconds, writer
        self._last = time.monotonic()

    def restore(self, training: Progress) -> float:
        """Take the training up where it was left, if it was; returns the seconds spent before."""
        try:
            data = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return 0.0
        training.restore(data["training"])
        return data["seconds"]

    def write_if_due(self, training: Progress, seconds: float) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self.write(training, seconds)

    def write(self, training: Progress, seconds: float) -> None:
        """Whatever the training does on its device is waited for.

        Raises
        ------
        Diverged
            It turns out only now.
        """
        training.settle()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{self._writer}.{os.getpid()}")
        with open(temporary, "wb") as stream:
            torch.save({"training": training.state(), "seconds": seconds}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.path)
        self._last = time.monotonic()


def checkpoint_path(folder: Path, step: int, trial: int) -> Path:
    return folder / f"step{step}" / "checkpoints" / f"trial-{trial:06d}.pt"


def remove_checkpoint(folder: Path, trial: int, step: int = 2) -> None:
    with contextlib.suppress(FileNotFoundError):
        checkpoint_path(folder, step, trial).unlink()
