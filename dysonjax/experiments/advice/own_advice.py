"""`dysonjax.advise`: which learning rates a network that a program has in hand learns with."""

from collections.abc import Callable, Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

from dysonjax.core.model import Network
from dysonjax.experiments import running
from dysonjax.experiments.advice.experiment import Advice
from dysonjax.experiments.learning.of_network import Shown, axis_texts, numbers
from dysonjax.runtime.progress import Bar

if TYPE_CHECKING:
    from dysonjax.experiments.advice.answer import Answer


class Advised(Shown):
    """What an advice found: print it, or look at its parts.

    - `recommended`: a learning rate for each line that has one, by batch size and further numbers;
    - `answer`: everything, of each line in `answer.lines`, across batch sizes in `answer.across`;
    - `results`: the dataset of each round.
    """

    def __init__(self, experiment: Advice, found: "Answer") -> None:
        self.answer = found
        self.results = dict(found.datasets)
        self.recommended = {one.line: one.recommended for one in found.lines if one.recommended is not None}
        super().__init__(experiment.report(found))


def advise(
    model: Network | str,
    *,
    budget: str = "2m",
    learning_rate: Iterable[float] = (),
    batch_size: Iterable[int] | int = (8, 32, 128),
    optimizer: Callable[..., Any] | str | None = None,
    schedule: Callable[..., Any] | str | None = None,
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
        schedule: (update, steps) → a factor of the learning rate, as `train` takes it.
        out: the run's directory or URL; the same call continues an interrupted run, and `dysonjax report` shows it.
        progress: a bar on the terminal, or an object whose `advance` receives completed replica-updates.
        block_size: replicas that are computed and stored together.
        more: settings of `experiments.Advice` (steps, init_width, metric, target, share, blown_up, precision, rounds,
            snapshots, tests, key, and batches as `train` takes them), and further numbers of the optimiser, one or
            several: weight_decay=[0, 1e-4].

    Returns:
        The advice: `print` shows its sentence, tables and reasons.

    Raises:
        InputError: a bad argument, or a budget that buys no first round.
        StoreError: `out` cannot be used, or holds another run.
    """
    names = [name for name in more if name in SETTINGS]
    given: dict[str, Any] = {name: more.pop(name) for name in names}
    given["learning_rate"] = numbers("learning_rate", learning_rate) if learning_rate else ()
    given["batch_size"] = (batch_size,) if isinstance(batch_size, int) else tuple(map(int, batch_size))
    given["axis"] = axis_texts(more)
    experiment = Advice.with_network(model, optimizer, {"budget": budget, **given}, schedule)
    settled = running.settled(experiment, out)
    results = running.run(settled, out, progress=progress, block_size=block_size)
    return Advised(settled, settled.analyse(results))


SETTINGS = (
    "steps", "init_width", "metric", "target", "share", "blown_up", "precision", "rounds", "snapshots", "tests",
    "batches", "key",
)  # fmt: skip
"""Settings of `Advice` that are given by their names."""
