"""The search itself, as one member of it: join, prepare or wait for who does, step 1, step 2."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from emulator.dataset import SampleFile
from emulator.progress import Progress
from hpo import attempts, latency_model
from hpo.config import Config
from hpo.errors import Interrupted, SearchError
from hpo.groups import publish
from hpo.latency_model import LatencyModel, read_model
from hpo.leader import Leadership
from hpo.lines import say
from hpo.members import LEASE_SECONDS, Crew, Member
from hpo.prepare import Prepared, load, open_heads, open_samples, prepare, rows_of
from hpo.progress import LiveView
from hpo.promotion import Promotion, going_on, promote
from hpo.rungs import Chosen, close, records_of, rung_context
from hpo.samplers import sampler_of
from hpo.source import Source
from hpo.space import Space
from hpo.stage import staged
from hpo.step1 import Step1Source
from hpo.step2 import Step2Source
from hpo.stop import StopSignals
from hpo.stream import resolve_steps
from hpo.study import Study
from hpo.trial import StudyContext
from hpo.workers import Pool

_LOOK_S = 0.2
_PATIENCE_ON_STOP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a search came to: all records of both steps and of rungs (without curves), and the chosen trials of step 1.

    `leader`: whether this member was the one to speak for all at the end.
    """

    step1: list[dict]
    step2: list[dict]
    rungs: list[list[dict]]
    promotions: list[Promotion]
    description: Mapping
    leader: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How this member runs; no trial depends on it.

    Attributes
    ----------
    devices : list of str
        Of each worker.
    ranks_per_trial : int or 'auto'
        Workers that train one network of step 2 together.
    storage : str or None
        URL of the user's own Optuna storage.
    rebuild_mirror : bool
        Make `study.journal` anew from the records.
    lease_seconds : float
        A member that shows no sign of life for so long is taken for dead.
    quiet : bool
    """

    devices: list[str]
    ranks_per_trial: int | str = "auto"
    storage: str | None = None
    rebuild_mirror: bool = False
    lease_seconds: float = LEASE_SECONDS
    quiet: bool = False


def run_search(study: Study, config: Config, options: RunOptions, *, stop: StopSignals, console: Console) -> Result:
    """Run a search to its end with whoever works in its folder, or go on with it.

    Raises
    ------
    SearchError, Interrupted
    """
    if config.search.after is None:
        sampler_of(Space(config))  # what it cannot sample is refused before anything is read
    samples = open_samples(config.data)
    checksum = samples.checksum()
    sampler_of(Space(staged(config, study.description, checksum)))
    with ExitStack() as ends:
        member = ends.enter_context(Member(study.folder, devices=options.devices, lease_seconds=options.lease_seconds))
        crew = Crew.of(study.folder, member, options.lease_seconds)
        ends.callback(crew.leases.close)
        return _Search(study, config, options, samples, checksum, crew, stop, console).run()


class _Search:
    """One member's way through a search."""

    def __init__(self, study, config, options, samples, checksum, crew, stop, console):
        self._study: Study = study
        self._config: Config = config
        self._options: RunOptions = options
        self._samples: SampleFile = samples
        self._checksum: str = checksum
        self._crew: Crew = crew
        self._stop: StopSignals = stop
        self._console: Console = console
        self._leadership = Leadership(crew, study, options)

    def run(self) -> Result:
        try:
            context = self._join()
            if context is not None:
                self._run_steps(context)
            with self._stop.held():
                return self._finish()
        except BaseException:
            self._leadership.give_up(_PATIENCE_ON_STOP_S)
            raise

    # -- joining --------------------------------------------------------------------------------------------------

    def _join(self) -> StudyContext | None:
        """What there is to train on: made by the leader, awaited by all others. None: nothing is left to do."""
        waited_for: str | None = None
        while True:
            if self._leadership.take():
                self._crew.member.update(state="preparing")
                self._begin()
                context = self._prepare() if self._unfinished() else None
                self._leadership.begin(new_run=context is not None)
                self._crew.member.update(state="step 1")
                return context
            leader = self._crew.leases.holder("leader")
            content = self._crew.roster.read(leader) if leader else None
            if content is not None:
                if content["not_prepared"] and leader == waited_for:
                    raise SearchError(f"member {leader} could not prepare the samples: {content['not_prepared']}")
                if content["state"] in ("step 1", "step 2") or content["finished"]:
                    self._study.reload()
                    self._take_stage()
                    self._study.check(self._config, self._samples, self._checksum, running=True)
                    if not self._unfinished():
                        return None
                    context = self._context(_load_only)
                    if context is not None:
                        self._crew.member.update(state="step 1")
                        return context
                elif leader != waited_for:
                    waited_for = leader
                    self._say(f"waiting for member {leader} on {content['host']} to prepare the samples")
            time.sleep(_LOOK_S)

    def _begin(self) -> None:
        """Begin the study or go on with it. While others work in it, nothing that they rely on may change."""
        study, roster = self._study, self._crew.roster
        study.reload()
        self._take_stage()
        at_work = {m["name"]: m["beat"] for m in roster.others() if m["state"] != "starting"}
        while at_work and study.description is not None:
            try:
                study.check(self._config, self._samples, self._checksum, running=True)
                break
            except SearchError:
                # they may be dead, which on another host shows only after a while
                now = {m["name"]: m["beat"] for m in roster.others() if m["name"] in at_work}
                if any(beat != at_work[name] for name, beat in now.items()):
                    raise
                at_work = now
                time.sleep(_LOOK_S)
        if not at_work:
            study.sweep()
            rungs = len(self._config.search.rungs)
            attempts.begin_run(study.folder, rungs, self._crew.member.name, self._crew.leases, roster)
        study.describe(self._config, self._samples, self._checksum, anew=not at_work)

    def _take_stage(self) -> None:
        """What the search takes from another one is what the leader has noted, or what it is to note now."""
        self._config = staged(self._config, self._study.description, self._checksum)

    def _prepare(self) -> StudyContext:
        try:
            if self._config.search.by_latency:
                self._check_latency()
            return self._context(prepare)
        except SearchError as error:
            self._crew.member.update(not_prepared=str(error))  # whoever waits for it need not try again
            raise

    def _context(self, get: Callable[..., Prepared | None]) -> StudyContext | None:
        study, config, samples = self._study, self._config, self._samples
        prepared = prepare_steps(study.folder / "cache", config, samples, self._checksum, self._say, get=get)
        if prepared is None:
            return None
        noted = study.description["prepared"]
        # decided once: the order of samples depends on it, and so does every number that follows
        if noted is None:
            stream = resolve_steps(config.data.stream, prepared, self._options.devices)
        else:
            stream = noted.get("stream", {})
        prepared = {step: replace(p, stream=stream.get(str(step), False)) for step, p in prepared.items()}
        if self._leadership.held:
            study.note(
                prepared=(noted or {})
                | {
                    "stream": stream,
                    "output_activation": prepared[2].output_activation,
                    "error_units": "physical" if prepared[2].outputs.is_identity else "standardised",
                    "input_transforms": [list(n.transforms) for n in prepared[2].inputs],
                    "num_train": {str(s): p.num_train for s, p in prepared.items()},
                    "num_validation": {str(s): p.num_validation for s, p in prepared.items()},
                }
            )
        description = study.description
        context = StudyContext(
            folder=study.folder,
            config=config,
            prepared=prepared,
            input_columns=samples.input_columns,
            output_columns=samples.output_columns,
            provenance={
                "study": study.folder.resolve().name,
                "data": description["data"],
                "seed": config.search.seed,
                "versions": description["versions"],
                "commit": description["commit"],
                "error_units": description["prepared"]["error_units"],
            },
        )
        if not config.search.by_latency:
            return context
        model = self._latency_model(context)
        return None if model is None else replace(context, latency=model)

    # -- latency as an objective ----------------------------------------------------------------------------------

    def _check_latency(self) -> None:
        """Refuse what the model could not be had from, before any sample is read."""
        path = self._study.folder / latency_model.FILE
        if path.exists():
            return
        if "latency_model" in (self._study.description["prepared"] or {}):
            raise SearchError(f"{path} is missing, which the trials of this study rest on; put it back")
        if self._config.search.latency_model is not None:
            self._given_model()
        else:
            from hpo.latency_measure import check_tool

            check_tool()

    def _latency_model(self, context: StudyContext) -> LatencyModel | None:
        """The study's, which the leader has when the study begins and all read from its folder. None: not there yet."""
        path, lead = self._study.folder / latency_model.FILE, self._leadership.held
        noted = self._study.description["prepared"].get("latency_model")
        model = read_model(path)
        if model is None and not lead:
            return None
        if model is None:
            publish(path, self._new_model(context).to_dict(), indent=1)
            model = read_model(path)
        if noted not in (None, model.digest) or model.batch != self._config.search.latency_batch:
            raise SearchError(f"{path} is not the one that this study was begun with; put that one back")
        if lead and noted is None:
            self._study.note(prepared=self._study.description["prepared"] | {"latency_model": model.digest})
        return model

    def _new_model(self, context: StudyContext) -> LatencyModel:
        from hpo.latency_measure import TURNS, measured_model, spanning

        search, shapes = self._config.search, spanning(context)
        if search.latency_model is not None:
            model = self._given_model()
            try:
                model.check_space([s.counts for s in shapes])
            except SearchError as error:
                raise SearchError(f"latency model {search.latency_model}: {error}") from None
            return model
        self._say(f"measuring the latency of {len(shapes)} networks of this space in calls of {search.latency_batch}")
        with ExitStack() as ends:
            bar = Progress("latencies", TURNS * len(shapes), unit="measurements")
            advance = (lambda count: None) if self._options.quiet else ends.enter_context(bar).advance
            model = measured_model(context, shapes, search.latency_batch, advance)
        self._say(model.quality)
        return model

    def _given_model(self) -> LatencyModel:
        search = self._config.search
        model = read_model(search.latency_model)
        if model is None:
            raise SearchError(f"latency model {search.latency_model}: no such file")
        if model.batch != search.latency_batch:
            raise SearchError(
                f"latency model {search.latency_model} is of calls with {model.batch} samples, and latency_batch is "
                f"{search.latency_batch}; set latency_batch = {model.batch}, or give another model"
            )
        return model

    # -- the steps ------------------------------------------------------------------------------------------------

    def _run_steps(self, context: StudyContext) -> None:
        crew = self._crew
        view = LiveView(
            self._study.folder,
            me=crew.member.name,
            is_leader=lambda: self._leadership.held,
            console=self._console,
            quiet=self._options.quiet,
        )
        with view:
            left = self._climb(context)
            with self._pool(context) as pool:
                self._run_step(pool, Step1Source(context, crew, left), 1)
                records = self._step1_records()
                promotions = self._promotions(records)
                if not promotions:
                    raise SearchError(_why_none(records))
                self._run_step(pool, Step2Source(context, promotions, crew, self._options.ranks_per_trial), 2)

    @contextmanager
    def _pool(self, context: StudyContext) -> Iterator[Pool]:
        member = self._crew.member
        pool = Pool(context, self._options.devices, name=member.name, stop=self._stop)
        member.watch(lambda: {"workers": pool.workers(), "done": pool.done, "failed": pool.failed})
        try:
            yield pool
        finally:
            pool.close()

    def _climb(self, context: StudyContext) -> Chosen | None:
        """Run the rungs below step 1, if there are any; the trials that reach it."""
        left: Chosen | None = None
        for rung in range(1, len(self._config.search.rungs) + 1):
            on_rung = rung_context(context, rung)
            source = Step1Source(on_rung, self._crew, left, name=f"rung{rung}")
            if not source.done():
                with self._pool(on_rung) as pool:
                    self._run_step(pool, source, 1, rung)
            left = Chosen(going_on(records_of(context, rung), self._config))
        return left and Chosen(close(context, self._crew, self._pause))

    def _pause(self) -> None:
        if self._stop.count:
            raise Interrupted
        time.sleep(_LOOK_S)

    def _run_step(self, pool: Pool, source: Source, step: int, rung: int | None = None) -> None:
        self._crew.member.update(state=f"step {step}", rung=rung)
        pool.on_tick = self._leadership.look_after
        try:
            pool.run(source, step)
        except Interrupted:
            if not (step == 2 and source.done()):  # it came when all was done
                raise
        finally:
            leave = getattr(source, "leave", None)
            if leave is not None:
                leave()

    # -- the end --------------------------------------------------------------------------------------------------

    def _finish(self) -> Result:
        """The leader tidies up; the others go when it has, or do it in its stead."""
        leadership, folder = self._leadership, self._study.folder
        while not (leadership.has_finished() or leadership.take_over()):
            if self._stop.count:
                raise Interrupted
            time.sleep(_LOOK_S)
        if leadership.held:
            of_rungs = [*folder.glob("rung*/step1/checkpoints"), *folder.glob(f"rung*/{attempts.FOLDER}")]
            of_steps = [folder / name for name in ("cache", "groups", attempts.FOLDER)]
            for path in (*of_steps, *folder.glob("step[12]/checkpoints"), *of_rungs):
                shutil.rmtree(path, ignore_errors=True)
            leadership.give_up(_PATIENCE_ON_STOP_S if self._stop.count else None)
        self._study.reload()
        first = self._step1_records()
        result = Result(
            step1=first,
            step2=self._study.records(2, curves=False),
            rungs=self._study.rung_records(),
            promotions=self._promotions(first),
            description=self._study.description,
            leader=leadership.held,
        )
        self._crew.member.update(finished=True)
        return result

    def _step1_records(self) -> list[dict]:
        trials = self._config.search.trials
        return [r for r in self._study.records(1, curves=False) if r["trial"] < trials]

    def _promotions(self, records: list[dict]) -> list[Promotion]:
        search = self._config.search
        return promote(records, top=search.num_top, light_top=search.light_top, light_factor=search.light_factor)

    def _unfinished(self) -> bool:
        records = self._step1_records()
        if len(records) < self._config.search.trials:
            return True
        done = {r["trial"] for r in self._study.records(2, curves=False)}
        promotions = self._promotions(records)
        return not promotions or any(p.trial not in done for p in promotions)

    def _say(self, text: str) -> None:
        if not self._options.quiet:
            say(self._console, text)


def _why_none(records: list[dict]) -> str:
    reasons: dict[str, int] = {}
    for r in records:
        reasons[r["error"]] = reasons.get(r["error"], 0) + 1
    common = max(reasons, key=reasons.get)
    return f"all {len(records)} trials of step 1 failed, so that none can be retrained; most often: {common}"


def _load_only(folder: Path, samples, parts, *, key: dict, **_) -> Prepared | None:
    return load(folder, key)


def prepare_steps(
    folder: Path,
    config: Config,
    samples: SampleFile,
    checksum: str,
    say: Callable[[str], None],
    *,
    get: Callable[..., Prepared | None] = prepare,
) -> dict[int | str, Prepared] | None:
    """Data of both steps, the full one first: what is wrong with the samples shows before the search, not after
    step 1; and all share what `auto` means on all the training data. Keys: 1, 2, and "rung1" ... where there are rungs.

    `get` makes or finds one step's data; where it finds nothing, the whole is None.
    """
    data, space = config.data, config.space
    heads = open_heads(Space(config).heads, samples)
    subset = config.search.p_subset
    transforms = Space(config).input_transforms
    activation, output_transforms = space.output_activation, data.output_transforms
    prepared: dict[int, Prepared] = {}
    rungs = {f"rung{k}": part for k, part in enumerate(config.search.rungs, start=1)}
    for step, part in {2: 1.0, **rungs, 1: subset}.items():
        if step == 1 and subset == 1.0:
            prepared[1] = prepared[2]
            continue
        key = {
            "checksum": checksum,
            "columns": [c.to_dict() for c in (*samples.input_columns, *samples.output_columns)],
            "seed": config.search.seed,
            "subset": part,
            "test_fraction": data.test_fraction,
            "validation_fraction": data.validation_fraction_at(part),
            "input_transforms": transforms,
            "output_transforms": output_transforms,
            "output_activation": activation,
        }
        if heads:
            key["heads"] = {name: head.to_dict() for name, head in heads.items()}
        found = get(
            folder / (step if step in rungs else f"step{step}"),
            samples,
            rows_of(config, samples.num_samples, part),
            input_transforms=transforms,
            output_transforms=output_transforms,
            output_activation=activation,
            key=key,
            say=say,
            heads=heads,
        )
        if found is None:
            return None
        prepared[step] = found = replace(found, heads=heads)
        if step == 2:
            names = [c.name for c in samples.input_columns]
            transforms = tuple(dict(zip(names, n.transforms, strict=True)) for n in found.inputs)
            outputs = [c.name for c in samples.output_columns]
            output_transforms = dict(zip(outputs, found.outputs.transforms, strict=True))
            activation = found.output_activation
    return prepared


def resolved(config: Config, samples: SampleFile) -> Config:
    """The config with absolute paths, and what the samples file decides written out: names of inputs and outputs."""
    data = replace(config.data, path=str(samples.path.resolve()), inputs=samples.inputs, outputs=samples.outputs)
    paths = {name: getattr(config.search, name) for name in ("after", "latency_model")}
    whole = {name: str(Path(path).resolve()) for name, path in paths.items() if path is not None}
    return replace(config, data=data, search=replace(config.search, **whole))
