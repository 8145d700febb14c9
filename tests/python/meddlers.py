"""Workers that do something to their search in the middle of a training: at the same moment in every run."""

import os
import signal
import time

from hpo.checkpoint import checkpoint_path
from hpo.trial import TrialRunner


class Meddler(TrialRunner):
    """Meddles once with a trial that is `wanted`, when a checkpoint of its third epoch or a later one is on disk."""

    def wanted(self, task):
        raise NotImplementedError

    def meddle(self):
        """Kill -9 the member; this worker has to end with it."""
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    def _write_if_due(self, flight):
        super()._write_if_due(flight)
        plan = self._plans[flight.key]
        task = plan.task
        if flight.training.epoch >= 3 and self.wanted(task):
            path = checkpoint_path(self.context.folder, task.step, task.trial)
            if plan.writes and not path.exists():  # it was not due
                plan.checkpoint.write(flight.training, flight.seconds)
            while not path.exists():  # in a group the first seat writes it
                time.sleep(0.01)
            self.meddle()


class KillsRetraining(Meddler):
    def wanted(self, task):
        return task.step == 2


class KillsAsOpener(Meddler):
    """In a group of two, as the member that opened it."""

    rank = 0

    def wanted(self, task):
        return task.seat is not None and (task.seat.rank, task.seat.size) == (self.rank, 2)


class KillsAsOther(KillsAsOpener):
    rank = 1


class StopsAsOther(KillsAsOther):
    """Has its member stopped by SIGTERM, and waits for what the member then wants of it."""

    stopped = False

    def wanted(self, task):
        return not self.stopped and super().wanted(task)

    def meddle(self):
        self.stopped = True
        os.kill(os.getppid(), signal.SIGTERM)

    def advance(self):
        if self.stopped:
            time.sleep(0.01)
            return []
        return super().advance()


class WaitsAsGroup(Meddler):
    """In a group, until somebody has looked and makes the file OUT/seen."""

    def wanted(self, task):
        return task.seat is not None and task.seat.size > 1

    def meddle(self):
        while not (self.context.folder / "seen").exists():
            time.sleep(0.01)


class WaitsInRetraining(Meddler):
    """Does nothing but wait for what the member wants, until somebody makes the file OUT/seen."""

    waiting = False

    def wanted(self, task):
        return task.step == 2

    def meddle(self):
        self.waiting = not (self.context.folder / "seen").exists()

    def advance(self):
        if self.waiting and not (self.context.folder / "seen").exists():
            time.sleep(0.01)
            return []
        return super().advance()


class EndsItself(TrialRunner):
    """Trial 1 ends its process."""

    def _write_if_due(self, flight):
        if flight.key == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write_if_due(flight)
