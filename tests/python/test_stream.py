"""Samples from files: every row once, in an order that depends on the seed alone, in bounded memory."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emulator.mlp import MLPSpec
from hpo.distributed import GroupTraining
from hpo.recipe import Recipe
from hpo.stream import CHUNK_ROWS, WINDOW_ROWS, ArrayFile, StreamedData, order_of_epoch, resolve
from hpo.train import Training, TrainingData, train
from tests.python.group_cases import SEEDS, SPEC, curves, samples, streamed, together

ROOT = Path(__file__).parents[2]
RECIPE = {"batch_size": 64, "max_epochs": 6, "learning_rate": 3e-3}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def files_of(folder, data):
    """The arrays of a TrainingData as files."""
    folder.mkdir(exist_ok=True)
    names = {
        "x_train": "x_train_NI",
        "y_train": "y_train_NO",
        "x_validation": "x_validation_NI",
        "y_validation": "y_validation_NO",
    }
    for name, attribute in names.items():
        np.save(folder / f"{name}.npy", getattr(data, attribute).numpy())
    return {name: folder / f"{name}.npy" for name in names}


def stream_of(folder, data, **sizes):
    return StreamedData(
        files=files_of(folder, data),
        device=torch.device("cpu"),
        num_train=data.num_train,
        num_validation=data.num_validation,
        num_outputs=data.num_outputs,
        dtype=data.dtype,
        **{"chunk_rows": 16, "window_rows": 160} | sizes,
    )


def numbered(n=701, m=53):
    """Samples that say which row they are."""
    x, y = torch.arange(float(n)), torch.arange(float(m))
    return TrainingData(x[:, None], 2 * x[:, None], y[:, None], 3 * y[:, None])


def epoch(data, rank=0, size=1, batch=64, start=0, seed=3):
    """The rows of each batch of an epoch that a rank sees."""
    reader = data.reader(rank, size, batch)
    reader.begin(torch.Generator().manual_seed(seed), start)
    seen = []
    for first in range(start, data.num_train, batch):
        x, y = reader.batch(min(batch, data.num_train - first))
        assert torch.equal(y, 2 * x)
        seen.append(x[:, 0].int().tolist())
    reader.close()
    return seen


@pytest.mark.parametrize(("chunk", "window"), [(16, 160), (1, 1), (7, 50), (1000, 1000), (16, 10_000)])
def test_an_epoch_holds_every_row_once(tmp_path, chunk, window):
    data = stream_of(tmp_path, numbered(), chunk_rows=chunk, window_rows=window)
    batches = epoch(data)
    assert [len(b) for b in batches] == [64] * 10 + [61]
    assert sorted(itertools.chain(*batches)) == list(range(701))
    assert epoch(data) == batches and epoch(data, seed=4) != batches


def test_rows_are_shuffled_within_and_across_chunks():
    rows = np.concatenate(list(order_of_epoch(64_000, 1, 100, 6400)))
    first = rows[:6400] // 100
    assert len(set(first)) == 64, "a window is of whole chunks"
    assert len(set(first[:200])) > 55, "200 rows in a row are of nearly all of its 64 chunks"
    # and chunks come from everywhere: the middle of 64 uniform draws is within 4 standard deviations of the middle
    assert abs(np.median(first) - 320) < 4 * 640 / (2 * 8)


def test_ranks_share_the_batches_of_one(tmp_path):
    data = stream_of(tmp_path, numbered())
    whole = epoch(data)
    for size in (2, 3, 4):
        parts = [epoch(data, rank, size) for rank in range(size)]
        for k, batch in enumerate(whole):
            assert list(itertools.chain(*(p[k] for p in parts))) == batch


def test_an_epoch_is_taken_up_in_its_middle(tmp_path):
    data = stream_of(tmp_path, numbered())
    for rank, size in ((0, 1), (1, 3)):
        assert epoch(data, rank, size, start=320) == epoch(data, rank, size)[5:]
        assert epoch(data, rank, size, start=704) == []


def test_validation_rows_are_shared_out_in_order(tmp_path):
    data = stream_of(tmp_path, numbered())
    for size in (1, 2, 3):
        seen = []
        for rank in range(size):
            reader = data.reader(rank, size, 64)
            for x, y in reader.validation(5, 50, 8):
                assert torch.equal(y, 3 * x) and len(x) <= 8
                seen += x[:, 0].int().tolist()
            reader.close()
        assert seen == list(range(5, 50))


def test_a_shortened_file_is_noticed(tmp_path):
    data = stream_of(tmp_path, numbered())
    path = data.files["x_train"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(OSError, match=r"x_train.npy is shorter than its header says"):
        epoch(data)
    with pytest.raises(OSError, match="shorter"):
        ArrayFile(path).read(600, 701)


def test_streamed_training_does_not_depend_on_the_number_of_ranks(tmp_path):
    data = stream_of(tmp_path / "data", samples(torch.float64))
    training = GroupTraining(SPEC, Recipe(**RECIPE), data, **SEEDS)
    train(training)
    training.close()
    want = curves(training)
    sizes = {"chunk_rows": 16, "window_rows": 160}
    for size in (2, 3):
        for rank in together(tmp_path / f"g{size}", size, streamed, RECIPE, str(tmp_path / "data"), sizes):
            # float64 sums in another order, 66 updates by Adam (see test_distributed)
            assert rank["validation"] == pytest.approx(want["validation"], rel=1e-10)
            assert rank["train"] == pytest.approx(want["train"], rel=1e-10)


def test_streamed_training_is_taken_up_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("hpo.train._MAX_PIECE_STEPS", 3)
    data = stream_of(tmp_path, samples(torch.float64))
    whole = GroupTraining(SPEC, Recipe(**RECIPE), data, **SEEDS)
    train(whole)
    first = GroupTraining(SPEC, Recipe(**RECIPE), data, **SEEDS)
    for advances in range(1, 18):
        first.advance()
        if advances % 4 == 1:
            second = GroupTraining(SPEC, Recipe(**RECIPE), data, weights_seed=70, batch_seed=71)
            second.restore(first.state())
            train(second)
            assert second.validation_curve == whole.validation_curve
            assert second.train_curve == whole.train_curve


def sorted_problem():
    """Samples sorted by their first input, on which the output depends most."""
    rng = np.random.default_rng(7)
    x = rng.uniform(-2, 2, (20_000, 2))
    x[:16_000] = x[:16_000][np.argsort(x[:16_000, 0])]
    y = np.sin(3 * x[:, :1]) * np.cos(x[:, 1:]) + x[:, :1]
    x, y = (torch.from_numpy(a.astype(np.float32)) for a in (x, y))
    return TrainingData(x[:16_000], y[:16_000], x[16_000:], y[16_000:])


def test_training_from_chunks_of_a_sorted_file_is_as_good_as_from_whole_tensors(tmp_path):
    data, spec = sorted_problem(), MLPSpec(num_inputs=2, hidden=(32, 32), num_outputs=1, output_activation="identity")
    recipe = Recipe(batch_size=128, max_epochs=12, learning_rate=3e-3, learning_rate_schedule="cosine")
    # as many chunks a window as there are by default; or one chunk alone
    windows = {"chunks": {"chunk_rows": 8, "window_rows": 4096}, "as filed": {"chunk_rows": 64, "window_rows": 64}}
    found = {"whole": [], "chunks": [], "as filed": []}
    for seed in range(4):
        seeds = {"weights_seed": seed, "batch_seed": 50 + seed}
        found["whole"].append(train(Training(spec, recipe, data, **seeds)).validation_mse)
        for name, sizes in windows.items():
            streamed = GroupTraining(spec, recipe, stream_of(tmp_path, data, **sizes), **seeds)
            found[name].append(train(streamed).validation_mse)
            streamed.close()
    mean = {name: np.exp(np.mean(np.log(mse))) for name, mse in found.items()}
    # seeds differ by a factor of 1.5 or so, means of four by less
    assert mean["chunks"] < 1.4 * mean["whole"]
    assert mean["as filed"] > 2 * mean["whole"], "the problem shows a poor shuffle"


MEMORY = """
import json, sys, torch
from pathlib import Path
from hpo.distributed import GroupTraining
from hpo.recipe import Recipe
from hpo.stream import StreamedData
from hpo.train import Training, TrainingData
from emulator.mlp import MLPSpec
import numpy as np
torch.set_num_threads(1)
folder, how = Path(sys.argv[1]), sys.argv[2]
files = {n: folder / f"{n}.npy" for n in ("x_train", "y_train", "x_validation", "y_validation")}
spec = MLPSpec(num_inputs=15, hidden=(4,), num_outputs=1)
def training_on(files, how):
    if how == "stream":
        n, m = (np.load(files[k], mmap_mode="r").shape[0] for k in ("x_train", "x_validation"))
        data = StreamedData(files=files, device=torch.device("cpu"), num_train=n, num_validation=m, num_outputs=1,
                            dtype=torch.float32, chunk_rows=1024, window_rows=1 << 16)
        kind = GroupTraining
    else:
        data = TrainingData(*(torch.from_numpy(np.load(f, mmap_mode="c")) for f in files.values()))
        kind = Training
    return kind(spec, Recipe(batch_size=4096, max_epochs=1), data, weights_seed=1, batch_seed=2)
small = {n: folder / f"small-{n}.npy" for n in files}
training_on(small, how).run_epoch()  # all code and buffers there are
def kilobytes(what):
    return int(next(l for l in open("/proc/self/status") if l.startswith(what)).split()[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = kilobytes("VmRSS")
training_on(files, how).run_epoch()
print(json.dumps((kilobytes("VmHWM") - before) / 1024))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """96 MiB of samples, and as many as one window."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for prefix, rows in (("", 3 << 19), ("small-", 1 << 16)):
        for name, width in (("x", 15), ("y", 1)):
            np.save(folder / f"{prefix}{name}_train.npy", rng.random((rows, width), dtype=np.float32))
            np.save(folder / f"{prefix}{name}_validation.npy", rng.random((1 << 16, width), dtype=np.float32))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("how", ["stream", "resident"])
def test_memory_is_bounded_by_the_window(large, how):
    command = [sys.executable, "-c", MEMORY, str(large), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    megabytes = json.loads(done.stdout)
    if how == "stream":
        assert megabytes < 24  # a window is 4 MiB, and its rows are sorted and gathered beside it
    else:
        assert megabytes > 80, "the measurement sees the 96 MiB"


def test_auto_streams_what_would_fill_half_the_memory():
    cpu = torch.device("cpu")
    assert resolve(True, 0, cpu) and not resolve(False, 1 << 60, cpu)
    assert resolve("auto", 1 << 60, cpu) and not resolve("auto", 1 << 20, cpu)
    assert WINDOW_ROWS // CHUNK_ROWS == 512, "as in the test of quality above"
