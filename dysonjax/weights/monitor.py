"""Spectra of anybody's network while it trains: a record of fixed size, filled on the device at chosen steps."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from numbers import Integral
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree
from threadpoolctl import threadpool_limits

from dysonjax import spectra
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.folding import Layout, checked, matrices_of
from dysonjax.core.leaves import named_leaves
from dysonjax.core.snapshots import log_steps
from dysonjax.weights.bulk import bulk_spacings, fit_bulk
from dysonjax.weights.reading import natural_order
from dysonjax.weights.spectral_report import COLUMNS

Heads = Mapping[str, int] | Callable[[str, Array], Mapping[str, Array]]
Every = int | Literal["log"]

UNKNOWN = -1.0
"""Stands for a level that is not known, because `jax_debug_nans` must find nothing in a sound training run."""
BULK = ("variance", "variance_error", "edge_low", "edge_high", "threshold", "bulk_ks", "bulk_p", "outliers",
        "mean_ratio", "mean_ratio_error")  # fmt: skip
"""Variables of `SpectralMonitor.dataset` that the bulk of a spectrum is fitted for, those of `analyze`."""


class _Plan(NamedTuple):
    """What is watched and when; static."""

    pattern: str
    heads: tuple[tuple[str, int], ...] | Callable[[str, Array], Mapping[str, Array]]
    kernels: Layout
    stack: int
    steps: int
    every: Every
    shapes: tuple[tuple[str, tuple[int, int]], ...]
    """Names of the matrices and their shapes, in the order of the dataset."""


@dataclass(frozen=True, init=False, eq=False)
class SpectralMonitor:
    """Levels of the weight matrices of any flax or other JAX network, recorded at chosen steps of its training.

        monitor = dj.SpectralMonitor(params, steps=2000, pattern="*kernel", every=50)  # records step 0
        monitor = monitor.update(params, step)  # in the loop, after the update number `step` = 1, 2, …, `steps`
        ds = monitor.dataset()

    It is a pytree of arrays of fixed size, without the weights: carry it through `jit`, `scan` and `vmap`, checkpoint
    it with what is trained, and restore it into a monitor made with the same arguments. Levels are the eigenvalues of
    W Wᵀ, from singular values in float32 (float64 for such weights), all matrices of one shape in one call; a singular
    value is off by some 10⁻⁶ of the largest one. Weights that are not finite, or whose levels are not, have levels NaN.
    A record of 4 matrices of 128 × 128 and 16 of 128 × 32 takes 5 ms on one core of a CPU. There LAPACK keeps to one
    thread from now on, as after `use_all_cores`: its own wait for those of the training, for seconds at times.

    Args:
        params: a pytree of arrays, or an nnx module, whose `nnx.Param` is taken.
        steps: the last step.
        pattern: of names such as "layer0/key/kernel", as in `read_weights`.
        every: steps from one record to the next, 0 and `steps` included, or "log" for 21 log-spaced ones.
        heads: parts that are watched beside the whole matrix, either {pattern: number of equal blocks of columns},
            "…/head0", "…/head1", …, or a function (name, parameter as it is) → {part: matrix}.
        kernels: how more than two axes are one matrix, "flax" or "torch", as in `read_weights`.
        stack: how many leading axes number matrices, as in `read_weights`.

    Raises:
        InputError: a bad argument, also when nothing matches.
    """

    reached: Bool[Array, " t"]
    """Which times have been recorded."""
    levels: dict[str, Float[Array, "t m k"]]
    """Levels, largest first, of the matrices of each shape, −1 where not known."""
    plan: _Plan

    def __init__(
        self,
        params: PyTree, steps: int, pattern: str = "*", *,
        every: Every = 50, heads: Heads | None = None, kernels: Layout = "flax", stack: int = 0,
    ):  # fmt: skip
        require(isinstance(pattern, str), "pattern", pattern, "a string such as '*key*kernel'")
        steps = whole("steps", steps, 1, 2**31 - 1)
        if isinstance(every, str):
            require(every == "log", "every", every, 'a whole number of at least 1, or "log"')
        else:
            every = whole("every", every)
        ways = heads if callable(heads) else _blocks(heads)
        plan = _Plan(pattern, ways, checked(kernels), whole("stack", stack, 0), steps, every, ())
        parameters = _parameters(params, pattern)
        plan = plan._replace(shapes=_shapes(plan, jax.eval_shape(partial(_watched, plan), parameters), params))
        if jax.default_backend() == "cpu":  # JAX has no setting of its own for LAPACK's threads
            threadpool_limits(1, user_api="blas")
        _fill(self, plan, _start(plan, parameters))

    def update(self, params: PyTree, step: int | np.integer | Int[Array, ""]) -> "SpectralMonitor":
        """The monitor with the spectra of `params`, if `step` is one of `times`; else, and beyond `steps`, as it is.

        `params` are those after `step` updates; step 0 was recorded at the start. Off the times an `int` costs nothing,
        a traced or device scalar one `lax.cond`, which a vmapped `step` turns into solving at every step. Raises
        `InputError` unless `step` is a whole number and `params` have the matrices that they had at the start.

            monitor = monitor.update(state.params, state.step)  # flax's TrainState, after apply_gradients
            monitor = monitor.update(model, step + 1)  # an nnx module, after the update number `step`, counted from 0
        """
        if isinstance(step, Integral):
            if whole("step", step, 0) not in _due(self.plan.steps, self.plan.every):
                return self
        else:
            kind = getattr(step, "dtype", None)
            scalar = kind is not None and jnp.issubdtype(kind, jnp.integer) and jnp.ndim(step) == 0
            require(scalar, "step", step, "a whole number")
        return _update(self, _parameters(params, self.plan.pattern), jnp.asarray(step, jnp.int32))

    @property
    def times(self) -> tuple[int, ...]:
        """The steps that are recorded."""
        return _times(self.plan.steps, self.plan.every)

    def dataset(self, bulk: bool = True) -> xr.Dataset:
        """What was recorded, over "step", "matrix" and "level"; NaN at times not reached and beyond a matrix's levels.

        `levels`, `norm`, `stable_rank`, `largest`, `rows`, `columns`, `reached`; with `bulk` also `BULK`, at some two
        milliseconds for a spectrum: Marchenko and Pastur's law of the levels that are no outliers and ⟨r⟩ of their
        square roots, by the functions of `analyze`, whose names these are. Raises `InputError` for monitors stacked by
        `vmap`.

            ds.stable_rank.plot(x="step", hue="matrix")
            ds.levels.sel(matrix="layer0/key/kernel", step=50)
        """
        one = "that of one network, jax.tree.map(lambda x: x[i], monitor)"
        require(self.reached.ndim == 1, "monitor.reached", self.reached.shape, one)
        names, shapes = zip(*self.plan.shapes, strict=True)
        x = np.full((len(self.times), len(names), max(min(shape) for shape in shapes)), np.nan)
        for group, members in _groups(self.plan).items():
            found = np.asarray(self.levels[group], float)
            x[:, [names.index(name) for name in members], : found.shape[-1]] = np.where(found < 0, np.nan, found)
        known = np.isfinite(x[:, :, 0])
        total = np.where(known, np.nansum(x, axis=-1), np.nan)
        safe = np.where(x[:, :, 0] > 0, x[:, :, 0], np.nan)
        ds = xr.Dataset(
            {
                "levels": (("step", "matrix", "level"), x),
                "norm": (("step", "matrix"), np.sqrt(total)),
                "stable_rank": (("step", "matrix"), total / safe),
                "largest": (("step", "matrix"), x[:, :, 0]),
                "rows": ("matrix", np.array([shape[0] for shape in shapes])),
                "columns": ("matrix", np.array([shape[1] for shape in shapes])),
                "reached": ("step", np.asarray(self.reached)),
            },
            coords={"step": np.array(self.times), "matrix": list(names)},
        )
        if bulk:
            rows = [_bulk(x[i, j, : min(shapes[j])], shapes[j]) for i, j in np.ndindex(known.shape)]
            for variable, values in zip(BULK, np.array(rows).T, strict=True):
                ds[variable] = (("step", "matrix"), values.reshape(known.shape))
        texts = {**COLUMNS, "levels": "eigenvalues of W Wᵀ, largest first", "reached": "whether recorded"}
        for variable in ds.data_vars:
            ds[variable].attrs.update(long_name=texts[str(variable)], units="1")
        ds["step"].attrs.update(long_name="update", units="1")
        names = ("pattern", "steps", "every", "kernels", "stack")
        return ds.assign_attrs({name: getattr(self.plan, name) for name in names})


def _fill(monitor: SpectralMonitor, plan: _Plan, fields: Any) -> SpectralMonitor:
    """The fields of a frozen record; JAX puts there what it likes, so nothing is checked."""
    for name, value in zip(("reached", "levels", "plan"), (*fields, plan), strict=True):
        object.__setattr__(monitor, name, value)
    return monitor


def _unflatten(plan: _Plan, fields: Any) -> SpectralMonitor:
    return _fill(object.__new__(SpectralMonitor), plan, fields)


def _flatten(monitor: SpectralMonitor) -> tuple[list[tuple[Any, Any]], _Plan]:
    key = jax.tree_util.GetAttrKey
    return [(key("reached"), monitor.reached), (key("levels"), monitor.levels)], monitor.plan


jax.tree_util.register_pytree_with_keys(SpectralMonitor, _flatten, _unflatten)


def _blocks(heads: Any) -> tuple[tuple[str, int], ...]:
    expected = "{pattern: number of blocks} or a function (name, parameter)"
    require(heads is None or isinstance(heads, Mapping), "heads", heads, expected)
    return tuple((str(pattern), whole(f"heads[{pattern!r}]", count)) for pattern, count in (heads or {}).items())


def _parameters(params: PyTree, pattern: str) -> dict[str, Array]:
    """The arrays of real numbers that `pattern` matches and that have at least two axes, by name."""
    return {name: leaf for name, leaf in _named(params).items() if fnmatchcase(name, pattern) and _has_matrix(leaf)}


def _has_matrix(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim >= 2


def _named(params: PyTree) -> dict[str, Any]:
    """Leaves by name; those of a module are its parameters."""
    if "flax" in sys.modules:  # otherwise it cannot be a module of flax
        from flax import nnx

        params = nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params
    return named_leaves(params)


def _watched(plan: _Plan, parameters: Mapping[str, Any]) -> dict[str, Float[Array, "m n"]]:
    """The matrices by name."""
    found: dict[str, Any] = {}
    for name, parameter in parameters.items():
        require(parameter.size, name, parameter.shape, "a matrix with entries")
        matrices = dict(matrices_of(name, parameter, plan.kernels, plan.stack))
        found |= matrices
        if callable(plan.heads):
            found |= {f"{name}/{part}": w for part, w in plan.heads(name, parameter).items()}
            continue
        for own, w in matrices.items():
            for pattern, count in plan.heads:
                if fnmatchcase(own, pattern):
                    divides = w.shape[1] % count == 0
                    require(divides, f"heads[{pattern!r}]", count, f"a divisor of the {w.shape[1]} columns of {own}")
                    found |= {f"{own}/head{i}": part for i, part in enumerate(jnp.split(w, count, axis=1))}
    return found


def _shapes(plan: _Plan, matrices: Mapping[str, Any], params: PyTree) -> tuple[tuple[str, tuple[int, int]], ...]:
    """Names and shapes of what is watched; raises `InputError` where a pattern matches nothing."""
    if not matrices:
        named = _named(params)
        there = _some([name for name, leaf in named.items() if _has_matrix(leaf)])
        there = there or (f"no matrix, only {_some(named)}" if named else "no arrays")
        raise InputError(f"pattern = {plan.pattern!r}: expected to match the name of a matrix; params has {there}")
    for pattern, _ in () if callable(plan.heads) else plan.heads:
        require(any(fnmatchcase(name, pattern) for name in matrices), "heads", pattern, f"to match {_some(matrices)}")
    for name, w in matrices.items():
        require(len(w.shape) == 2 and w.size, name, w.shape, "a matrix from `heads`")
    return tuple((name, tuple(matrices[name].shape)) for name in sorted(matrices, key=natural_order))


def _some(names: Any) -> str:
    """The first few names for a message."""
    names = sorted(names, key=natural_order)
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


def _groups(plan: _Plan) -> dict[str, list[str]]:
    """Names of the matrices that are solved together, those that have one shape when none is taller than wide."""
    groups: dict[str, list[str]] = {}
    for name, shape in plan.shapes:
        groups.setdefault(f"{min(shape)}x{max(shape)}", []).append(name)
    return groups


def _spectra(plan: _Plan, parameters: Mapping[str, Array]) -> dict[str, Float[Array, "m k"]]:
    """Levels of every group."""
    matrices = _watched(plan, parameters)
    now, expected = {name: tuple(w.shape) for name, w in matrices.items()}, dict(plan.shapes)
    require(now == expected, "params", now, f"the matrices of the start, {expected}")
    found = {}
    for group, names in _groups(plan).items():
        w = jnp.stack([_wide(matrices[name]) for name in names])
        # LAPACK never sees what is not finite: some versions would search it for ever
        sound = jnp.all(jnp.isfinite(w), axis=(1, 2))[:, None]
        x = spectra.levels(jnp.where(sound[:, None], w, 0))
        sound &= jnp.all(jnp.isfinite(x), axis=-1, keepdims=True)
        found[group] = jnp.where(sound, x, UNKNOWN)
    return found


def _wide(w: Float[Array, "m n"]) -> Float[Array, "k l"]:
    """Not taller than wide, in float32 or float64."""
    w = w.astype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    return w if w.shape[0] <= w.shape[1] else w.T


@lru_cache(maxsize=64)
def _times(steps: int, every: Every) -> tuple[int, ...]:
    return log_steps(steps) if every == "log" else (*range(0, steps, int(every)), steps)


@lru_cache(maxsize=64)
def _due(steps: int, every: Every) -> frozenset[int]:
    return frozenset(_times(steps, every)[1:])


@partial(jax.jit, static_argnums=0)
def _start(plan: _Plan, parameters: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Buffers in which the first time is recorded."""
    count, levels = len(_times(plan.steps, plan.every)), {}
    for group, x in _spectra(plan, parameters).items():
        levels[group] = jnp.full((count, *x.shape), UNKNOWN, x.dtype).at[0].set(x)
    return jnp.arange(count) == 0, levels


@jax.jit
def _update(monitor: SpectralMonitor, parameters: dict[str, Array], step: Int[Array, ""]) -> SpectralMonitor:
    times = jnp.asarray(monitor.times, jnp.int32)
    slot = jnp.clip(jnp.searchsorted(times, step), 1, len(times) - 1)  # the first time has been recorded

    def record(monitor: SpectralMonitor) -> SpectralMonitor:
        now = _spectra(monitor.plan, parameters)
        levels = {group: x.at[slot].set(now[group]) for group, x in monitor.levels.items()}
        return _unflatten(monitor.plan, (monitor.reached.at[slot].set(True), levels))

    return lax.cond(times[slot] == step, record, lambda monitor: monitor, monitor)


def _bulk(levels: Float[np.ndarray, " k"], shape: tuple[int, int]) -> list[float]:
    """The variables `BULK` of one spectrum."""
    if not np.all(np.isfinite(levels)):
        return [np.nan] * len(BULK)
    bulk = fit_bulk(levels, shape)
    ratio = bulk_spacings(levels[bulk.outliers :]).mean_ratio
    return [
        bulk.variance.value, bulk.variance.error, *bulk.edges, bulk.threshold, bulk.ks, bulk.ks_p, bulk.outliers,
        ratio.value, ratio.error,
    ]  # fmt: skip
