"""One block of samples: drawn, simulated, retried, and kept on disk until the samples file is assembled."""

import dataclasses
import io
import os
import pathlib
import zipfile

import numpy as np

from emulator.activation.retries import simulate_with_retries
from emulator.activation.samples_file import INPUTS, OUTPUTS
from emulator.activation.settings import ParcelSettings
from emulator.activation.states import StateSampler

ARRAYS = INPUTS + OUTPUTS + ("sample_index", "status")


@dataclasses.dataclass(frozen=True)
class Block:
    """Samples start ... start + count - 1."""

    start: int
    count: int


def split(num_samples, block_size):
    """Return the blocks that make up `num_samples` samples, in order."""
    return [Block(start, min(block_size, num_samples - start)) for start in range(0, num_samples, block_size)]


def part_path(folder, block):
    """Path of the file that keeps a block."""
    return pathlib.Path(folder) / f"block-{block.start:012d}.npz"


class BlockMaker:
    """Callable that makes one block and writes it; sent to worker processes, so it holds plain values only.

    Parameters
    ----------
    folder : path
        Where the blocks go.
    seed : int
    sampler : str
    settings : ParcelSettings
    """

    def __init__(self, folder, seed, sampler, settings: ParcelSettings):
        self.folder = folder
        self.seed = seed
        self.sampler = sampler
        self.settings = settings
        self._states = None

    def __call__(self, block):
        """Make the block's file, atomically; return (retried, unfinished) counts."""
        if self._states is None:
            self._states = StateSampler(self.seed, self.sampler)
        arrays, num_retried = simulate_block(self._states.block(block.start, block.count), self.settings)
        arrays["sample_index"] = np.arange(block.start, block.start + block.count)
        content = io.BytesIO()
        np.savez(content, **arrays, num_retried=num_retried)
        path = part_path(self.folder, block)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content.getbuffer())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return num_retried, int((arrays["status"] != 0).sum())


def simulate_block(states, settings):
    """Simulate states; retry those that did not finish with tighter settings, twice.

    Parameters
    ----------
    states : States
    settings : ParcelSettings

    Returns
    -------
    arrays : dict
        Inputs as given; `fn` float32, `smax` float64, `tair_smax` float32, `status` int8.
    num_retried : int
        Parcels that needed a retry, whether it helped or not.
    """
    result, num_retried = simulate_with_retries(states, settings)
    outputs = {name: getattr(result, name) for name in (*OUTPUTS, "status")}
    arrays = dict(zip(INPUTS, states.arrays(), strict=True))
    arrays.update(outputs, fn=outputs["fn"].astype(np.float32), tair_smax=outputs["tair_smax"].astype(np.float32))
    return arrays, num_retried


def read_part(folder, block, names=ARRAYS):
    """Return arrays of a kept block and its count of retries, or None if it is absent or unreadable.

    Blocks are renamed into place when complete; an unreadable one is the mark of a crash of the machine, and is
    to be made again.
    """
    try:
        with np.load(part_path(folder, block)) as file:
            if file["status"].shape != (block.count,):
                return None
            return {name: file[name] for name in names}, int(file["num_retried"])
    except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
