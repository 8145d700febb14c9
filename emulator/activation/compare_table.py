"""What `python -m emulator.activation compare` prints: errors by mode, then each scheme's error and cost in a line."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from emulator.activation.modes import MODE_NAMES

_LABELS = {"arg": "ARG", "mbn2014": "MBN 2014"}


def show(console: Console, summary: dict) -> None:
    """Print both tables and what has to be known about them."""
    schemes = summary["schemes"]
    order = [name for name in ("arg", "mbn2014") if name in schemes]
    order += [name for name in schemes if name not in order]
    _by_mode(console, summary["host"], {name: schemes[name] for name in order})
    console.print()
    _in_short(console, summary["host"], {name: schemes[name] for name in order})
    host, step = summary["host"], summary["step"]
    console.print(
        "rms error: over samples and modes, of the activated fraction of number (fn) and of mass (fm), against the "
        "parcel model. ns a point: from the host's variables to fn, fm, fluxes and activated number, one thread; in "
        f"calls of {host['pcols']} points (a level of a chunk), and of one point, as E3SM's loops are today. "
        f"{host['compiler']}, {host['isa']}."
    )
    if "missing" in step:
        console.print(f"Share of a step: not measured, {step['missing']}.")
        return
    arg = schemes["arg"]["step"]
    console.print(
        f"A step: of climate_host, {arg['points']:.0f} activated points in a column of {step['num_levels']} levels, all"
        f" of a chunk in one call. Its physics, clouds, rain and aerosol only, takes {arg['physics_us']:.0f} µs a "
        "column with ARG. In a full model the µs stay, and the share is as much smaller as its step is longer."
    )


def _by_mode(console: Console, host: dict, schemes: dict) -> None:
    table = Table(title=f"MSE (R²) by mode over {host['samples']:,} hold-out samples", title_justify="left")
    table.add_column("")
    table.add_column("")
    for mode in ("all", *MODE_NAMES):
        table.add_column(mode.replace("_", " "), justify="right")
    for name, scheme in schemes.items():
        for what in ("fn", "fm"):
            modes = zip(scheme[what]["mse_per_mode"], scheme[what]["r2_per_mode"], strict=True)
            table.add_row(
                _LABELS.get(name, name) if what == "fn" else "",
                what,
                f"{scheme[what]['mse']:.2e}",
                *(f"{mse:.1e} ({'-' if r2 is None else '<0' if r2 < 0 else f'{r2:.4f}'})" for mse, r2 in modes),
                end_section=what == "fm",
            )
    console.print(table)
    console.print(
        "fn, fm: activated fraction of number, of mass. -: the truth of that mode hardly varies; R² means nothing."
    )
    if "mbn2014" in schemes:
        console.print(f"MBN 2014 (pyrcel) on the first {schemes['mbn2014']['samples']:,} of the samples.")
    for name, scheme in schemes.items():
        if scheme.get("fallbacks"):
            console.print(
                f"{name}: at {scheme['fallbacks']:,} of {host['points']:,} points an input was beyond the training "
                "range; ARG took them."
            )


def _in_short(console: Console, host: dict, schemes: dict) -> None:
    has_step = "step" in schemes["arg"]
    table = Table(title="aerosol activation in a Fortran host: error and cost of each scheme", title_justify="left")
    table.add_column("scheme")
    headings = [
        "parameters",
        "rms error\nfn",
        "rms error\nfm",
        f"ns a point,\ncalls of {host['pcols']}",
        "ns a point,\ncalls of 1",
    ]
    headings += ["µs a column\nand step", "share of\na step"] if has_step else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, scheme in schemes.items():
        cells = [f"{scheme['parameters']:,}" if "parameters" in scheme else ""]
        cells += [f"{math.sqrt(scheme[what]['mse']):.4f}" for what in ("fn", "fm")]
        ns = scheme.get("ns_per_point")
        cells += [f"{ns[b]:.0f}" if ns else "" for b in ("level", "point")]
        if has_step and "step" in scheme:
            cells += [f"{scheme['step']['activation_us']:.1f}", f"{100 * scheme['step']['share']:.0f} %"]
        table.add_row(_LABELS.get(name, name), *cells)
    console.print(table)
