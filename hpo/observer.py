"""Reads what a study folder tells about its search, again and again, and says how long it will take.

Everything comes from files, so that whoever can read the folder sees the same: the leader on its terminal, a member
that joined, `hpo.status` on a login node. Nothing here imports PyTorch or Optuna. Records are read as they come; a
look at a study of 10,000 trials costs a fraction of a second the first time and milliseconds afterwards.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from hpo.config import Config
from hpo.errors import SearchError
from hpo.latency_model import KEY
from hpo.members import LEASE_SECONDS, Roster, read_members
from hpo.overview import Group, MemberView, Overview, Running, StepView, Worker
from hpo.space import Space
from hpo.tail import FolderTail
from hpo.tally import Done, Tally

# The rate of work is that of the last so many seconds, or trials where they are many (`hpo.tally`).
_WINDOW_S = 600.0
# The arithmetic still to do is that of so many of the missing trials, scaled up: off by about a tenth.
_MOST_DRAWS = 400
# What a step costs beyond its arithmetic, as `hpo.trial` has it.
_OVERHEAD_FLOP = 3e6

Part = int | str  # of a search: "rung1", "rung2", ..., 1, 2


class Observer:
    """Looks at a study folder again and again.

    Parameters
    ----------
    folder : path
        May not exist.
    me : str or None
        Name of the member that looks.
    clock : function
        Seconds since the epoch, as the records have them.
    """

    def __init__(self, folder: Path, me: str | None = None, *, clock=time.time, patience_s: float = 30.0):
        self._folder, self._me, self._clock = Path(folder), me, clock
        self._roster = Roster(self._folder, me, lease_seconds=LEASE_SECONDS)
        self._first_beat: dict[str, int] = {}
        self._patience_s = patience_s
        # by part: "rung1", ..., 1, 2
        self._tails = {s: self._tail(f"step{s}") for s in (1, 2)}
        self._tallies: dict[Part, Tally] = {1: Tally(), 2: Tally()}
        self._beyond: dict[int, Done] = {}  # trials of step 1 that the study, made smaller, no longer has
        self._left: dict[int, Done] = {}  # trials of step 1 that ended on a rung
        self._flop: dict[tuple[Part, int], float] = {}
        self._promoted: tuple[tuple, list[int]] | None = None
        self._going_on: dict[Part, list[int]] = {}  # from a finished rung
        self._stamp: tuple | None = None
        self._description: dict | None = None
        self._config: Config | None = None
        self._problem: str | None = None

    def look(self) -> Overview:
        """The study now."""
        self._read_description()
        for part, tail in self._tails.items():
            for record in tail.poll():
                self._count(part, self._kept(part, record))
        members = self._members()
        views = {part: self._view(part, members) for part in self._parts()} if self._config else {}
        prepared = (self._description or {}).get("prepared") or {}
        problems = [self._problem] if self._problem else []
        return Overview(
            folder=self._folder,
            begun=self._description is not None,
            error_units=prepared.get("error_units"),
            members=tuple(members),
            rungs=tuple(view for part, view in views.items() if part not in (1, 2)),
            steps=tuple(view for part, view in views.items() if part in (1, 2)),
            groups=tuple(self._groups()),
            problems=tuple(problems + [p for t in self._tails.values() for p in t.damaged]),
        )

    # -- the description ----------------------------------------------------------------------------------------------

    def _read_description(self) -> None:
        path = self._folder / "study.json"
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return
            self._description = json.loads(path.read_text(encoding="utf-8"))
            self._config = Config.from_dict(self._description["config"], str(path))
            self._space = Space(self._config)
            for part in self._parts():
                if part not in self._tails:
                    self._tails[part], self._tallies[part] = self._tail(f"{part}/step1"), Tally()
            self._stamp, self._problem = stamp, None
            self._flop.clear()
            self._count_again()
        except FileNotFoundError:
            self._problem = None if self._folder.is_dir() else f"{self._folder} does not exist"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SearchError) as error:
            self._problem = f"{path} cannot be read: {error}"

    def _parts(self) -> list[Part]:
        """Rungs and steps in the order in which they run."""
        return [*(f"rung{k}" for k in range(1, len(self._config.search.rungs) + 1)), 1, 2]

    def _before(self, part: Part) -> Part | None:
        """The rung from which trials come."""
        parts = self._parts()
        return parts[parts.index(part) - 1] if part != 2 and part != parts[0] else None

    # -- records -----------------------------------------------------------------------------------------------------

    def _tail(self, folder: str) -> FolderTail:
        return FolderTail(self._folder / folder, curves=False, patience_s=self._patience_s)

    def _kept(self, part: Part, r: dict) -> Done:
        keys = ("trial", "state", "params", "validation_mse", "num_parameters", "hidden", "epochs", "error", "rung")
        return Done(
            record={k: r[k] for k in (*keys, KEY) if k in r},
            flop=self._cost(part, r["hidden"], r["train"]),
            used=r["epochs"] / r["train"]["max_epochs"] if r["state"] != "failed" else None,
            finished=datetime.fromisoformat(r["finished"]).timestamp(),
            seconds=r["seconds"],
        )

    def _count(self, part: Part, d: Done) -> None:
        if part != 2 and self._config and d.record["trial"] >= self._config.search.trials:
            if part == 1:
                self._beyond[d.record["trial"]] = d
        elif "rung" in d.record:
            self._left[d.record["trial"]] = d
        else:
            self._tallies[part].add(d)

    def _count_again(self) -> None:
        """Settings have changed: what belongs to the study may have, too."""
        every = [*self._tallies[1].done.values(), *self._beyond.values()]
        self._tallies[1] = Tally()
        self._beyond.clear()
        for d in every:
            self._count(1, d)

    def _cost(self, part: Part, hidden: Sequence[int], train: Mapping) -> float:
        """Arithmetic of a training that runs all its epochs, as `StudyContext.flop` has it."""
        told = self._description or {}
        prepared, columns = told.get("prepared") or {}, told.get("columns") or {}
        if not prepared or not columns:
            return 1.0
        n, v = prepared["num_train"][str(part)], prepared["num_validation"][str(part)]
        widths = (len(columns["inputs"]), *hidden, len(columns["outputs"]))
        products = sum(a * b for a, b in itertools.pairwise(widths))
        steps = -(-n // train["batch_size"])
        epoch = 2.0 * (n * (3 * products - widths[0] * widths[1]) + v * products)
        return train["max_epochs"] * (epoch + _OVERHEAD_FLOP * steps * (len(hidden) + 2))

    def _missing_flop(self, part: Part, chosen: Sequence[int], done: Mapping[int, Done]) -> float:
        """Arithmetic of trials that are not finished, from a part of them if they are many."""
        num_missing = len(chosen) - len(done)
        if num_missing <= _MOST_DRAWS:
            return math.fsum(self._draw(part, t) for t in chosen if t not in done)
        stride = max(1, len(chosen) // _MOST_DRAWS)
        sample = [self._draw(part, t) for t in chosen[::stride] if t not in done]
        return math.fsum(sample) / max(len(sample), 1) * num_missing

    def _draw(self, part: Part, trial: int) -> float:
        begins, known = part == self._parts()[0], self._tallies[part].done
        if begins and self._config.search.sampler != "random":  # what is still to come is as what was
            return math.fsum(d.flop for d in known.values()) / len(known) if known else 1.0
        if (part, trial) not in self._flop:
            params = self._space.draw(trial) if begins else self._known(part, trial).record["params"]
            recipe = vars(self._space.recipe(params, 2 if part == 2 else 1))
            self._flop[part, trial] = self._cost(part, self._space.hidden(params), recipe)
        return self._flop[part, trial]

    def _known(self, part: Part, trial: int) -> Done:
        """A trial where it was before it came to this part of the search."""
        before = self._tallies[1 if part == 2 else self._before(part)].done
        return before[trial] if trial in before else self._left[trial]

    # -- rungs and steps ---------------------------------------------------------------------------------------------

    def _chosen(self, part: Part) -> Sequence[int] | None:
        """Trials of a rung or step; None: not known yet."""
        before, search = self._before(part), self._config.search
        if part != 2:
            return range(search.trials) if before is None else self._from(before)
        first = self._tallies[1].done | self._left
        if len(first) < search.trials:
            return None
        key = (search.num_top, search.light_top, search.light_factor, search.trials)
        if self._promoted is None or self._promoted[0] != key:
            from hpo.promotion import promote

            records = [first[t].record for t in sorted(first)]
            found = promote(records, top=search.num_top, light_top=search.light_top, light_factor=search.light_factor)
            self._promoted = (key, [p.trial for p in found])
        return self._promoted[1]

    def _from(self, rung: Part) -> list[int] | None:
        """Trials that go on from a rung."""
        if rung not in self._going_on:
            from hpo.promotion import going_on

            chosen, done = self._chosen(rung), self._tallies[rung].done
            if chosen is None or len(done) < len(chosen):
                return None
            records = [done[t].record for t in sorted(done)]
            self._going_on[rung] = sorted(r["trial"] for r in going_on(records, self._config))
        return self._going_on[rung]

    def _view(self, part: Part, members: Sequence[MemberView]) -> StepView:
        chosen, tally = self._chosen(part), self._tallies[part]
        if part == 2 and chosen is not None and tally.done.keys() - set(chosen):  # chosen by other settings
            every, tally = tally.done, Tally()
            for t in chosen:
                if t in every:
                    tally.add(every[t])
        step, rung = (part, None) if part in (1, 2) else (1, int(part.removeprefix("rung")))
        under_way = [
            r for m in members if m.alive for w in m.workers for r in w.trials if (r.step, r.rung) == (step, rung)
        ]
        running = list({r.trial: r for r in under_way if r.trial not in tally.done}.values())  # ranks share one
        rate, left = self._pace(part, chosen, tally, running, members)
        # a worker whose trial is done has begun another since it last said what it does, while there are any
        busy = len({r.trial for r in under_way})
        going_on = None if rung is None else self._from(part)
        return StepView(
            step=step,
            rung=rung,
            subset=None if rung is None else self._config.search.rungs[rung - 1],
            total=None if chosen is None else len(chosen),
            done=len(tally.done),
            failed=tally.failed,
            pruned=tally.pruned,
            running=busy if chosen is None else min(busy, len(chosen) - len(tally.done)),
            best=tuple(tally.best),
            rate=rate,
            seconds_left=left,
            begun=tally.begun,
            ended=tally.ended,
            errors=tuple(tally.errors.most_common(3)),
            going_on=None if going_on is None else len(going_on),
            left_on_rungs=len(self._left) if part == 1 else 0,
            front=tally.front() if part == 1 and self._config.search.sampler == "nsga2" else (),
        )

    def _pace(self, part, chosen, tally: Tally, running: Sequence[Running], members):
        """Trials per second, and seconds left: the arithmetic that is left at the rate of the last minutes."""
        here = [m for m in members if m.alive]
        if chosen is None or not here or len(tally.done) >= len(chosen):
            return None, None
        now = self._clock()
        begin, recent = tally.window(now - _WINDOW_S)
        begins = [d.finished - d.seconds for d in recent] + [now - r.seconds for r in running]
        begin = max(begin, min(m.started for m in here), min(begins, default=now))
        elapsed = now - begin
        if elapsed <= 0.0:
            return None, None
        recent = [d for d in recent if d.finished > begin]
        # A trial that stops early counts in full; so does the part of one under way, by what others have used.
        fraction = {r.trial: min(1.0, r.epoch / max(r.max_epochs, 1) / tally.used) for r in running}
        work = math.fsum(d.flop * _part(d.finished - begin, d.seconds) for d in recent)
        work += math.fsum(
            self._draw(part, r.trial) * fraction[r.trial] * _part(elapsed, r.seconds) for r in running if r.epoch
        )
        rate = len(recent) / elapsed if recent else None
        if work <= 0.0:
            return rate, None
        left = self._missing_flop(part, chosen, tally.done)
        left -= math.fsum(self._draw(part, t) * f for t, f in fraction.items() if f)
        longest = max((r.seconds * (1.0 / f - 1.0) for r in running if (f := fraction[r.trial])), default=0.0)
        return rate, max(elapsed * max(left, 0.0) / work, longest)

    # -- members -----------------------------------------------------------------------------------------------------

    def _members(self) -> list[MemberView]:
        found = []
        for m in read_members(self._folder):
            try:
                found.append(self._member(m))
            except (KeyError, TypeError, ValueError):  # a file of another version
                continue
        return sorted(found, key=lambda m: _natural(m.name))

    def _member(self, m: dict) -> MemberView:
        name, now = m["name"], self._clock()
        age = max(0.0, now - m["now"])
        first = self._first_beat.setdefault(name, m["beat"])
        state = m["state"]
        lease = m.get("lease_seconds", LEASE_SECONDS)
        # clocks of hosts are compared only at the first look, until the counter is seen to move
        if state != "left" and (self._roster.is_dead(name) or (m["beat"] == first and age > lease)):
            state = "dead"
        slurm = m.get("slurm")
        rung = m.get("rung") if state == "step 1" else None
        workers = [self._worker(w, m["now"], rung) for w in m["workers"]] if state not in ("left", "dead") else []
        return MemberView(
            name=name,
            host=m["host"],
            state=state if rung is None else f"rung {rung}",
            leader=bool(m["leader"]),
            age_s=age,
            started=datetime.fromisoformat(m["started"]).timestamp(),
            job=f"{slurm['job']}.{slurm['task']}" if slurm else None,
            workers=tuple(workers),
            done=m["done"],
            failed=m["failed"],
            error=m.get("error"),
        )

    def _worker(self, w: dict, now: float, rung: int | None) -> Worker:
        return Worker(
            slot=w["slot"],
            device=w["device"],
            state=w["state"],
            trials=tuple(
                Running(
                    step=t["step"],
                    rung=rung,
                    trial=t["trial"],
                    epoch=t["epoch"],
                    max_epochs=t["max_epochs"],
                    best_mse=t["best_mse"],
                    seconds=max(0.0, now - t["since"]),
                )
                for t in w["trials"]
            ),
            memory_bytes=w.get("memory_bytes"),
        )

    def _groups(self) -> list[Group]:
        found = []
        for folder in sorted(self._folder.glob("groups/trial-*.a*")):
            trial, _, attempt = folder.name.removeprefix("trial-").partition(".a")
            opened, closed = (_published(folder / f"{name}.json") for name in ("open", "closed"))
            if opened is None or (folder / "ended.json").exists() or not (trial.isdigit() and attempt.isdigit()):
                continue
            seats = [_published(p) for p in sorted(folder.glob("seat-*.json"))]
            size = (closed or opened)["size"]
            members = tuple(s["member"] for s in seats[:size] if s)
            state = "training" if closed else "forming"
            found.append(Group(trial=int(trial), attempt=int(attempt), state=state, size=size, members=members))
        return found


def _natural(name: str) -> list:
    """Sorts task 2 before task 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _published(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _part(inside: float, whole: float) -> float:
    """Part of a training that lies inside the window."""
    return min(1.0, inside / whole) if whole > 0.0 else 1.0
