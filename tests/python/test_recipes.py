"""Every optimizer, schedule, loss and kind of network, in the plain loop and in groups."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from emulator.mlp import MLPSpec, build_mlp, fold_batch_norm
from hpo.distributed import GroupTraining
from hpo.engine import FLAT, flat_refuses
from hpo.flat import FlatTraining
from hpo.network import TrainedNetwork
from hpo.recipe import INITIALIZATIONS, LOSSES, OPTIMIZERS, SCHEDULES, Recipe
from hpo.train import Training, train
from tests.python.group_cases import SEEDS, SPEC, samples, together, whole

RECIPE = {"batch_size": 64, "max_epochs": 4, "learning_rate": 3e-3}
# Each setting that a training knows, and the networks that have to be trained in other ways.
SETTINGS = [
    *({"optimizer": name} for name in OPTIMIZERS),
    {"optimizer": "sgd", "momentum": 0.0, "nesterov": True},
    {"optimizer": "sgd", "nesterov": True, "weight_decay": 0.01},
    {"optimizer": "rmsprop", "rho": 0.5},
    {"beta1": 0.5},
    {"beta2": 0.9},
    {"epsilon": 1e-3},
    *(
        {"learning_rate_schedule": name, "step_epochs": 2, "plateau_epochs": 1, "max_epochs": 20, "learning_rate": 0.05}
        for name in SCHEDULES
        if name != "constant"
    ),
    {"warmup_fraction": 0.5},
    {"dropout": 0.2},
    {"loss": "mae"},
    {"loss": "huber", "huber_delta": 0.05},
    *({"initialization": name} for name in INITIALIZATIONS if name != "glorot_uniform"),
]
NETWORKS = [
    {},
    {"normalization": "batch"},
    {"normalization": "layer"},
    {"residual": True, "hidden": (16, 16, 16)},
    {"normalization": "batch", "residual": True, "hidden": (16, 16, 16), "activation": "silu"},
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def training(kind=Training, network=None, dtype=torch.float64, num_train=700, seeds=SEEDS, **recipe):
    return kind(replace(SPEC, **(network or {})), Recipe(**(RECIPE | recipe)), samples(dtype, n=num_train), **seeds)


def refused_by_flat(network=None, **settings):
    return flat_refuses(vars(replace(SPEC, **(network or {}))) | vars(Recipe(**(RECIPE | settings))))


# -- optimizers and losses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        ("sgd", {"momentum": 0.8}),
        ("sgd", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
        ("rmsprop", {"rho": 0.7, "epsilon": 1e-3}),
        ("nadam", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-4}),
    ],
)
def test_the_loop_does_what_the_formulas_say(optimizer, settings, loss):
    recipe = Recipe(**(RECIPE | {"optimizer": optimizer, "loss": loss, "huber_delta": 0.1, "max_epochs": 2} | settings))
    data = samples(torch.float64)
    found = train(Training(SPEC, recipe, data, **SEEDS))
    net = build_mlp(SPEC, torch.Generator().manual_seed(SEEDS["weights_seed"])).double()
    order = torch.Generator().manual_seed(SEEDS["batch_seed"])
    weights = list(net.parameters())
    m, v = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    rate, step, mu_product, train_curve, validation_curve = recipe.learning_rate, 0, 1.0, [], []
    for _ in range(recipe.max_epochs):
        squares = 0.0
        for rows in torch.randperm(700, generator=order).split(64):
            e = net(data.x_train_NI[rows]) - data.y_train_NO[rows]
            small = e.abs() <= recipe.huber_delta
            huber = torch.where(small, 0.5 * e**2, recipe.huber_delta * (e.abs() - 0.5 * recipe.huber_delta))
            value = {"mse": e**2, "mae": e.abs(), "huber": huber}[loss].mean()
            squares += float((e.detach() ** 2).sum())
            gradients = torch.autograd.grad(value, weights)
            step += 1
            mu, mu_next = (recipe.beta1 * (1 - 0.5 * 0.96 ** (t * 4e-3)) for t in (step, step + 1))
            mu_product *= mu
            with torch.no_grad():
                for k, (w, g) in enumerate(zip(weights, gradients, strict=True)):
                    g = g + recipe.weight_decay * w
                    if optimizer == "sgd":
                        m[k] = g.clone() if step == 1 else recipe.momentum * m[k] + g
                        w -= rate * (g + recipe.momentum * m[k] if recipe.nesterov else m[k])
                    elif optimizer == "rmsprop":
                        v[k] = recipe.rho * v[k] + (1 - recipe.rho) * g**2
                        w -= rate * g / (v[k].sqrt() + recipe.epsilon)
                    else:  # Dozat 2016
                        m[k] = recipe.beta1 * m[k] + (1 - recipe.beta1) * g
                        v[k] = recipe.beta2 * v[k] + (1 - recipe.beta2) * g**2
                        root = (v[k] / (1 - recipe.beta2**step)).sqrt() + recipe.epsilon
                        mean = mu_next * m[k] / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
                        w -= rate * mean / root
        train_curve.append(squares / (700 * 2))
        with torch.no_grad():
            validation_curve.append(float((net(data.x_validation_NI) - data.y_validation_NO).square().mean()))
    # float64, 22 updates: only roundings differ
    assert found.validation_curve == pytest.approx(validation_curve, rel=1e-9), "the MSE, whatever the loss"
    assert found.train_curve == pytest.approx(train_curve, rel=1e-9), "the MSE, whatever the loss"


def test_every_setting_changes_the_training():
    curves = [tuple(train(training(**settings)).validation_curve) for settings in [{}, *SETTINGS]]
    # adam is the default, and adamw without decay is adam
    assert len(set(curves)) == len(curves) - 2
    networks = [tuple(train(training(network=network)).validation_curve) for network in NETWORKS]
    assert len(set(networks)) == len(networks)


@pytest.mark.parametrize("kind", [Training, GroupTraining, FlatTraining], ids=["plain", "group", "flat"])
def test_a_training_that_is_taken_up_in_the_middle_ends_in_the_same_bits(kind, monkeypatch):
    monkeypatch.setattr("hpo.train._MAX_PIECE_STEPS", 4)
    cases = [{"network": n, "dropout": 0.1} for n in NETWORKS] + SETTINGS
    for case in cases:
        if kind is FlatTraining and refused_by_flat(**case):
            continue
        want = train(training(kind, **case))
        first = training(kind, **case)
        first.run_epoch()
        first.advance()
        first.advance()
        stream = io.BytesIO()
        torch.save(first.state(), stream)
        stream.seek(0)
        second = training(kind, **case, seeds={"weights_seed": 70, "batch_seed": SEEDS["batch_seed"]})
        second.restore(torch.load(stream, weights_only=True))
        found = train(second)
        assert found.validation_curve == want.validation_curve, case
        assert all(torch.equal(w, found.weights[name]) for name, w in want.weights.items()), case


# -- schedules --------------------------------------------------------------------------------------------------------


def test_step_falls_after_every_so_many_epochs():
    recipe = Recipe(learning_rate=1.0, learning_rate_schedule="step", step_epochs=3, step_factor=0.5, max_epochs=22)
    for num_steps in (1, 7, 49, 1000):  # 15 / 22 * 22 falls short of 15
        for epoch in range(22):
            for step in (0, num_steps - 1):
                rate = recipe.rate_at((epoch * num_steps + step) / (22 * num_steps))
                assert rate == 0.5 ** (epoch // 3), (num_steps, epoch, step)


def test_one_cycle_rises_to_its_peak_and_falls_to_its_end():
    recipe = Recipe(
        learning_rate=2.0, learning_rate_schedule="one_cycle", one_cycle_peak=0.4, final_learning_rate_fraction=0.1
    )
    rates = [recipe.rate_at(k / 100) for k in range(101)]
    assert rates[0] == pytest.approx(2.0 / 25) and rates[40] == 2.0 and rates[100] == pytest.approx(0.2)
    assert rates[20] == pytest.approx((2.0 + 2.0 / 25) / 2) and rates[70] == pytest.approx((2.0 + 0.2) / 2)
    assert sorted(rates[:41]) == rates[:41] and sorted(rates[40:], reverse=True) == rates[40:]


def test_warmup_rises_linearly_to_the_schedule():
    recipe = Recipe(learning_rate=2.0, warmup_fraction=0.2, learning_rate_schedule="cosine")
    without = replace(recipe, warmup_fraction=0.0)
    assert recipe.rate_at(0.0) == 0.0 and recipe.rate_varies and Recipe(warmup_fraction=0.1).rate_varies
    assert recipe.rate_at(0.05) == pytest.approx(without.rate_at(0.05) / 4)
    assert [recipe.rate_at(p) for p in (0.2, 0.7, 1.0)] == [without.rate_at(p) for p in (0.2, 0.7, 1.0)]
    assert not Recipe().rate_varies


def test_plateau_falls_after_epochs_without_a_lower_error():
    recipe = Recipe(learning_rate=1.0, learning_rate_schedule="plateau", plateau_epochs=2, step_factor=0.5)
    curve = [5.0, 4.0, 4.0, 4.1, 3.0, 3.5, 3.5, 3.5, 3.5, 2.0]
    rates = [recipe.rate_at(0.1, curve[:k]) for k in range(len(curve) + 1)]
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_weights_have_the_variance_that_their_name_stands_for(name):
    spec = MLPSpec(num_inputs=200, hidden=(400,), num_outputs=100)
    net = build_mlp(spec, torch.Generator().manual_seed(1), initialization=name)
    for layer, fan_in, fan_out in ((net[0], 200, 400), (net[2], 400, 100)):
        weight = layer.weight.detach()
        variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[name.split("_")[0]]
        assert float(weight.var()) == pytest.approx(variance, rel=0.03)  # of 40,000: 4 standard deviations
        uniform = float(weight.abs().max()) < 1.74 * variance**0.5
        assert uniform == name.endswith("uniform") and not layer.bias.any()


# -- dropout and normalization ----------------------------------------------------------------------------------------


def test_dropout_leaves_out_its_share_differently_in_every_step_and_none_in_validation():
    spec = MLPSpec(num_inputs=1, hidden=(1000,), num_outputs=1, activation="identity", output_activation="identity")
    cpu = {"device": torch.device("cpu"), "dtype": torch.float64}
    network = TrainedNetwork(spec, Recipe(dropout=0.3), **cpu, weights_seed=1, batch_seed=2)
    seen = []
    network.module[2].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))
    x_BI = torch.ones(40, 1, dtype=torch.float64)
    with torch.no_grad():
        full_BW = network.module[0](x_BI)
        for step in (0, 1):
            network.begin_step(step, 40)
            network.module(x_BI)
        network.begin_step(0, 40)
        network.module(x_BI)
        for first, last in ((0, 13), (13, 40)):  # two ranks
            network.begin_step(0, 40, first)
            network.module(x_BI[first:last])
        network.begin_validation()
        network.module(x_BI)
    kept = seen[0] != 0
    assert abs(float(kept.double().mean()) - 0.7) < 0.01  # 40,000 draws: 4 standard deviations
    torch.testing.assert_close(seen[0], torch.where(kept, full_BW / 0.7, 0.0))
    agree = float(((seen[1] != 0) == kept).double().mean())
    assert abs(agree - 0.58) < 0.01, "two steps have nothing to do with each other: 0.7^2 + 0.3^2"
    assert torch.equal(seen[2], seen[0])
    assert torch.equal(torch.cat(seen[3:5]), seen[0])
    assert torch.equal(seen[5], full_BW)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_saved_network_has_the_error_that_was_found(network):
    data = samples(torch.float64)
    outcome = train(training(network=network, dropout=0.05, learning_rate=0.03))
    as_trained = replace(SPEC, **network), outcome.weights
    for spec, weights in (as_trained, fold_batch_norm(*as_trained)):
        net = build_mlp(spec, torch.Generator()).double()
        net.load_state_dict(weights)
        with torch.no_grad():
            mse = float((net.eval()(data.x_validation_NI) - data.y_validation_NO).square().mean())
        assert mse == pytest.approx(outcome.validation_mse, rel=1e-10)
    assert spec.normalization != "batch" and sum(w.numel() for w in weights.values()) == spec.num_parameters


def test_batch_normalization_uses_the_batch_in_training_and_the_mean_of_batches_after():
    spec = MLPSpec(num_inputs=2, hidden=(3,), num_outputs=1, activation="identity", normalization="batch")
    cpu = {"device": torch.device("cpu"), "dtype": torch.float64}
    network = TrainedNetwork(spec, Recipe(), **cpu, weights_seed=1, batch_seed=2)
    linear, norm = network.module[0], network.module[1]
    assert linear.bias is None
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        h = linear(x)
        network.begin_step(0, 50)
        y = norm(h)
        torch.testing.assert_close(y, (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 1e-5))
        torch.testing.assert_close(norm.running_mean, 0.1 * h.mean(0))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * h.var(0))
        before = norm.running_var.clone()
        network.begin_step(1, 1)  # the last batch of an epoch may be one sample
        y = norm(h[:1])
        torch.testing.assert_close(y, (h[:1] - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5))
        assert torch.equal(norm.running_var, before)


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "recipe", "num_train", "epochs_before"),
    [
        # 641 samples: the last batch of every epoch is one sample, which one of the ranks has
        ({"normalization": "batch"}, {"dropout": 0.1, "optimizer": "nadam"}, 641, 2),
        # 642: of two samples, one rank has none, but takes part in their statistics
        (
            {"normalization": "batch", "residual": True, "hidden": (16, 16)},
            {"loss": "mae", "optimizer": "sgd", "warmup_fraction": 0.3},
            642,
            0,
        ),
    ],
    ids=["taken up", "from the start"],
)
def test_three_ranks_train_as_one_does(tmp_path, network, recipe, num_train, epochs_before):
    recipe, checkpoint = RECIPE | recipe, None
    want = train(training(network=network, num_train=num_train, **recipe))
    if epochs_before:
        before, checkpoint = training(network=network, num_train=num_train, **recipe), tmp_path / "checkpoint"
        for _ in range(epochs_before):
            before.run_epoch()
        torch.save(before.state(), checkpoint)
    found = together(tmp_path / "g", 3, whole, recipe, "float64", network, num_train, checkpoint)
    for rank in found:
        assert rank["error"] is None and rank == found[0], "all ranks have the same bits"
        # float64: only the order of additions differs, over 44 updates
        assert rank["validation"] == pytest.approx(want.validation_curve, rel=1e-9)
        assert rank["train"] == pytest.approx(want.train_curve, rel=1e-9)
        sums = [float(w.sum()) for w in want.weights.values()]
        np.testing.assert_allclose(rank["weights"], sums, rtol=1e-7, atol=1e-9)


# -- which loop trains what -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, *SETTINGS, *({"network": n} for n in NETWORKS[1:]), {"loss": "mse"}], ids=str)
def test_flat_training_takes_exactly_what_the_rule_allows(settings):
    plain, refused = training(**settings), refused_by_flat(**settings)
    network = settings.get("network", {})
    names = set(network) | set(settings) - {"network"}
    has = vars(replace(SPEC, **network)) | vars(plain.recipe)
    assert (refused is not None) == any(has[n] not in FLAT[n] for n in names & set(FLAT))
    if refused is None:
        want, found = train(plain), train(training(FlatTraining, **settings))
        assert found.validation_curve == pytest.approx(want.validation_curve, rel=1e-9)
        taken_up = training(FlatTraining, **settings)
        plain = training(**settings)
        plain.run_epoch()
        taken_up.restore(plain.state())  # of the other kind
        assert train(taken_up).validation_curve == pytest.approx(want.validation_curve, rel=1e-9)
    else:
        with pytest.raises(AssertionError, match="is for the plain loop"):
            training(FlatTraining, **settings)
