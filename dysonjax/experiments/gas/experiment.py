"""A Dyson gas as an experiment: runs over temperatures and seeds, and what their spectra say beside the exact laws."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dysonjax.core.errors import require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax import laws
    from dysonjax.core.dynamics import Dynamics
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.experiments.gas.statistics import Statistics

TEMPERATURES = tuple(float(f"{v:.12g}") for v in np.geomspace(0.01, 1, 8))


def quartic(x):
    """K = −x³, the drift of V = x⁴/4."""
    return -(x**3)


def double_well(x):
    """K = x − x³, the drift of V = x⁴/4 − x²/2."""
    return x - x**3


def quadratic(run: "GasRun") -> Any:
    """The potential κ (x − c)²/2, which the exact laws know."""
    from dysonjax.core.potentials import Quadratic

    return Quadratic(run.centre, run.stiffness)


POTENTIALS: Mapping[str, Callable[["GasRun"], Any]] = {
    "quadratic": quadratic,
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
    def dynamics(self) -> "Dynamics":
        """The gas; its configuration remembers this record, so that a stored run can be continued."""
        from dysonjax.core.dynamics import Dynamics
        from dysonjax.dynamics.dyson_equation import dyson

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

    def jobs(self, results: Results) -> "list[ScanJob]":
        """One scan."""
        from dysonjax.core.snapshots import log_steps
        from dysonjax.engine.grid import Grid
        from dysonjax.engine.scanning import ScanJob

        grid = Grid(temperature=self.temperature, dt=[self.dt], seed=range(self.seeds))
        marks = log_steps(self.steps, self.snapshots)
        return [ScanJob(self.dynamics, grid, self.steps, self.key, snapshots=marks)]

    def analyse(self, results: Results) -> "tuple[xr.Dataset, list[Statistics]]":
        """The results, and the statistics of every temperature."""
        from dysonjax.experiments.gas.statistics import statistics

        return results.only, statistics(self, results.only)

    def report(self, analysis: "tuple[xr.Dataset, list[Statistics]]") -> Report:
        """A table beside the exact laws, plain advice, figures."""
        from dysonjax.experiments.gas import figures

        ds, found = analysis
        said = [figures.gas_table(self, found), figures.gas_advice(self, found)]
        return Report(said, lambda directory: figures.draw(self, ds, found, directory))

    @property
    def exact_step(self) -> bool:
        """Is a step exact in law, for any dt? A matrix kick is, if the drift is linear in the matrix' entries."""
        linear = self.potential == "quadratic" and (self.geometry == "symmetric" or self.centre == 0)
        return linear and self.dynamics.config["scheme"] == "matrix_kick"

    def density_law(self, temperature: float) -> "laws.Law | None":
        """The large-n law of the recorded levels in equilibrium, where there is a closed one.

        σ² = T g²/κ is the variance of a free level: a semicircle of radius σ √(2βn); for a Gram matrix of M rows
        Marchenko and Pastur's law with entries of variance β σ²/2 (κ of a singular value is half of that of x = ξ²).
        """
        from dysonjax import laws

        if self.potential != "quadratic" or self.stiffness == 0:
            return None
        n, variance = self.levels, temperature * self.coupling**2 / self.stiffness
        if self.geometry == "symmetric":
            return laws.Semicircle(centre=self.centre, radius=float(np.sqrt(2 * self.beta * n * variance)))
        if self.geometry == "gram" and self.centre == 0:
            rows = self.rows or n
            return laws.MarchenkoPastur(ratio=n / rows, variance=rows * self.beta * variance)
        return None
