"""Fixtures shared by the Python tests."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.variables import Column

INPUT_TRANSFORMS = ("none", "log", "log10", "sqrt", "logit")
OUTPUT_TRANSFORMS = ("none", "log", "log10", "sqrt", "logit")


@pytest.fixture
def make_bundle():
    """Function that makes a bundle with every transform in it; keyword arguments change the network."""
    from emulator.bundle import Bundle

    def make(seed=0, hidden=(16, 8), output_activation="identity", scale_outputs=True, **network):
        rng = np.random.default_rng(seed)
        x = np.column_stack([rng.normal(5, 2, 400), rng.lognormal(0, 2, (400, 3)), rng.random(400)])
        y = np.column_stack([rng.normal(5, 2, 400), rng.lognormal(0, 1, (400, 3)), rng.random(400)])
        inputs = [Column(name=f"in_{k}", units="K", variable=f"in_{k}") for k in INPUT_TRANSFORMS]
        outputs = [Column(name=f"out_{k}", units="1", variable=f"out_{k}") for k in OUTPUT_TRANSFORMS]
        spec = MLPSpec(num_inputs=5, hidden=hidden, num_outputs=5, output_activation=output_activation, **network)
        mlp = build_mlp(spec, torch.Generator().manual_seed(seed))
        fresh = torch.Generator().manual_seed(seed)
        for name, value in mlp.state_dict().items():  # normalizations that do something
            if value.dim() == 1 and not name.endswith(("bias", "mean")):
                value.uniform_(0.5, 1.5, generator=fresh)
            elif spec.normalization != "none" and value.dim() == 1:
                value.uniform_(-0.5, 0.5, generator=fresh)
        kinds = dict(zip((c.name for c in outputs), OUTPUT_TRANSFORMS, strict=True)) if scale_outputs else "none"
        return Bundle(
            spec=spec,
            state=mlp.state_dict(),
            inputs=Normaliser.fit(x, inputs, dict(zip((c.name for c in inputs), INPUT_TRANSFORMS, strict=True))),
            outputs=Normaliser.fit(y, outputs, kinds, standardise=scale_outputs),
            input_columns=tuple(inputs),
            output_columns=tuple(outputs),
            provenance={"study": "test", "trial": 7},
        )

    return make


# the reasons for a skip that CI accepts
NO_GPU = "no CUDA device"
NO_NDROP = "E3SM's ndrop.F90 is not part of this repository: set E3SM_NDROP to where yours lies"


# -- no test drops out unseen ----------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption(
        "--complete",
        action="store_true",
        help="fail unless as many tests ran as tests/count.txt says, and, where CI is set, none was skipped that could "
        "have run (neither a GPU nor E3SM's code can be installed)",
    )


def pytest_sessionfinish(session, exitstatus):
    if not session.config.getoption("--complete"):
        return
    expected = int((Path(__file__).parent / "count.txt").read_text())
    stats = session.config.pluginmanager.get_plugin("terminalreporter").stats
    reasons = [report.longrepr[2] for report in stats.get("skipped", [])]
    found = len(reasons) + sum(len(stats.get(outcome, [])) for outcome in ("passed", "failed", "error"))
    complaints = []
    if found != expected:
        complaints.append(f"{found} tests ran, tests/count.txt says {expected}: correct it if that is meant")
    avoidable = [reason for reason in reasons if reason not in {f"Skipped: {NO_GPU}", f"Skipped: {NO_NDROP}"}]
    if avoidable and os.environ.get("CI"):
        complaints.append(f"{len(avoidable)} tests were skipped; CI must run them all: {avoidable}")
    for complaint in complaints:
        print(f"\nERROR: {complaint}")
    if complaints and exitstatus == 0:
        session.exitstatus = 1
