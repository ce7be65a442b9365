"""`dysonjax.phase_diagram`: the phase diagram of a network that a program has in hand."""

from collections.abc import Callable, Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

from dysonjax.core.errors import require, shown, whole
from dysonjax.core.model import Network
from dysonjax.experiments import running
from dysonjax.experiments.learning.diagram import NetworkDiagram
from dysonjax.experiments.learning.of_network import Shown, axis_texts, numbers
from dysonjax.runtime.progress import Bar

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.experiments.learning.diagram_summary import Summary

SETTINGS = (
    "steps", "snapshots", "tests", "batches", "criterion", "paired", "metric", "target", "share", "blown_up", "key",
)  # fmt: skip
"""Settings of `NetworkDiagram` that are given by their names."""


class Diagram(Shown):
    """What a phase diagram found: print it, or look at its parts.

    - `results`: the dataset of all replicas, as `dysonjax.scan` returns it;
    - `replicas`: what became of each (`phases.outcomes`): `learned`, `phase`, `end`, `growth`;
    - `points`: of each point the probability of learning `learns` with `low` and `high`, the `share` of each phase,
      medians at the end;
    - `target`: what the metric must reach.
    """

    def __init__(self, experiment: NetworkDiagram, found: "Summary") -> None:
        self.summary = found
        self.results: xr.Dataset = found.ds
        self.replicas: xr.Dataset = found.replicas
        self.points: xr.Dataset = found.points
        self.target = found.target
        super().__init__(experiment.report(found))


def phase_diagram(
    model: Network | str,
    *,
    learning_rate: Iterable[float] | float | None = None,
    batch_size: Iterable[int] | int | None = None,
    init_width: Iterable[float] | float | None = None,
    seed: Iterable[int] | int = 8,
    optimizer: Callable[..., Any] | str | None = None,
    schedule: Callable[..., Any] | str | None = None,
    out: str | PathLike[str] | None = None,
    extend: bool = False,
    progress: "bool | Bar | None" = None,
    block_size: int | None = None,
    **more: Any,
) -> Diagram:
    """Which learning rates, batch sizes and initial widths of a network learn, freeze or blow up.

    Every point of the grid is trained by `train` with each seed. `experiments.learning.phases` has the definitions of
    the phases. Besides losses, metrics and the levels of the watched matrices it records how far each has left its
    start (`memory`), and for plain gradient descent on a loss of one example the terms of the Langevin criterion of
    arXiv:2509.01349.

        found = dj.phase_diagram(model, learning_rate=[0.01, 0.1, 1], batch_size=[8, 32], seed=8, steps=1000)
        print(found)
        found.draw("figures")

    Args:
        model: `models.FlaxModel`, `models.FunctionModel`, or "mynet.py:make", whose run the command line can continue.
        learning_rate: values α, by default 0.001 … 10.
        batch_size: values |B|, by default 8 and 32.
        init_width: what multiplies the watched matrices at the start, by default 1.
        seed: how many networks at every point, or `range(n)`.
        optimizer: an optax optimiser as `train` takes it, or its name; None is plain gradient descent.
        schedule: (update, steps) → a factor of the learning rate, as `train` takes it.
        out: the run's directory or URL; the same call continues an interrupted run, and `dysonjax report` shows it.
        extend: let `out` hold the same run with fewer points or seeds.
        progress: a bar on the terminal, or an object whose `advance` receives completed replica-updates.
        block_size: replicas that are stored and resumed together.
        more: settings of `experiments.NetworkDiagram` (steps, snapshots, tests, criterion, paired, metric, target,
            share, blown_up, key, and batches as `train` takes them), and further numbers of the optimiser, one or
            several: weight_decay=[0, 1e-4].

    Returns:
        The diagram: `print` shows its sentence and tables.

    Raises:
        InputError: a bad argument.
        StoreError: `out` cannot be used, or holds another run.
    """
    given: dict[str, Any] = {name: more.pop(name) for name in SETTINGS if name in more}
    rows = {"learning_rate": learning_rate, "batch_size": batch_size, "init_width": init_width}
    given |= {name: numbers(name, values) for name, values in rows.items() if values is not None}
    given["batch_size"] = tuple(map(_whole, given["batch_size"])) if "batch_size" in given else (8, 32)
    given["axis"] = axis_texts(more)
    given["seeds"] = _seeds(seed)
    experiment = NetworkDiagram.with_network(model, optimizer, given, schedule)
    results = running.run(experiment, out, progress=progress, block_size=block_size, extend=extend)
    return Diagram(experiment, experiment.analyse(results))


def _whole(value: float) -> int:
    return whole("batch_size", int(value) if value == int(value) else value)


def _seeds(seed: Any) -> int:
    if isinstance(seed, range) and seed == range(len(seed)):
        seed = len(seed)
    counted = isinstance(seed, int) and not isinstance(seed, bool) and seed > 0
    if not counted and isinstance(seed, Iterable):
        listed = [*seed]
        require(listed == [*range(len(listed))] and listed, "seed", shown(seed), "a number of seeds n, or range(n)")
        return len(listed)
    return whole("seed", seed)
