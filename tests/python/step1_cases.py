"""Members of one search without processes and trainings: step 1 under a clock of the test's own."""

from pathlib import Path
from types import SimpleNamespace

from emulator.records import RecordWriter, read_folder
from hpo.leases import Leases
from hpo.proposals import at_once
from hpo.step1 import Step1Source
from hpo.trial import StudyContext


class World:
    """Members of one study in this process, under one clock; `dead` are those known to be dead.

    `record_of`: what a training of a task comes to, but for the number and the time.
    """

    def __init__(self, folder, config, record_of=lambda task: {}, latency=None):
        inputs = [SimpleNamespace(transforms=("none",))]
        prepared = SimpleNamespace(
            num_train=10, num_validation=10, output_activation="sigmoid", heads={}, inputs=inputs
        )
        self.context = StudyContext(
            folder=Path(folder),
            config=config,
            prepared={1: prepared, 2: prepared},
            input_columns=(None,),
            output_columns=(None,),
            provenance={},
            latency=latency,
        )
        self.now, self.dead, self.runs = 0.0, set(), []
        self._record_of, self.writers = record_of, {}

    def join(self, name, propose=at_once):
        roster = SimpleNamespace(
            is_dead=lambda other: other in self.dead,
            read=lambda other: {"state": "dead" if other in self.dead else "step 1"},
            lease_seconds=30.0,
        )
        leases = Leases(self.context.folder / "leases", name, roster.is_dead)
        crew = SimpleNamespace(leases=leases, roster=roster)
        source = Step1Source(self.context, crew, propose=propose, clock=lambda: self.now)
        source.name = name
        return source

    def write(self, source, task):
        record = {"trial": task.trial, "finished": f"{self.now:012.3f}"} | self._record_of(task)
        if source.name not in self.writers:
            path = self.context.folder / "step1" / f"worker-{source.name}-000.jsonl"
            self.writers[source.name] = RecordWriter(path, sync_seconds=1e9)
        self.writers[source.name].append(record)
        source.record(record)
        self.runs.append((task.trial, source.name))

    def table(self):
        """Records without the time."""
        return [{k: v for k, v in r.items() if k != "finished"} for r in read_folder(self.context.folder / "step1")]

    def finish(self, sources):
        """Run all to the end, one trial each in turn."""
        for _ in range(100_000):
            self.now += 0.3
            for source in sources:
                for task in source.take(1):
                    self.write(source, task)
            if all(source.done() for source in sources):
                return
        raise AssertionError("the step does not end")

    def finish_with_deaths(self, rng, *, members, part):
        """Run all to the end by members of which one dies under this part of the trials, and another one joins; how
        many died."""
        sources, lost = {f"m{k}": self.join(f"m{k}") for k in range(members)}, 0
        while not all(source.done() for source in sources.values()):
            self.now += rng.uniform(0.0, 0.5)
            for name, source in list(sources.items()):
                for task in source.take(rng.randint(1, 3)):
                    if rng.random() < part:
                        del sources[name]
                        break
                    self.write(source, task)
                if name not in sources:
                    self.dead.add(name)
                    new = f"m{members + lost}"
                    sources[new] = self.join(new)
                    lost += 1
                    break
        return lost
