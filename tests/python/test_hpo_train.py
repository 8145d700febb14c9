"""The plain training loop against an independent one, and its early stopping, failures and checkpoints."""

import io
import math

import pytest
import torch

from emulator.mlp import MLPSpec, build_mlp
from hpo.recipe import Recipe
from hpo.train import Diverged, Training, TrainingData, train, training_flop

SPEC = MLPSpec(num_inputs=3, hidden=(16, 8), num_outputs=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples(n=700, m=300):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(n + m, 3, generator=g)
    y = torch.sigmoid(torch.stack([x[:, 0] * x[:, 1], torch.sin(2 * x[:, 2])], dim=1))
    return TrainingData(x[:n], y[:n], x[n:], y[n:])


def training(recipe=None, spec=SPEC, **seeds):
    seeds = {"weights_seed": 1, "batch_seed": 2} | seeds
    return Training(spec, recipe or Recipe(batch_size=64, max_epochs=12), samples(), **seeds)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_loop_equals_an_independent_one_with_the_textbook_adam(schedule):
    recipe = Recipe(batch_size=64, max_epochs=4, learning_rate=3e-3, learning_rate_schedule=schedule)
    ours = train(training(recipe))
    data = samples()
    net = build_mlp(SPEC, torch.Generator().manual_seed(1)).double()
    weights = list(net.parameters())
    m, v = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    order, step, curve = torch.Generator().manual_seed(2), 0, []
    for _ in range(4):
        permutation = torch.randperm(700, generator=order)
        for start in range(0, 700, 64):
            rows = permutation[start : start + 64]
            loss = ((net(data.x_train_NI[rows].double()) - data.y_train_NO[rows]) ** 2).mean()
            gradients = torch.autograd.grad(loss, weights)
            rate = 3e-3
            if schedule == "cosine":  # from 1 to 0.01 over the 44 steps
                rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / 44))
            step += 1
            with torch.no_grad():
                for k, (w, g) in enumerate(zip(weights, gradients, strict=True)):
                    m[k] = 0.9 * m[k] + 0.1 * g
                    v[k] = 0.999 * v[k] + 0.001 * g * g
                    w -= rate * (m[k] / (1 - 0.9**step)) / ((v[k] / (1 - 0.999**step)).sqrt() + 1e-7)  # Keras' epsilon
        with torch.no_grad():
            curve.append(float(((net(data.x_validation_NI.double()) - data.y_validation_NO) ** 2).mean()))
    # float32 against float64 over 44 steps; Adam divides by small root mean squares, which amplifies roundings
    assert ours.validation_curve == pytest.approx(curve, rel=1e-4)


def test_best_weights_are_those_of_the_best_epoch():
    data = samples()
    outcome = train(training(Recipe(batch_size=32, max_epochs=30, learning_rate=0.1, patience=4)))
    assert outcome.best_epoch < outcome.epochs
    net = build_mlp(SPEC, torch.Generator())
    net.load_state_dict(outcome.weights)
    with torch.no_grad():
        mse = float(((net(data.x_validation_NI) - data.y_validation_NO) ** 2).double().mean())
    assert mse == pytest.approx(outcome.validation_mse, rel=1e-6)  # float32 squares, summed in another order
    assert outcome.validation_mse == min(outcome.validation_curve)


def test_training_stops_after_patience_epochs_without_gain():
    outcome = train(training(Recipe(batch_size=32, max_epochs=200, learning_rate=0.1, patience=4)))
    assert outcome.epochs == outcome.best_epoch + 4 < 200
    patient = train(training(Recipe(batch_size=32, max_epochs=40, learning_rate=0.1, patience=0)))
    assert patient.epochs == 40


def test_same_seeds_give_the_same_bits_and_others_do_not():
    curves = [train(training()).validation_curve for _ in range(2)]
    assert curves[0] == curves[1]
    assert train(training(weights_seed=9)).validation_curve != curves[0]
    assert train(training(batch_seed=9)).validation_curve != curves[0]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_taken_up_from_a_checkpoint_ends_with_the_same_bits(schedule):
    recipe = Recipe(batch_size=64, max_epochs=12, learning_rate_schedule=schedule)
    whole = train(training(recipe))
    first = training(recipe)
    for _ in range(5):
        first.run_epoch()
    file = io.BytesIO()
    torch.save(first.state(), file)
    for _ in range(2):
        first.run_epoch()  # what is lost in a kill
    file.seek(0)
    second = training(recipe, weights_seed=77, batch_seed=78)
    second.restore(torch.load(file, weights_only=True))
    resumed = train(second)
    assert resumed.validation_curve == whole.validation_curve
    assert resumed.train_curve == whole.train_curve
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight)


def test_divergence_is_an_outcome_with_a_reason():
    outcome = train(training(Recipe(batch_size=64, learning_rate=1e30)))
    assert outcome.validation_mse is None and outcome.weights is None
    assert "MSE is" in outcome.error and "epoch 1" in outcome.error
    assert all(math.isfinite(v) for v in outcome.train_curve + outcome.validation_curve)


def test_divergence_of_validation_alone_is_seen():
    data = samples()
    data.x_validation_NI[7, 1] = math.nan
    t = Training(SPEC, Recipe(max_epochs=3), data, weights_seed=1, batch_seed=2)
    with pytest.raises(Diverged, match="validation MSE is nan in epoch 1"):
        t.run_epoch()


def test_learning_rate_schedules_end_where_they_should():
    for schedule in ("cosine", "exponential"):
        recipe = Recipe(learning_rate=0.2, learning_rate_schedule=schedule, final_learning_rate_fraction=0.05)
        assert recipe.rate_at(0.0) == pytest.approx(0.2)
        assert recipe.rate_at(1.0) == pytest.approx(0.01)
        assert 0.01 < recipe.rate_at(0.5) < 0.2
    assert Recipe(learning_rate=0.2).rate_at(0.7) == 0.2


def test_a_decaying_rate_changes_the_training():
    constant = train(training()).validation_curve
    cosine = train(training(Recipe(batch_size=64, max_epochs=12, learning_rate_schedule="cosine"))).validation_curve
    assert cosine != constant


def test_gradient_clip_and_weight_decay_act():
    base = train(training()).validation_curve
    for change in ({"gradient_clip": 1e-3}, {"weight_decay": 0.1}, {"optimizer": "adamw", "weight_decay": 0.1}):
        assert train(training(Recipe(batch_size=64, max_epochs=12, **change))).validation_curve != base


def test_flop_count_by_hand():
    spec = MLPSpec(num_inputs=2, hidden=(3,), num_outputs=1)  # 6 + 3 products
    # training: forward 9, weights 9, inputs 3 (not for the first layer); validation: 9
    assert training_flop(spec, num_train=10, num_validation=5, epochs=2) == 2 * 2 * (10 * 21 + 5 * 9)
