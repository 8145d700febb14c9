"""Reading samples files and splitting their rows."""

import netCDF4
import numpy as np
import pytest

from emulator import dataset
from emulator.dataset import SampleFile
from emulator.split import RowOrder, split_rows


def write_samples(path, num_samples=500, **changes):
    """A file with inputs `a` (scalar) and `b` (two modes) and output `f`; `changes` replace or remove arrays."""
    rng = np.random.default_rng(1)
    data = {
        "a": (("n",), "K", rng.uniform(250, 300, num_samples)),
        "b": (("n", "m"), "cm-3", rng.lognormal(size=(num_samples, 2))),
        "f": (("n",), "1", rng.random(num_samples)),
    } | changes
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("n", num_samples)
        file.createDimension("m", 2)
        file.createDimension("other", num_samples)
        for name, entry in data.items():
            if entry is None:
                continue
            dims, units, values = entry
            variable = file.createVariable(name, values.dtype, dims)
            if units is not None:
                variable.units = units
            variable[:] = values
    return path


def open_samples(path, **kwargs):
    return SampleFile(path, **({"inputs": ["a", "b"], "outputs": ["f"]} | kwargs))


def test_columns_keep_names_units_and_order_and_count_modes_from_one(tmp_path):
    samples = open_samples(write_samples(tmp_path / "s.nc"))
    assert [c.name for c in samples.input_columns] == ["a", "b_1", "b_2"]
    assert [c.units for c in samples.input_columns] == ["K", "cm-3", "cm-3"]
    assert [c.index for c in samples.input_columns] == [None, 0, 1]
    assert samples.num_samples == 500


@pytest.mark.parametrize("gap", [0, 4096])
def test_reading_rows_equals_reading_all_and_picking(tmp_path, monkeypatch, gap):
    monkeypatch.setattr(dataset, "_SLAB_ROWS", 50)
    monkeypatch.setattr(dataset, "_MAX_GAP", gap)
    path = write_samples(tmp_path / "s.nc")
    with netCDF4.Dataset(path) as file:
        a, b, f = (np.asarray(file[v][:]) for v in "abf")
    rows = np.sort(np.random.default_rng(2).choice(500, 60, replace=False))
    x, y = open_samples(path).read(rows)
    np.testing.assert_array_equal(x, np.column_stack([a, b])[rows])
    np.testing.assert_array_equal(y, f[rows][:, None])


def test_a_small_subset_does_not_read_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_MAX_GAP", 4)
    read = []
    original = netCDF4.Variable.__getitem__

    class Spy:
        def __init__(self, variable):
            self.variable, self.shape = variable, variable.shape

        def __getitem__(self, key):
            read.append(key.stop - key.start)
            return original(self.variable, key)

    samples = open_samples(write_samples(tmp_path / "s.nc"))
    with samples._open() as file:
        fake = type("File", (), {"variables": {"a": Spy(file.variables["a"])}})
        samples._read_columns(fake, ["a"], np.array([3, 5, 480]))
    assert read == [3, 1]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"a": None}, {}, r"no variable 'a' \(it has b, f\)"),
        ({}, {"inputs": ["a", "bb"]}, "did you mean 'b'"),
        ({"a": (("other",), "K", np.ones(500))}, {}, "the same sample dimension"),
        ({"a": (("n", "m", "m"), "K", np.ones((500, 2, 2)))}, {}, "at most one more"),
        ({"a": (("n",), None, np.ones(500))}, {}, "no units attribute"),
        ({}, {"units": {"a": "degC"}}, "has units 'K', the config expects 'degC'"),
        ({}, {"units": {"z": "K"}}, "neither inputs nor outputs"),
        ({}, {"inputs": ["a", "a"]}, "different names"),
        ({}, {"outputs": ["a"]}, "both as inputs and as outputs"),
    ],
)
def test_a_bad_file_or_name_is_refused_with_its_reason(tmp_path, changes, options, message):
    path = write_samples(tmp_path / "s.nc", **changes)
    with pytest.raises(ValueError, match=message):
        open_samples(path, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, netCDF4.default_fillvals["f8"]])
def test_a_value_that_is_not_a_number_is_refused_with_its_row(tmp_path, bad):
    values = np.ones(500)
    values[37] = bad
    samples = open_samples(write_samples(tmp_path / "s.nc", a=(("n",), "K", values)))
    with pytest.raises(ValueError, match=r"NaN or infinite; of 100 samples read, 'a' in 1 \(first at row 37\)\."):
        samples.read(np.arange(100))


def test_all_variables_with_missing_values_are_told_at_once_and_how_to_go_on(tmp_path):
    a, f = np.ones(500), np.ones(500)
    a[[3, 37]], f[99] = np.nan, np.nan
    samples = open_samples(write_samples(tmp_path / "s.nc", a=(("n",), "K", a), f=(("n",), "1", f)))
    with pytest.raises(ValueError, match=r"'a' in 2 \(first at row 3\), 'f' in 1 \(.* 99\)\. .*dropna\('n'\)"):
        samples.read(np.arange(100))


def test_who_named_no_variables_is_told_so(tmp_path):
    path = write_samples(tmp_path / "s.nc")
    with pytest.raises(ValueError, match=r"no variable 'tair' .* inputs and outputs were not named; name them"):
        SampleFile(path)
    with pytest.raises(ValueError, match=r"no variable 'fn' .* were not named"):
        SampleFile(path, inputs=["a"])


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_samples(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as netCDF"):
        open_samples(tmp_path / "text.nc")


def test_checksum_changes_with_one_bit(tmp_path):
    path = write_samples(tmp_path / "s.nc")
    before = open_samples(path).checksum()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    samples = SampleFile.__new__(SampleFile)
    samples.path = path
    assert samples.checksum() != before


@pytest.mark.parametrize("num_rows", [1, 2, 3, 17, 256, 1000])
def test_row_order_is_a_permutation_that_depends_on_the_seed(num_rows):
    order = RowOrder(num_rows, 1).rows(0, num_rows)
    assert sorted(order) == list(range(num_rows))
    if num_rows >= 17:
        assert (order != RowOrder(num_rows, 2).rows(0, num_rows)).any()
        stretch = RowOrder(num_rows, 1).rows(5, 11)
        np.testing.assert_array_equal(stretch, order[5:11])


def test_row_order_looks_random():
    order = RowOrder(20000, 5).rows(0, 10000)
    # half of the rows in each tenth of the file: binomial, 1000 +- 22; 5 sigma
    counts = np.histogram(order, bins=10, range=(0, 20000))[0]
    assert (abs(counts - 1000) < 112).all()
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05  # 1/sqrt(10000) = 0.01, 5 sigma


def test_parts_do_not_overlap_and_have_exact_sizes():
    parts = split_rows(1000, seed=3, test_fraction=0.2, validation_fraction=0.25, subset=0.5)
    assert [p.size for p in (parts.train, parts.validation, parts.test)] == [300, 100, 200]
    everything = np.concatenate([parts.train, parts.validation, parts.test])
    assert np.unique(everything).size == 600


def test_the_hold_out_does_not_depend_on_the_subset_and_subsets_nest():
    def used(subset):
        parts = split_rows(5000, seed=3, test_fraction=0.3, validation_fraction=0.2, subset=subset)
        return set(parts.train) | set(parts.validation), parts.test

    small, test_small = used(0.05)
    large, test_large = used(0.5)
    np.testing.assert_array_equal(test_small, test_large)
    assert small < large
    assert not large & set(test_large)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": 0.0}, "subset is 0"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0"),
        ({"test_fraction": 1.0}, "test_fraction is 1"),
        ({"subset": 0.001}, "too few samples"),
        ({"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_impossible_splits_are_refused(change, message):
    options = {"num_samples": 1000, "seed": 0, "test_fraction": 0.2, "validation_fraction": 0.2} | change
    with pytest.raises(ValueError, match=message):
        split_rows(options.pop("num_samples"), **options)
