"""Small samples files and searches that the tests of `hpo` share."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np

from emulator.records import read_records
from hpo import search
from hpo.members import Crew, Member

ROOT = Path(__file__).parents[2]
SMALL = ["--widths", "4,8,16", "--depth", "1:3", "--max-epochs", "8", "--p-subset", "0.25", "--quiet"]
LONG_LEASE = ["--lease-seconds", "3600"]  # a member is dead only if its process is
# What may differ between two runs of the same trial.
PROVENANCE = ("seconds", "worker", "finished")


def write_samples(path, *, num_samples=2000, bounded=True, seed=3):
    """A smooth function of five inputs in three variables; outputs within 0..1 if `bounded`, else in the hundreds."""
    rng = np.random.default_rng(seed)
    sst = rng.uniform(-2.0, 32.0, num_samples)
    wind = np.exp(rng.normal(1.0, 0.9, num_samples))
    profile = rng.uniform(1.0, 2.0, (num_samples, 3))
    a = np.tanh(0.1 * sst - 0.3 * np.log(wind) + profile[:, 0])
    b = np.sin(0.2 * sst) * profile[:, 1] / profile[:, 2]
    flux = 0.5 + 0.24 * np.stack([a, b], axis=1)
    if not bounded:
        flux = 300.0 * flux - 50.0
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("case", num_samples)
        file.createDimension("level", 3)
        file.createDimension("band", 2)
        for name, units, values in (
            ("sst", "degC", sst),
            ("wind speed", "m s-1", wind),
            ("profile", "g kg-1", profile),
            ("flux", "1" if bounded else "W m-2", flux),
        ):
            dims = ("case",) if values.ndim == 1 else ("case", "level" if values.shape[1] == 3 else "band")
            variable = file.createVariable(name, "f8", dims)
            variable.units = units
            variable[:] = values
    return path


def write_config(path, samples, **tables):
    """A TOML file for `write_samples`; tables by name, plain values."""
    from hpo.config import to_toml

    data = {"path": str(samples), "inputs": ["sst", "wind speed", "profile"], "outputs": ["flux"]}
    data |= tables.pop("data", {})
    path.write_text(to_toml({"data": data, **tables}))
    return path


def run(*arguments, out, status=0):
    """`python -m hpo.search` in this process."""
    assert search.main([*map(str, arguments), "--out", str(out), "--device", "cpu"]) == status


def start(*arguments, out, cwd=None, program=("-m", "hpo.search"), **options):
    """`python -m hpo.search` as a process of its own, in its own process group."""
    command = [sys.executable, *program, *map(str, arguments), "--out", str(out), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=cwd or ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@contextlib.contextmanager
def held_back(out, keys):
    """Trials that this process has leased, as one more member of the search, and does not run; by keys of leases.

    However slow or quick the other members are, none of them comes to the end of the search within the `with` block;
    let them be started with LONG_LEASE, lest they take this process for dead when the machine is busy. Yields a
    function that gives some of the trials back before.
    """
    with Member(Path(out), devices=[]) as member, contextlib.ExitStack() as ends:
        member.update(state="step 1")
        leases = Crew.of(Path(out), member).leases
        ends.callback(leases.close)
        assert all([leases.take(key) for key in keys])
        yield lambda some: [leases.release(key) for key in some]


def meddling(meddler):
    """Instead of `-m hpo.search`: workers that meddle with the search as a class of `tests.python.meddlers` says."""
    program = (
        "import functools, sys; from hpo import run, search; from tests.python import meddlers; "
        "run.Pool = functools.partial(run.Pool, runner=getattr(meddlers, sys.argv.pop(1))); sys.exit(search.main())"
    )
    return ["-c", program, meddler]


def raw_records(out, step):
    """Every record of a step in order of trial, none left out as a duplicate."""
    records = [r for path in Path(out).glob(f"step{step}/worker-*.jsonl") for r in read_records(path)]
    return sorted(records, key=lambda r: r["trial"])


def outcomes(out, step):
    """Records without what may differ between two runs; compares bit for bit."""
    records = raw_records(out, step)
    assert len({r["trial"] for r in records}) == len(records), "a trial is recorded twice"
    return [json.dumps({k: v for k, v in r.items() if k not in PROVENANCE}, sort_keys=True) for r in records]
