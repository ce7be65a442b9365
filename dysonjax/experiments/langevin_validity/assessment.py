"""Does the Langevin picture hold here? A report on any model under `sgd`, from its levels and its gradient noise.

The picture (arXiv:2407.16427): near its fixed point a level ξ_i of W = Σ ξ_i u_i v_iᵀ is an Ornstein–Uhlenbeck process
of rate h_i and Gaussian noise, with the stationary variance σ_i² = T c_i/2h_i, T = α/|B|, c_i the variance of one
example's gradient along ξ_i. That needs Gaussian noise, of nearly one size for all entries, small steps (αλ_max ≪ 1),
and batches far below the noise scale of McCandlish et al. (2018); SVAG (`svag`) tells whether any SDE describes SGD.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.model import HasLevelTheory
from dysonjax.core.observables import Variable, snapshot
from dysonjax.core.potentials import LevelTheory
from dysonjax.core.tables import Table
from dysonjax.dynamics.gradients import GradientNoise, by_examples, gradient_noise
from dysonjax.dynamics.stochastic_gradient import sgd
from dysonjax.dynamics.variance_amplified import svag
from dysonjax.engine.grid import Grid
from dysonjax.engine.scanning import scan
from dysonjax.engine.tile import level_names
from dysonjax.experiments.langevin_validity.expectations import (
    LAGS,
    Law,
    Line,
    autocorrelation_times,
    gradient_lines,
    level_lines,
    over_replicas,
    pool,
    pooled_widths,
    svag_lines,
)
from dysonjax.spectra import Estimate

REFERENCES, PROBES, FEWEST = 4, 8, 16
"""Times after the burn-in at which widths are taken; replicas whose gradients are examined; finite replicas without
which nothing is said of levels."""
RECORDED = 2**25
"""Numbers up to which the parameters of all replicas are recorded; otherwise the few that are examined run twice."""


class Report(NamedTuple):
    """All lines, and what they summarise, by multiplet of degenerate levels (m; largest level first).

    `members`: the multiplet of each level [n]; `widths` [m] with errors beside `expected_widths` [m]; `times` [m],
    autocorrelation times in updates; None without enough finite replicas. `noise_spectrum` [S]: eigenvalues of the
    covariance of one example's gradient of the watched matrix, largest first, mean over the replicas examined.
    """

    lines: tuple[Line, ...]
    noise_spectrum: Float[np.ndarray, " S"]
    members: np.ndarray | None = None
    widths: Estimate | None = None
    expected_widths: np.ndarray | None = None
    times: Estimate | None = None

    def line(self, quantity: str) -> Line:
        """The first line whose quantity begins so; raises `InputError`."""
        found = [line for line in self.lines if line.quantity.startswith(quantity)]
        require(bool(found), "quantity", quantity, f"one of {', '.join(line.quantity for line in self.lines)}")
        return found[0]


def validity(
    key: PRNGKeyArray | int,
    model: Any,
    learning_rate: float,
    batch_size: int,
    *,
    steps: int = 2000,
    replicas: int = 256,
    init_width: float | None = None,
    batches: int | None = None,
    svag_orders: Sequence[int] = (1, 4),
    samples: int = 512,
    burn_in: int | None = None,
    matrix: str | None = None,
) -> Report:
    """Run `replicas` of `sgd(model, batches=batches)` and judge the Langevin picture of one matrix' levels.

    All replicas share one task (teacher); they differ by start, noise and, if there are any, by their fixed batches.
    Widths are those of the model's `level_theory` where it has one (of a k-fold degenerate level, that of the pooled
    GOE levels, σ√((k + 1)/2)), else linearised at the end of the run. Gradients of a model with chains of its own are
    those of independent draws.

    Args:
        key: random key, or a whole number that makes one.
        model: what is trained.
        learning_rate: α.
        batch_size: |B|.
        steps: updates.
        replicas: independent networks.
        init_width: σ_W, by default the model's own.
        batches: fixed batches of an epoch, None for fresh ones.
        svag_orders: orders ℓ of SVAG; the first is compared with each of the others at equal times, on fresh batches. A
            run of order ℓ costs 2ℓ of SGD; () leaves it out.
        samples: gradients that are drawn at the end of a few replicas; memory is that of so many copies of the
            parameters.
        burn_in: updates that are not looked at, by default half of `steps`.
        matrix: whose levels are judged; by default that of the theory, else the first.

    Returns:
        A line with a verdict for each assumption.

    Raises:
        InputError: a bad argument.

    >>> table(validity(0, LinearNetwork(noise=0.1), 0.1, 16))  # doctest: +SKIP
    """
    steps, replicas = whole("steps", steps, 2 * REFERENCES), whole("replicas", replicas, FEWEST)
    samples, orders = whole("samples", samples, 2), [whole("svag_orders", order) for order in svag_orders]
    burn_in = steps // 2 if burn_in is None else whole("burn_in", burn_in, 1, steps - REFERENCES)
    base = key if isinstance(key, jax.Array) else jax.random.key(whole("key", key, 0, 2**32 - 1))
    run_key, task_key, noise_key, svag_key = jax.random.split(base, 4)
    model = _of_one_task(model, task_key)
    dynamics = sgd(model, batches=batches, tests=1)
    width = dynamics.parameters["init_width"].default if init_width is None else init_width
    params = model.init(task_key, model.task(task_key), jnp.asarray(width, float))
    theory = _theory(model, matrix)
    name = matrix or (theory.matrix if theory else next(iter(model.matrices(params))))
    require(name in model.matrices(params), "matrix", name, f"one of {', '.join(model.matrices(params))}")
    recorded = level_names(model.matrices(params))[name]
    point = {"learning_rate": [learning_rate], "batch_size": [batch_size], "init_width": [width]}

    def run(dynamics: Dynamics, key: PRNGKeyArray, marks: Sequence[int], order: int = 1, also: Any = ()) -> Any:
        """All replicas: a dataset, levels [R, time, n] at the marks times ℓ, and which of them stayed finite."""
        grid, at = Grid(**point, seed=range(replicas)), [order * mark for mark in marks]
        ds = scan(dynamics, grid, order * steps, key=key, snapshots=at, observables=also, progress=False)
        levels = ds[recorded].values.reshape(replicas, len(at) + 1, -1)[:, 1:].astype(float)
        levels = levels if theory and theory.geometry == "gram" else np.sqrt(levels)
        return ds, levels, ds.diverged_step.values.ravel() < 0

    ends = [steps - i * ((steps - burn_in) // REFERENCES) for i in range(REFERENCES)][::-1]
    lags = np.unique(np.round(np.geomspace(1, steps - burn_in, LAGS)).astype(int))
    marks = sorted({*ends, *(steps - lags).tolist()})
    theta, unravel = ravel_pytree(params)
    flat = snapshot("parameters", lambda s, state, h: ravel_pytree(state.params)[0], Variable(("parameter",)))
    small = replicas * (len(marks) + 1) * theta.size <= RECORDED
    ds, levels, finite = run(dynamics, run_key, marks, also=(flat,) if small else ())
    enough = finite.sum() >= FEWEST
    seeds = np.flatnonzero(finite)[:PROBES] if enough else np.arange(PROBES)
    if small:
        ds = ds.isel(seed=seeds)
    else:  # the same replicas again
        grid = Grid(**point, seed=seeds.tolist())
        ds = scan(dynamics, grid, steps, key=run_key, snapshots=[steps], observables=(flat,), progress=False)
    probes = ds.parameters.values.reshape(PROBES, -1, theta.size)[:, -1 if enough else 0]

    def examine(key: PRNGKeyArray, theta: Array) -> GradientNoise:
        return gradient_noise(key, model, name, unravel(theta), model.task(key), batch_size, samples)

    keys = jax.random.split(noise_key, PROBES)
    noise = jax.tree.map(np.asarray, jax.jit(lambda k, t: jax.lax.map(lambda a: examine(*a), (k, t)))(keys, probes))
    lines = gradient_lines(noise, learning_rate, batch_size)
    if not finite.all():
        lost = f"{np.sum(~finite)} of {replicas} became non-finite"
        lines.insert(0, Line("finite replicas", float(finite.mean()), 1.0, "fails", lost))
    if not enough:
        return Report(tuple(lines), noise.spectrum.mean(axis=0))

    law = _law(theory, noise, levels.shape[-1], learning_rate, batch_size, steps)
    late = np.isin(marks, ends)
    levels = levels[finite]
    widths = over_replicas(lambda x: pooled_widths(x, law.members), levels[:, late])
    times = over_replicas(lambda x: autocorrelation_times(x, law.members, marks), levels)
    lines = level_lines(law, levels, widths, times, steps) + lines
    if len(orders) > 1:
        same = orders[0] == 1 and batches is None and not by_examples(model)
        keys = jax.random.split(svag_key, len(orders))
        runs = [(ds, levels[:, late], finite[finite])] if same else []
        for order, own in zip(orders[len(runs) :], keys[len(runs) :], strict=True):
            runs.append(run(svag(model, order, tests=1), own, ends, order))
        for order, other in zip(orders[1:], runs[1:], strict=True):
            title = f"SVAG ℓ = {order} against {orders[0]}"
            first, second = (x[ok] for _, x, ok in (runs[0], other))
            if min(len(first), len(second)) >= FEWEST:
                lines += svag_lines(law, first, second, title)
            else:
                lines.append(Line(title, len(second) / replicas, 1.0, "fails", "share of finite replicas"))
    return Report(tuple(lines), noise.spectrum.mean(axis=0), law.members, widths, law.widths, times)


def table(report: Report) -> Table:
    """Quantity, measured ± error, expected, verdict and note of every line."""
    shown = Table(title="Does the Langevin picture hold here?", title_justify="left")
    for column in ("quantity", "measured", "expected", "verdict", "note"):
        shown.add_column(column, justify="right" if column in ("measured", "expected") else "left")
    for line in report.lines:
        measured = str(line.measured) if isinstance(line.measured, Estimate) else f"{line.measured:.3g}"
        expected = line.expected if isinstance(line.expected, str) else f"{line.expected:.4g}"
        shown.add_row(line.quantity, measured, expected, line.verdict, line.note)
    return shown


def _of_one_task(model: Any, key: PRNGKeyArray) -> Any:
    """The model with the same task for all its replicas; it can do all that the model can."""
    fixed = model.task(key)

    class OneTask(type(model)):
        def task(self, key: PRNGKeyArray) -> Any:
            return fixed

    made = copy.copy(model)
    object.__setattr__(made, "__class__", OneTask)  # a frozen dataclass, too
    return made


def _theory(model: Any, matrix: str | None) -> LevelTheory | None:
    """The model's theory, if it has one for these parameters and this matrix."""
    try:
        theory = model.level_theory() if isinstance(model, HasLevelTheory) else None
    except InputError:
        return None
    return theory if theory and matrix in (None, theory.matrix) else None


def _law(theory: LevelTheory | None, noise: GradientNoise, n: int, rate: float, batch: int, steps: int) -> Law:
    temperature = rate / batch
    if theory:
        points = jnp.asarray(theory.fixed_points)
        apart = ~np.isclose(points[1:], points[:-1], rtol=1e-6)
        members = np.concatenate([[0], np.cumsum(apart)])
        force = lambda x: theory.potential.force(x[:, None])[:, 0]  # noqa: E731
        rates = pool(members) @ -np.asarray(jax.jvp(force, (points,), (jnp.ones(n),))[1])
        fold = np.bincount(members)
        widths = pool(members) @ np.asarray(theory.widths) * np.sqrt(temperature * (fold + 1) / 2)
    else:
        members, rates = np.arange(n), noise.rates.mean(axis=0)
        variances = np.diagonal(noise.entries, axis1=1, axis2=2).mean(axis=0)
        rates = np.where(rate * rates * steps > 1, rates, np.nan)  # slower ones do not act within the run
        widths = np.sqrt(temperature * variances / (2 * rates))
    return Law(members, widths, 1 / (rate * rates) - 0.5, "the model's theory" if theory else "linearised")
