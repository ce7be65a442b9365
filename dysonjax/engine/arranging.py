"""Where the axis of replicas stands in a tile, and how an update of one replica is done for all of them.

Decided once for each program: by what the traced update multiplies, and by the kind of device, never by a clock.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.values import Known
from dysonjax.kernels.replicas_last.multiplying import WRITTEN_OUT
from dysonjax.kernels.replicas_last.reaching import jaxprs_of

Way = Literal["vmapped", "last", "first"]
"""vmapped: `jax.vmap`, replicas last, as built-in dynamics have it. last: `kernels.replicas_last`. first: `jax.vmap`
with replicas first, in the tile's data and state, too, so that the library's products find them where they want them.
"""
LARGE_SHARE = 0.5
"""Share of an update's multiplications in products too large to be written out, from which on replicas come first."""
SMALL_TILES = 50_000
"""Multiplications of an update with one example from which on eight replicas make a tile, not 32: more leave the cache.

On two cores, with Adam and 16 examples in a batch: convolutional networks of 127,000 are 1.3 times as fast in tiles of
eight, a transformer of 619,000 1.2 times; a recurrent network of 30,000 is half as fast, 64-128-10 equally fast.
"""


def way_of(
    dynamics: Dynamics, static: tuple[tuple[str, int], ...], kinds: tuple[tuple[str, Any], ...], platform: str
) -> Way:
    """How a dynamics' tile is laid out; `kinds` are the names and dtypes of the traced hyper-parameters.

    On a CPU small products are faster with replicas last (a network 8-16-1: 10 times), large ones with replicas first
    (64-128-10: twice). On an accelerator `vmap` with replicas first is as fast or faster in all of them.
    `benchmarks/replicas_last.py` measures it.
    """
    if dynamics.block_step is not None or not dynamics.lifted:
        return "vmapped"
    if platform != "cpu":
        return "first"
    return _of_update(Known(dynamics), static, kinds)


@functools.lru_cache(maxsize=64)
def _of_update(known: Known, static: tuple[tuple[str, int], ...], kinds: tuple[tuple[str, Any], ...]) -> Way:
    return way_of_update(_traced(known.thing, static, kinds), "cpu")


def tile_of(dynamics: Dynamics) -> int:
    """How many replicas make a tile on a CPU: a property of the dynamics alone, so that bits depend on nothing else."""
    if dynamics.tile or dynamics.block_step is not None:
        return dynamics.tile or 8
    of_examples = dynamics.lifted and dynamics.static == ("batch_size",)
    return _tile_of_update(Known(dynamics)) if of_examples else 32


@functools.lru_cache(maxsize=64)
def _tile_of_update(known: Known) -> int:
    dynamics: Dynamics = known.thing
    kinds = tuple((name, jnp.float32) for name in sorted(dynamics.parameters) if name not in dynamics.static)
    jaxpr = _traced(dynamics, (("batch_size", 1),), kinds)
    return 8 if sum(total for _, total in _products(jaxpr, 1)) > SMALL_TILES else 32


def _traced(dynamics: Dynamics, static: tuple[tuple[str, int], ...], kinds: tuple[tuple[str, Any], ...]) -> Any:
    """The jaxpr of one replica's update."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    given = {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in kinds}

    def whole(key: Any, given: Any) -> Any:
        hyper = {**given, **dict(static)}
        hyper["data"] = dynamics.data(key, hyper)
        return hyper["data"], dynamics.init(key, hyper)

    data, state = jax.eval_shape(whole, key, given)
    step = lambda key, state, given, data, number: dynamics.step(  # noqa: E731
        key, state, {**given, **dict(static), "data": data, "step": number, "steps": number}
    )
    return jax.make_jaxpr(step)(key, state, given, data, jax.ShapeDtypeStruct((), jnp.int32)).jaxpr


def way_of_update(jaxpr: Any, platform: str) -> Way:
    """Where replicas stand in an update, given as the jaxpr of one replica."""
    sizes = list(_products(jaxpr, 1))
    large = sum(total for one, total in sizes if one > WRITTEN_OUT)
    first = platform != "cpu" or large > LARGE_SHARE * max(sum(total for _, total in sizes), 1)
    return "first" if first else "last"


def _products(jaxpr: Any, times: int) -> Iterator[tuple[int, int]]:
    """Multiplications of each product of a replica: once, and with its repetitions in loops."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out: Any = equation.outvars[0].aval if equation.outvars else None
        if name == "dot_general":
            left = equation.invars[0].aval.shape
            one = math.prod(out.shape) * math.prod(left[i] for i in params["dimension_numbers"][0][0])
            yield one, one * times
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            one = math.prod(out.shape) * math.prod(kernel) // max(features, 1)
            yield one, one * times
        repeated = times * params["length"] if name == "scan" else times
        for inner in jaxprs_of(equation):
            yield from _products(inner, repeated)
