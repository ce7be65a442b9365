"""What an update and a record need while they run, from their traces: the arrays that are alive at once."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jcore

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.observables import Observable
from dysonjax.core.values import Known
from dysonjax.engine.arranging import way_of
from dysonjax.engine.loop import Settings, Static, kinds_of
from dysonjax.engine.tile import Tile
from dysonjax.kernels.replicas_last.reaching import jaxprs_of
from dysonjax.runtime.compilation import settings


def working_bytes(
    dynamics: Dynamics, observables: Sequence[Observable], hyper: Mapping[str, Any], platform: str
) -> int:
    """Bytes of one replica that are alive at once in an update or a record, besides what the loop carries.

    An estimate: the compiler writes some arrays never and others twice. For an H100 it was 0.75 to 2 times XLA's own
    figure, for a perceptron, a convolutional network and a transformer.
    """
    static = tuple((name, hyper[name]) for name in dynamics.static)
    watched = tuple(map(Known, observables))
    return _working(Known(dynamics), watched, static, kinds_of(dynamics, hyper), platform, settings())


@functools.lru_cache(maxsize=64)
def _working(
    known: Known, watched: tuple[Known, ...], static: Static, kinds: tuple[tuple[str, Any], ...], platform: str,
    given: Settings,
) -> int:  # fmt: skip
    way = way_of(known.thing, static, kinds, platform)
    tile = Tile(known.thing, tuple(one.thing for one in watched), dict(static), way=way, platform=platform)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    traced = {name: jax.ShapeDtypeStruct((1,), dtype) for name, dtype in kinds}
    fixed, carry = jax.eval_shape(tile.start, keys, traced)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    update = jax.make_jaxpr(tile.update)(number, carry, keys, fixed, number)
    record = jax.make_jaxpr(tile.values)(carry, fixed)
    return max(peak_bytes(update.jaxpr), peak_bytes(record.jaxpr))


def peak_bytes(jaxpr: Any) -> int:
    """Of all results that a jaxpr needs at once; its inputs, constants and what it only passes on are not counted."""
    readers = [*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars]
    last = {var: i for i, read in enumerate(readers) for var in read if not isinstance(var, jcore.Literal)}
    alive, most = {}, 0
    for i, equation in enumerate(jaxpr.eqns):
        inside = max((peak_bytes(inner) for inner in jaxprs_of(equation)), default=0)
        alive.update((var, _bytes(var)) for var in equation.outvars if var in last)
        most = max(most, sum(alive.values()) + inside)
        for var in [var for var in alive if last[var] <= i]:
            del alive[var]
    return most


def _bytes(var: Any) -> int:
    return var.aval.size * var.aval.dtype.itemsize if hasattr(var.aval, "dtype") else 0
