"""What an update and a record need while they run, from their traces: the arrays that are alive at once."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jcore

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.observables import Observable
from dysonjax.core.values import Known
from dysonjax.engine.tile import Tile
from dysonjax.kernels.replicas_last.reaching import opened
from dysonjax.runtime.compilation import settings


def working_bytes(dynamics: Dynamics, observables: Sequence[Observable], hyper: Mapping[str, Any]) -> int:
    """Bytes of one replica that are alive at once in an update or a record, besides what the loop carries.

    A bound from above within a few times: the compiler fuses operations, so that some arrays are never written.
    """
    static = tuple((name, hyper[name]) for name in dynamics.static)
    kinds = tuple((name, jnp.asarray(hyper[name]).dtype) for name in sorted(hyper) if name not in dynamics.static)
    return _working(Known(dynamics), tuple(map(Known, observables)), static, kinds, settings())


@functools.lru_cache(maxsize=64)
def _working(
    known: Known, watched: tuple[Known, ...], static: tuple[tuple[str, int], ...], kinds: tuple[tuple[str, Any], ...],
    given: tuple[Any, ...],
) -> int:  # fmt: skip
    way = "first" if known.thing.lifted and known.thing.block_step is None else "vmapped"
    tile = Tile(known.thing, tuple(one.thing for one in watched), dict(static), way=way)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    traced = {name: jax.ShapeDtypeStruct((1,), dtype) for name, dtype in kinds}
    given_, carry = jax.eval_shape(tile.start, keys, traced)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    update = jax.make_jaxpr(tile.update)(number, carry, keys, given_, number)
    record = jax.make_jaxpr(tile.values)(carry, given_)
    return max(peak_bytes(update.jaxpr), peak_bytes(record.jaxpr))


def peak_bytes(jaxpr: Any) -> int:
    """Of all results that a jaxpr needs at once; its inputs, constants and what it only passes on are not counted."""
    readers = [*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars]
    last = {var: i for i, read in enumerate(readers) for var in read if not isinstance(var, jcore.Literal)}
    alive, most = {}, 0
    for i, equation in enumerate(jaxpr.eqns):
        inside = max((peak_bytes(inner) for inner in _inner(equation)), default=0)
        alive.update((var, _bytes(var)) for var in equation.outvars if var in last)
        most = max(most, sum(alive.values()) + inside)
        for var in [var for var in alive if last[var] <= i]:
            del alive[var]
    return most


def _inner(equation: Any) -> Iterator[Any]:
    """The jaxprs that an equation runs."""
    held = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"))
    for one in held:
        inner = opened(one)[0]
        if hasattr(inner, "eqns"):
            yield inner


def _bytes(var: Any) -> int:
    return var.aval.size * var.aval.dtype.itemsize if hasattr(var.aval, "dtype") else 0
