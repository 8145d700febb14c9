"""Second stages: a search that starts from what another one has found.

`[search] after` names the other study. `fix` gives hyperparameters the values of its best trial; `narrow = k` leaves of
every other dimension what the best k trials span: of choices those that occur among them, of a range the part from
their least to their largest value. What this comes to is settled when a study begins and is part of its settings from
then on, as the table [stage]: whatever becomes of the other study changes nothing.

The best are those that step 2 retrained for their error, by their error there, and then the others, by that of step 1.
A search of its own in the place of step 2 is one with `after`, `narrow` and `p_subset = 1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpo.conditions import Parameter
from hpo.config import Config
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.space import Space
from hpo.space_config import StageConfig
from hpo.study import Study, ranking

_SETTINGS = ("after", "fix", "narrow")


def staged(config: Config, description: Mapping | None, checksum: str) -> Config:
    """The config with what it takes from another study: as the study's description has it, else found now.

    Parameters
    ----------
    config : Config
    description : mapping or None
        `study.json` of the search itself.
    checksum : str
        Of its samples.

    Raises
    ------
    SearchError
        There is no other study, or none that says what is wanted.
    """
    if config.search.after is None or config.stage is not None:
        return config
    noted, settings = (description or {}).get("config", {}), config.to_dict()["search"]
    if "stage" in noted and all(noted["search"].get(name) == settings.get(name) for name in _SETTINGS):
        return replace(config, stage=StageConfig(**noted["stage"]))
    return replace(config, stage=_found(config, checksum))


def best_trials(study: Study, config: Config) -> list[dict]:
    """Complete trials of a study, best first (records without curves)."""
    again = [r for r in ranking(study.records(2, curves=False)) if r.get("promoted") != "light"]
    seen = {r["trial"] for r in again}
    first = [r for r in ranking(study.records(1, curves=False)) if r["trial"] < config.search.trials]
    return [r for r in (*again, *(r for r in first if r["trial"] not in seen)) if r["state"] == "complete"]


def _found(config: Config, checksum: str) -> StageConfig:
    search, study = config.search, Study(Path(config.search.after))
    where = f"the study in {study.folder}"
    if study.description is None:
        raise SearchError(f"after is {search.after!r}, where there is no study (no study.json)")
    first = Config.from_dict(study.description["config"], f"{study.folder}/study.json")
    if study.description["data"]["checksum"] == checksum:
        _check_holdout(config, first, where)
    best = best_trials(study, first)
    number = search.narrow or 1
    if len(best) < number:
        wanted = f"; narrow = {number} needs as many" if number > 1 else ""
        raise SearchError(f"{where} has {len(best)} finished trials{wanted}")
    space = Space(first)
    known = [space.settled(r["params"]) for r in best[:number]]
    parameters = {p.name: p for p in Space(config).parameters()}
    fixed = {}
    for name in _fixed_names(search.fix, known[0], parameters):
        fixed[name] = _fixed_value(parameters[name], known[0], f"the best trial of {where} (number {best[0]['trial']})")
    narrowed = {}
    for name in (n for n in parameters if search.narrow and n not in fixed):
        values = [k[name] for k in known if name in k]
        if values:
            narrowed[name] = _narrowed(parameters[name], values, f"the best {number} trials of {where}")
    stage = StageConfig(fixed=fixed, narrowed=narrowed)
    left = Space(replace(config, stage=stage)).parameters()
    if all(len(set(p.dimension.samples())) == 1 for p in left):
        raise SearchError(f"nothing is left to search: what is taken from {where} settles every hyperparameter")
    return stage


def _check_holdout(config: Config, first: Config, where: str) -> None:
    ours, theirs = ((c.search.seed, c.data.test_fraction) for c in (config, first))
    if ours != theirs:
        raise SearchError(
            f"{where} is of the same samples and holds out others of them (seed {theirs[0]}, test_fraction "
            f"{theirs[1]}; here {ours[0]} and {ours[1]}), so that its choice has seen what is held out here; give the "
            "same seed and test_fraction"
        )


def _fixed_names(fix: tuple[str, ...], known: Mapping, parameters: Mapping[str, Parameter]) -> list[str]:
    """Names of parameters: `depth` is `num_hidden`, `widths` are those of all layers of the best trial."""
    found = []
    for name in fix:
        if name == "widths":
            found += [n for n in known if n == "width" or (n.startswith("width_") and n[6:].isdigit())]
        else:
            found.append("num_hidden" if name == "depth" else name)
    for name in found:
        if name not in parameters:
            raise SearchError(
                f"fix names {name!r}, which is not searched here; expected one of {', '.join(parameters)}"
            )
    return list(dict.fromkeys(found))


def _fixed_value(parameter: Parameter, known: Mapping, whose: str):
    if parameter.name not in known:
        raise SearchError(f"fix names {parameter.name!r}, which {whose} does not have; it has {', '.join(known)}")
    value = known[parameter.name]
    if not _has(parameter.dimension, value):
        raise SearchError(
            f"{whose} has {parameter.name} = {value!r}, which is not in the space of this search: "
            f"{parameter.dimension.to_plain()}"
        )
    return value


def _narrowed(parameter: Parameter, values: list, whose: str) -> Choices | Range:
    """What is left of a dimension."""
    dimension = parameter.dimension
    kept = [v for v in values if _has(dimension, v)]
    if not kept:
        raise SearchError(
            f"{whose} have {parameter.name} = {', '.join(map(repr, values))}, none of which is in the space of this "
            f"search: {dimension.to_plain()}"
        )
    if isinstance(dimension, Choices):
        return Choices(values=tuple(v for v in dimension.values if v in kept))
    return Range(low=min(kept), high=max(kept), log=dimension.log, step=dimension.step)


def _has(dimension: Choices | Range, value) -> bool:
    if isinstance(dimension, Choices):
        return dimension.contains(value)
    steps = (value - dimension.low) / dimension.step if dimension.contains(value) and dimension.step else 0.0
    whole = type(value) is int or not dimension.is_integer
    return dimension.contains(value) and whole and abs(steps - round(steps)) < 1e-9 * max(1.0, steps)
