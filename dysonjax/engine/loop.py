"""The one loop: blocks of replicas, many updates between few snapshots, the same for every `Dynamics`.

Layout in memory: replicas are cut into tiles of a few, which lie side by side in every array, on its last axis or where
`arranging` puts them, so that a tile's state stays in cache and every operation vectorises over it. Inside the compiled
code a loop over tiles surrounds the loop over time, snapshots included, and every device has its share of the tiles; on
a CPU every core can be a device (`use_all_cores`). The host drives the compiled code in calls of about a second,
between which progress and interruption live: some tiles from the first update to the last, because a call must fetch
its tiles' data from memory again, or a part of the updates where one tile takes longer.
"""

import bisect
import functools
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from dysonjax.core.dynamics import Dynamics, lift
from dysonjax.core.errors import require
from dysonjax.core.observables import Observable, Variable
from dysonjax.core.snapshots import check_snapshots
from dysonjax.core.values import Known
from dysonjax.engine.arranging import Way, tile_of, way_of
from dysonjax.engine.tile import Tile, level_names, updates_together
from dysonjax.runtime.compilation import CompiledOnce, settings
from dysonjax.runtime.devices import Devices

log = logging.getLogger(__name__)

SECONDS_PER_CHUNK = 1.0
SNAPSHOTS_PER_CHUNK = 24
"""At most; a fixed number, because the compiled code has room for as many. The default 21 fit."""
LARGEST_TILE = 1 << 14
"""On an accelerator: beyond some 30 MB of states a tile leaves the second-level cache.

An H100 makes 159 million updates a second of the papers' tanh network in tiles of 16,384, 115 in tiles of 65,536.
"""
Static = tuple[tuple[str, int], ...]
"""Static hyper-parameters by name."""
Kinds = tuple[tuple[str, Any], ...]
"""Names and dtypes of traced hyper-parameters."""
Settings = tuple[Any, ...]
"""JAX's settings, on which tracing depends."""


@dataclass
class Program:
    """The compiled pieces of a run; all arrays begin with the axis of tiles, which is spread over the devices."""

    start: CompiledOnce
    """`start(keys, traced)`: what does not change, and the carry."""
    advance: CompiledOnce
    """`advance(carry, keys, given, marks, span)`: updates first … last, span = (begin, end, first, last, count, steps).

    Of each device's tiles begin … end, towards `count` of the marks, one after the other; `steps`: all updates of the
    run. Returns the carry, and a record [tile, mark, …] of each mark that is reached.
    """
    pace: float = 0.0
    """Replica-updates a second of the last run, 0 before the first: they tell how far the next may go in one call."""


def tile_size(dynamics: Dynamics, replicas: int, platform: str, most: int = LARGEST_TILE) -> int:
    """Replicas a tile: fixed on a CPU, so that a replica's arithmetic never depends on its company; large elsewhere.

    An accelerator takes all `replicas` at once, as a power of two of at most `most` and `LARGEST_TILE`.
    """
    if platform == "cpu":
        return tile_of(dynamics)
    return 1 << min((replicas - 1).bit_length(), max(min(most, LARGEST_TILE), 1).bit_length() - 1)


def simulate(
    dynamics: Dynamics,
    keys: PRNGKeyArray,
    hyper: Mapping[str, Any],
    steps: int,
    *,
    snapshots: Sequence[int] | None = None,
    observables: Sequence[Observable] | None = None,
    devices: Devices | None = None,
    tile: int | None = None,
    block_size: int = 0,
    on_progress: Callable[[int], None] = lambda updates: None,
) -> dict[str, np.ndarray]:
    """Run n replicas for `steps` updates and return what they showed at each snapshot.

    Args:
        dynamics: how one replica starts and moves.
        keys: the replicas' random keys, [n].
        hyper: an array [n] for every traced hyper-parameter and an int for every static one.
        steps: number of updates.
        snapshots: update numbers; by default 21 of them, log-spaced. 0 and `steps` are always among them.
        observables: what is recorded besides the levels; by default what the dynamics names.
        devices: JAX devices that share the replicas; by default all of this process.
        tile: replicas that lie side by side; by default `tile_size`.
        block_size: fewer replicas than this take as much memory as so many, and so need no program of their own.
        on_progress: hears the number of replica-updates after each chunk.

    Returns:
        Arrays [n, snapshot, …] by name, and `diverged_step` [n]: the update after which a replica was no longer finite,
        `NEVER` (−1) otherwise. Such a replica is held at its last finite state.

    Raises:
        InputError: a bad `steps` or `snapshots`.
    """
    marks = check_snapshots(steps, snapshots)
    observables = tuple(dynamics.observables if observables is None else observables)
    devices = tuple(devices or jax.local_devices())
    static = {name: hyper[name] for name in dynamics.static}
    kinds = kinds_of(dynamics, hyper)
    program = program_of(dynamics, observables, static, devices, kinds)

    n = keys.shape[0]
    tile = tile or tile_size(dynamics, -(-n // len(devices)), devices[0].platform)
    used, each = (-(-most // (tile * len(devices))) for most in (n, max(n, block_size)))  # tiles a device
    pick = np.full((len(devices), each, tile), n - 1)  # the last replica fills the last tile, and those not used
    pick[:, :used] = np.minimum(np.arange(len(devices) * used * tile), n - 1).reshape(len(devices), used, tile)
    pick = pick.reshape(-1, tile)
    sharding = NamedSharding(Mesh(np.array(devices), ("tiles",)), PartitionSpec("tiles"))
    # picked by NumPy, so that nothing is compiled for each number of replicas
    traced = {name: np.broadcast_to(hyper[name], (n,))[pick].astype(dtype) for name, dtype in kinds}
    words = np.asarray(jax.random.key_data(keys))[pick]
    keys = jax.random.wrap_key_data(jax.device_put(words, sharding), impl=jax.random.key_impl(keys))
    traced = jax.device_put(traced, sharding)

    recorded: dict[str, np.ndarray] = {}

    def keep(values: Mapping[str, Array], begin: int, end: int, first: int, past: int) -> None:
        for name, leaf in values.items():
            if name not in recorded:
                recorded[name] = np.empty((len(devices), used, tile, len(marks), *leaf.shape[2:-1]), leaf.dtype)
            for shard in leaf.addressable_shards:  # on a CPU these are no copies
                own = (shard.index[0].start or 0) // each
                seen = np.asarray(shard.data)[begin:end, : past - first]
                recorded[name][own, begin:end, :, first:past] = np.moveaxis(seen, -1, 1)

    started = time.perf_counter()
    given, carry = program.start(keys, traced)
    wanted = program.pace * SECONDS_PER_CHUNK  # replica-updates a call
    for begin, end in _shares(used, wanted / (steps * tile * len(devices))):
        count = int(np.clip(n - tile * np.arange(begin, used * len(devices), used), 0, tile * (end - begin)).sum())
        done, mark, chunk = 0, 0, max(1, int(wanted / max(count, 1)))
        while done < steps:
            ahead = marks[mark : mark + SNAPSHOTS_PER_CHUNK]
            first, done = done, min(done + chunk, ahead[-1])
            room = np.resize(np.array(ahead, np.int32), SNAPSHOTS_PER_CHUNK)
            span = np.array([begin, end, first, done, bisect.bisect_left(ahead, done) + 1, steps], np.int32)
            advance = program.advance.compiled(carry, keys, given, room, span)
            began = time.perf_counter()
            carry, values = advance(carry, keys, given, room, span)
            jax.block_until_ready(carry.diverged)
            rate = (done - first) / (time.perf_counter() - began)
            reached = bisect.bisect_right(marks, done)
            keep(values, begin, end, mark, reached)
            on_progress((done - first) * count)
            mark, chunk = reached, max(1, min(8 * max(chunk, done - first), int(rate * SECONDS_PER_CHUNK)))
    program.pace = n * steps / (time.perf_counter() - started)
    recorded["diverged_step"] = np.asarray(carry.diverged).reshape(len(devices), each, tile)[:, :used]
    return {name: leaf.reshape(-1, *leaf.shape[3:])[:n] for name, leaf in recorded.items()}


def _shares(tiles: int, most: float) -> list[tuple[int, int]]:
    """Tiles begin … end of a device, in equal shares of at most `most` (at least one; all when nothing is known)."""
    count = -(-tiles // max(1, int(most))) if most else 1
    cuts = [tiles * i // count for i in range(count + 1)]
    return list(itertools.pairwise(cuts))


class Layout(NamedTuple):
    """What a run will hand back and hold, found without computing anything."""

    arrays: dict[str, tuple[tuple[int, ...], np.dtype]]
    variables: dict[str, Variable]
    bytes_per_replica: int


def layout(dynamics: Dynamics, observables: Sequence[Observable], hyper: Mapping[str, Any]) -> Layout:
    """Shapes [behind replica and snapshot], dtypes, labels of all recorded arrays, and the memory a replica needs."""
    static = tuple((name, hyper[name]) for name in dynamics.static)
    watched = tuple(map(Known, observables))
    return _layout(Known(dynamics), watched, static, kinds_of(dynamics, hyper), settings())


@functools.lru_cache(maxsize=64)
def _layout(known: Known, watched: tuple[Known, ...], static: Static, kinds: Kinds, given: Settings) -> Layout:
    dynamics: Dynamics = known.thing
    observables: tuple[Observable, ...] = tuple(one.thing for one in watched)
    traced = {name: jnp.zeros(1, dtype) for name, dtype in kinds}
    tile = Tile(dynamics, observables, dict(static))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))

    def everything(keys, traced):
        given, carry = tile.start(keys, traced)
        return given, carry, tile.values(carry, given)[0], lift(dynamics.spectra)(carry.state)

    given, carry, values, spectra = jax.eval_shape(everything, keys, traced)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((given, carry)) if hasattr(x.dtype, "itemsize"))
    names = level_names(spectra)
    variables = {
        name: Variable((("level" if name == "levels" else f"level_{matrix}"),), f"eigenvalues of W Wᵀ, W = {matrix}")
        for matrix, name in names.items()
    }
    for observable in observables:
        for name, variable in observable.variables.items():
            require(name not in variables and name != "diverged_step", "observables", name, "names that differ")
            variables[name] = variable
    arrays = {name: (tuple(v.shape[:-1]), np.dtype(v.dtype)) for name, v in values.items()}
    for name, (shape, _) in arrays.items():
        require(name in variables, "observables", name, "a `Variable` for every recorded value")
        require(len(variables[name].dims) == len(shape), name, variables[name].dims, f"a name for each axis of {shape}")
    return Layout(arrays, variables, size)


def program_of(
    dynamics: Dynamics, observables: Sequence[Observable], static: Mapping[str, int], devices: Devices,
    kinds: Kinds | None = None,
) -> Program:  # fmt: skip
    """The program of a dynamics, made once for all that are equal; `kinds`: dtypes of traced hyper-parameters."""
    if kinds is None:
        kinds = kinds_of(dynamics, dict.fromkeys(dynamics.parameters, 1.0))
    fixed, watched = tuple(static.items()), tuple(map(Known, observables))
    way = way_of(dynamics, fixed, kinds, devices[0].platform)
    return _made(Known(dynamics), watched, fixed, kinds, tuple(devices), way, settings())


@functools.lru_cache(maxsize=32)
def _made(
    known: Known, watched: tuple[Known, ...], static: Static, kinds: Kinds, devices: tuple[Any, ...], way: Way,
    given: Settings,
) -> Program:  # fmt: skip
    arrays = _layout(known, watched, static, kinds, given).arrays
    observables, together = tuple(one.thing for one in watched), updates_together(devices[0])
    tile = Tile(known.thing, observables, dict(static), together, way, devices[0].platform)
    mesh = Mesh(np.array(devices), ("tiles",))
    tiles, common = PartitionSpec("tiles"), PartitionSpec()

    def start(keys, traced):
        return jax.lax.map(lambda own: tile.start(*own), (keys, traced))

    def advance(carry, keys, given, marks, span):
        begin, end, *span = span
        shapes = {name: ((*inner, keys.shape[1]), dtype) for name, (inner, dtype) in arrays.items()}

        def of_tile(number, carry):
            # an update may need one batch of a tile's data; cut out here, XLA would copy all of them in every call
            look = lambda: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, 0, False), given)  # noqa: E731
            return tile.advance(jax.tree.map(lambda x: x[number], carry), keys[number], look, marks, span, shapes)

        def put(number, held):
            return jax.tree.map(lambda whole, own: whole.at[number].set(own), held, of_tile(number, held[0]))

        records = {name: jnp.zeros((len(keys), len(marks), *s), dtype) for name, (s, dtype) in shapes.items()}
        return jax.lax.fori_loop(begin, end, put, (carry, records))

    def spread(share, mapped: int, unmapped: int = 0, donate: tuple[int, ...] = ()):
        specs = (tiles,) * mapped + (common,) * unmapped
        spread = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=tiles, check_vma=False)
        return CompiledOnce(spread, donate)

    return Program(start=spread(start, 2), advance=spread(advance, 3, 2, donate=(0,)))


def kinds_of(dynamics: Dynamics, hyper: Mapping[str, Any]) -> Kinds:
    """Names and dtypes of traced hyper-parameters, in an order that no caller decides."""
    return tuple((k, jnp.asarray(hyper[k]).dtype) for k in sorted(hyper) if k not in dynamics.static)
