"""Several trainings under way at once on one device, each in a lane of its own; as one ends, another enters.

A training does not see the others: its lane, memory and random numbers are its own, so that its result does not
depend on who flies beside it. On a CPU there is one lane (a process has one thread, and there is a process for every
core); a GPU is filled by several.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

from hpo.errors import SearchError
from hpo.lanes import CudaLane, HostLane, lane_on
from hpo.train import Progress

# Trials at once in one process on a GPU. A small network fills a few per cent of one; more trials in a process find
# its one Python thread busy. A guess until it is measured: no GPU was at hand.
CUDA_CAPACITY = 4
# Between two looks at a device on which all trials are at work.
_POLL_SECONDS = 1e-4


def is_out_of_memory(error: Exception | None) -> bool:
    """Whether that is why; PyTorch's allocator on a CPU raises a RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def check_precision(
    precision: str, engine: str, device: torch.device, *, ranks: int | str = 1, streamed: bool = False
) -> None:
    """Refuse what a device, an engine or a group of `ranks` cannot do; `streamed`: some data are.

    Raises
    ------
    SearchError
    """
    if precision != "float32" and engine != "fleet":
        raise SearchError(f"precision {precision!r} needs engine = 'fleet'; [search] engine is {engine!r}")
    if precision == "bf16" and ranks not in (1, "auto"):
        raise SearchError(
            f"precision 'bf16' is for networks trained by one worker each, not by {ranks}; set 'float32', or leave "
            "--gpus-per-trial out"
        )
    if precision == "bf16" and streamed:
        raise SearchError(
            "precision 'bf16' needs the samples in the device's memory, and there they do not fit: set 'float32'"
        )
    if precision == "tf32" and device.type != "cuda":
        raise SearchError(f"precision 'tf32' needs a CUDA device; the device is {device}. Set it to 'float32'")
    if device.type == "cuda" and precision != "float32":
        major = torch.cuda.get_device_properties(device).major
        if major < 8:
            name = torch.cuda.get_device_name(device)
            raise SearchError(
                f"precision {precision!r} needs compute capability 8.0; {name} has {major}. Set 'float32'"
            )


def use_precision(precision: str, device: torch.device) -> None:
    """Settings of this process that go with a precision."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


@dataclass
class Flight:
    """A training under way.

    Attributes
    ----------
    key : hashable
        What its owner knows it by.
    training : Progress
    seconds : float
        Of this process spent on it; while n trainings are under way each takes an n-th.
    since : float
        Time of its start (Unix).
    """

    key: Hashable
    training: Progress
    seconds: float
    since: float
    lane: HostLane | CudaLane
    make: Callable


@dataclass(frozen=True)
class Landing:
    """The end of a flight: done if `error` is None. `flight` is None if it never began."""

    key: Hashable
    flight: Flight | None
    error: Exception | None


class Fleet:
    """Trainings under way on one device.

    Parameters
    ----------
    device : torch.device
    capacity : int, optional
        How many at once; None: as fits the device.
    """

    def __init__(self, device: torch.device, capacity: int | None = None):
        self.device = device
        self.capacity = capacity or (CUDA_CAPACITY if device.type == "cuda" else 1)
        self.flights: list[Flight] = []
        self._lanes = [lane_on(device) for _ in range(self.capacity)]
        self._alone: deque[tuple] = deque()  # for which there was no memory beside others
        self._later: deque[tuple] = deque()  # which came while one of those waited or flew
        self._landed: list[Landing] = []

    def start(self, key: Hashable, make: Callable[[HostLane | CudaLane], tuple[Progress, float]]) -> None:
        """Take a training on.

        Parameters
        ----------
        key : hashable
        make : function
            Builds the training for a lane, anew if need be; gives it with the seconds spent before.
        """
        if self._alone:
            self._later.append((key, make))
        else:
            self._begin(key, make)

    def advance(self, seconds: float, after_piece: Callable[[Flight], None] = lambda flight: None) -> list[Landing]:
        """Work for about so long, less if a training ends; tells what has ended.

        `after_piece` is called when a training has come further and can be written down.
        """
        until = time.monotonic() + seconds
        while not self._landed and time.monotonic() < until:
            if not self.flights and not self._begin_waiting():
                break
            start, flying = time.perf_counter(), list(self.flights)
            ready = [f for f in flying if not f.training.waiting]
            for flight in ready:
                self._advance(flight, after_piece)
            if flying and not ready:
                time.sleep(_POLL_SECONDS)
            for flight in flying:
                flight.seconds += (time.perf_counter() - start) / len(flying)
        landed, self._landed = self._landed, []
        return landed

    def leave(self, flight: Flight) -> None:
        """Let one go, ended or not."""
        self.flights.remove(flight)
        flight.training.close()
        flight.lane.forget()
        self._lanes.append(flight.lane)

    def forget(self) -> None:
        """Let all go."""
        for flight in list(self.flights):
            self.leave(flight)
        self._alone.clear()
        self._later.clear()

    def _begin(self, key, make) -> None:
        assert self._lanes, "more trainings than the capacity of the fleet"
        lane = self._lanes.pop()
        try:
            training, seconds = make(lane)
        except Exception as error:
            lane.forget()
            self._lanes.append(lane)
            if is_out_of_memory(error) and self.flights:
                self._alone.append((key, make))
            else:
                self._landed.append(Landing(key, None, error))
            return
        flight = Flight(key=key, training=training, seconds=seconds, since=time.time(), lane=lane, make=make)
        self.flights.append(flight)

    def _begin_waiting(self) -> bool:
        """Begin the next training that needs the device alone, else all that waited for those; false if none did."""
        if self._alone:
            self._begin(*self._alone.popleft())
            return True
        waited, self._later = self._later, deque()
        for key, make in waited:
            self.start(key, make)
        return bool(waited)

    def _advance(self, flight: Flight, after_piece) -> None:
        error = None
        try:
            if not flight.training.done:  # it may have been taken up at its end
                flight.training.advance()
            if not flight.training.done:
                after_piece(flight)
            if not flight.training.done:
                return
        except Exception as reason:
            error = reason
            if is_out_of_memory(error) and len(self.flights) > 1:
                self.leave(flight)
                self._alone.append((flight.key, flight.make))
                return
        self._landed.append(Landing(flight.key, flight, error))
        self.leave(flight)
