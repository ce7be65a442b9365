"""A Dyson gas as an experiment: runs over temperatures and seeds, and what their spectra say beside the exact laws."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from dysonjax import laws, spectra
from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require, whole
from dysonjax.core.potentials import Quadratic
from dysonjax.core.snapshots import log_steps
from dysonjax.dynamics.dyson_equation import dyson
from dysonjax.engine.grid import Grid
from dysonjax.engine.jobs import Results
from dysonjax.engine.scanning import ScanJob
from dysonjax.experiments.base import Experiment, Report
from dysonjax.spectra import Estimate

TEMPERATURES = tuple(float(f"{v:.12g}") for v in np.geomspace(0.01, 1, 8))
BULK = 0.7
"""Share of the levels, around the middle, whose spacings are compared with the laws of the bulk."""
ENOUGH = 2**14
"""Replicas for the fit of β and for the curves Σ² and Δ₃, which cost most, for errors far below 1 %."""
RATIOS = {1.0: 0.5307, 2.0: 0.5996, 4.0: 0.6744}
"""⟨r⟩ of large random matrices (Atas, Bogomolny, Giraud and Roux 2013)."""


def quartic(x):
    """K = −x³, the drift of V = x⁴/4."""
    return -(x**3)


def double_well(x):
    """K = x − x³, the drift of V = x⁴/4 − x²/2."""
    return x - x**3


POTENTIALS: Mapping[str, Callable[["GasRun"], Any]] = {
    "quadratic": lambda run: Quadratic(run.centre, run.stiffness),
    "quartic": lambda run: quartic,
    "double-well": lambda run: double_well,
}


@dataclass(frozen=True)
class GasRun(Experiment):
    """Dyson's equation for a gas of levels, over temperatures and seeds, beside its exact laws."""

    kind = "gas"

    levels: int = 32
    """number of levels n"""
    temperature: tuple[float, ...] = TEMPERATURES
    """temperatures T"""
    potential: str = "quadratic"
    """quadratic, quartic or double-well"""
    centre: float = 0.0
    """centre of the quadratic potential"""
    stiffness: float = 1.0
    """stiffness κ of the quadratic potential"""
    coupling: float = 1.0
    """coupling g"""
    beta: float = 1.0
    """Dyson index β, at least 1"""
    geometry: str = "symmetric"
    """symmetric matrices, singular values, or gram (eigenvalues of WᵀW)"""
    rows: int | None = None
    """rows M ≥ n of a rectangular matrix (default n)"""
    scheme: str | None = None
    """matrix_kick, pairwise_kick, neighbour_implicit, backward_euler or euler_maruyama"""
    seeds: int = 512
    """independent gases at every temperature"""
    steps: int = 5000
    """time steps"""
    dt: float = 0.01
    """time step"""
    snapshots: int = 41
    """how often the spectra are recorded, log-spaced in time"""
    key: int = 0
    """base of all random numbers"""

    def __post_init__(self):
        for name in ("levels", "seeds", "steps"):
            whole(name, getattr(self, name))
        whole("snapshots", self.snapshots, 2)
        whole("key", self.key, 0, 2**32 - 1)
        require(self.potential in POTENTIALS, "potential", self.potential, f"one of {', '.join(POTENTIALS)}")

    @property
    def dynamics(self) -> Dynamics:
        """The gas; its configuration remembers this record, so that a stored run can be continued."""
        potential = POTENTIALS[self.potential](self)
        gas = dyson(
            self.levels,
            potential,
            coupling=self.coupling,
            beta=self.beta,
            geometry=self.geometry,  # type: ignore[arg-type]
            rows=self.rows,
            scheme=self.scheme,
        )
        return Dynamics(**{**vars(gas), "config": {**gas.config, "gas": asdict(self)}})

    def jobs(self, results: Results) -> list[ScanJob]:
        """One scan."""
        grid = Grid(temperature=self.temperature, dt=[self.dt], seed=range(self.seeds))
        marks = log_steps(self.steps, self.snapshots)
        return [ScanJob(self.dynamics, grid, self.steps, self.key, snapshots=marks)]

    def analyse(self, results: Results) -> tuple[xr.Dataset, "list[Statistics]"]:
        """The results, and the statistics of every temperature."""
        return results.only, statistics(results.only)

    def report(self, analysis: tuple[xr.Dataset, "list[Statistics]"]) -> Report:
        """A table beside the exact laws, plain advice, figures."""
        from dysonjax.experiments.gas import figures

        ds, found = analysis
        said = [figures.gas_table(self, found), figures.gas_advice(self, found)]
        return Report(said, lambda directory: figures.draw(self, ds, found, directory))

    def density_law(self, temperature: float) -> laws.Law | None:
        """The large-n law of the recorded levels in equilibrium, where there is a closed one.

        σ² = T g²/κ is the variance of a free level: a semicircle of radius σ √(2βn); for a Gram matrix of M rows
        Marchenko and Pastur's law with entries of variance β σ²/2 (κ of a singular value is half of that of x = ξ²).
        """
        if self.potential != "quadratic" or self.stiffness == 0:
            return None
        n, variance = self.levels, temperature * self.coupling**2 / self.stiffness
        if self.geometry == "symmetric":
            return laws.Semicircle(centre=self.centre, radius=float(np.sqrt(2 * self.beta * n * variance)))
        if self.geometry == "gram" and self.centre == 0:
            rows = self.rows or n
            return laws.MarchenkoPastur(ratio=n / rows, variance=rows * self.beta * variance)
        return None


class Statistics(NamedTuple):
    """Of one temperature in its last snapshot, mean ± standard error over replicas."""

    temperature: float
    levels: np.ndarray
    """[R, n], largest first; replicas that diverged are left out."""
    diverged: int
    ratio: Estimate
    beta: Estimate | None
    """Fitted to the unfolded spacings of the bulk; None with fewer than 100 of them."""
    spacings: np.ndarray
    """Unfolded, of the bulk, [R, m]."""
    lengths: np.ndarray
    number_variance: Estimate
    rigidity: Estimate
    balance: Estimate
    violations: int
    unconverged: int
    smallest_gap: float


def statistics(ds: xr.Dataset) -> list[Statistics]:
    """The last snapshot of each temperature of a finished gas run."""
    return [_of_temperature(ds.sel(temperature=t).isel(dt=0), float(t)) for t in ds.temperature.values]


def _of_temperature(ds: xr.Dataset, temperature: float) -> Statistics:
    alive = ds.diverged_step.values < 0
    x = ds.levels.isel(snapshot=-1).values[alive].astype(float)
    unfolded = unfold(x)
    n = x.shape[1]
    edge = int(np.ceil((1 - BULK) / 2 * n)) if n > 4 else 0
    bulk = unfolded[:, edge : n - edge]
    spacings = np.asarray(spectra.gaps(jnp.asarray(bulk)))
    some = jnp.asarray(unfolded[:ENOUGH])
    span = (edge, n - edge) if n > 1 else (0.0, 1.0)
    lengths = np.linspace(0.25, min(8.0, (span[1] - span[0]) / 2), 24)
    last, nothing = ds.isel(snapshot=-1), Estimate(np.nan, np.nan, len(x))
    return Statistics(
        temperature, x, int((~alive).sum()),
        spectra.estimate(spectra.spacing_ratios(jnp.asarray(x[:, edge : n - edge]))) if n - 2 * edge > 2 else nothing,
        spectra.fit_beta(jnp.asarray(spacings[:ENOUGH])) if spacings.size >= 100 else None,
        spacings, lengths,
        spectra.curve(spectra.number_variance(some, lengths, span)),
        spectra.curve(spectra.rigidity(some, lengths, span)),
        spectra.estimate(jnp.asarray(last.balance.values[alive])),
        int(last.order_violations.values.sum()), int(last.unconverged.values.sum()), float(ds.smallest_gap.min()),
    )  # fmt: skip


def unfold(x: np.ndarray) -> np.ndarray:
    """Levels [R, n] at unit mean spacing: n times the distribution function of all replicas' levels together.

    An ensemble knows its own mean density, so that no smooth curve has to be fitted.
    """
    pooled = np.sort(x.ravel())
    rank = np.arange(1, pooled.size + 1) - 0.5
    return np.interp(x, pooled, rank / len(x))
