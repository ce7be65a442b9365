"""Laws of levels and spacings in closed form, or tabulated to rounding: densities, quantiles, samples, fits.

Every law is an immutable record and a pytree whose parameters are leaves, so that
`jax.vmap(lambda radius: Semicircle(0.0, radius).pdf(x))(radii)` does what it says.
"""

from dysonjax.laws.base import Fit, Law
from dysonjax.laws.densities import GeneralisedSemicircle, MarchenkoPastur, PairDensity, Semicircle
from dysonjax.laws.outliers import OutlierBBP, critical_learning_rate
from dysonjax.laws.spacings import LogGasPairSpacing, PairSpacing, RiceSpacing
from dysonjax.laws.surmises import Brody, PoissonSpacing, SpacingRatio, WignerSurmise
from dysonjax.laws.tracy_widom import TracyWidom

__all__ = [
    "Brody",
    "Fit",
    "GeneralisedSemicircle",
    "Law",
    "LogGasPairSpacing",
    "MarchenkoPastur",
    "OutlierBBP",
    "PairDensity",
    "PairSpacing",
    "PoissonSpacing",
    "RiceSpacing",
    "Semicircle",
    "SpacingRatio",
    "TracyWidom",
    "WignerSurmise",
    "critical_learning_rate",
]
