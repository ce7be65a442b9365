"""The phase diagram of a user's own network: which learning rates, batch sizes and initial widths learn.

`NetworkDiagram` are its settings, read without JAX; `phases` defines what learns, `measures` is what is recorded
besides losses and levels, `diagram_summary`, `diagram_tables` and `diagram_figures` show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dysonjax.core.errors import require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Report
from dysonjax.experiments.learning.of_network import OfNetwork

if TYPE_CHECKING:
    from dysonjax.core.model import Network
    from dysonjax.core.observables import Observable
    from dysonjax.engine.grid import Grid
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.experiments.learning.diagram_summary import Summary
    from dysonjax.experiments.learning.job import NetworkJob

RATES: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class NetworkDiagram(OfNetwork):
    """Scan your own network over learning rates: which of them learn, freeze or blow up.

    FILE.py of --model is run, in its own folder: give it only a file that you trust. FUNCTION takes no arguments and
    returns a model (dj.models.FlaxModel or FunctionModel) with its data. Without --model: the paper's diagram.
    """

    kind = "phase-diagram"
    call = "dysonjax.phase_diagram"

    learning_rate: tuple[float, ...] = RATES
    """learning rates α"""
    batch_size: tuple[int, ...] = (8, 32)
    """batch sizes |B|"""
    init_width: tuple[float, ...] = (1.0,)
    """what multiplies the watched matrices at the start"""
    seeds: int = 8
    """independent networks at every point of the grid"""
    steps: int = 1000
    """updates"""
    snapshots: int = 21
    """how often spectra and losses are recorded, log-spaced in time"""
    criterion: int = 64
    """training examples behind the Langevin criterion, 0: leave it out"""
    paired: bool = False
    """equal seeds share initial weights and batches at all points"""

    def __post_init__(self):
        for name in ("seeds", "steps"):
            whole(name, getattr(self, name))
        whole("snapshots", self.snapshots, 2)
        whole("criterion", self.criterion, 0)
        for name in ("learning_rate", "batch_size", "init_width"):
            require(len(getattr(self, name)) > 0, name, getattr(self, name), "at least one value")
        self.check()

    @property
    def grid(self) -> Grid:
        """Every learning rate with every batch size, width, further number and seed."""
        from dysonjax.engine.grid import Grid

        return Grid(
            learning_rate=self.learning_rate, batch_size=self.batch_size, init_width=self.init_width, **self.axes,
            seed=range(self.seeds),
        )  # fmt: skip

    def jobs(self, results: Results) -> list[NetworkJob]:
        """One scan, whose network is made when something is computed."""
        from dysonjax.experiments.learning.job import NetworkJob

        return [NetworkJob(self.scan, self.grid.size, self.steps)]

    def scan(self) -> ScanJob:
        """The scan, with the network; raises as `objects` does."""
        from dysonjax.experiments.learning.job import scan_of
        from dysonjax.experiments.learning.measures import langevin_terms, memory

        def measured(model: Network) -> Sequence[Observable | None]:
            plain = self.optimizer is None and self.schedule is None and self.criterion > 0
            return memory(model), langevin_terms(model, self.criterion) if plain else None

        made = scan_of(
            self, self.grid, self.steps, self.key, self.snapshots, self.tests, measured, self.paired
        )  # fmt: skip
        names = [name for one in made.dynamics.observables for name in one.variables]
        require(self.metric is None or self.metric in names, "metric", self.metric, f"one of {', '.join(names)}")
        return made

    def analyse(self, results: Results) -> Summary:
        """What became of each replica, and the shares of the phases at every point."""
        from dysonjax.experiments.learning.diagram_summary import summary

        return summary(results.only, self.metric, self.thresholds)

    def report(self, analysis: Summary) -> Report:
        """A sentence, tables by phase and by batch size, and figures."""
        from dysonjax.experiments.learning import diagram_figures, diagram_tables

        return Report(
            diagram_tables.said(analysis), lambda directory: diagram_figures.draw(analysis, directory), width=130
        )
