"""Dyson's equation: the Langevin equation of eigenvalues or singular values, as a `Dynamics`.

One normalisation, that of arXiv:2407.16427, for Dyson index β, temperature T and coupling g:

    dx_i = K_i(x) dt + β T Σ_{j≠i} g_ij²/(x_i − x_j) dt + √(2T) g_ii dB_i                         (symmetric matrices)
    dξ_i = K_i(ξ) dt + ½T [(β(M−n+1) − 1) g²/ξ_i + β Σ_{j≠i} g² (1/(ξ_i−ξ_j) + 1/(ξ_i+ξ_j))] dt + √T g dB_i
                                                                             (singular values of an M × n matrix)

The repulsion is β/2 times the noise rate 2 T g² (T g²) of a level. Without drift both are exactly what the levels of a
matrix do whose entries have independent noise: off-diagonal entries of a symmetric one T g_ij² dt in each of their β
components, diagonal ones 2 T g_ii² dt; entries of a rectangular one T g_ij² dt. SGD has T = learning rate / batch size
and dt = learning rate. For one g and K_i = −V'(x_i) the stationary law is that of a Coulomb gas,

    P ∝ Π_{i<j} |x_i − x_j|^β exp(−Σ V(x_i)/(T g²)).

Levels repel and never meet, so each keeps its rank. With a centre c_i for each of them, two levels a distance d apart
therefore follow the log-gas law P(S) ∝ S e^{−(S−d)²/4σ²}, the branch in which the larger level has the larger centre
(`laws.LogGasPairSpacing` adds the other one, for pairs that start in either order). That is the law of this equation,
not of a matrix with the centres as eigenvalues of its mean: there the eigenvectors fluctuate too, and S follows
Rice's law (`laws.RiceSpacing`, `ensembles.matrix_ou_jump`). Inside a degenerate multiplet, d = 0, all of them agree.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, lift, one_replica
from dysonjax.core.errors import require, whole
from dysonjax.core.observables import Observable, Variable, snapshot
from dysonjax.core.potentials import Force, Potential, Quadratic, numbers_of
from dysonjax.core.values import Known
from dysonjax.dynamics import dyson_schemes as schemes

Geometry = Literal["symmetric", "singular", "gram"]
Coupling = float | Sequence[float] | Callable[[Float[Array, " n"]], Float[Array, "n n"]]

UNIT_WELL = Quadratic()
"""V = x²/2, the default potential."""
LARGEST_MATRIX = 64
"""Up to this many levels the matrix kick is the default; beyond it the pairwise kick is cheaper for its error."""
ESCAPED = 1e15
"""Levels beyond this have run away: their potential does not hold them."""


class Gas(NamedTuple):
    """Levels, largest first (singular values for a rectangular matrix), and counts of what went wrong so far."""

    x: Float[Array, " n"]
    order_violations: Int[Array, ""]
    unconverged: Int[Array, ""]


def dyson(
    levels: int,
    potential: Potential | Callable[[Array], Array] = UNIT_WELL,
    *,
    coupling: Coupling = 1.0,
    beta: float = 1.0,
    geometry: Geometry = "symmetric",
    rows: int | None = None,
    scheme: str | None = None,
    start: ArrayLike | Sequence[float] | None = None,
    sgd_units: bool = False,
) -> Dynamics:
    """Dyson's equation for n levels, as a `Dynamics` (see the module for the equation).

    Hyper-parameters: `temperature` T and `dt` (default 0.01), or with `sgd_units` `learning_rate` α and `batch_size`
    |B|, T = α/|B| and dt = α; `init_width` (default 1). Records the levels and the run's health: `order_violations`,
    `unconverged` (implicit solvers), `smallest_gap`, `balance` (see `health`). Levels beyond 10¹⁵, as in a potential
    without a lower bound, count as diverged. Warns when the scheme is `euler_maruyama`.

    Args:
        levels: number of levels n.
        potential: `Quadratic`, `RBMPotential`, or any function of the levels [n], largest first, that returns their
            drift K [n].
        coupling: g; one number, one per level (g_ij² = g_i g_j), or a function of them that returns g [n, n].
        beta: Dyson index β ≥ 1.
        geometry: "symmetric" matrices; "singular" values ξ of an M × n matrix W; "gram": the same motion told as x =
            ξ², eigenvalues of WᵀW, whose drift and coupling are functions of x while g stays that of the entries of W.
        rows: M ≥ n, by default n.
        scheme: a name in `schemes.ALL`; by default the matrix kick for β = 1, 2, 4 and up to 64 levels, else the
            pairwise kick.
        start: n levels, largest first, times `init_width`; by default evenly spaced in (−1, 1), or (0, 1) for
            rectangular matrices.
        sgd_units: take learning rate and batch size in place of temperature and time step.

    Returns:
        The dynamics, for `scan` or `simulate`.

    Raises:
        InputError: a bad argument.

    >>> gas = dyson(levels=32, potential=Quadratic(centre=0.0, stiffness=1.0), coupling=1.0, beta=1.0)
    """
    n = whole("levels", levels)
    beta = _dyson_index(beta)
    rows = _rows(geometry, rows, n)
    name, chosen = _scheme(scheme, n, beta, rows)
    if not isinstance(potential, Potential):
        require(callable(potential), "potential", potential, "a potential, or a function of the levels")
        potential = Force(potential)  # type: ignore[arg-type]
    strength = _coupling(coupling, n)
    first = _start(start, n, rows)
    motion = Motion(potential, strength, beta, geometry, rows, n, sgd_units)  # type: ignore[arg-type]
    _check_potential(motion)

    def init(key: PRNGKeyArray, hyper: Hyper) -> Gas:
        return Gas(jnp.asarray(first) * hyper["init_width"], jnp.int32(0), jnp.int32(0))

    def block_step(keys: PRNGKeyArray, state: Gas, hyper: Hyper) -> Gas:
        time = motion.time(hyper)
        if chosen.drift == "strang":
            middle = motion.flow(state.x, time / 2)
            kicked = chosen.kick(keys, middle, motion.variance(middle, hyper), beta, rows)
            x = motion.flow(kicked.x, time / 2)
        else:
            kicked = chosen.kick(keys, state.x, motion.variance(state.x, hyper, stretch=False), beta, rows)
            x = kicked.x + time * motion.force(state.x)
        met = jnp.diff(state.x, axis=0) * jnp.diff(x, axis=0) <= 0
        violated = jnp.any(met, axis=0).astype(jnp.int32)
        return Gas(x, state.order_violations + violated, state.unconverged + kicked.unconverged)

    shown = (lambda x: jnp.sort(x)[::-1]) if not chosen.ordered else (lambda x: x)
    return Dynamics(
        init=init,
        step=one_replica(block_step),
        block_step=block_step,
        spectra=lambda state: {"X": shown(state.x**2 if geometry == "gram" else state.x)},
        healthy=lambda state: jnp.all(jnp.abs(state.x) < ESCAPED),
        parameters={**_parameters(sgd_units), "init_width": Parameter(1.0)},
        observables=health(motion),
        config={
            "dynamics": "dyson",
            "levels": n,
            **potential.config,
            "coupling": getattr(coupling, "__qualname__", None) or np.asarray(coupling).tolist(),
            "beta": beta,
            "geometry": geometry,
            "rows": rows,
            "scheme": name,
            "start": first.tolist(),
            "sgd_units": sgd_units,
        },
        tile=tile_of(n, name),
    )


class Motion(NamedTuple):
    """Drift and noise of a gas in the coordinates it moves in (singular values for a rectangular matrix)."""

    potential: Potential
    coupling: Callable[[Array], Array]
    beta: float
    geometry: Geometry
    rows: int | None
    n: int
    sgd_units: bool

    def time(self, hyper: Hyper) -> Array:
        """The time step dt."""
        return hyper["learning_rate"] if self.sgd_units else hyper["dt"]

    def temperature(self, hyper: Hyper) -> Array:
        """T, given or learning rate / batch size."""
        return hyper["learning_rate"] / hyper["batch_size"] if self.sgd_units else hyper["temperature"]

    def force(self, x: Array) -> Array:
        """K; for a Gram matrix dξ/dt = K(ξ²)/2ξ."""
        return self.potential.force(x * x) / (2 * x) if self.geometry == "gram" else self.potential.force(x)

    def flow(self, x: Array, time: Array) -> Array:
        """Where the drift alone takes the levels in `time`."""
        if self.geometry == "gram":
            return jnp.sqrt(jnp.maximum(self.potential.flow(x * x, time), 0))
        return self.potential.flow(x, time)

    def variance(self, x: Array, hyper: Hyper, stretch: bool = True) -> Array:
        """v = T g² dt, [1, 1, R] or [n, n, R]; `stretch`: dt made up for the half flows around the kick."""
        time = self.time(hyper)
        if stretch:
            time = 2 * self.potential.kick_time(time / 2) if self.geometry == "gram" else self.potential.kick_time(time)
        return self.rate(x, hyper) * time

    def rate(self, x: Array, hyper: Hyper) -> Array:
        """T g², [1, 1, R] or [n, n, R]."""
        g = self.coupling(x * x if self.geometry == "gram" else x)
        return self.temperature(hyper) * g * g

    def energy_rate(self, x: Array, hyper: Hyper) -> tuple[Array, Array]:
        """d E Σx²/dt, and the noise's part of it, by Itô's formula: 2 Σ x_i K_i + the variance rate of all entries."""
        rate = self.rate(x, hyper)
        square = jnp.broadcast_to(rate, (self.n, self.n, rate.shape[-1]))
        diagonal = jnp.sum(jnp.broadcast_to(schemes.own(rate), x.shape), 0)
        if self.rows is None:
            noise = self.beta * (jnp.sum(square, (0, 1)) - diagonal) + 2 * diagonal
        else:
            noise = self.beta * (jnp.sum(square, (0, 1)) + (self.rows - self.n) * diagonal)
        return 2 * jnp.sum(x * self.force(x), 0) + noise, noise


def health(motion: Motion) -> tuple[Observable, ...]:
    """What a run says about itself at each snapshot.

    `order_violations`, `unconverged`: steps so far in which neighbours met or crossed, or an implicit solver stopped
    early. `smallest_gap`: smallest distance of neighbouring levels since the last snapshot. `balance`: the step-size
    error. By Itô's formula Σx² grows by ∫ (2 Σ x_i K_i + A) dt on average, A the noise's variance rate; the balance is
    what it grew by beyond that since the last snapshot, in units of ∫ A dt. It fluctuates around 0 for an exact step;
    once Σx² is stationary its mean over replicas is minus the relative error of ⟨Σ x_i K_i⟩.
    """
    count = lambda field, text: snapshot(field, lambda s, state, h: getattr(state, field), Variable((), text))  # noqa: E731
    return (
        count("order_violations", "steps in which neighbouring levels met or crossed"),
        count("unconverged", "steps in which the implicit solver stopped before it had converged"),
        _smallest_gap(),
        _balance(motion),
    )


def _smallest_gap() -> Observable:
    gap = lambda spectra, state, hyper: jnp.min(jnp.abs(jnp.diff(state.x)), initial=jnp.inf)  # noqa: E731
    return Observable(
        init=lambda *view: jnp.full_like(gap(*view), jnp.inf),
        update=lambda least, *view: jnp.minimum(least, gap(*view)),
        result=lambda least, *view: ({"smallest_gap": jnp.minimum(least, gap(*view))}, jnp.full_like(least, jnp.inf)),
        variables={"smallest_gap": Variable((), "smallest distance of neighbouring levels since the last snapshot")},
        every=1,
        config={"health": "smallest_gap"},
    )


class _Budget(NamedTuple):
    """Σx² at the start of the window, the integrand now, its integral with Kahan's compensation, and that of noise."""

    start: Array
    rate: Array
    total: Array
    lost: Array
    noise: Array


def _balance(motion: Motion) -> Observable:
    def rates(x, hyper):
        one = {k: v[None] if isinstance(v, jax.Array) else v for k, v in hyper.items()}
        return tuple(a[0] for a in motion.energy_rate(x[:, None], one))

    def init(spectra, state, hyper):
        zero = jnp.zeros_like(state.x[0])
        return _Budget(jnp.sum(state.x**2), rates(state.x, hyper)[0], zero, zero, zero)

    def update(budget, spectra, state, hyper):
        rate, noise = rates(state.x, hyper)
        time = motion.time(hyper)
        term = time / 2 * (budget.rate + rate) - budget.lost
        total = budget.total + term
        return _Budget(budget.start, rate, total, (total - budget.total) - term, budget.noise + time * noise)

    def result(budget, *view):
        grown = jnp.sum(view[1].x ** 2) - budget.start
        value = jnp.where(budget.noise > 0, (grown - budget.total) / jnp.where(budget.noise > 0, budget.noise, 1), 0)
        return {"balance": value}, init(*view)

    text = "growth of Σx² beyond Itô's formula since the last snapshot, in units of what the noise adds"
    return Observable(init, result, {"balance": Variable((), text)}, update, 1, config={"health": "balance"})


def tile_of(n: int, scheme: str) -> int:
    """Replicas side by side on a CPU: as many as keep a step's arrays in the second-level cache."""
    entries = 4 * n * n if scheme in ("matrix_kick", "backward_euler") else 8 * n
    return int(2 ** np.clip(np.floor(np.log2(2**16 / entries)), 0, 8))


def _parameters(sgd_units: bool) -> dict[str, Parameter]:
    if sgd_units:
        return {"learning_rate": Parameter(), "batch_size": Parameter(integer=True)}
    return {"temperature": Parameter(), "dt": Parameter(0.01)}


def _dyson_index(beta: Any) -> float:
    real = isinstance(beta, int | float | np.number) and not isinstance(beta, bool)
    reason = "a finite number of at least 1: below, levels meet, and their equation alone does not say how they go on"
    require(real and np.isfinite(beta) and beta >= 1, "beta", beta, reason)
    return float(beta)


def _rows(geometry: str, rows: int | None, n: int) -> int | None:
    known = ("symmetric", "singular", "gram")
    require(geometry in known, "geometry", geometry, f"one of {', '.join(known)}")
    if geometry == "symmetric":
        require(rows is None, "rows", rows, "None: a symmetric matrix has as many rows as levels")
        return None
    return n if rows is None else whole("rows", rows, n)


def _scheme(name: str | None, n: int, beta: float, rows: int | None) -> tuple[str, schemes.Scheme]:
    if name is None:
        name = "matrix_kick" if beta in (1, 2, 4) and n <= LARGEST_MATRIX else "pairwise_kick"
    require(name in schemes.ALL, "scheme", name, f"one of {', '.join(schemes.ALL)}")
    scheme = schemes.ALL[name]
    fit = [k for k, s in schemes.ALL.items() if (rows is None or s.rectangular) and beta in (s.betas or (beta,))]
    setting = f"beta = {beta:g} and {'symmetric' if rows is None else 'rectangular'} matrices"
    require(name in fit, "scheme", name, f"one for {setting}: {', '.join(fit)}")
    if not scheme.ordered:
        warnings.warn(f"{name}: its second moments diverge at any step; it is here for comparison", stacklevel=3)
    return name, scheme


def _coupling(coupling: Any, n: int) -> Callable[[Array], Array]:
    """g of a block of levels [n, R]: [1, 1, 1] or [n, n, R]."""
    if callable(coupling):
        shape = _shape(Known(coupling), (n,))
        require(shape == (n, n), "coupling", shape, f"a function that returns g of shape {(n, n)}")
        return lift(coupling)  # type: ignore[return-value]
    g = numbers_of("coupling", coupling)
    require(g.size in (1, n), "coupling", coupling, f"one number, or {n} of them")
    require(np.all(g > 0), "coupling", coupling, "positive numbers")
    pair = np.sqrt(np.outer(g, g)) if g.size > 1 else g.reshape(1, 1)
    return lambda x: jnp.asarray(pair)[..., None]


def _start(start: Any, n: int, rows: int | None) -> np.ndarray:
    if start is None:
        ends = (1.0, -1.0) if rows is None else (1.0, 1.0 / n)
        return np.linspace(*ends, n) if n > 1 else np.array([0.0 if rows is None else 1.0])
    first = np.atleast_1d(numbers_of("start", start))
    require(first.shape == (n,), "start", start, f"{n} levels")
    require(np.all(np.diff(np.float32(first)) < 0), "start", start, "different levels, largest first")
    require(rows is None or first[-1] > 0, "start", start, "positive levels")
    return first


def _check_potential(motion: Motion) -> None:
    """One force evaluated abstractly: a potential for another number of levels is refused before anything runs."""
    name = type(motion.potential).__name__
    try:
        shape = _shape(Known(motion.force), (motion.n, 1))
    except (TypeError, ValueError) as error:
        message = str(error).splitlines()[0]
        require(False, "potential", name, f"a force on {motion.n} levels ({message})")
    else:
        require(shape == (motion.n, 1), "potential", name, f"a force on {motion.n} levels, one value each")


@functools.lru_cache(maxsize=64)
def _shape(function: Known, levels: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a function of levels, traced once."""
    return jax.eval_shape(function.thing, jax.ShapeDtypeStruct(levels, jnp.zeros(()).dtype)).shape
