"""`python -m hpo.status`: where a search stands, from its files alone; it may run anywhere, or nowhere any more."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from hpo.lines import folded
from hpo.observer import Observer
from hpo.overview import MemberView, Overview
from hpo.view import counts, duration, front_text, light_text, members_text, num, screen, title

_MOST_GONE = 5
_MOST_MEMBERS = 20


def report(o: Overview) -> list[str]:
    """The status as lines of text."""
    lines = [f"study {o.folder}: {_stage(o)}"]
    if o.members:
        lines += _member_lines(o)
    for before, s in zip((None, *o.parts), o.parts, strict=False):
        if s.total is None:
            lines.append(f"{title(s)}: begins when {before.name} is finished{f', {s.done} done' if s.done else ''}")
            continue
        share = f" ({100 * s.done / s.total:.1f} %)" if s.total else ""
        lines.append(f"{title(s)}: {s.done:,}/{s.total:,} trials{share}, {', '.join(counts(s))}")
        lines += [f"  failed {n}x: {_one_line(error)}" for error, n in s.errors]
        if s.rung and s.finished:
            continue
        for rank, b in enumerate(s.best, start=1):
            hidden = "-".join(map(str, b.hidden))
            hidden = hidden if len(hidden) <= 40 else f"{hidden[:37]}..."
            lines.append(f"  {rank}. trial {b.trial}: MSE {b.mse:.3e}, {light_text(b)}, {hidden}")
        lines += [f"  {front_text(s.front)}"] if s.front else []
    for g in o.groups:
        where = ", ".join(dict.fromkeys(g.members)) or "no seats yet"
        lines.append(f"group of {g.size} on trial {g.trial} (attempt {g.attempt}): {g.state}, {where}")
    lines += [f"problem: {p}" for p in o.problems]
    lines += _next(o)
    return lines


def _stage(o: Overview) -> str:
    stages = {
        "finished": "finished",
        "running": "running",
        "waiting": "being prepared",
        "stopped": "not running",
        "empty": "no search has begun here",
    }
    return stages[o.stage]


def _member_lines(o: Overview) -> list[str]:
    lines = []
    if o.alive:
        lines.append(members_text(o))
        for m in o.alive[:_MOST_MEMBERS]:
            lines.append(f"  {m.name}: {_member(m)}")
        if len(o.alive) > _MOST_MEMBERS:
            lines.append(f"  and {len(o.alive) - _MOST_MEMBERS} more (--json lists them all)")
    gone = Counter(m.state for m in o.members if not m.alive)
    if gone:
        lines.append(", ".join(f"{num(n, 'member')} {'have' if n > 1 else 'has'} {_went(s)}" for s, n in gone.items()))
    dead = [m for m in o.members if m.state == "dead" or (m.state == "left" and m.error)]
    for m in sorted(dead, key=lambda m: m.age_s)[:_MOST_GONE]:
        lines.append(f"  {m.name}: {m.error or f'last sign of life {duration(m.age_s)} ago'}")
    return lines


def _went(state: str) -> str:
    return "left" if state == "left" else "died"


def _member(m: MemberView) -> str:
    kinds = Counter(w.device for w in m.workers)
    devices = ", ".join(f"{n} on {d}" for d, n in kinds.items())
    parts = [m.state, f"{m.busy}/{len(m.workers)} workers busy" + (f" ({devices})" if devices else "")]
    parts += [f"{m.done:,} done", *([f"{m.failed:,} failed"] if m.failed else [])]
    parts += ["leader"] if m.leader else []
    return ", ".join([*parts, f"wrote {duration(m.age_s)} ago"])


def _one_line(text: str, most: int = 160) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _next(o: Overview) -> list[str]:
    if o.stage == "finished":
        return [f"next: python -m hpo.report {o.folder}"]
    if o.stage == "stopped":
        return [f"go on with: python -m hpo.search --out {o.folder}"]
    return []


def as_json(o: Overview) -> dict:
    """The same as plain data, all members and workers included."""
    plain = asdict(o) | {"schema": 1, "folder": str(o.folder), "stage": o.stage}
    plain["members"] = [asdict(m) | {"alive": m.alive} for m in o.members]
    for kind in ("rungs", "steps"):
        plain[kind] = [asdict(s) | {"finished": s.finished} for s in getattr(o, kind)]
    return plain


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hpo.status",
        description="Where a search stands: members, workers, both steps, failures, the best so far. Reads files "
        "only, so that it works on a login node, during a search and after.",
        epilog="example: python -m hpo.status study --watch 5",
    )
    parser.add_argument("study", type=Path, nargs="?", default=Path("study"), help="study folder (default: study)")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="show it again every so many seconds")
    parser.add_argument("--json", action="store_true", help="as JSON, one object a line")
    args = parser.parse_args(argv)
    if args.watch is not None and not args.watch > 0.0:
        parser.error(f"--watch is {args.watch:g}; expected seconds above 0")
    console = Console(width=None if sys.stdout.isatty() else 200)
    observer = Observer(args.study, patience_s=0.0)
    overview = observer.look()
    try:
        if args.watch is None:
            _print(overview, args.json, console)
        elif console.is_terminal and not args.json:
            _draw(observer, args.watch, console)
        else:
            while True:
                _print(overview, args.json, console)
                time.sleep(args.watch)
                overview = observer.look()
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # the reader has seen enough: `| head`
        sys.stdout = None
        return 0
    return 0 if overview.begun or overview.members else 2


def _print(o: Overview, plain: bool, console: Console) -> None:
    lines = [json.dumps(as_json(o))] if plain else report(o)
    if console.is_terminal and not plain:
        next_commands = _next(o)  # to be copied: left whole
        lines = [line if line in next_commands else folded(line, console.width) for line in lines]
    print("\n".join(lines), flush=True)


def _draw(observer: Observer, every_s: float, console: Console) -> None:
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            overview, size = observer.look(), console.size
            now = datetime.now().strftime("%H:%M:%S")
            head = f"study {overview.folder}: {_stage(overview)}, {now}; Ctrl-C ends"
            live.update(Group(head, screen(overview, size.width, size.height - 1)), refresh=True)
            time.sleep(every_s)


if __name__ == "__main__":
    sys.exit(main())
