"""Neural-network emulators of climate-model parameterizations: data, model file, latency, selection, export.

The names below are the public API. They are imported on first use, so that commands that need no PyTorch
(making samples, for one) do not wait for it.
"""

from importlib import import_module

_HOME = {
    "Bundle": "emulator.bundle",
    "load_bundle": "emulator.bundle",
    "save_bundle": "emulator.bundle",
    "Column": "emulator.variables",
    "LibEmulator": "emulator.libemulator",
    "MLPSpec": "emulator.mlp",
    "build_mlp": "emulator.mlp",
    "Normaliser": "emulator.normalise",
    "Parts": "emulator.split",
    "SampleFile": "emulator.dataset",
    "split_rows": "emulator.split",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'emulator' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__():
    return __all__
