"""What is compiled for one tile: how its replicas start, move from snapshot to snapshot, and are recorded."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.observables import Observable
from dysonjax.engine.arranging import Way
from dysonjax.kernels import replicas_last

UPDATES_PER_LOOP = 16
"""On an accelerator the host decides on every pass of a loop of unknown length: 21 µs on an H100, 8 if it is known."""

NEVER = -1
"""`diverged_step` of a replica that stayed finite."""


class Carry(NamedTuple):
    """What the loop carries for a tile: the state, the update at which each replica failed or `NEVER`, accumulators."""

    state: PyTree
    diverged: Array
    accumulators: tuple[PyTree, ...]


class Tile(NamedTuple):
    """The loop for one tile: arrays end with the axis of replicas, or begin with it (`way`).

    Arrays of `hyper` and `keys` are [R]. Records have replicas last in any case, and so has what an observable of a
    whole block sees and holds. `together`: updates of a loop whose length the compiler knows.
    """

    dynamics: Dynamics
    observables: tuple[Observable, ...]
    static: Mapping[str, int]
    together: int = 1
    way: Way = "vmapped"
    platform: str = "cpu"

    @property
    def axis(self):
        """Where replicas stand in the tile's arrays."""
        return 0 if self.way == "first" else -1

    def start(self, keys, traced):
        """What does not change, and the carry before the first update."""
        roots = self._across(lambda key: tuple(jax.random.split(key, 2)))(keys)
        given = {**traced}
        given["data"] = self._lift(self.dynamics.data)(roots[0], given)
        state = self._lift(self.dynamics.init)(roots[1], given)
        view = self._view(state, given)
        accumulators = tuple(self._for_tile(o, o.init)(*view) for o in self.observables)
        diverged = jnp.where(self._across(self.dynamics.healthy)(state), NEVER, 0).astype(jnp.int32)
        return given, Carry(state, diverged, accumulators)

    def advance(self, carry, keys, look, marks, span, shapes):
        """The carry after updates first … last, and a record of each mark; see `engine.loop.Program`.

        `look()`: what does not change, asked for at every use. `shapes`: shape and dtype of what a mark records, by
        name. Once all replicas of a tile have failed, which is looked at after each mark and in each call, it is
        updated no more.
        """
        first, last, count, steps = span
        accumulating = any(one.update for one in self.observables)
        leaving = self.dynamics.lifted or not accumulating  # built-in dynamics accumulate spectra: too much code twice
        records = {name: jnp.zeros((len(marks), *shape), dtype) for name, (shape, dtype) in shapes.items()}

        def to_mark(m, held):
            carry, records = held
            begin, end = jnp.where(m == 0, first, marks[m - 1]), jnp.minimum(marks[m], last)
            going = jnp.where(jnp.any(carry.diverged == NEVER), end, begin) if leaving else end
            carry = _loop(begin, going, lambda i, c: self.update(i, c, keys, look(), steps), carry, self.together)
            if leaving and accumulating:  # of what they are held at
                carry = jax.lax.fori_loop(going, end, lambda i, c: self._accumulated(i, c, look()), carry)
            return jax.lax.cond(
                end == marks[m], lambda c, r: self._record(c, r, look(), m, end), lambda c, r: (c, r), carry, records
            )

        return jax.lax.fori_loop(0, count, to_mark, (carry, records))

    def update(self, number, carry, keys, given, steps):
        """The carry after update `number` of `steps`; a replica that fails is held where it was."""
        common = {"step": number, "steps": steps}
        keys = self._across(lambda key: jax.random.fold_in(key, number))(keys)
        if self.dynamics.block_step:
            state = self._joined(self.dynamics.block_step, **common)(keys, carry.state, given)
        elif self.way == "last":
            step = self._joined(self.dynamics.step, **common)
            state = replicas_last.lift(step, platform=self.platform)(keys, carry.state, given)
        else:
            state = self._lift(self.dynamics.step, **common)(keys, carry.state, given)
        healthy = self._across(self.dynamics.healthy)(state)
        diverged = jnp.where((carry.diverged == NEVER) & ~healthy, number + 1, carry.diverged)

        def where_it_goes_on(new, old):
            going = diverged == NEVER
            going = going.reshape(-1, *[1] * (new.ndim - 1)) if self.axis == 0 else going
            return jnp.where(going, new, old)

        state = jax.tree.map(where_it_goes_on, state, carry.state)
        return self._accumulated(number, Carry(state, diverged, carry.accumulators), given)

    def _accumulated(self, number, carry, given):
        """The carry after what is accumulated has seen its state after update `number`."""

        def accumulate(observable, accumulator):
            if not observable.update:
                return accumulator

            def update(accumulator):
                return self._for_tile(observable, observable.update)(accumulator, *self._view(carry.state, given))

            if observable.every == 1:
                return update(accumulator)
            return jax.lax.cond((number + 1) % observable.every == 0, update, lambda same: same, accumulator)

        return carry._replace(accumulators=tuple(map(accumulate, self.observables, carry.accumulators)))

    def _record(self, carry, records, given, mark, number):
        values, healthy, accumulators = self.values(carry, given)
        diverged = jnp.where((carry.diverged == NEVER) & ~healthy, number, carry.diverged)
        records = jax.tree.map(lambda kept, value: kept.at[mark].set(value), records, values)
        return Carry(carry.state, diverged, accumulators), records

    def values(self, carry, given):
        """What a snapshot shows, whether all levels are finite, and the accumulators of the next window."""
        view = self._view(carry.state, given)
        names = level_names(view[0])
        values = {names[matrix]: self._last(levels) for matrix, levels in view[0].items()}
        accumulators = []
        for observable, accumulator in zip(self.observables, carry.accumulators, strict=True):
            recorded, accumulator = self._for_tile(observable, observable.result)(accumulator, *view)
            values.update(recorded if observable.of_block else jax.tree.map(self._last, recorded))
            accumulators.append(accumulator)
        finite = self._across(all_levels_finite)(view[0]) if view[0] else carry.diverged == NEVER
        return values, finite, tuple(accumulators)

    def _view(self, state, given):
        return self._across(self.dynamics.spectra)(state), state, given

    def _for_tile(self, observable, function):
        if not observable.of_block:
            return self._lift(function)
        whole = self._joined(function)
        return lambda *args: whole(*args[:-3], *jax.tree.map(self._last, args[-3:]))  # accumulators are replicas last

    def _last(self, array):
        """An array of the tile with replicas on its last axis."""
        return jnp.moveaxis(array, 0, -1) if self.axis == 0 else array

    def _lift(self, function, **common):
        """`function(…, hyper)` of one replica for the tile."""
        return self._across(self._joined(function, **common))

    def _across(self, function):
        """A function of arrays of one replica for the tile."""
        return jax.vmap(function, in_axes=self.axis, out_axes=self.axis)

    def _joined(self, function, **common):
        """`function(…, hyper)`, where `common` and static values, which no axis of replicas has, join `hyper`."""
        return lambda *args: function(*args[:-1], {**args[-1], **self.static, **common})


def _loop(begin: Array, end: Array, update: Callable[[Array, PyTree], PyTree], carry: PyTree, together: int) -> PyTree:
    """`update(i, carry)` for i = begin … end − 1, `together` at a time in loops whose length the compiler knows."""
    if together > 1:
        whole = (end - begin) // together

        def some(k, carry):
            first = begin + k * together
            return jax.lax.fori_loop(0, together, lambda i, c: update(first + i, c), carry)

        carry = jax.lax.fori_loop(0, whole, some, carry)
        begin = begin + whole * together
    return jax.lax.fori_loop(begin, end, update, carry)


def updates_together(device: Any) -> int:
    """How many updates stand in one loop of known length on this device."""
    return 1 if device.platform == "cpu" else UPDATES_PER_LOOP


def all_levels_finite(spectra: Mapping[str, Array]) -> Array:
    """True when every level of every matrix is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in spectra.values()]))


def level_names(spectra: Mapping[str, Any]) -> dict[str, str]:
    """The recorded name for each matrix: `levels` when there is one matrix, `levels_<matrix>` otherwise."""
    return {matrix: "levels" if len(spectra) == 1 else f"levels_{matrix}" for matrix in spectra}
