"""The fast training against the plain loop, many under way at once, and their ends, failures and checkpoints."""

import io
import math
import time
from collections import Counter

import pytest
import torch

from emulator.mlp import MLPSpec, build_mlp
from hpo.bench.training import draws
from hpo.bench.training import samples as bench_samples
from hpo.engine import FLAT
from hpo.errors import SearchError
from hpo.flat import FlatTraining
from hpo.fleet import Fleet, check_precision
from hpo.lanes import CudaLane, HostLane
from hpo.products import WideLinear, with_wide_layers
from hpo.recipe import Recipe
from hpo.train import Diverged, Training, TrainingData, pieces_of_an_epoch, train

SPEC = MLPSpec(num_inputs=3, hidden=(16, 8, 24), num_outputs=2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples(n=700, m=300, dtype=torch.float32):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(n + m, 3, generator=g, dtype=torch.float64).to(dtype)
    y = torch.sigmoid(torch.stack([x[:, 0] * x[:, 1], torch.sin(2 * x[:, 2])], dim=1))
    return TrainingData(x[:n], y[:n], x[n:], y[n:])


def both(recipe, spec=SPEC, data=None, seed=1):
    """The same training in the plain loop and on flat buffers, run to their ends."""
    data = data or samples()
    kinds = (Training(spec, recipe, data, **seeds(seed)), FlatTraining(spec, recipe, data, **seeds(seed)))
    return [train(t) for t in kinds]


def seeds(k):
    return {"weights_seed": k, "batch_seed": 100 + k}


def assert_same(a, b, rel):
    assert a.epochs == b.epochs and a.best_epoch == b.best_epoch
    assert b.validation_curve == pytest.approx(a.validation_curve, rel=rel)
    assert b.train_curve == pytest.approx(a.train_curve, rel=rel)
    for name, weight in a.weights.items():
        torch.testing.assert_close(b.weights[name], weight, rtol=0.0, atol=rel)


# -- one training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["sigmoid", "tanh", "identity"])
@pytest.mark.parametrize("activation", FLAT["activation"])
def test_equals_the_plain_loop_for_every_activation(activation, output):
    spec = MLPSpec(num_inputs=3, hidden=(16, 8, 24), num_outputs=2, activation=activation, output_activation=output)
    # float64: only the order of additions differs, over 33 updates
    assert_same(*both(Recipe(batch_size=64, max_epochs=3), spec, samples(dtype=torch.float64)), rel=1e-11)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate_schedule": "cosine"},
        {"learning_rate_schedule": "exponential"},
        {"weight_decay": 0.02},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"gradient_clip": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1, "gradient_clip": 0.05, "learning_rate_schedule": "cosine"},
        {"learning_rate_schedule": "step", "step_epochs": 1},
        {"learning_rate_schedule": "one_cycle"},
        {"warmup_fraction": 0.5},
        {"beta1": 0.7, "beta2": 0.9, "epsilon": 1e-3},
        {"batch_size": 700},
        {"batch_size": 5000},
    ],
    ids=str,
)
def test_equals_the_plain_loop_for_every_setting_of_the_recipe(settings):
    recipe = Recipe(**({"batch_size": 64, "max_epochs": 3, "learning_rate": 3e-3} | settings))
    assert_same(*both(recipe, data=samples(dtype=torch.float64)), rel=1e-11)


def test_float32_equals_the_plain_loop_within_rounding():
    # float32 roundings over 33 updates, divided by small root mean squares in Adam
    assert_same(*both(Recipe(batch_size=64, max_epochs=3)), rel=1e-4)


@pytest.mark.parametrize("hidden", [(256, 256, 256), (64, 1024, 64), (1024, 64)], ids=str)
def test_wide_layers_train_to_the_very_weights_of_the_plain_loop(hidden):
    spec = MLPSpec(num_inputs=3, hidden=hidden, num_outputs=2)
    training = FlatTraining(spec, Recipe(), samples(), **seeds(1))
    assert any(layer.wide for layer in training._layers) == torch.backends.mkldnn.is_available()
    plain, flat = both(Recipe(batch_size=128, max_epochs=2), spec)
    assert all(torch.equal(flat.weights[name], weight) for name, weight in plain.weights.items())
    assert flat.validation_curve == pytest.approx(plain.validation_curve, rel=1e-6)  # summed in another order


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 77])
def test_a_wide_layer_is_a_layer(rows, bias):
    torch.manual_seed(3)
    exact = torch.nn.Linear(256, 512, bias).double()
    wide = with_wide_layers(torch.nn.Sequential(torch.nn.Linear(256, 512, bias)))
    assert isinstance(wide[0], WideLinear)
    wide.load_state_dict({f"0.{name}": w.float() for name, w in exact.state_dict().items()})
    x = torch.randn(rows, 256)
    found = []
    for network, kind in ((exact, torch.float64), (wide, torch.float32)):
        x_BI = x.to(kind).requires_grad_()
        network(x_BI).square().sum().backward()
        found.append([x_BI.grad, *(w.grad for w in network.parameters())])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)  # float32 sums of 512 terms


def test_draws_of_the_papers_space_stop_where_those_of_the_plain_loop_do():
    recipe = Recipe(batch_size=64, max_epochs=40)
    specs = draws(max_width=32, number=16)
    exact = [both(recipe, s, bench_samples(CPU, 128, torch.float64), seed=k) for k, s in enumerate(specs)]
    for a, b in exact:
        assert a.epochs == b.epochs and a.best_epoch == b.best_epoch
        assert b.validation_mse == pytest.approx(a.validation_mse, rel=1e-9)  # float64, 80 updates
    rounded = [both(recipe, s, bench_samples(CPU, 128), seed=k) for k, s in enumerate(specs)]
    assert sum(a.epochs == b.epochs for a, b in rounded) >= 15
    differences = sorted(abs(a.validation_mse - b.validation_mse) / a.validation_mse for a, b in rounded)
    assert differences[8] < 1e-3


def test_best_weights_are_those_of_the_best_epoch():
    data = samples()
    outcome = train(
        FlatTraining(SPEC, Recipe(batch_size=32, max_epochs=30, learning_rate=0.1, patience=4), data, **seeds(1))
    )
    assert outcome.best_epoch < outcome.epochs
    net = build_mlp(SPEC, torch.Generator())
    net.load_state_dict(outcome.weights)
    with torch.no_grad():
        mse = float(((net(data.x_validation_NI) - data.y_validation_NO) ** 2).double().mean())
    assert mse == pytest.approx(outcome.validation_mse, rel=1e-6)  # float32 squares, summed in another order


def test_bfloat16_trains_to_a_similar_error_and_leaves_weights_in_float32():
    recipe = Recipe(batch_size=64, max_epochs=10)
    ours = train(FlatTraining(SPEC, recipe, samples(), **seeds(1), precision="bf16"))
    exact = train(FlatTraining(SPEC, recipe, samples(), **seeds(1)))
    assert ours.validation_curve != exact.validation_curve
    assert ours.validation_mse == pytest.approx(exact.validation_mse, rel=0.2)  # eight bits of mantissa
    assert all(w.dtype == torch.float32 for w in ours.weights.values())
    assert not torch.equal(ours.weights["0.weight"], ours.weights["0.weight"].bfloat16().float())


@pytest.mark.parametrize("kind", [Training, FlatTraining])
@pytest.mark.parametrize("spec", [SPEC, MLPSpec(num_inputs=3, hidden=(4,), num_outputs=2)], ids=["deep", "shallow"])
def test_divergence_is_seen_though_a_sigmoid_hides_it(kind, spec):
    outcome = train(kind(spec, Recipe(batch_size=64, learning_rate=1e30), samples(), **seeds(1)))
    assert outcome.validation_mse is None and outcome.weights is None
    assert "epoch 1" in outcome.error and ("MSE is" in outcome.error or "beyond all bounds" in outcome.error)


def test_divergence_hidden_by_a_sigmoid_has_a_finite_error():
    """The case for which the weights are looked at: what the test before this one is about."""
    spec = MLPSpec(num_inputs=3, hidden=(4,), num_outputs=2)
    training = FlatTraining(spec, Recipe(batch_size=700, learning_rate=1e18), samples(), **seeds(1))
    with pytest.raises(Diverged, match="beyond all bounds"):
        training.run_epoch()


def small_pieces(monkeypatch):
    monkeypatch.setattr("hpo.train._PIECE_FLOP", 1.0)
    monkeypatch.setattr("hpo.train._VALIDATION_PIECE_ROWS", 128)


@pytest.mark.parametrize("pieces", range(0, 29, 4))
@pytest.mark.parametrize("second", [Training, FlatTraining])
@pytest.mark.parametrize("first", [Training, FlatTraining])
def test_any_kind_goes_on_from_the_middle_of_an_epoch_of_any_kind(first, second, pieces, monkeypatch):
    small_pieces(monkeypatch)
    recipe = Recipe(batch_size=64, max_epochs=4, learning_rate_schedule="cosine")
    data = samples(dtype=torch.float64)
    assert len(pieces_of_an_epoch(SPEC, recipe, data)) == 11 + 3
    whole = train(Training(SPEC, recipe, data, **seeds(1)))
    begun = first(SPEC, recipe, data, **seeds(1))
    for _ in range(pieces):
        begun.advance()
    file = io.BytesIO()
    torch.save(begun.state(), file)
    begun.advance()  # what is lost in a kill
    file.seek(0)
    taken_up = second(SPEC, recipe, data, **seeds(77))
    taken_up.restore(torch.load(file, weights_only=True))
    rel = 0.0 if first is second is Training else 1e-11  # one kind: the same bits
    assert_same(whole, train(taken_up), rel=rel)


def test_a_checkpoint_keeps_every_bit(monkeypatch):
    small_pieces(monkeypatch)
    data = samples()
    recipe = Recipe(batch_size=64, max_epochs=3)
    spec = MLPSpec(num_inputs=3, hidden=(16, 8), num_outputs=2)
    whole = train(FlatTraining(spec, recipe, data, **seeds(1)))
    for pieces in (3, 12, 14, 20):
        begun = FlatTraining(spec, recipe, data, **seeds(1))
        for _ in range(pieces):
            begun.advance()
        taken_up = FlatTraining(spec, recipe, data, **seeds(2))
        taken_up.restore(begun.state())
        resumed = train(taken_up)
        assert (resumed.train_curve, resumed.validation_curve) == (whole.train_curve, whole.validation_curve)
        assert all(torch.equal(resumed.weights[name], w) for name, w in whole.weights.items())


# -- many at once -------------------------------------------------------------------------------------------------


def fly(recipes, capacity, kind=FlatTraining, spec=SPEC):
    """Train all in one fleet; results by number, and the order in which they ended."""
    data, fleet, ended = samples(), Fleet(CPU, capacity), {}
    waiting = list(enumerate(recipes))
    most = 0
    while waiting or fleet.flights:
        while waiting and len(fleet.flights) < capacity:
            k, recipe = waiting.pop(0)

            def make(lane, k=k, recipe=recipe):
                return kind(spec, recipe, data, **seeds(k), lane=lane), 0.0

            fleet.start(k, make)
        most = max(most, len(fleet.flights))
        for landing in fleet.advance(0.05):
            ended[landing.key] = landing
    assert most == min(capacity, len(recipes))
    return ended


def test_a_result_does_not_depend_on_who_else_is_in_the_fleet():
    recipes = [Recipe(batch_size=64, max_epochs=3 + k, learning_rate=1e-3 * (k + 1)) for k in range(6)]
    alone, together = fly(recipes, 1), fly(recipes, 4)
    for k in range(6):
        a, b = alone[k].flight.training, together[k].flight.training
        assert a.validation_curve == b.validation_curve and a.epoch == 3 + k
        assert all(torch.equal(w, b.best_weights()[name]) for name, w in a.best_weights().items())


def test_a_long_trial_holds_no_other():
    recipes = [Recipe(batch_size=16, max_epochs=200, patience=0), *[Recipe(batch_size=64, max_epochs=2)] * 5]
    assert list(fly(recipes, 2)) == [1, 2, 3, 4, 5, 0]


def test_a_diverging_trial_does_not_touch_the_others():
    recipes = [Recipe(batch_size=64, max_epochs=3), Recipe(learning_rate=1e30), Recipe(batch_size=64, max_epochs=3)]
    ended = fly(recipes, 3)
    assert isinstance(ended[1].error, Diverged)
    assert ended[0].error is None and ended[2].error is None
    assert ended[0].flight.training.epoch == 3


class Hungry(FlatTraining):
    """Finds no memory while two others are under way, or none at all."""

    fleet = None
    never = False
    tries = 0

    def advance(self):
        Hungry.tries += 1
        if self.never or len(self.fleet.flights) > 1:
            raise torch.OutOfMemoryError("no memory left")
        return super().advance()


@pytest.mark.parametrize("never", [False, True])
def test_out_of_memory_runs_it_again_alone_and_then_fails(never, monkeypatch):
    data, fleet = samples(), Fleet(CPU, 3)
    monkeypatch.setattr(Hungry, "fleet", fleet)
    monkeypatch.setattr(Hungry, "never", never)
    recipe = Recipe(batch_size=64, max_epochs=2)
    for k in range(3):
        kind = Hungry if k == 1 else FlatTraining
        fleet.start(k, lambda lane, k=k, kind=kind: (kind(SPEC, recipe, data, **seeds(k), lane=lane), 0.0))
    ended, late = {}, False
    until = time.monotonic() + 300.0
    while len(ended) < 4 and time.monotonic() < until:
        for landing in fleet.advance(0.05):
            ended[landing.key] = landing
        if not late and len(fleet.flights) < 3:  # comes while the hungry one waits
            late = True
            fleet.start(3, lambda lane: (FlatTraining(SPEC, recipe, data, **seeds(3), lane=lane), 0.0))
            assert 3 not in [f.key for f in fleet.flights]
    assert sorted(ended) == [0, 1, 2, 3]
    assert [ended[k].error for k in (0, 2, 3)] == [None] * 3
    if never:
        assert isinstance(ended[1].error, torch.OutOfMemoryError)
    else:
        expected = train(FlatTraining(SPEC, recipe, data, **seeds(1)))
        assert ended[1].flight.training.validation_curve == expected.validation_curve


class Ticking(FlatTraining):
    """Takes a second by its own clock whenever it advances."""

    now = 0.0

    def advance(self):
        Ticking.now += 1.0
        return super().advance()


def test_seconds_of_trials_under_way_together_add_up_to_the_time_spent(monkeypatch):
    monkeypatch.setattr(Ticking, "now", 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: Ticking.now)
    ended = fly([Recipe(batch_size=16, max_epochs=6, patience=0)] * 4, 4, Ticking)
    seconds = [landing.flight.seconds for landing in ended.values()]
    assert Ticking.now > 4 * 6 and seconds == pytest.approx([Ticking.now / 4] * 4)


class LateLane(HostLane):
    """A device that is behind: numbers arrive, and room for work comes, only at the third look. Notes what it is
    asked; work with a key must find its memory where it was the first time, as a graph would."""

    graphs = True

    def __init__(self):
        super().__init__(CPU)
        self.looks, self.pending, self.keys = 0, False, Counter()

    def busy(self):
        if self.pending:
            self.looks += 1
            self.pending = self.looks % 3 != 0
        return self.pending

    def wait(self):
        self.pending = False

    def put(self, values):
        return values.clone()

    def mark(self):
        self.pending = True

    def run(self, key, work):
        self.keys[key] += 1
        if self.keys[key] == 1:
            self.recorded = getattr(self, "recorded", {}) | {key: work}
        self.recorded[key]()  # what a graph does: the first call's tensors, not this one's


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_work_that_is_replayed_and_answers_that_come_late_change_nothing(schedule, monkeypatch):
    monkeypatch.setattr("hpo.train._MAX_PIECE_STEPS", 4)
    recipe = Recipe(batch_size=64, max_epochs=5, learning_rate_schedule=schedule)
    data, lane = samples(), LateLane()
    late = FlatTraining(SPEC, recipe, data, **seeds(1), lane=lane)
    expected = FlatTraining(SPEC, recipe, data, **seeds(1))
    ended = 0
    while not late.done:
        if late.waiting:
            continue
        ended += late.advance()
    while not expected.done:
        expected.run_epoch()
    # learning rates that vary are float32 on such a device
    rel = 0.0 if schedule == "constant" else 1e-6
    assert ended == 5 and late.validation_curve == pytest.approx(expected.validation_curve, rel=rel)
    assert late.train_curve == pytest.approx(expected.train_curve, rel=max(rel, 1e-12))
    # 11 steps an epoch: two pieces of four and one of three, of which equal ones are one graph
    assert [n for key, n in lane.keys.items() if isinstance(key, tuple)] == [10, 5]


def test_settling_takes_in_an_epoch_that_has_ended_on_the_device():
    training = FlatTraining(SPEC, Recipe(batch_size=700, max_epochs=5), samples(), **seeds(1), lane=LateLane())
    while not training.waiting:
        training.advance()
    training.wait()
    training.advance()
    training.settle()
    assert training.epoch == 1
    again = FlatTraining(SPEC, Recipe(batch_size=700, max_epochs=5), samples(), **seeds(1))
    again.run_epoch()
    assert training.validation_curve == again.validation_curve


# -- what a device can do -----------------------------------------------------------------------------------------


def test_a_cpu_refuses_tf32_and_the_plain_loop_any_lower_precision():
    check_precision("float32", "plain", CPU)
    check_precision("bf16", "fleet", CPU)
    with pytest.raises(SearchError, match="'tf32' needs a CUDA device"):
        check_precision("tf32", "fleet", CPU)
    with pytest.raises(SearchError, match="needs engine = 'fleet'"):
        check_precision("bf16", "plain", CPU)


def test_bfloat16_is_refused_where_groups_or_streams_would_train_in_float32():
    check_precision("bf16", "fleet", CPU, ranks="auto")
    check_precision("float32", "fleet", CPU, ranks=4, streamed=True)
    with pytest.raises(SearchError, match="trained by one worker each, not by 2"):
        check_precision("bf16", "fleet", CPU, ranks=2)
    with pytest.raises(SearchError, match="there they do not fit"):
        check_precision("bf16", "fleet", CPU, streamed=True)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_cuda
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_cuda_graphs_and_streams_give_the_results_of_the_cpu(schedule):
    device = torch.device("cuda", 0)
    recipe = Recipe(batch_size=64, max_epochs=8, learning_rate_schedule=schedule, gradient_clip=0.5)
    host = samples(dtype=torch.float64)
    data = TrainingData(*(getattr(host, f).to(device) for f in host.__dataclass_fields__))
    torch.cuda.synchronize()
    fleet, ended = Fleet(device, 3), {}
    for k in range(3):
        fleet.start(k, lambda lane, k=k: (FlatTraining(SPEC, recipe, data, **seeds(k), lane=lane), 0.0))
    lanes = [f.lane for f in fleet.flights]
    while len(ended) < 3:
        for landing in fleet.advance(0.1):
            ended[landing.key] = landing
    assert all(isinstance(lane, CudaLane) and lane.graphs for lane in lanes), "a graph was refused"
    for k in range(3):
        expected = train(FlatTraining(SPEC, recipe, host, **seeds(k)))
        ours = ended[k].flight.training
        assert ended[k].error is None
        assert ours.validation_curve == pytest.approx(expected.validation_curve, rel=1e-9)


def test_flat_buffers_hold_each_number_once():
    training = FlatTraining(SPEC, Recipe(batch_size=64), samples(), **seeds(1))
    assert training.state()["weights"].numel() == SPEC.num_parameters
    net = build_mlp(SPEC, torch.Generator().manual_seed(1))
    assert torch.equal(training.state()["weights"], torch.cat([w.detach().flatten() for w in net.parameters()]))
    assert all(math.isfinite(v) for v in training.state()["sums"])
