"""Potentials of the levels: the drift K_i(x) = −V_i'(x_i) of Dyson's equation and its flow dx_i/dt = K_i(x).

Levels are counted as they are recorded, largest first; so are per-level centres and stiffnesses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dysonjax.core.dynamics import lift
from dysonjax.core.errors import InputError, require

Levels = Float[Array, "n R"]


@runtime_checkable
class Potential(Protocol):
    """What `dyson` asks of a potential; `x` are the levels of a block, [n, R]."""

    def force(self, x: Levels) -> Levels:
        """K_i(x), in units of levels per time."""
        ...

    def flow(self, x: Levels, time: Array) -> Levels:
        """Where dx/dt = K(x) takes the levels in `time` [R]."""
        ...

    def kick_time(self, time: Array) -> Array:
        """The time [R] or [n, n, R] a kick between two half flows must last to make up for their contraction."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """JSON that tells potentials apart when a stored run is continued."""
        ...


class LevelTheory(NamedTuple):
    """What Dyson's equation needs to know of a model: arguments of `dyson`, and where the levels end up.

    `fixed_points` [n], largest first, are the zeros of the drift in the coordinate that `dyson` moves and records:
    eigenvalues x of WᵀW for the geometry "gram", otherwise the levels ξ of W itself (`matrix` names it among those
    that the model watches). `widths` [n] are σ_i/√T of each level alone, in the same coordinate, as T → 0.
    """

    potential: Any
    coupling: Any
    fixed_points: tuple[float, ...]
    widths: tuple[float, ...]
    geometry: str = "symmetric"
    matrix: str = "W"


@dataclass(frozen=True)
class Quadratic:
    """V_i = ½ κ_i (x_i − c_i)²: K_i = −κ_i (x_i − c_i).

    Its flow is exact, and with one κ and c for all so is the whole step: half flows e^{−κ dt/2} around a kick of
    duration sinh(κ dt)/κ are the Ornstein–Uhlenbeck jump, mean e^{−κ dt}, variance ∝ (1 − e^{−2κ dt})/2κ, for any dt.

    Args:
        centre: c, one for all levels, or one for each, [n], largest level first.
        stiffness: κ ≥ 0, likewise.

    Raises:
        InputError: a bad argument.
    """

    centre: float | Sequence[float] = 0.0
    stiffness: float | Sequence[float] = 1.0

    def __post_init__(self):
        for name, value in (("centre", self.centre), ("stiffness", self.stiffness)):
            numbers = numbers_of(name, value)
            require(numbers.size == 1 or numbers.ndim == 1, name, value, "a number, or one for each level")
            least = 0 if name == "stiffness" else -np.inf
            require(np.all(numbers >= least), name, value, "numbers of at least 0, which hold the levels")
            object.__setattr__(self, name, numbers.tolist() if numbers.ndim == 0 else tuple(numbers.tolist()))

    def force(self, x: Levels) -> Levels:
        """−κ_i (x_i − c_i)."""
        centre, stiffness = self._columns()
        return -stiffness * (x - centre)

    def flow(self, x: Levels, time: Array) -> Levels:
        """c_i + e^{−κ_i t} (x_i − c_i)."""
        centre, stiffness = self._columns()
        return centre + jnp.exp(-stiffness * time) * (x - centre)

    def kick_time(self, time: Array) -> Array:
        """sinh(κ t)/κ, with κ = (κ_i + κ_j)/2 for the entry (i, j) of the kick."""
        stiffness = np.asarray(self.stiffness, float)
        if stiffness.ndim == 0:
            return time * _sinhc(float(stiffness) * time)
        pair = (stiffness[:, None] + stiffness[None])[..., None] / 2
        return time * _sinhc(jnp.asarray(pair) * time)

    def _columns(self) -> tuple[Any, Any]:
        columns = (np.asarray(v, float) for v in (self.centre, self.stiffness))
        return tuple(float(c) if c.ndim == 0 else jnp.asarray(c)[:, None] for c in columns)  # type: ignore[return-value]

    @property
    def config(self) -> dict[str, Any]:
        """Name and numbers."""
        return {"potential": "quadratic", "centre": self.centre, "stiffness": self.stiffness}


@dataclass(frozen=True)
class RBMPotential:
    """The Gaussian RBM's drift of the levels x of WᵀW (arXiv:2407.16427): K_i = 2x_i (1/κ_i − 1/(μ² − x_i)).

    The drift stops at x_i = μ² − κ_i.

    Args:
        kappa: the target's eigenvalues 0 < κ_i < μ², one for each level, [n], largest level first.
        mass2: μ².

    Raises:
        InputError: a bad argument.
    """

    kappa: Sequence[float]
    mass2: float = 9.0

    def __post_init__(self):
        kappa = np.atleast_1d(numbers_of("kappa", self.kappa))
        require(np.all(kappa > 0), "kappa", self.kappa, "positive numbers, one for each level")
        require(np.all(kappa < self.mass2), "kappa", self.kappa, f"numbers below mass2 = {self.mass2}")
        object.__setattr__(self, "kappa", tuple(kappa.tolist()))

    def force(self, x: Levels) -> Levels:
        """2x_i (1/κ_i − 1/(μ² − x_i))."""
        return 2 * x * (1 / jnp.asarray(self.kappa)[:, None] - 1 / (self.mass2 - x))

    def flow(self, x: Levels, time: Array) -> Levels:
        """By one step of `stable_flow`."""
        return stable_flow(self.force, x, time)

    def kick_time(self, time: Array) -> Array:
        """The time itself."""
        return time

    @property
    def config(self) -> dict[str, Any]:
        """Name and numbers."""
        return {"potential": "rbm", "kappa": self.kappa, "mass2": self.mass2}


@dataclass(frozen=True)
class Force:
    """Any drift, as a function of the levels of one replica.

    Args:
        function: `x [n] -> K [n]`, largest level first.
    """

    function: Callable[[Float[Array, " n"]], Float[Array, " n"]]

    def force(self, x: Levels) -> Levels:
        """The function, for every replica."""
        return lift(self.function)(x)

    def flow(self, x: Levels, time: Array) -> Levels:
        """By one step of `stable_flow`."""
        return stable_flow(self.force, x, time)

    def kick_time(self, time: Array) -> Array:
        """The time itself."""
        return time

    @property
    def config(self) -> dict[str, Any]:
        """The function's name: two functions of one name are taken for the same."""
        return {"potential": getattr(self.function, "__qualname__", type(self.function).__name__)}


STIFF = 1.0
"""|K'| t beyond which a Runge–Kutta step is not trusted."""


def stable_flow(force: Callable[[Levels], Levels], x: Levels, time: Array) -> Levels:
    """One step of dx/dt = K(x): the classical fourth-order one, and where K is steep one that cannot overshoot.

    The latter is the exponential Euler step x + K (e^{K't} − 1)/K' (Hochbruck and Ostermann 2010, eq. 2.43), K' taken
    along equal shifts of all levels; a level that noise threw far up a steep potential comes back and does not escape.
    """
    start, slope = jax.jvp(force, (x,), (jnp.ones_like(x),))
    b = force(x + time / 2 * start)
    c = force(x + time / 2 * b)
    classical = x + time / 6 * (start + 2 * b + 2 * c + force(x + time * c))
    steep = slope * time
    growth = jnp.where(jnp.abs(steep) > STIFF, jnp.expm1(steep) / jnp.where(jnp.abs(steep) > STIFF, steep, 1), 1)
    return jnp.where(jnp.abs(steep) > STIFF, x + time * growth * start, classical)


def numbers_of(name: str, value: Any) -> np.ndarray:
    """`value` as finite floats; raises `InputError`."""
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError):
        raise InputError(f"{name} = {value!r}: expected a number, or a list of numbers") from None
    require(numbers.ndim <= 1 and numbers.size > 0, name, value, "a number, or a list of numbers")
    require(np.all(np.isfinite(numbers)), name, value, "finite numbers")
    return numbers


def _sinhc(x: Array) -> Array:
    """sinh(x)/x."""
    safe = jnp.where(jnp.abs(x) > 1e-3, x, 1)
    return jnp.where(jnp.abs(x) > 1e-3, jnp.sinh(safe) / safe, 1 + x * x / 6)
