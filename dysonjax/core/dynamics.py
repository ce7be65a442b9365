"""`Dynamics`: how one replica starts, moves one update and shows its spectra; SGD and Langevin equations are such."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax.core.errors import require, whole
from dysonjax.core.values import ByValue

Hyper = Mapping[str, Any]
"""What a replica is given: its hyper-parameters by name, `data` (see `Dynamics`) and, in `step`, the number `step`."""

Spectra = Mapping[str, Array]
"""Levels of each weight matrix by the matrix' name, [n] each, largest first."""


lift = functools.partial(jax.vmap, in_axes=-1, out_axes=-1)
"""A function of one replica as a function of a tile: replicas on the last axis of every array."""


def one_replica(block_step: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A `block_step` as the `step` of one replica."""

    def step(key: PRNGKeyArray, state: PyTree, hyper: Hyper) -> PyTree:
        add = lambda x: x[..., None] if isinstance(x, jax.Array) else x  # noqa: E731
        block, given = jax.tree.map(add, (state, dict(hyper)))
        common = {name: hyper[name] for name in ("step", "steps") if name in hyper}
        return jax.tree.map(lambda x: x[..., 0], block_step(key[None], block, {**given, **common}))

    return step


class Parameter(NamedTuple):
    """A hyper-parameter that a dynamics understands: its default and the values it may take.

    Args:
        default: its value where the grid does not name it. None: the grid must name it, unless it is `optional`.
        minimum: a number that is not `integer` must be above it.
        integer: it takes whole numbers of at least 1.
        optional: without a default, it is left out where the grid does not name it.
    """

    default: float | None = None
    minimum: float = 0.0
    integer: bool = False
    optional: bool = False

    def validate(self, name: str, value: float) -> float | int:
        """The value as a plain number; raises `InputError` when it, or its float32, is outside the domain."""
        if self.integer:
            require(np.isfinite(value) and value == round(value), name, value, "a whole number of at least 1")
            return whole(name, round(value))
        inside = np.isfinite(in_float32(value)) and min(value, in_float32(value)) > self.minimum
        above = f" above {self.minimum:g}" if np.isfinite(self.minimum) else ""
        require(inside, name, value, f"a finite number{above}")
        return float(value)


def in_float32(value: float) -> float:
    """The number that float32 makes of a value: infinite when it is too large."""
    try:
        with np.errstate(over="ignore", under="ignore"):
            return float(np.float32(value))
    except OverflowError:  # an int beyond all floats
        return np.inf


def no_data(key: PRNGKeyArray, hyper: Hyper) -> tuple[()]:
    """Nothing is drawn once and kept: the default of `Dynamics.data`."""
    return ()


def all_finite(state: PyTree) -> Array:
    """True when every floating-point number of a replica's state is finite: the default of `Dynamics.healthy`."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves])) if leaves else jnp.bool_(True)


@dataclass(frozen=True, eq=False)
class Dynamics(ByValue):
    """How a replica starts, moves and shows its spectra: pure functions of one replica, run for thousands at once.

    Two that were made alike are equal, as far as this package's functions go; a user's function equals itself alone.

    Args:
        init: `(key, hyper) -> state`, any pytree of arrays.
        step: `(key, state, hyper) -> state`, one update; `hyper["step"]` is its number, counted from 0, and
            `hyper["steps"]` how many there are in all.
        spectra: `state -> {matrix name: levels [n]}`, largest level first.
        data: `(key, hyper) -> pytree`, what is drawn once per replica and never changes (teacher, data set); the others
            find it in `hyper["data"]`, so that it is neither carried through the loop nor copied.
        healthy: `state -> bool`, False as soon as the state is useless; such a replica is frozen at its last good
            state.
        block_step: `(keys, state, hyper) -> state`, optional faster `step` for a block of R replicas on the last axis
            of every array; must equal `jax.vmap(step, in_axes=-1, out_axes=-1)`.
        parameters: the hyper-parameters understood, by name.
        static: names of the hyper-parameters that reach all functions as plain Python ints because they decide shapes
            (one compilation for each value); all others are traced scalars.
        observables: what is recorded besides the levels unless the caller says otherwise.
        lifted: the engine chooses how `step` is done for a tile, so that its sums may be taken in an order that no
            single replica would have; False: always `jax.vmap` with replicas last, whose numbers older runs hold.
        tile: how many replicas lie side by side on a CPU (0: the engine's choice).
        shared_bytes: bytes of data that all replicas share, and every device holds once.
        config: JSON that says what this is; a stored run is continued only by a dynamics with the same one. Its entry
            `numerics` (1 where there is none) goes up by one when the same settings give other numbers than before:
            another stream or order of random numbers, another order of summation.
    """

    init: Callable[[PRNGKeyArray, Hyper], PyTree]
    step: Callable[[PRNGKeyArray, PyTree, Hyper], PyTree]
    spectra: Callable[[PyTree], Spectra]
    data: Callable[[PRNGKeyArray, Hyper], PyTree] = no_data
    healthy: Callable[[PyTree], Array] = all_finite
    block_step: Callable[[PRNGKeyArray, PyTree, Hyper], PyTree] | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    static: tuple[str, ...] = ()
    observables: tuple[Any, ...] = ()
    lifted: bool = True
    tile: int = 0
    shared_bytes: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
