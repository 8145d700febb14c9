"""Several processes train one network: the same as one alone, whatever happens to any of them."""

import pytest
import torch

from hpo.distributed import GroupTraining, share
from hpo.errors import GroupLost
from hpo.groups import Meeting, end, ended
from hpo.recipe import Recipe
from hpo.train import Training, train
from tests.python import group_cases
from tests.python.group_cases import SEEDS, SPEC, curves, resumed, samples, seats, stopped, together, whole

RECIPE = {"batch_size": 64, "max_epochs": 12, "learning_rate": 3e-3}
# 132 updates whose gradients are summed in another order: a few roundings each (measured: 6e-8 and 4e-16 in the end).
# Longer float32 trainings at a high rate part in the end, for a rounding decides which side of a ReLU a sample is on: a
# net of 6 x 64 at 3e-3 after some 100 (4 ranks) or 300 updates (2 ranks); its float64 curves agree to 1e-12 throughout.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def alone(recipe, dtype):
    training = Training(SPEC, Recipe(**recipe), samples(getattr(torch, dtype)), **SEEDS)
    outcome = train(training)
    return curves(training) | {"error": outcome.error}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_ranks_gives_the_validation_curve_of_one(tmp_path, size, dtype):
    want = alone(RECIPE, dtype)
    found = together(tmp_path / "g", size, whole, RECIPE, dtype)
    for rank in found:
        assert rank == found[0], "all ranks have the same bits"
        assert rank["validation"] == pytest.approx(want["validation"], rel=TOLERANCE[dtype])
        assert rank["train"] == pytest.approx(want["train"], rel=TOLERANCE[dtype])
        assert rank["best"] == want["best"]


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_clip": 1e-2},
        {"weight_decay": 1e-2, "learning_rate_schedule": "cosine"},
        {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate_schedule": "exponential"},
        {"learning_rate": 0.1, "patience": 2, "max_epochs": 60},  # stops early
        {"learning_rate": 1e30},  # diverges
    ],
)
def test_the_loop_of_a_group_is_the_plain_loop(change):
    recipe = RECIPE | change
    want = alone(recipe, "float64")
    training = GroupTraining(SPEC, Recipe(**recipe), samples(torch.float64), **SEEDS)
    outcome = train(training)
    assert outcome.error == want["error"]
    # one process, float64: only the products of the loss are in another order
    assert training.validation_curve == pytest.approx(want["validation"], rel=1e-10)
    assert training.best_epoch == want["best"]


def test_ranks_stop_early_and_diverge_together(tmp_path):
    changes = {"early": {"learning_rate": 0.1, "patience": 2, "max_epochs": 60}, "diverges": {"learning_rate": 1e30}}
    for name, change in changes.items():
        want = alone(RECIPE | change, "float64")
        for rank in together(tmp_path / name, 2, whole, RECIPE | change, "float64"):
            assert rank["error"] == want["error"]
            assert len(rank["validation"]) == len(want["validation"]) < 60


def test_shares_are_whole_disjoint_and_even():
    for num in (0, 1, 3, 700, 1024):
        for size in (1, 2, 3, 4, 7):
            ranges = [share(num, rank, size) for rank in range(size)]
            assert [a for a, _ in ranges] == [0] + [b for _, b in ranges[:-1]] and ranges[-1][1] == num
            assert max(b - a for a, b in ranges) - min(b - a for a, b in ranges) <= 1


def test_a_batch_smaller_than_the_group_leaves_ranks_without_rows(tmp_path):
    recipe = RECIPE | {"batch_size": 233, "max_epochs": 3}  # 700 = 3 x 233 + 1
    want = alone(recipe, "float64")
    for rank in together(tmp_path / "g", 2, whole, recipe, "float64"):
        assert rank["validation"] == pytest.approx(want["validation"], rel=1e-10)


@pytest.mark.parametrize("stopper", [0, 1])
def test_ranks_agree_where_to_stop_and_any_number_goes_on_from_there(tmp_path, stopper):
    want = alone(RECIPE, "float64")
    found = together(tmp_path / "g", 2, stopped, RECIPE, stopper, 9, tmp_path / "checkpoint")
    assert sorted(rank["how"] for rank in found) == ["other", "own"]
    assert found[0]["epoch"] == found[1]["epoch"] < 12 and found[0]["position"] == found[1]["position"]
    for kind in (Training, GroupTraining):
        training = kind(SPEC, Recipe(**RECIPE), samples(torch.float64), weights_seed=70, batch_seed=71)
        training.restore(torch.load(tmp_path / "checkpoint", weights_only=True))
        train(training)
        assert training.validation_curve == pytest.approx(want["validation"], rel=1e-10)
    for rank in together(tmp_path / "again", 3, resumed, RECIPE, tmp_path / "checkpoint"):
        assert rank["validation"] == pytest.approx(want["validation"], rel=1e-10)


def test_a_checkpoint_of_one_is_taken_up_by_many(tmp_path):
    want = alone(RECIPE, "float64")
    training = Training(SPEC, Recipe(**RECIPE), samples(torch.float64), **SEEDS)
    for _ in range(4):
        training.run_epoch()
    training.advance()  # in the middle of the fifth
    torch.save(training.state(), tmp_path / "checkpoint")
    for rank in together(tmp_path / "g", 2, resumed, RECIPE, tmp_path / "checkpoint"):
        assert rank["validation"] == pytest.approx(want["validation"], rel=1e-10)
        assert rank["train"] == pytest.approx(want["train"], rel=1e-10)


def test_a_rank_that_falls_silent_is_given_up(tmp_path):
    folder = tmp_path / "g"
    recipe = RECIPE | {"max_epochs": 100_000, "patience": 0}
    processes = group_cases.start(folder, 2, group_cases.killed, recipe, 1, 3, "SIGSTOP", 2.0)
    processes[0].join(300)
    assert processes[0].exitcode == 0, "it waits for ever"
    processes[1].kill()
    found = group_cases.results(folder, processes)
    assert found[0]["error"] == "GroupLost"
    # on a busy machine one may be silent for so long before it stops
    assert found[1] is None or found[1]["error"] == "GroupLost"


@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_a_rank_ends_the_group_at_once(tmp_path, victim):
    folder = tmp_path / "g"
    recipe = RECIPE | {"max_epochs": 100_000, "patience": 0}
    processes = group_cases.start(folder, 3, group_cases.killed, recipe, victim, 3)
    found = group_cases.results(folder, processes)
    assert found.pop(victim) is None
    assert [rank["error"] for rank in found] == ["GroupLost"] * 2
    assert "another rank is gone" in ended(folder)


def test_an_error_of_one_rank_is_told_to_the_others(tmp_path):
    folder = tmp_path / "g"
    found = together(folder, 2, group_cases.fails, RECIPE | {"max_epochs": 100_000, "patience": 0}, 1)
    assert [rank["error"] for rank in found] == ["GroupLost", "GroupLost"]
    assert found[1]["text"] == "out of memory on cpu of rank 1: no memory left"
    assert ended(folder) == "rank 1: MemoryError: no memory left"


def test_a_meeting_that_nobody_comes_to_or_that_is_called_off_ends(tmp_path):
    now = 0.0
    first, second = seats(tmp_path / "g", 2)
    meeting = Meeting(first, "cpu", seconds=5.0, clock=lambda: now)
    assert meeting.ranks() is None
    now = 5.1
    with pytest.raises(GroupLost, match=r"ranks \[1\] did not come within 5 s"):
        meeting.ranks()
    with pytest.raises(GroupLost, match="did not come"):
        Meeting(second, "cpu").address()
    first, second = seats(tmp_path / "h", 2)
    end(tmp_path / "h", "its opener leaves")
    training = GroupTraining(SPEC, Recipe(), samples(), **SEEDS, meeting=Meeting(second, "cpu"))
    with pytest.raises(GroupLost, match="group h: its opener leaves"):
        training.advance()
