"""How an `Overview` is shown: as lines of text, and as a picture for a terminal of any size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.overview import MemberView, Overview, StepView, Worker
from hpo.tally import Best

_BAR_WIDTH = 40
_LEAST_ROWS = 3


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    s = round(seconds)
    if s < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600:02d} h"


def short(seconds: float) -> str:
    """`42 s`, `3:05`, `2:07:11`: for a column."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60}:{s % 60:02d}" if s < 3600 else f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}"


def num(count: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def pace(rate: float) -> str:
    return f"{rate:,.1f} trials/s" if rate >= 1.0 else f"{duration(1.0 / rate)} per trial"


def step_text(s: StepView, *, running: bool = True) -> str:
    """`312/10000 trials, 16 running, 3 failed, best MSE 3.2e-04 (trial 12), 8.1 trials/s, 12 min 00 s left`."""
    parts = [f"{s.done}/{'?' if s.total is None else s.total} trials", *counts(s, running=running)]
    return ", ".join(parts)


def title(s: StepView) -> str:
    """`step 1`, `rung 2 (p = 0.02)`."""
    return s.name if s.subset is None else f"{s.name} (p = {s.subset:g})"


def counts(s: StepView, *, running: bool = True) -> list[str]:
    parts = []
    if running and not s.finished:
        parts.append(f"{s.running:,} running")
    if s.pruned:
        parts.append(f"{s.pruned:,} pruned")
    parts.append(f"{s.failed:,} failed")
    if s.left_on_rungs:
        parts.append(f"{s.left_on_rungs:,} ended on rungs")
    if s.going_on is not None:
        parts.append(f"{s.going_on:,} go on")
    if s.best:
        parts.append(f"best MSE {s.best[0].mse:.3e} (trial {s.best[0].trial})")
    if s.rate and not s.finished:
        parts.append(pace(s.rate))
    if s.seconds_left is not None and not s.finished:
        parts.append(f"{duration(s.seconds_left)} left")
    if s.finished and s.begun is not None:
        parts.append(f"took {duration(s.ended - s.begun)}")
    return parts


def light_text(b: Best) -> str:
    """`1,204 parameters`; where latency is minimised, its model's time as well."""
    time = "" if b.latency_ns is None else f", {b.latency_ns:.4g} ns modelled"
    return f"{num(b.num_parameters, 'parameter')}{time}"


def front_text(front: Sequence[Best]) -> str:
    """The ends of a Pareto front of error and parameters or modelled latency, lightest first."""
    of = "parameters" if front[0].latency_ns is None else "modelled latency"
    ends = [f"MSE {b.mse:.3e} with {light_text(b)} (trial {b.trial})" for b in (front[0], front[-1])]
    said = ends[0] if len(front) == 1 else f"from {ends[0]} to {ends[1]}"
    return f"Pareto front of error and {of}: {num(len(front), 'trial')}, {said}"


def members_text(o: Overview) -> str:
    """`2 members, 16 workers (15 busy)`."""
    alive = o.alive
    workers, busy = sum(len(m.workers) for m in alive), sum(m.busy for m in alive)
    text = f"{num(len(alive), 'member')}, {num(workers, 'worker')} ({busy} busy)"
    memory = max((w.memory_bytes or 0 for m in alive for w in m.workers), default=0)
    return text + (f", up to {gigabytes(memory)} of GPU memory" if memory else "")


def gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


# -- a terminal ------------------------------------------------------------------------------------------------------


def screen(o: Overview, width: int, height: int) -> RenderableType:
    """The bars of the steps, and below one line per worker, or per member where lines are few; at most `height`."""
    head = bars(o, width)
    room = height - len(head) - 1
    rows = _rows(o, room) if room >= _LEAST_ROWS and o.alive else []
    return Stack(*head, *([Text(), _table(rows)] if rows else []))


def bars(o: Overview, width: int) -> list[RenderableType]:
    """Two lines for every step that has begun, and for the rung under way."""
    lines: list[RenderableType] = []
    for s in o.parts:
        if s.total is None or (s.step == 2 and not o.steps[0].finished) or (s.rung and s.finished):
            continue
        percent = f"{100 * s.done // max(s.total, 1)} %"
        tail = f" {s.done:,}/{s.total:,}  {percent}"
        label = f"{s.name} "
        table = Table.grid()
        length = max(5, min(_BAR_WIDTH, width - cell_len(label) - cell_len(tail)))
        table.add_row(Text(label, "bold"), ProgressBar(total=max(s.total, 1), completed=s.done, width=length), tail)
        lines += [table, *_wrapped(counts(s), width - 7)]
    waiting = [m for m in o.alive if m.state in ("starting", "preparing")]
    state = o.stage
    if state == "waiting" and waiting:
        lines.append(Text(f"{waiting[0].state} ..."))
    if o.alive:
        lines.append(_fitted(_people(o), width))
    return lines


def _wrapped(parts: Sequence[str], width: int) -> list[Text]:
    """Parts in lines of at most `width`, indented below the bar."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and cell_len(longer) > width - 1:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = longer
    return [Text("       " + line, style="default", no_wrap=True, overflow="ellipsis") for line in lines]


def _people(o: Overview) -> str:
    forming = Counter(g.state for g in o.groups)
    groups = [f"{num(n, 'group')} {state}" for state, n in sorted(forming.items())]
    leader = [f"leader {label(o.leader, o.alive)}"] if o.leader and len(o.alive) > 1 else []
    return ", ".join([members_text(o), *groups, *leader])


def _fitted(text: str, width: int) -> Text:
    return Text(text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…", style="dim", no_wrap=True)


def label(m: MemberView, others: Sequence[MemberView]) -> str:
    """What a member is called in a line: its host if no other runs there, else its name without the random end."""
    if sum(o.host == m.host for o in others) == 1:
        return m.host
    stem = m.name.rpartition("-")[0] or m.name
    return stem if sum(o.name.startswith(f"{stem}-") for o in others) == 1 else m.name


def _rows(o: Overview, room: int) -> list[dict[str, str]]:
    """One row a worker if they fit, else one a member, the last of which stands for those that do not fit."""
    alive = o.alive
    room -= 1  # the heading
    if sum(len(m.workers) for m in alive) <= room:
        return [_worker_row(label(m, alive), len(alive) > 1, w) for m in alive for w in m.workers]
    if len(alive) <= room:
        return [_member_row(label(m, alive), [m]) for m in alive]
    shown = alive[: room - 1]
    return [
        *(_member_row(label(m, alive), [m]) for m in shown),
        _member_row(f"{len(alive) - len(shown)} more members", alive[room - 1 :]),
    ]


def _worker_row(member: str, several: bool, w: Worker) -> dict[str, str]:
    row = {"worker": f"{member}/{w.slot}" if several else str(w.slot), "device": w.device}
    if not w.trials:
        return row | {"trial": w.state}
    first = w.trials[0]
    best = [t.best_mse for t in w.trials if t.best_mse is not None and math.isfinite(t.best_mse)]
    row |= {"step": str(first.step) if first.rung is None else f"rung {first.rung}", "trial": str(first.trial)}
    if len(w.trials) > 1:
        row["trial"] += f" +{len(w.trials) - 1}"
    least = min(w.trials, key=lambda t: t.epoch / max(t.max_epochs, 1))
    row["epoch"] = f"{least.epoch}/{least.max_epochs}" if least.max_epochs else "-"  # not known yet
    row["best MSE"] = f"{min(best):.3e}" if best else "-"
    row["for"] = short(max(t.seconds for t in w.trials))
    return row | ({"memory": gigabytes(w.memory_bytes)} if w.memory_bytes else {})


def _member_row(name: str, members: Sequence[MemberView]) -> dict[str, str]:
    workers = [w for m in members for w in m.workers]
    trials = [t for w in workers for t in w.trials]
    gpus = len({(m.name, w.device) for m in members for w in m.workers if w.device.startswith("cuda")})
    best = [t.best_mse for t in trials if t.best_mse is not None and math.isfinite(t.best_mse)]
    memory = max((w.memory_bytes or 0 for w in workers), default=0)
    return {
        "member": name,
        "devices": num(gpus, "GPU") if gpus else "cpu",
        "busy": f"{sum(bool(w.trials) for w in workers)}/{len(workers)}",
        "trials": str(len(trials)),
        "best MSE": f"{min(best):.3e}" if best else "-",
        "done": f"{sum(m.done for m in members):,}",
        "failed": f"{sum(m.failed for m in members):,}",
        **({"memory": gigabytes(memory)} if memory else {}),
    }


_COLUMNS = (
    *("worker", "member", "device", "devices", "busy", "step", "trial", "trials", "epoch", "best MSE", "done"),
    *("failed", "for", "memory"),
)
_LEFT = _COLUMNS[:4]


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    headings = [h for h in _COLUMNS if any(h in row for row in rows)]
    for heading in headings:
        side = "left" if heading in _LEFT else "right"
        table.add_column(heading, justify=side, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(row.get(h, "") for h in headings))
    return table
