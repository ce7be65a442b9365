"""`lift`: a function of one replica is traced, and what it does is done for a tile with replicas on the last axis.

`jax.vmap(f, in_axes=-1, out_axes=-1)` moves the axis of replicas to the front of every product and random number, and
back. Here every operation of the traced function has a rule that leaves it where it is; bodies of loops and branches
are interpreted in the same way. An operation without a rule is left to `vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jcore
from jaxtyping import Array, PyTree

from dysonjax.core.errors import InputError, require
from dysonjax.kernels.replicas_last.keeping import CHEAP, MOVING, Kept, kept, takes_long_alone
from dysonjax.kernels.replicas_last.layout import Operation, bind, last, vmapped
from dysonjax.kernels.replicas_last.reaching import INLINED, carried, chosen, inner, opened, repeated, scanned
from dysonjax.kernels.replicas_last.rules import RULES

CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


def lift(f: Callable[..., PyTree], in_axes: Any = -1, platform: str | None = None) -> Callable[..., PyTree]:
    """A function of one replica as a function of a tile: equals `jax.vmap(f, in_axes=in_axes, out_axes=-1)`.

    Sums may be taken in another order. Random numbers of threefry keys are those of each replica, bit for bit. What f
    has captured, and arguments with `None` in `in_axes`, are shared: work that touches nothing else is done once.

    Args:
        f: function of arrays of one replica, in pytrees; the tile's arrays [..., R] have one axis more.
        in_axes: −1 or None for all arguments, or a tuple with one of them, or a pytree of them, for each.
        platform: kind of device that it will run on, which decides how products are written; None: JAX's default.

    Returns:
        The function of a tile. Its derivatives use f's custom derivative rules.

    Raises:
        InputError: axes other than −1 and None; no array with replicas, or different numbers of them; an operation
            that `jax.vmap` cannot do either. All when the tile's function is called.

    >>> lift(lambda w, x: w @ x)(jnp.ones((2, 3, 8)), jnp.ones((3, 8))).shape
    (2, 8)
    """

    def lifted(*args: PyTree) -> PyTree:
        values, tree = jax.tree.flatten(args)
        batched = jax.tree.leaves(_flags(in_axes, args))
        counts = sorted({_count(v) for v, b in zip(values, batched, strict=True) if b})
        require(len(counts) == 1, "replicas", counts, "one number of them, on the last axis of an argument at least")
        one = [_of_one(v) if b else v for v, b in zip(values, batched, strict=True)]
        flat = lambda *xs: f(*jax.tree.unflatten(tree, xs))  # noqa: E731
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*one)
        tile = _Tile(counts[0], platform or jax.default_backend())
        outs = tile.run(closed.jaxpr, closed.consts, values, batched)
        whole = [last(v, b, counts[0]) for v, b in outs]
        if tile.platform == "cpu":  # each on its own, or a primal and its tangent would be tied; may be used twice
            whole = [lax.optimization_barrier(x) for x in whole]
        return jax.tree.unflatten(jax.tree.structure(shapes), whole)

    return lifted


def _flags(in_axes: Any, args: tuple[PyTree, ...]) -> PyTree:
    """For each array of the arguments, whether it has replicas."""
    axes = tuple(in_axes) if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
    none = lambda x: x is None  # noqa: E731
    for axis in jax.tree.leaves(axes, is_leaf=none):
        require(axis is None or axis == -1, "in_axes", in_axes, "-1 or None for every argument")
    require(len(axes) == len(args), "in_axes", in_axes, f"one for each of {len(args)} arguments")
    return jax.tree.map(lambda axis, tree: jax.tree.map(lambda _: axis == -1, tree), axes, args, is_leaf=none)


def _count(value: Any) -> int:
    shape = jnp.shape(value)
    require(shape, "replicas", value, "an array with replicas on its last axis")
    return shape[-1]


def _of_one(value: Any) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(value)
    return jax.ShapeDtypeStruct(kind.shape[:-1], kind.dtype, weak_type=getattr(kind, "weak_type", False))


class _Tile:
    """Carries out jaxprs of one replica for so many: values have replicas on the last axis, or are shared."""

    def __init__(self, replicas: int, platform: str):
        self.replicas, self.platform = replicas, platform

    def run(
        self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], batched: Sequence[bool]
    ) -> list[tuple[Any, bool]]:
        """What the jaxpr returns, each with whether it has replicas: exactly where `reached` says so."""
        known = {v: (c, False) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        known |= {v: (x, b) for v, x, b in zip(jaxpr.invars, values, batched, strict=True)}

        def read(v: Any) -> tuple[Any, bool]:
            kind: Any = v.aval
            return (np.asarray(v.val, kind.dtype), False) if isinstance(v, jcore.Literal) else known[v]

        keep, heavy = kept(jaxpr), set()
        for equation in jaxpr.eqns:
            ins = [read(v) for v in equation.invars]
            with equation.ctx.manager:
                outs = self._one(equation, [x for x, _ in ins], [b for _, b in ins])
            known.update(zip(equation.outvars, self._kept(equation, outs, keep, heavy), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _kept(self, equation: Any, outs: list[tuple[Any, bool]], keep: Kept, heavy: set[Any]) -> list[tuple[Any, bool]]:
        """Barriers where a value is computed once (`keeping`); `heavy` are those that took long and are not kept."""
        name = equation.primitive.name
        if self.platform != "cpu" or not any(b for _, b in outs):
            return outs
        takes_long = takes_long_alone(equation) or (
            name in CHEAP | MOVING and bool(heavy & {v for v in equation.invars if not isinstance(v, jcore.Literal)})
        )
        found = []
        for v, (x, b) in zip(equation.outvars, outs, strict=True):
            barrier = name not in MOVING and (v in keep.factors or (takes_long and v in keep.wanted))
            if b and barrier and jnp.issubdtype(jax.typeof(x).dtype, jnp.inexact):
                x = lax.optimization_barrier(x)
            elif takes_long:
                heavy.add(v)
            found.append((x, b))
        return found

    def _one(self, equation: Any, values: list[Any], batched: list[bool]) -> list[tuple[Any, bool]]:
        name = equation.primitive.name
        if not any(batched):
            out = bind(equation, values)
            return [(x, False) for x in (out if equation.primitive.multiple_results else [out])]
        if name in INLINED:
            return self.run(*inner(equation), values, batched)
        if name in ("scan", "while", "cond"):
            return getattr(self, f"_{name}")(equation, values, batched)
        if name in CUSTOM:
            return [(x, True) for x in self._custom(equation, values, batched)]
        op = Operation(equation, values, batched, self.replicas, self.platform)
        try:
            out = RULES.get(name, vmapped)(op)
        except NotImplementedError as error:
            raise InputError(f"f = {name}: expected operations that jax.vmap can do for several replicas") from error
        return [(x, True) for x in (out if equation.primitive.multiple_results else [out])]

    def _forced(self, outs: Sequence[tuple[Any, bool]], wanted: Sequence[bool]) -> list[Any]:
        """Values with replicas where wanted."""
        return [last(v, b, self.replicas) if w else v for (v, b), w in zip(outs, wanted, strict=True)]

    def _scan(self, equation: Any, values: list[Any], batched: list[bool]) -> list[tuple[Any, bool]]:
        params = equation.params
        body, consts = opened(params["jaxpr"])
        first, past = carried(params)
        reached_carry, reached_ys = scanned(equation, batched)
        init = self._forced(list(zip(values, batched, strict=True))[first:past], reached_carry)
        wanted = [*reached_carry, *reached_ys]
        inside = [*batched[:first], *reached_carry, *batched[past:]]

        def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
            outs = self._forced(self.run(body, consts, [*values[:first], *carry, *xs], inside), wanted)
            return outs[: past - first], outs[past - first :]

        carry, ys = lax.scan(
            step, init, list(values[past:]), params["length"], params["reverse"], unroll=params["unroll"]
        )
        return list(zip([*carry, *ys], wanted, strict=True))

    def _while(self, equation: Any, values: list[Any], batched: list[bool]) -> list[tuple[Any, bool]]:
        params = equation.params
        asked, moved = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        flags, own = repeated(equation, batched)
        init = self._forced(list(zip(values, batched, strict=True))[moved:], flags)

        def ask(carry: Sequence[Any]) -> Any:
            test, consts = opened(params["cond_jaxpr"])
            return self.run(test, consts, [*values[:asked], *carry], [*batched[:asked], *flags])[0][0]

        def move(carry: Sequence[Any]) -> list[Any]:
            body, consts = opened(params["body_jaxpr"])
            outs = self.run(body, consts, [*values[asked:moved], *carry], [*batched[asked:moved], *flags])
            return self._forced(outs, flags)

        if not own:
            return list(zip(lax.while_loop(ask, move, init), flags, strict=True))

        def again(held: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
            going, carry = held  # a replica that has ended is held where it is until all have
            carry = [_where(going, new, old) for new, old in zip(move(carry), carry, strict=True)]
            return ask(carry), carry

        carry = lax.while_loop(lambda held: jnp.any(held[0]), again, (ask(init), init))[1]
        return [(x, True) for x in carry]

    def _cond(self, equation: Any, values: list[Any], batched: list[bool]) -> list[tuple[Any, bool]]:
        branches = equation.params["branches"]
        which, *values = values
        own, *batched = batched
        flags = chosen(equation, [own, *batched])

        def branch(closed: Any) -> Callable[..., list[Any]]:
            return lambda *xs: self._forced(self.run(*opened(closed), xs, batched), flags)

        if not own:
            return list(zip(lax.switch(which, [branch(b) for b in branches], *values), flags, strict=True))
        made = [branch(b)(*values) for b in branches]
        which = which.astype(bool) if len(branches) == 2 else which
        return [(_select(which, *cases), True) for cases in zip(*made, strict=True)]

    def _custom(self, equation: Any, values: list[Any], batched: list[bool]) -> list[Any]:
        """A function with a derivative of its own keeps it: the derivative is taken of one replica, then lifted."""
        one = lambda *xs: tuple(bind(equation, xs))  # noqa: E731
        lifted = lambda f, axes: lift(f, axes, self.platform)  # noqa: E731
        axes = tuple(-1 if b else None for b in batched)
        moving = [i for i, x in enumerate(values) if jnp.issubdtype(jax.typeof(x).dtype, jnp.inexact)]
        body, consts = inner(equation)

        def call(*xs: Any) -> list[Any]:
            return [last(v, b, self.replicas) for v, b in self.run(body, consts, xs, batched)]

        def of_moving(xs: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
            return lambda *some: one(*[some[moving.index(i)] if i in moving else x for i, x in enumerate(xs)])

        def along(xs: Sequence[Any], some: Sequence[Any]) -> Any:
            return jax.jvp(of_moving(xs), [xs[i] for i in moving], list(some))

        def slope(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
            some = [tangents[i] for i in moving]
            out, moved = lifted(along, (axes, [axes[i] for i in moving]))(tuple(primals), some)
            return list(out), list(moved)

        def forward(*xs: Any) -> Any:
            out, back = lifted(lambda *xs: jax.vjp(of_moving(xs), *[xs[i] for i in moving]), axes)(*xs)
            return list(out), back

        def backward(back: Any, slopes: list[Any]) -> tuple[Any, ...]:
            some = lifted(lambda back, slopes: back(slopes), -1)(back, tuple(slopes))
            full = dict(zip(moving, some, strict=True))
            return tuple(
                None if i not in full else full[i] if b else jnp.sum(full[i], -1) for i, b in enumerate(batched)
            )

        if equation.primitive.name == "custom_jvp_call":
            function = jax.custom_jvp(call)
            function.defjvp(slope)
        else:
            function = jax.custom_vjp(call)
            function.defvjp(forward, backward)
        return function(*values)


def _where(which: Array, true: Array, false: Array) -> Array:
    return _select(which, false, true)


def _select(which: Array, *cases: Array) -> Array:
    """Of each replica's cases the one that `which` [R] says."""
    shape = cases[0].shape
    return lax.select_n(lax.broadcast_in_dim(which, shape, (len(shape) - 1,)), *cases)
