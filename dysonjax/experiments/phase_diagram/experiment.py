"""Phase diagram of the tanh network (arXiv:2509.01349): which learning rates and widths learn, freeze or blow up.

The experiment: temperature T = α/|B| against disorder σ_W (`init_width`). `order_parameters` is what it measures,
`summary` turns it into phases and boundaries, `figures` and `tables` show them. Settings are read without JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dysonjax.core.errors import whole
from dysonjax.core.snapshots import log_steps
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.engine.grid import Grid
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.models.tanh_network import TanhNetwork


@dataclass(frozen=True)
class PhaseDiagram(Experiment):
    """Scan SGD of the tanh network over learning rate and initial width: which pairs learn, freeze or blow up.

    The same for your own network: dysonjax phase-diagram --model FILE.py:FUNCTION; the file is run. Its options:
    dysonjax phase-diagram --model FILE.py:FUNCTION --help
    """

    kind = "phase-diagram"

    learning_rate: tuple[float, ...] = tuple(2.0**k for k in range(-3, 9))
    """learning rates α"""
    init_width: tuple[float, ...] = tuple(2.0**k for k in range(-3, 9))
    """widths σ_W of the initial weights, N(0, σ_W²/fan-in)"""
    batch_size: tuple[int, ...] = (4,)
    """batch sizes |B|"""
    seeds: int = 4
    """independent networks at every point of the grid"""
    epochs: int = 100
    """passes over the fixed batches"""
    batches: int = 1000
    """fixed batches in an epoch"""
    snapshots: int = 21
    """how often the spectra are recorded, log-spaced in time"""
    hidden: tuple[int, ...] = (32, 16)
    """widths of the hidden layers; the last one's matrix is trained"""
    activation: str = "tanh"
    """tanh, relu or identity"""
    key: int = 0
    """base of all random numbers"""

    def __post_init__(self):
        for name in ("seeds", "epochs", "batches"):
            whole(name, getattr(self, name))
        whole("snapshots", self.snapshots, 2)
        whole("key", self.key, 0, 2**32 - 1)

    @classmethod
    def options(cls) -> Mapping[str, type[Experiment]]:
        """The paper's diagram, or with --model that of a user's network."""
        from dysonjax.experiments.learning.diagram import NetworkDiagram

        return {"": cls, "--model": NetworkDiagram}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Experiment:
        """The paper's diagram, or that of a user's network, whose settings have a model."""
        from dysonjax.experiments.learning.diagram import NetworkDiagram

        return NetworkDiagram.of(settings) if "model" in settings else cls(**settings)

    @property
    def network(self) -> TanhNetwork:
        """Student and teacher; the matrix of the last hidden layer is trained."""
        from dysonjax.models import TanhNetwork

        return TanhNetwork(hidden=self.hidden, activation=self.activation, trained=(len(self.hidden) - 1,))  # type: ignore[arg-type]

    @property
    def grid(self) -> Grid:
        """Every learning rate with every width, batch size and seed."""
        from dysonjax.engine.grid import Grid

        return Grid(
            learning_rate=self.learning_rate,
            init_width=self.init_width,
            batch_size=self.batch_size,
            seed=range(self.seeds),
        )

    def jobs(self, results: Results) -> list[ScanJob]:
        """One scan."""
        from dysonjax.dynamics.stochastic_gradient import loss_observables, sgd
        from dysonjax.engine.scanning import ScanJob
        from dysonjax.experiments.phase_diagram.order_parameters import order_parameters

        return [
            ScanJob(
                sgd(self.network, batches=self.batches),
                self.grid,
                self.epochs * self.batches,
                key=self.key,
                snapshots=log_steps(self.epochs * self.batches, self.snapshots, self.batches),
                observables=(*loss_observables(self.network), order_parameters(self.network)),
            )
        ]

    def analyse(self, results: Results) -> tuple[xr.Dataset, xr.Dataset]:
        """The results, and what the order parameters say at every point."""
        from dysonjax.experiments.phase_diagram.summary import summary

        return results.only, summary(results.only)

    def report(self, analysis: tuple[xr.Dataset, xr.Dataset]) -> Report:
        """Tables phase by phase and width by width, plain advice, maps and curves."""
        from dysonjax.experiments.phase_diagram import figures, tables

        ds, points = analysis
        said: list[Any] = [tables.phase_table(ds, points)]
        for size in ds.batch_size.values:
            said += [tables.width_table(points, size), tables.advice(points, size)]
        return Report(said, lambda directory: figures.draw(ds, directory))
