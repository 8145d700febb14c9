"""Samples that fit into no memory: read from the files of the cache in chunks, shuffled within and across chunks.

The order of an epoch comes from the trial's seed alone: all chunks (a few thousand rows each) are shuffled, taken
together by the window, and the rows of a window are shuffled. Batches are cut from that order, and every rank takes
its rows of every batch, so that neither the number of ranks nor memory that a rank has for other things changes what
a training sees. A thread reads the next window while the network is trained on this one.

A rank holds two windows' worth of its own rows, on the host and on the device, and one chunk.

Axis legend: N samples, B batch, I inputs, O outputs, C inputs and outputs.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emulator.heads import DIRECT
from hpo.train import DirectOutputs

# Long enough to be read at a good rate (some 10^5 bytes), short enough that a window mixes hundreds of them.
CHUNK_ROWS = 2048
# Rows of a window, over all ranks: 100 MB of 25 float32 columns, and 512 chunks: of a file that is sorted by an input,
# a window then sees the whole range of that input without gaps that matter.
WINDOW_ROWS = 1 << 20
# `data.stream = "auto"` streams what would take more than this share of the memory at hand.
RESIDENT_SHARE = 0.5


class ArrayFile:
    """Rows of a two-dimensional array in a .npy file, read and not mapped: memory holds what is asked for."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            self.shape, fortran, self.dtype = read_header[version](file)
            self._offset = file.tell()
        assert len(self.shape) == 2 and not fortran
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close())
        self._row_bytes = self.shape[1] * self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`."""
        rows = np.empty((stop - start, self.shape[1]), self.dtype)
        view, at = memoryview(rows).cast("B"), self._offset + start * self._row_bytes
        while view:
            count = os.preadv(self._file.fileno(), [view], at)
            if count == 0:
                raise OSError(f"{self.path} is shorter than its header says; remove the cache folder it lies in")
            view, at = view[count:], at + count
        return rows

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class StreamedData:
    """Normalised samples in files, for training on one device; takes the place of `hpo.train.TrainingData`.

    Attributes
    ----------
    files : mapping of str to Path
        x_train (N, I), y_train (N, O), x_validation, y_validation.
    device : torch.device
    num_train, num_validation, num_outputs : int
    dtype : torch.dtype
    chunk_rows, window_rows : int
    direct : DirectOutputs or None
        As in `TrainingData`.
    """

    files: dict[str, Path]
    device: torch.device
    num_train: int
    num_validation: int
    num_outputs: int
    dtype: torch.dtype
    chunk_rows: int = CHUNK_ROWS
    window_rows: int = WINDOW_ROWS
    direct: DirectOutputs | None = None

    @property
    def num_direct(self) -> int:
        """Outputs that the validation MSE is a mean over."""
        return self.num_outputs if self.direct is None else self.direct.num_outputs

    def reader(self, rank: int, size: int, batch_size: int) -> StreamReader:
        """What gives a rank its rows."""
        return StreamReader(self, rank, size, batch_size)


def open_data(prepared, variant: int, device: torch.device, head: str = DIRECT, direct=None, **sizes) -> StreamedData:
    """Streamed samples of a step.

    Parameters
    ----------
    prepared : hpo.prepare.Prepared
    variant : int
        Which of the input transforms.
    device : torch.device
    head : str
        Output head of the networks; `direct` leads from what they give to the outputs.
    sizes : int, optional
        chunk_rows, window_rows
    """
    files = prepared.files(variant, head)
    y = ArrayFile(files["y_train"])
    y.close()
    return StreamedData(
        files=files,
        device=device,
        num_train=prepared.num_train,
        num_validation=prepared.num_validation,
        num_outputs=y.shape[1],
        dtype=getattr(torch, y.dtype.name),
        direct=direct,
        **sizes,
    )


def order_of_epoch(num: int, seed: int, chunk_rows: int, window_rows: int) -> Iterator[np.ndarray]:
    """Rows of an epoch in their order, window by window: every row once."""
    generator = np.random.Generator(np.random.Philox(seed))
    chunks = generator.permutation(-(-num // chunk_rows))
    per_window = max(1, window_rows // chunk_rows)
    for k in range(0, len(chunks), per_window):
        first = chunks[k : k + per_window, None] * chunk_rows
        rows = (first + np.arange(chunk_rows)).ravel()
        yield generator.permutation(rows[rows < num])


class StreamReader:
    """One rank's rows of every batch and of the validation part.

    Parameters
    ----------
    data : StreamedData
    rank, size : int
    batch_size : int
    """

    def __init__(self, data: StreamedData, rank: int, size: int, batch_size: int):
        self._data, self._rank, self._size, self._batch_size = data, rank, size, batch_size
        self._files = {name: ArrayFile(path) for name, path in data.files.items()}
        self._windows: Iterator | None = None
        self._left: tuple[torch.Tensor, torch.Tensor] | None = None  # of the window that is being used
        self._copying: torch.cuda.Stream | None = None

    def begin(self, order: torch.Generator, start: int) -> None:
        """Begin an epoch at row `start` of its order, the start of a batch; `order` gives the seed."""
        self._end()
        seed = int(torch.randint(1 << 62, (), generator=order))
        self._windows = _ahead(self._read_windows(seed, start), self._load)

    def batch(self, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Our rows of the next `num`."""
        low, high = (num * (self._rank + k) // self._size for k in (0, 1))
        return self._take(high - low)

    def validation(self, start: int, stop: int, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Our rows of those from `start` to `stop` of the validation part, up to `rows` at a time."""
        self._end()
        low, high = (start + (stop - start) * (self._rank + k) // self._size for k in (0, 1))
        step = min(rows, self._data.chunk_rows)
        blocks = (
            tuple(self._files[f"{name}_validation"].read(k, min(k + step, high)) for name in "xy")
            for k in range(low, high, step)
        )
        yield from _ahead(blocks, self._load)

    def close(self) -> None:
        self._end()
        for file in self._files.values():
            file.close()

    def _end(self) -> None:
        if self._windows is not None:
            self._windows.close()
            self._windows = None
        self._left = None

    def _take(self, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next `num` of our rows."""
        parts = []
        while num or not parts:
            if self._left is None:
                self._left = next(self._windows, None)
                if self._left is None:  # a last batch that has no rows for us
                    assert num == 0
                    return self._empty()
            x_NI, y_NO = self._left
            count = min(num, len(x_NI))
            parts.append((x_NI[:count], y_NO[:count]))
            self._left = (x_NI[count:], y_NO[count:]) if count < len(x_NI) else None
            num -= count
        if len(parts) == 1:
            return parts[0]
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))

    def _empty(self) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(
            torch.empty(0, self._files[f"{name}_train"].shape[1], dtype=self._data.dtype, device=self._data.device)
            for name in "xy"
        )

    def _read_windows(self, seed: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Our rows of every window from `start` on, in the order of the epoch."""
        data, at = self._data, 0
        for rows in order_of_epoch(data.num_train, seed, data.chunk_rows, data.window_rows):
            position = np.arange(at, at + len(rows))
            at += len(rows)
            if at > start:
                ours = rows[self._is_ours(position) & (position >= start)]
                yield self._gather(ours)

    def _is_ours(self, position: np.ndarray) -> np.ndarray:
        """Whether our share of its batch holds a position of the epoch's order."""
        first = position // self._batch_size * self._batch_size
        num = np.minimum(self._batch_size, self._data.num_train - first)
        place = position - first
        return (place >= num * self._rank // self._size) & (place < num * (self._rank + 1) // self._size)

    def _gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows in any order, each chunk that holds some read once."""
        chunk_rows, num_train = self._data.chunk_rows, self._data.num_train
        by_row = np.argsort(rows)
        rows = rows[by_row]
        chunks = rows // chunk_rows
        files = [self._files[f"{name}_train"] for name in "xy"]
        out = [np.empty((len(rows), f.shape[1]), f.dtype) for f in files]
        for low, high in _runs(chunks):
            first = int(chunks[low]) * chunk_rows
            for file, wanted in zip(files, out, strict=True):
                chunk = file.read(first, min(first + chunk_rows, num_train))
                wanted[by_row[low:high]] = chunk[rows[low:high] - first]
        return tuple(out)

    def _load(self, arrays: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Arrays on the device; called by the thread that reads."""
        tensors, device = tuple(torch.from_numpy(a) for a in arrays), self._data.device
        if device.type != "cuda":
            return tensors
        if self._copying is None:
            self._copying = torch.cuda.Stream(device)
        with torch.cuda.stream(self._copying):
            tensors = tuple(t.pin_memory().to(device, non_blocking=True) for t in tensors)
        self._copying.synchronize()
        for t in tensors:  # not to be given to the next copy before the last step that uses it is through
            t.record_stream(torch.cuda.default_stream(device))
        return tensors


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of equal values."""
    ends = np.flatnonzero(np.diff(values)) + 1
    yield from zip([0, *ends.tolist()], [*ends.tolist(), len(values)], strict=True) if len(values) else ()


def _ahead(items: Iterator, load) -> Iterator:
    """Items passed through `load`, the next one made by a thread while the last one is used."""
    ready: queue.Queue = queue.Queue(maxsize=1)
    wanted = threading.Semaphore(1)  # the thread holds one item at most, and waits until the last was taken
    ended = threading.Event()

    def work() -> None:
        try:
            while True:
                wanted.acquire()
                if ended.is_set():
                    return
                item = next(items, None)
                ready.put((None if item is None else load(item), None))
                if item is None:
                    return
        except BaseException as error:
            ready.put((None, error))

    thread = threading.Thread(target=work, name="reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            wanted.release()
            yield item
            del item
    finally:
        ended.set()
        wanted.release()
        thread.join()


def resolve(wanted: bool | str, num_bytes: int, device: torch.device, copies: int = 1) -> bool:
    """Whether samples are streamed.

    Parameters
    ----------
    wanted : bool or 'auto'
        `data.stream` of the config.
    num_bytes : int
        Of one step's samples, all variants together.
    device : torch.device
    copies : int
        Processes that keep them on one GPU; on a CPU all share one copy.
    """
    if wanted != "auto":
        return wanted
    return num_bytes * (copies if device.type == "cuda" else 1) > RESIDENT_SHARE * memory_bytes(device)


def resolve_steps(wanted: bool | str, prepared: Mapping, devices: Sequence[str]) -> dict[str, bool]:
    """Whether each step's samples are streamed, for workers on these devices: {"1": ..., "2": ...}.

    In step 1 every worker of a GPU keeps the samples, in step 2 one.
    """
    device = torch.device(devices[0])
    copies = {1: max(map(list(devices).count, devices)), 2: 1}
    return {
        str(step): resolve(wanted, p.num_bytes * len(p.inputs), device, copies.get(step, copies[1]))
        for step, p in prepared.items()
    }


def memory_bytes(device: torch.device) -> int:
    """Memory that data on a device can count on: the device's own, or this host's (and its control group's)."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return total if limit == "max" else min(total, int(limit))
