"""Where a training's work goes: the host itself, or a stream of a CUDA device.

Both have the same methods, so that one training and one scheduler serve both, and the tests of one the other. The
work of a CUDA lane is only put into its stream; a few numbers an epoch come back through pinned memory, and events
say when. Nothing waits for the device but `wait`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Hashable

import torch

# Pieces of work in a stream at a time: the next one is there when one ends, and signals are still heard.
_PIECES_AHEAD = 2


class HostLane:
    """Work is done when it is given."""

    graphs = False

    def __init__(self, device: torch.device):
        self.device = device

    def use(self):
        """Context in which tensors are made and work is given."""
        return contextlib.nullcontext()

    def mark(self) -> None:
        """A piece of work ends here."""

    def busy(self) -> bool:
        """Whether no more work should be given, or what was fetched is not there yet."""
        return False

    def wait(self) -> None:
        """For all work given."""

    def put(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the host, on the device. The next call waits for no copy: one epoch lies between."""
        return values

    def fetch(self, values: torch.Tensor) -> None:
        """Bring values to the host; `fetched` gives them when the lane is no longer busy."""
        self._fetched = values.tolist()

    def fetched(self) -> list[float]:
        return self._fetched

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do what `key` stands for: always the same work on the same memory."""
        work()

    def forget(self) -> None:
        """The training that used the lane has ended."""


class CudaLane:
    """A stream of a CUDA device, and the graphs of the training that uses it.

    Work with a key is done as it stands the first time, which also makes what libraries need in that stream; from the
    second time on it is one launch of a graph. If the device refuses a graph, work goes on without.
    """

    graphs = True

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._ahead: deque[torch.cuda.Event] = deque()
        self._arrival: torch.cuda.Event | None = None
        self._fetched: torch.Tensor | None = None
        self._pinned: dict[torch.dtype, torch.Tensor] = {}
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}

    @contextlib.contextmanager
    def use(self):
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield

    def mark(self) -> None:
        event = torch.cuda.Event()
        event.record(self._stream)
        self._ahead.append(event)

    def busy(self) -> bool:
        if self._arrival is not None:
            return not self._arrival.query()
        while self._ahead and self._ahead[0].query():
            self._ahead.popleft()
        return len(self._ahead) >= _PIECES_AHEAD

    def wait(self) -> None:
        self._stream.synchronize()

    def put(self, values: torch.Tensor) -> torch.Tensor:
        # the last copy out of this memory belongs to an epoch that was waited for
        pinned = self._pinned.get(values.dtype)
        if pinned is None or len(pinned) < len(values):
            pinned = self._pinned[values.dtype] = torch.empty(len(values), dtype=values.dtype, pin_memory=True)
        pinned = pinned[: len(values)].copy_(values)
        return pinned.to(self.device, non_blocking=True)

    def fetch(self, values: torch.Tensor) -> None:
        if self._fetched is None:
            self._fetched = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._fetched.copy_(values, non_blocking=True)
        self._arrival = torch.cuda.Event()
        self._arrival.record(self._stream)

    def fetched(self) -> list[float]:
        self._arrival = None
        self._ahead.clear()
        return self._fetched.tolist()

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        if key not in self._graphs:
            self._graphs[key] = None
            work()
            return
        if self._graphs[key] is None and self.graphs:
            self._graphs[key] = self._capture(work)
        graph = self._graphs[key]
        if graph is None:
            work()
        else:
            graph.replay()

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        # not torch.cuda.graph(): it waits for the whole device, where other trials are at work
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.graphs = False
            warnings.warn(f"no CUDA graphs on {self.device}, every kernel is launched by itself: {error}")
            return None
        return graph

    def forget(self) -> None:
        self._stream.synchronize()
        self._graphs.clear()
        self._ahead.clear()
        self._arrival = None


def lane_on(device: torch.device) -> HostLane | CudaLane:
    return CudaLane(device) if device.type == "cuda" else HostLane(device)
