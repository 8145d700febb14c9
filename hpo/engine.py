"""Which trainings can be done on flat buffers (`hpo.flat`); all others are done by the plain loop (`hpo.train`).

The choice is a rule of architecture and recipe, so that a trial is trained in the same way wherever it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

# What hpo.flat can do, by setting; what is not named here it does whatever the value.
FLAT = {
    "activation": ("relu", "leaky_relu", "elu", "selu", "softplus", "tanh", "sigmoid", "identity"),
    "normalization": ("none",),
    "residual": (False,),
    "optimizer": ("adam", "adamw", "rmsprop", "sgd"),
    "dropout": (0.0,),
}


def flat_refuses(settings: Mapping[str, object]) -> str | None:
    """Why a training with these settings (of spec and recipe, by name) needs the plain loop; None: it does not."""
    for name, values in FLAT.items():
        if name in settings and settings[name] not in values:
            return f"{name} = {settings[name]!r}"
    return None
