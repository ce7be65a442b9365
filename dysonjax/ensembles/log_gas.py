"""Levels in any potential at equilibrium: hybrid Monte Carlo for the log-gas, one independent chain for each sample."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import InputError, require, shown, whole

ACCEPTANCE = 0.8
"""Acceptance rate that the step size is adapted to (Beskos et al., Bernoulli 19, 1501 (2013): 0.65 … 0.9)."""
SOFTENING = 0.7
"""Distance in step sizes below which the repulsion along a trajectory is softened."""
SCALES = 2.0 ** np.arange(-24, 25)
"""Half-widths that are tried for the starting levels."""

Potential = Callable[[Float[Array, " n"]], Float[Array, "..."]]


class LogGas(NamedTuple):
    """Samples of `log_gas` and how well the chains moved; leading axes are those of `shape`."""

    levels: Float[Array, "*shape n"]
    """The last levels of each chain, largest first: independent samples."""
    acceptance: Float[Array, "*shape"]
    """Fraction of accepted trajectories after the warm-up."""
    step_size: Float[Array, "*shape"]
    """Adapted in the warm-up, then fixed."""
    effective_samples: Float[Array, ""]
    """Independent samples to which a chain's trajectories after the warm-up amount, by the scatter between chains.

    Var(f)/Var(chain's mean of f), the least of f = energy, mean level and mean square. Well above 1: the last levels
    have forgotten the start. NaN for a single chain; without meaning when β or T differ between chains.
    """


def log_gas(
    key: PRNGKeyArray,
    n: int,
    potential: Potential,
    beta: ArrayLike = 1.0,
    temperature: ArrayLike = 1.0,
    shape: tuple[int, ...] = (),
    *,
    warm_up: int = 300,
    trajectories: int = 100,
    leapfrog_steps: int | None = None,
    start: Float[ArrayLike, " n"] | Sequence[float] | None = None,
) -> LogGas:
    """Independent samples of n levels in a potential, by hybrid Monte Carlo (Duane et al., Phys. Lett. B 195, 216).

    P(x) ∝ Π_{i<j} |x_i − x_j|^β exp(−Σ_i V_i(x_i)/T), the stationary law (3) of Dyson's equation with drift −V_i' and
    T g² for T. Each chain adapts its step size in `warm_up` trajectories, then runs `trajectories` with all fixed, of
    which it returns the last levels. They depend the less on the start the more there are (see `effective_samples`).

    Args:
        key: random key.
        n: levels.
        potential: function of the levels [n], largest first, that returns V_i(x_i) [n] or their sum; compiled once for
            each function object.
        beta: β > 0, a number, or an array that broadcasts to `shape`.
        temperature: T > 0, likewise.
        shape: shape of the independent chains.
        warm_up: trajectories in which the step size is adapted.
        trajectories: trajectories after these.
        leapfrog_steps: steps of a trajectory, by default 4√n.
        start: levels [n] of all chains at the start, by default spread evenly around 0 over the width of least energy;
            give them when the levels are far from 0.

    Returns:
        A `LogGas` with levels [*shape, n].

    Raises:
        InputError: a bad argument, or a potential that is not finite at the start or does not hold the levels.

        log_gas(jax.random.key(0), 16, lambda x: x**4 / 4, beta=2.0, shape=(1000,)).levels  # [1000, 16]
    """
    whole("n", n)
    whole("warm_up", warm_up, 20)
    whole("trajectories", trajectories, 2)
    leapfrog_steps = whole("leapfrog_steps", 4 * int(np.ceil(np.sqrt(n))) if leapfrog_steps is None else leapfrog_steps)
    require(callable(potential), "potential", potential, "a function of the levels [n]")
    for name, value in (("beta", beta), ("temperature", temperature)):
        if not isinstance(value, Tracer):
            require(np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0), name, value, "a number above 0")
    beta, temperature = (jnp.broadcast_to(jnp.asarray(v, float), shape) for v in (beta, temperature))
    start = None if start is None else _checked_start(start, n)
    lengths = (warm_up, trajectories, leapfrog_steps)
    result, held = _sample(key, beta.reshape(-1), temperature.reshape(-1), start, n, potential, lengths)
    if not isinstance(held, Tracer):
        expected = "one that is finite at the start and grows far away on either side: nothing else holds the levels"
        require(np.all(held), "potential", potential, expected)
    levels, acceptance, step_size = (a.reshape(*beta.shape, *a.shape[1:]) for a in result[:3])
    return LogGas(levels, acceptance, step_size, result.effective_samples)


def _checked_start(start: ArrayLike | Sequence[float], n: int) -> Array:
    try:
        x = jnp.asarray(start, float)
    except (TypeError, ValueError):
        raise InputError(f"start = {shown(start)}: expected {n} levels") from None
    falling = x.shape == (n,) and (isinstance(x, Tracer) or bool(jnp.all(jnp.diff(x) < 0) & jnp.isfinite(x[0])))
    require(falling, "start", start, f"{n} levels, largest first, no two the same")
    return x


@partial(jax.jit, static_argnums=(4, 5, 6))
def _sample(key, beta, temperature, start, n, potential, lengths):
    """All chains side by side, and whether the potential holds the levels of each."""
    warm_up, trajectories, leapfrog_steps = lengths

    # Robbins and Monro's gains; the step size kept is the mean over the second half of the warm-up, which is steadier
    k = np.arange(warm_up + trajectories)
    gain = np.where(k < warm_up, 2 / (k + 1) ** 0.6, 0)
    weight = np.where((k >= warm_up // 2) & (k < warm_up), 1 / (warm_up - warm_up // 2), 0)

    def run(key, beta, temperature):
        energy = partial(_energy, potential, beta, temperature)
        of_start, of_moves = jax.random.split(key)
        first, held = _first(of_start, energy, n, start)

        def move(state, inputs):
            at, adapted, kept = state
            key, gain, weight = inputs
            step_size = jnp.exp(jnp.where(gain > 0, adapted, kept))
            at, probability = _trajectory(energy, leapfrog_steps, key, at, step_size)
            adapted = adapted + gain * (probability - ACCEPTANCE)
            watched = jnp.stack([at.energy, jnp.mean(at.x), jnp.mean(at.x**2)])
            return (at, adapted, kept + weight * adapted), (probability, watched)

        guess = jnp.log((first[0] - first[-1]) / n) if n > 1 else jnp.zeros(())
        inputs = jax.random.split(of_moves, k.size), jnp.asarray(gain, guess.dtype), jnp.asarray(weight, guess.dtype)
        begin = (_Point(first, energy(first)), guess, jnp.zeros_like(guess))
        (last, _, kept), (probability, watched) = lax.scan(move, begin, inputs)
        return last.x, jnp.mean(probability[warm_up:]), jnp.exp(kept), watched[warm_up:], held

    levels, acceptance, step_size, watched, held = jax.vmap(run)(jax.random.split(key, beta.size), beta, temperature)
    return LogGas(levels, acceptance, step_size, _effective(watched)), held


class _Point(NamedTuple):
    x: Float[Array, " n"]
    energy: Float[Array, ""]


def _energy(potential: Potential, beta: Array, temperature: Array, x: Array, soft: ArrayLike = 0.0) -> Float[Array, ""]:
    """−ln P: Σ V_i(x_i)/T − β Σ_{i<j} ln √((x_i − x_j)² + soft²), for levels x [n] in any order."""
    squares = (x[:, None] - x) ** 2 + jnp.asarray(soft) ** 2 + jnp.eye(x.size)
    return jnp.sum(potential(_falling(x))) / temperature - 0.25 * beta * jnp.sum(jnp.log(squares))


def _falling(x: Array) -> Array:
    return -jnp.sort(-x)


def _first(key: PRNGKeyArray, energy, n: int, start: Array | None) -> tuple[Array, Array]:
    """Starting levels, and whether they are energetically below evenly spread ones far away.

    Without a start: of the width of least energy, and up to twice wider or narrower, so that chains that have not
    forgotten it disagree.
    """
    even = jnp.linspace(1, -1, n)
    widths = jnp.asarray(SCALES, even.dtype)
    far = widths[-1] * (even + jnp.array([[-2], [2]], even.dtype))
    energies = jax.vmap(energy)(jnp.concatenate([widths[:, None] * even, far]))
    least = (
        widths[jnp.argmin(jnp.where(jnp.isnan(energies), jnp.inf, energies)[:-2])] * even if start is None else start
    )
    lowest = energy(least)
    held = jnp.isfinite(lowest) & ~jnp.any(energies[-3:] <= lowest)
    spread = jnp.exp2(jax.random.uniform(key, minval=-1, maxval=1))
    return (spread * least if start is None else start), held


def _trajectory(energy, leapfrog_steps: int, key: PRNGKeyArray, at: _Point, step_size: Array):
    """One trajectory: the point after it and its acceptance probability.

    The force is that of a softened energy, so that levels that meet pass through each other, and are sorted in the end,
    instead of being thrown apart; acceptance by the true energy keeps the law exact (the softening is part of the
    proposal, which is reversible and keeps volumes). For β = 1, n = 16 this needs three times fewer trajectories.
    """
    of_momenta, of_length, of_choice = jax.random.split(key, 3)
    # trajectories of one length could return to where they began
    dt = step_size * jax.random.uniform(of_length, minval=0.7, maxval=1.3)
    momenta = jax.random.normal(of_momenta, at.x.shape)
    force = jax.grad(lambda x: -energy(x, SOFTENING * step_size))

    def leap(_, state):
        x, p = state
        x = x + dt * p
        return x, p + dt * force(x)

    x, p = lax.fori_loop(0, leapfrog_steps, leap, (at.x, momenta + dt / 2 * force(at.x)))
    p = p - dt / 2 * force(x)
    there = _Point(_falling(x), energy(x))
    gain = at.energy - there.energy + (jnp.sum(momenta**2) - jnp.sum(p**2)) / 2
    probability = jnp.where(jnp.isfinite(there.energy), jnp.exp(jnp.minimum(gain, 0)), 0)
    probability = jnp.nan_to_num(probability)
    taken = jax.random.uniform(of_choice) < probability
    at = jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, at)
    return at, probability


def _effective(observed: Float[Array, "R K 3"]) -> Float[Array, ""]:
    if observed.shape[0] < 2:
        return jnp.full((), jnp.nan)
    return jnp.min(jnp.var(observed, axis=(0, 1)) / jnp.var(observed.mean(axis=1), axis=0, ddof=1))
