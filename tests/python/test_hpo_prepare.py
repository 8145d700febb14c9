"""What each step trains on: the right rows, and statistics of those alone."""

import json
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from emulator.dataset import SampleFile
from hpo.config import Config
from hpo.errors import SearchError
from hpo.prepare import choose_output_activation, open_samples, rows_of
from hpo.run import prepare_steps
from tests.python.hpo_cases import write_samples

ROOT = Path(__file__).parents[2]
INPUTS, OUTPUTS = ["sst", "wind speed", "profile"], ["flux"]


def config_of(path, p_subset=0.1, **data):
    data = {"path": str(path), "inputs": INPUTS, "outputs": OUTPUTS} | data
    return Config.from_dict({"data": data, "search": {"p_subset": p_subset, "seed": 4}})


def prepared(tmp_path, config):
    samples = open_samples(config.data)
    said = []
    return samples, prepare_steps(tmp_path / "cache", config, samples, "checksum", said.append), said


def test_rows_of_step1_lie_inside_those_of_step2_and_the_holdout_in_neither(tmp_path):
    config = config_of(write_samples(tmp_path / "s.nc"))
    small, full = rows_of(config, 2000, 0.1), rows_of(config, 2000, 1.0)
    assert np.array_equal(small.test, full.test) and full.test.size == 400
    assert small.train.size + small.validation.size == 160
    used = set(full.train) | set(full.validation)
    assert set(small.train) | set(small.validation) <= used
    assert not used & set(full.test) and len(used) == 1600
    assert not set(small.train) & set(small.validation)


def test_statistics_are_those_of_each_steps_training_rows(tmp_path):
    path = write_samples(tmp_path / "s.nc", bounded=False)
    config = config_of(path)
    _, steps, _ = prepared(tmp_path, config)
    for step, subset in ((1, 0.1), (2, 1.0)):
        rows = rows_of(config, 2000, subset).train
        with netCDF4.Dataset(path) as file:
            wind = np.log(file["wind speed"][:][rows])
            flux = file["flux"][:][rows]
        inputs, outputs = steps[step].inputs[0], steps[step].outputs
        assert inputs.transforms == ("none", "log", "none", "none", "none")
        # the same numbers summed in another order: a few roundings of float64
        assert inputs.mean[1] == pytest.approx(wind.mean(), rel=1e-12)
        assert inputs.std[1] == pytest.approx(wind.std(), rel=1e-12)
        assert outputs.mean == pytest.approx(flux.mean(axis=0), rel=1e-12)
        assert outputs.std == pytest.approx(flux.std(axis=0), rel=1e-12)
        assert outputs.maximum == pytest.approx(flux.max(axis=0), rel=0)
    assert steps[1].inputs[0].mean[1] != steps[2].inputs[0].mean[1]


def test_cached_arrays_are_the_normalised_rows(tmp_path):
    path = write_samples(tmp_path / "s.nc")
    config = config_of(path)
    _, steps, _ = prepared(tmp_path, config)
    parts = rows_of(config, 2000, 0.1)
    arrays = steps[1].arrays(0)
    for name, rows in (("train", parts.train), ("validation", parts.validation)):
        x, y = SampleFile(path, INPUTS, OUTPUTS).read(rows)
        assert np.array_equal(arrays[f"x_{name}"], steps[1].inputs[0].forward(x).astype(np.float32))
        assert np.array_equal(arrays[f"y_{name}"], y.astype(np.float32))
        assert arrays[f"x_{name}"].dtype == np.float32


def test_auto_means_in_step1_what_it_means_on_all_the_data(tmp_path):
    path = write_samples(tmp_path / "s.nc")
    config = config_of(path)
    outlier = rows_of(config, 2000, 1.0).train
    outlier = next(r for r in outlier if r not in set(rows_of(config, 2000, 0.1).train))
    with netCDF4.Dataset(path, "a") as file:
        file["profile"][outlier, 0] = 50.0  # only on all the data does this column span a factor of 3
        file["flux"][outlier, 0] = 1.5  # and only there does an output leave 0..1
    _, steps, _ = prepared(tmp_path, config)
    assert steps[2].inputs[0].transforms[2] == steps[1].inputs[0].transforms[2] == "log"
    assert steps[2].output_activation == steps[1].output_activation == "identity"


def test_cache_is_taken_again_and_made_anew_when_it_is_another(tmp_path):
    config = config_of(write_samples(tmp_path / "s.nc"))
    _, _, said = prepared(tmp_path, config)
    assert len(said) == 2
    _, _, said = prepared(tmp_path, config)
    assert said == []
    _, steps, said = prepared(tmp_path, config_of(tmp_path / "s.nc", p_subset=0.2))
    assert len(said) == 1 and steps[1].num_train + steps[1].num_validation == 320


def test_holdout_rows_are_never_read(tmp_path):
    path = write_samples(tmp_path / "s.nc")
    config = config_of(path)
    with netCDF4.Dataset(path, "a") as file:
        for name in ("sst", "flux"):
            values = file[name][:]
            values[rows_of(config, 2000, 1.0).test] = np.nan
            file[name][:] = values
    prepared(tmp_path, config)  # would say "NaN in ... samples read"
    used = rows_of(config, 2000, 1.0).train[5]
    with netCDF4.Dataset(path, "a") as file:
        file["sst"][used] = np.nan
    with pytest.raises(SearchError, match=r"missing, NaN or infinite; of .* read, 'sst' in 1 \(first"):
        prepared(tmp_path / "again", config)


def test_output_activation_follows_the_range_of_the_outputs():
    assert choose_output_activation("auto", [0.0, 0.2], [1.0, 0.9], ["a", "b"]) == "sigmoid"
    assert choose_output_activation("auto", [-1e-9, 0.2], [1.0, 0.9], ["a", "b"]) == "identity"
    with pytest.raises(SearchError, match=r"output 'b' reaches from 0.2 to 1.1, a sigmoid output only from 0 to 1"):
        choose_output_activation("sigmoid", [0.0, 0.2], [1.0, 1.1], ["a", "b"])


def test_searched_transforms_have_statistics_each(tmp_path):
    config = config_of(write_samples(tmp_path / "s.nc"), transforms=["auto", "none"])
    _, steps, _ = prepared(tmp_path, config)
    assert [n.transforms[1] for n in steps[1].inputs] == ["log", "none"]
    assert not np.array_equal(steps[1].arrays(0)["x_train"], steps[1].arrays(1)["x_train"])


def test_impossible_splits_and_columns_are_refused(tmp_path):
    path = write_samples(tmp_path / "s.nc", num_samples=200)
    with pytest.raises(SearchError, match="too few samples: 200 rows give"):
        prepared(tmp_path, config_of(path, p_subset=0.001))
    with netCDF4.Dataset(path, "a") as file:
        file["sst"][:] = 4.0
    with pytest.raises(SearchError, match="column 'sst' is constant"):
        prepared(tmp_path, config_of(path))


PREPARE = """
import json, sys
from pathlib import Path
from hpo.config import Config
from hpo.prepare import open_samples
from hpo.run import prepare_steps
import emulator.normalise, hpo.prepare
hpo.prepare._BLOCK_ROWS = emulator.normalise._BLOCK_ROWS = 4096
emulator.dataset._SLAB_ROWS = 4096
def kilobytes(what):
    return int(next(l for l in open("/proc/self/status") if l.startswith(what)).split()[1])
def make(name):
    data = {"path": f"{sys.argv[1]}/{name}.nc", "inputs": ["a", "b"], "outputs": ["c"], "transforms": "none"}
    config = Config.from_dict({"data": data})
    prepare_steps(Path(sys.argv[1]) / name, config, open_samples(config.data), "checksum", lambda text: None)
make("small")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = kilobytes("VmRSS")
make("large")
print(json.dumps((kilobytes("VmHWM") - before) / 1024))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_files_larger_than_memory_are_prepared_in_blocks(tmp_path):
    rng = np.random.default_rng(0)
    for name, rows in (("small", 10_000), ("large", 400_000)):
        with netCDF4.Dataset(tmp_path / f"{name}.nc", "w") as file:
            file.createDimension("case", rows)
            file.createDimension("level", 19)
            for variable, dims in (("a", ("case", "level")), ("b", ("case",)), ("c", ("case",))):
                file.createVariable(variable, "f8", dims).units = "1"
                file[variable][:] = rng.random([file.dimensions[d].size for d in dims])
    done = subprocess.run([sys.executable, "-c", PREPARE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # the samples are 64 MiB; row numbers of the split, some of which exist several times over, 3 MiB
    assert json.loads(done.stdout) < 32
    again = np.load(tmp_path / "large" / "step2" / "x_train-0.npy", mmap_mode="r")
    assert again.shape == (256_000, 20) and again.dtype == np.float32
