"""`dysonjax.advise`: which learning rates a network that a program has in hand learns with."""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dysonjax.core.errors import require
from dysonjax.core.model import Network
from dysonjax.core.tables import Table
from dysonjax.experiments import running
from dysonjax.experiments.advice.experiment import Advice
from dysonjax.experiments.base import Report
from dysonjax.experiments.learning.networks import optimizer_of
from dysonjax.runtime.progress import Bar

if TYPE_CHECKING:
    from dysonjax.experiments.advice.answer import Answer


class Advised:
    """What an advice found: print it, or look at its parts.

    - `recommended`: a learning rate for each line that has one, by batch size and further numbers;
    - `answer`: everything, of each line in `answer.lines`, across batch sizes in `answer.across`;
    - `results`: the dataset of each round.
    """

    def __init__(self, experiment: Advice, found: "Answer") -> None:
        self.answer = found
        self.results = dict(found.datasets)
        self.recommended = {one.line: one.recommended for one in found.lines if one.recommended is not None}
        self.report: Report = experiment.report(found)

    def __str__(self) -> str:
        return "\n\n".join(str(part) for part in self.report.said)

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> dict[str, str]:
        said = self.report.said
        parts = [p._repr_mimebundle_()["text/html"] if isinstance(p, Table) else f"<p>{escape(p)}</p>" for p in said]
        return {"text/plain": str(self), "text/html": "".join(parts)}

    def draw(self, directory: str | PathLike[str]) -> list[Path]:
        """Write the figures as PNG into a directory; returns their paths."""
        return [*self.report.draw(Path(directory))]


def advise(
    model: Network | str,
    *,
    budget: str = "2m",
    learning_rate: Iterable[float] = (),
    batch_size: Iterable[int] | int = (8, 32, 128),
    optimizer: Callable[..., Any] | str | None = None,
    out: str | PathLike[str] | None = None,
    progress: "bool | Bar | None" = None,
    block_size: int | None = None,
    **more: Any,
) -> Advised:
    """Which learning rates a network learns with, and which one to use, with errors.

    Networks are trained in rounds: a coarse grid of learning rates on every batch size, then rates about the boundary
    of learning and about the best loss with more and more seeds, at the end the recommended rates with seeds that have
    chosen nothing. `experiments.learning.phases` says what learns; a rate is safe where by a fit at least 95 % learn.

        found = dj.advise(model, batch_size=[8, 32], budget="1m", optimizer=optax.adam)
        print(found)
        found.draw("figures")

    Args:
        model: `models.FlaxModel`, `models.FunctionModel`, or "mynet.py:make", whose run the command line can continue.
        budget: a time ("90s", "5m", "1h"; compiling included) or "2e6 updates". It becomes a number of networks once,
            by a short measurement, and is stored, so that nothing else depends on a clock.
        learning_rate: those of the first round, by default 0.0001 … 10.
        batch_size: values |B|.
        optimizer: an optax optimiser as `train` takes it, or its name; None is plain gradient descent.
        out: the run's directory or URL; the same call continues an interrupted run, and `dysonjax report` shows it.
        progress: a bar on the terminal, or an object whose `advance` receives completed replica-updates.
        block_size: replicas that are computed and stored together.
        more: settings of `experiments.Advice` (steps, init_width, metric, target, share, blown_up, precision, rounds,
            snapshots, tests, key), and further numbers of the optimiser, one or several: weight_decay=[0, 1e-4].

    Returns:
        The advice: `print` shows its sentence, tables and reasons.

    Raises:
        InputError: a bad argument, or a budget that buys no first round.
        StoreError: `out` cannot be used, or holds another run.
    """
    names = [name for name in more if name in SETTINGS]
    given: dict[str, Any] = {name: more.pop(name) for name in names}
    given["learning_rate"] = tuple(map(float, learning_rate))
    given["batch_size"] = (batch_size,) if isinstance(batch_size, int) else tuple(map(int, batch_size))
    axes = {name: tuple(map(float, v)) if isinstance(v, Iterable) else (float(v),) for name, v in more.items()}
    given["axis"] = tuple(f"{name}={','.join(repr(v) for v in values)}" for name, values in axes.items())
    if isinstance(model, str):
        named = optimizer is None or isinstance(optimizer, str)
        require(named, "optimizer", optimizer, "a name, or FILE.py:FUNCTION, as the model is given by one")
        experiment = Advice(model=model, budget=budget, optimizer=optimizer, **given)  # type: ignore[arg-type]
    else:
        require(isinstance(model, Network), "model", model, "a model; models.FlaxModel makes one of a flax module")
        experiment = _InHand.of_objects(model, optimizer, {"budget": budget, **given})
    settled = running.settled(experiment, out)
    results = running.run(settled, out, progress=progress, block_size=block_size)
    return Advised(settled, settled.analyse(results))


SETTINGS = (
    "steps", "init_width", "metric", "target", "share", "blown_up", "precision", "rounds", "snapshots", "tests", "key",
)  # fmt: skip
"""Settings of `Advice` that are given by their names."""


class _InHand(Advice):
    """An advice on objects, which `run.json` cannot hold: `model` is "" there."""

    held: "tuple[Network, Callable[..., Any] | None]"

    @classmethod
    def of_objects(cls, model: Network, optimizer: Any, settings: Mapping[str, Any]) -> "_InHand":
        """With these objects; raises `InputError`."""
        function = optimizer_of(optimizer) if isinstance(optimizer, str) else optimizer
        name = None if function is None else getattr(function, "__name__", type(function).__name__)
        made = cls(optimizer=name, **settings)
        object.__setattr__(made, "held", (model, function))
        return made

    def objects(self) -> "tuple[Network, Callable[..., Any] | None]":
        """Those that were given."""
        return self.held
