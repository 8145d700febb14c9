"""Settings of the parcel model, validated where they are built."""

import dataclasses
import math

from emulator.activation.constants import Constants
from emulator.activation.modes import MODE_NAMES, NUM_MODES


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParcelSettings:
    """How a parcel is discretised and integrated; the defaults are those of production.

    Attributes
    ----------
    bins : tuple of int (4,)
        Bins per mode, equally wide in ln(dry radius).
    lower, upper : tuple of float (4,)
        First and last bin edge of each mode in standard deviations ln(sigma_g) from the median. Below -3 lie 0.1 %
        of the number and next to no water; at the large end few giant particles take up much of the water.
    relative_tolerance : float
        Error accepted per step in S, relative.
    absolute_tolerance_s : float
        Error accepted per step in S, [1]. Above 1e-8 a step may jump over a maximum.
    radius_factor : float
        The radii may err by this times `relative_tolerance` (relative, root mean square over bins): what matters of
        them is in S already.
    max_steps : int
        Attempted steps before a parcel is given up.
    max_ascent_scale : float
        A parcel is given up without a maximum above (300 + 9000 (1.02 - rh)) m times this; saturation is reached
        at about a quarter of it.
    growth_kappa_floor : float
        Smaller kappa count as this in the growth equation only (not in the activation criterion): the equation
        becomes ever stiffer, and these particles hold no water before they activate.
    constants : Constants
    """

    bins: tuple = (80, 72, 48, 56)
    lower: tuple = (-3.0, -3.0, -3.0, -3.0)
    upper: tuple = (5.0, 4.5, 5.0, 4.5)
    relative_tolerance: float = 2e-6
    absolute_tolerance_s: float = 2e-9
    radius_factor: float = 50.0
    max_steps: int = 5000
    max_ascent_scale: float = 1.0
    growth_kappa_floor: float = 1e-6
    constants: Constants = dataclasses.field(default_factory=Constants)

    def __post_init__(self):
        for name, kind in (("bins", int), ("lower", float), ("upper", float)):
            value = getattr(self, name)
            if len(value) != NUM_MODES:
                raise ValueError(f"setting '{name}' has {len(value)} values; expected {NUM_MODES}, one per mode")
            object.__setattr__(self, name, tuple(kind(x) for x in value))
        for mode in range(NUM_MODES):
            if not 2 <= self.bins[mode] <= 100_000:
                raise ValueError(
                    f"setting 'bins' is {self.bins[mode]} for mode {mode + 1} ({MODE_NAMES[mode]}); "
                    "expected 2 to 100000"
                )
            if not self.lower[mode] < self.upper[mode]:
                raise ValueError(
                    f"mode {mode + 1} ({MODE_NAMES[mode]}) has bins from {self.lower[mode]} to {self.upper[mode]} "
                    "standard deviations; expected lower < upper"
                )
        for name in ("relative_tolerance", "absolute_tolerance_s", "radius_factor", "max_ascent_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"setting '{name}' is {value!r}; expected a finite positive number")
        if not 1e-15 <= self.relative_tolerance <= 1e-2:
            raise ValueError(
                f"setting 'relative_tolerance' is {self.relative_tolerance!r}; expected 1e-15 to 1e-2 (default 2e-6)"
            )
        if not 1 <= self.max_steps <= 2**31 - 1:
            raise ValueError(f"setting 'max_steps' is {self.max_steps!r}; expected a positive count")
        if not 0.0 < self.growth_kappa_floor <= 1e-3:
            raise ValueError(f"setting 'growth_kappa_floor' is {self.growth_kappa_floor!r}; expected in (0, 1e-3]")

    def tighter(self, level):
        """Return the settings for the retry `level` (1 or 2) of a parcel that did not finish.

        Tolerances 20 and 200 times smaller, 4 and 20 times the steps, 1 and 3 times the ascent.
        """
        tolerance, steps, ascent = {1: (0.05, 4, 1.0), 2: (0.005, 20, 3.0)}[level]
        return dataclasses.replace(
            self,
            relative_tolerance=max(1e-15, self.relative_tolerance * tolerance),
            absolute_tolerance_s=self.absolute_tolerance_s * tolerance,
            max_steps=min(2**31 - 1, self.max_steps * steps),
            max_ascent_scale=self.max_ascent_scale * ascent,
        )

    def as_dict(self):
        """Return plain numbers, lists and a nested dict, for attributes and fingerprints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
