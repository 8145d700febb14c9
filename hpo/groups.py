"""Groups of worker processes that train one network together, formed through files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What a worker needs to take its place in a group: `rank` of `size`; `folder` is that of the `attempt`."""

    rank: int
    size: int
    attempt: str
    folder: Path
