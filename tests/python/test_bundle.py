"""Networks, and bundles on disk."""

import numpy as np
import pytest
import torch

from emulator.bundle import load_bundle, save_bundle
from emulator.mlp import MLPSpec, build_mlp


def save(path, bundle):
    fields = ("spec", "state", "inputs", "outputs", "input_columns", "output_columns", "provenance")
    save_bundle(path, **{f: getattr(bundle, f) for f in fields})


def test_parameters_are_counted_by_hand():
    # 16*64+64 + 64*32+32 + 32*4+4
    assert MLPSpec(num_inputs=16, hidden=(64, 32), num_outputs=4).num_parameters == 1088 + 2080 + 132


def test_the_count_equals_what_is_built():
    spec = MLPSpec(num_inputs=3, hidden=(7, 5, 11), num_outputs=2)
    mlp = build_mlp(spec, torch.Generator())
    assert sum(p.numel() for p in mlp.parameters()) == spec.num_parameters


def test_initial_weights_depend_on_the_generator_alone():
    spec = MLPSpec(num_inputs=3, hidden=(7,), num_outputs=2)
    first = build_mlp(spec, torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    again = build_mlp(spec, torch.Generator().manual_seed(1))
    other = build_mlp(spec, torch.Generator().manual_seed(2))
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    bound = np.sqrt(6 / (3 + 7))
    assert first[0].weight.abs().max() <= bound
    assert not first[0].bias.any()


@pytest.mark.parametrize(
    "change", [{"hidden": ()}, {"hidden": (0,)}, {"activation": "swish"}, {"output_activation": "softmax"}]
)
def test_impossible_networks_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        MLPSpec(**({"num_inputs": 2, "hidden": (4,), "num_outputs": 1} | change))


def test_a_bundle_comes_back_with_the_same_predictions(tmp_path, make_bundle):
    bundle = make_bundle()
    save(tmp_path / "m.pt", bundle)
    again = load_bundle(tmp_path / "m.pt")
    x = np.random.default_rng(5).lognormal(size=(100, 5))
    np.testing.assert_array_equal(again.predict(x), bundle.predict(x))
    assert (again.spec, again.input_columns, again.provenance) == (
        bundle.spec,
        bundle.input_columns,
        bundle.provenance,
    )


def test_predictions_do_not_depend_on_how_they_are_batched(make_bundle):
    bundle = make_bundle()
    x = np.random.default_rng(5).lognormal(size=(100, 5))
    # float64: BLAS may sum in another order for another batch size
    np.testing.assert_allclose(bundle.predict(x, torch.float64, batch=7), bundle.predict(x, torch.float64), rtol=1e-12)


def test_damaged_and_foreign_files_are_refused(tmp_path, make_bundle):
    with pytest.raises(FileNotFoundError):
        load_bundle(tmp_path / "none.pt")
    save(tmp_path / "m.pt", make_bundle())
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    torch.save({"schema": 99}, tmp_path / "later.pt")
    for name, message in (("half.pt", "damaged"), ("later.pt", "schema 99")):
        with pytest.raises(ValueError, match=message):
            load_bundle(tmp_path / name)
