"""The leader of a search: one member at a time, which does what only one may do.

It begins the study and prepares the samples, keeps `study.json` and the Optuna study, and tidies up at the end. When
it dies, another member takes its lease and goes on.
"""

from __future__ import annotations

import time

from hpo.config import Config
from hpo.members import Crew
from hpo.mirror import MirrorProcess
from hpo.study import Study

_LOOK_S = 2.0
_KEY = "leader"


class Leadership:
    """Whether this member leads, and what it does then.

    Parameters
    ----------
    crew : Crew
    study : Study
    options : hpo.run.RunOptions
    """

    def __init__(self, crew: Crew, study: Study, options):
        self._crew, self._study, self._options = crew, study, options
        self._mirror: MirrorProcess | None = None
        self._looked = 0.0
        self.held = False

    def take(self) -> bool:
        """Lead, if nobody does; whether we lead now."""
        if not self.held and self._crew.leases.take(_KEY):
            self.held = True
            self._crew.member.update(leader=True)
        return self.held

    def take_over(self) -> bool:
        """Lead in the stead of a leader that died before the search came to its end; whether we lead now."""
        leader = self._crew.leases.holder(_KEY)
        if leader is not None and not self._crew.roster.is_dead(leader):
            return self.held
        # only now: a leader says that it has finished before it leaves
        return not self.has_finished() and self.take()

    def has_finished(self) -> bool:
        """Whether another member led the search to its end."""
        leader = self._crew.leases.holder(_KEY)
        content = self._crew.roster.read(leader) if leader not in (None, self._crew.member.name) else None
        return content is not None and content["finished"]

    def begin(self, *, new_run: bool = True) -> None:
        """Keep the Optuna study from now on; note who runs the search, if there is anything to run."""
        if new_run:
            devices = self._options.devices
            self._study.note_run(device=", ".join(sorted(set(devices))), workers=len(devices))
        config = Config.from_dict(self._study.description["config"])
        self._mirror = MirrorProcess(
            self._study.folder, config, storage=self._options.storage, rebuild=self._options.rebuild_mirror
        )

    def look_after(self) -> None:
        """Every now and then: take over from a leader that died; stop if others thought so of us."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if self.held:
            if not self._crew.leases.is_mine(_KEY):
                self._drop()
        elif self.take_over():
            self._study.reload()
            self.begin()

    def give_up(self, patience_s: float | None) -> None:
        """End the Optuna study's process once it has everything, or after so many seconds."""
        if self._mirror is not None:
            self._mirror.finish(patience_s)
            self._mirror = None

    def _drop(self) -> None:
        self.held = False
        self._crew.member.update(leader=False)
        if self._mirror is not None:
            self._mirror.kill()
            self._mirror = None
