"""What the experiments run: ordinary searches, each in a folder of its own and each resumable."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.config import Config, read_toml, to_toml
from hpo.errors import Interrupted, SearchError

HERE = Path(__file__).parent
PARTS = (1.0, 0.5, 0.25, 0.05, 0.005)  # p_subset of the projects of experiment (a)
SIZES = (0.05, 0.2, 0.8)  # parts of the samples that experiment (d) takes for all the data
SEEDS = (1, 2, 3)
PLAN_SEEDS = (1, 2, 3, 4)
MOST_COST = 0.1  # of the search that is planned, as a part of the full one
ALGORITHM_SPACES = {"algorithms": "projects.toml", "training": "training.toml"}  # of experiment (c)
_ALGORITHM_SUBSET, _ALGORITHM_TOP = 0.25, 5


@dataclass(frozen=True)
class Machine:
    """Where and how the experiments run.

    Attributes
    ----------
    out : Path
    data : Path or None
        Samples; none are needed for tables of what has finished.
    used : float
        Part of the samples that stands for all the data; the rest is held out.
    trials : int or None
        Instead of those of the TOML files.
    workers : int or None
    device : str
    """

    out: Path
    data: Path | None
    used: float
    trials: int | None = None
    workers: int | None = None
    device: str = "auto"

    def project(self, p_subset: float, used: float | None = None) -> Path:
        """Folder of a project of experiment (a)."""
        return self.out / f"data-{self.used if used is None else used:g}" / f"p-{p_subset:g}"


def settings(machine: Machine, toml: str, used: float | None = None, **search) -> dict:
    """Tables of a search: those of a TOML file beside this one, with the samples and changes to [search]."""
    tables = read_toml(HERE / toml)
    part = machine.used if used is None else used
    tables["data"] = {"path": str(machine.data), "test_fraction": round(1.0 - part, 9)}
    tables["search"] = tables.get("search", {}) | search
    if machine.trials is not None:
        tables["search"]["trials"] = machine.trials
    Config.from_dict(tables, toml)
    return tables


def search(machine: Machine, folder: Path, tables: Mapping) -> None:
    """Run a search to its end, or go on with it.

    Raises
    ------
    SearchError, Interrupted
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.parent / f"{folder.name}.toml"
    config.write_text(to_toml(tables), encoding="utf-8")
    command(machine, "hpo.search", "--config", config, "--out", folder, "--quiet")


def command(machine: Machine, module: str, *arguments) -> None:
    """Run one of the toolkit's commands; its output is this one's.

    Raises
    ------
    SearchError
        It failed.
    Interrupted
        It was asked to stop.
    """
    words = [sys.executable, "-m", module, *map(str, arguments)]
    if module.startswith("hpo."):
        words += ["--device", machine.device]
        words += [] if machine.workers is None else ["--workers", str(machine.workers)]
    print("+ python", " ".join(words[1:]), flush=True)
    status = subprocess.run(words, check=False).returncode
    if status in (75, 130, 143):
        raise Interrupted
    if status != 0:
        raise SearchError(f"status {status}: {' '.join(words[1:])}")


def projects(machine: Machine, used: float | None = None, parts: Sequence[float] = PARTS) -> None:
    """Experiments (a) and (b): the same trials at every p_subset, the best of each retrained."""
    for p in sorted(parts):
        search(machine, machine.project(p, used), settings(machine, "projects.toml", used, p_subset=p))


def calibration(machine: Machine) -> None:
    """Nothing but the projects, from whose networks probes and searches are drawn."""
    projects(machine)


def sizes(machine: Machine) -> None:
    """Experiment (d): the projects on less and more data."""
    for used in SIZES:
        projects(machine, used)


def algorithms(machine: Machine) -> None:
    """Experiment (c): several algorithms on the same subset, with several seeds."""
    _each_algorithm(machine, "algorithms")


def training(machine: Machine) -> None:
    """Experiment (c) where how networks are trained is searched too."""
    _each_algorithm(machine, "training")


def _each_algorithm(machine: Machine, experiment: str) -> None:
    for seed in SEEDS:
        for name, search_table in _algorithm_tables().items():
            wanted = {"p_subset": _ALGORITHM_SUBSET, "top": _ALGORITHM_TOP, "seed": seed} | search_table
            folder = algorithm(machine, name, seed, experiment)
            search(machine, folder, settings(machine, ALGORITHM_SPACES[experiment], **wanted))


def algorithm(machine: Machine, name: str, seed: int, experiment: str = "algorithms") -> Path:
    """Folder of one search of experiment (c)."""
    return machine.out / experiment / f"{name}-{seed}"


def algorithm_names() -> list[str]:
    return list(_algorithm_tables())


def _algorithm_tables() -> dict:
    return tomllib.loads((HERE / "algorithms.toml").read_text(encoding="utf-8"))


def light(machine: Machine) -> None:
    """Experiment (e): light networks too, and nanoseconds of each retrained one through libemulator."""
    folder = machine.out / "light"
    search(machine, folder, settings(machine, "light.toml"))
    command(machine, "emulator.export", folder, "--pick", "lightest", "--out", machine.out / "light.onnx")


def plan(machine: Machine) -> None:
    """The plan: a probe, the search that it recommends for at most a tenth of the cost, and what it is held against.

    That is the full search as configured, and the same with its best retrained as the plan would have it. With several
    seeds, of the split and of the space: other networks, other parts of the samples.
    """
    for seed in PLAN_SEEDS:
        home = planned(machine, seed)
        home.mkdir(parents=True, exist_ok=True)
        tables = settings(machine, "projects.toml", p_subset=1.0, seed=seed)
        search(machine, full(machine, seed), tables)
        config = home / "full.toml"
        config.write_text(to_toml(tables), encoding="utf-8")
        command(machine, "hpo.plan", "--config", config, "--out", home / "probe", "--max-cost", MOST_COST)
        command(machine, "hpo.search", "--config", home / "probe/plan.toml", "--out", home / "search", "--quiet")
        # step 1 is the same, trial by trial: what the full search has finished of it is taken over
        shutil.copytree(full(machine, seed) / "step1", home / "retrained/step1", dirs_exist_ok=True)
        step2 = read_toml(home / "probe/plan.toml").get("step2", {})
        search(machine, home / "retrained", tables | {"step2": step2})


def planned(machine: Machine, seed: int) -> Path:
    """Folder of what belongs to one plan."""
    return machine.out / "plan" / f"seed-{seed}"


def full(machine: Machine, seed: int) -> Path:
    """Folder of the search that a plan is to match: the project on all the data, if it has that seed."""
    tables = settings(machine, "projects.toml")
    return machine.project(1.0) if seed == tables["search"]["seed"] else planned(machine, seed) / "full"
