"""A program is made once: equal dynamics are not traced again, and what traces to the same is not compiled again."""

import collections
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dysonjax as dj
from dysonjax.core.dynamics import Dynamics, Parameter
from dysonjax.core.observables import Variable, snapshot
from dysonjax.models import FlaxModel, TanhNetwork
from dysonjax.runtime.compilation import DATA

EVENTS: collections.Counter = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **kwargs: EVENTS.update([event]))


def counted(function):
    """What a call returns, how often it traced and how often it compiled."""
    EVENTS.clear()
    result = function()
    traced = sum(count for name, count in EVENTS.items() if "trace" in name)
    return result, traced, sum(count for name, count in EVENTS.items() if "compile_duration" in name)


def scanned(dynamics, steps=3, /, observables=None, **axes: Any):
    return dj.scan(dynamics, dj.Grid(**axes), steps, progress=False, snapshots=[0], observables=observables)


# each has a value that no other test uses, or it would be traced already
BUILT_IN: dict[str, tuple[Any, dict[str, Any], str]] = {
    "sgd": (lambda: dj.sgd(TanhNetwork(2, (2, 2), 1), batches=2, tests=2), {"batch_size": [2]}, "learning_rate"),
    "dyson": (lambda: dj.dyson(2, scheme="pairwise_kick", start=(1.5, -0.375)), {"dt": [0.01]}, "temperature"),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_dynamics_are_not_traced_again(name):
    """Nor is another number of updates, another grid of as many replicas, other snapshots."""
    make, fixed, axis = BUILT_IN[name]
    first, traced, compiled = counted(lambda: scanned(make(), **fixed, **{axis: [0.1, 0.2]}))
    assert traced > 0 < compiled
    again, *more = counted(lambda: scanned(make(), **fixed, **{axis: [0.1, 0.2]}))
    assert more == [0, 0]
    assert first.equals(again)
    assert counted(lambda: scanned(make(), 5, **fixed, **{axis: [0.1, 0.3]}))[1:] == (0, 0)


def of_user(factor=2.0):
    def module(rngs):
        return nnx.Linear(2, 2, rngs=rngs)

    def loss(net, example):
        return factor * jnp.sum((net(example) - example) ** 2)

    return dj.sgd(FlaxModel(module, loss, np.ones((8, 2), np.float32)), batches=2, tests=2)


def test_a_users_loss_is_traced_and_not_compiled_again():
    run = lambda *factor: scanned(of_user(*factor), 3, [], learning_rate=[0.1], batch_size=[2])  # noqa: E731
    first, *_ = counted(run)
    again, traced, compiled = counted(run)
    assert traced > 0 == compiled
    assert first.equals(again)
    other, _, compiled = counted(lambda: run(3.0))
    assert compiled > 0
    assert not np.array_equal(first.levels, other.levels)


def own(move) -> Dynamics:
    """x ← move(x) from x = (1, 1)."""
    return Dynamics(
        init=lambda key, hyper: jnp.ones(2),
        step=lambda key, x, hyper: move(x),
        spectra=lambda x: {"W": x},
        parameters={"learning_rate": Parameter(1.0)},
        observables=(snapshot("x", lambda spectra, x, hyper: x, Variable(("i",))),),
        config={"dynamics": "own"},
    )


def last(move):
    return scanned(own(move), learning_rate=[1.0]).x.values[..., -1, :].ravel().tolist()


@pytest.mark.parametrize("size", [2, DATA // 4])
def test_captured_arrays(size):
    """Small ones are part of a program, large ones are its data: another one needs no other program."""

    def adding(array):
        return lambda x: x + array[:2] + array[-2:]

    for build in (np.full, jnp.full):
        made = [adding(build(size, value, np.float32)) for value in (1.0, 2.0, 1.0)]
        found = [counted(lambda move=move: last(move)) for move in made]
        assert [values for values, *_ in found] == [[7.0, 7.0], [13.0, 13.0], [7.0, 7.0]]
        assert found[2][2] == 0
        assert (found[1][2] > 0) == (size == 2)


def test_programs_of_one_text_keep_their_names():
    """An observable that counts nothing yet, and the same measure under another name."""
    dynamics, axes = dj.dyson(2, scheme="pairwise_kick"), {"temperature": [0.1], "dt": [0.01]}

    def seen(*names):
        watched = [
            snapshot(name, lambda spectra, *_: next(iter(spectra.values()))[0], Variable((), "largest"))
            for name in names
        ]
        return dj.scan(dynamics, dj.Grid(**axes), 3, observables=watched, progress=False)

    assert set(seen("one").data_vars) == {"levels", "diverged_step", "one"}
    assert set(seen("other").data_vars) == {"levels", "diverged_step", "other"}
    assert set(seen().data_vars) == {"levels", "diverged_step"}
    assert dj.scan(dynamics, dj.Grid(**axes), 3, progress=False).sizes["snapshot"] > 1


def test_backward_rules():
    """Two losses that differ in nothing but their own derivative."""

    def loss(slope):
        f = jax.custom_vjp(lambda x: jnp.sum(x))
        f.defvjp(lambda x: (jnp.sum(x), None), lambda _, g: (slope * g * jnp.ones(2),))
        return f

    def descending(f):
        return lambda x: x - jax.grad(f)(x)

    moved = [last(descending(loss(slope))) for slope in (1.0, 2.0, 1.0)]
    assert moved == [[-2.0, -2.0], [-5.0, -5.0], [-2.0, -2.0]]


def test_callbacks_never_match():
    """What Python does cannot be seen in a program."""
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)

    def calling(add):
        return lambda x: jax.pure_callback(
            lambda x: np.asarray(x) + np.float32(add), shape, x, vmap_method="sequential"
        )

    assert [last(calling(add)) for add in (1, 2)] == [[4.0, 4.0], [7.0, 7.0]]


def test_the_last_block_has_the_program_of_the_others():
    """And its numbers are those of one block of all."""
    make, fixed, axis = BUILT_IN["dyson"]
    grid = dj.Grid(seed=range(1100), **fixed, **{axis: [0.1]})
    parts, *_ = counted(lambda: dj.scan(make(), grid, 3, progress=False, snapshots=[0], block_size=1024))
    assert counted(lambda: dj.scan(make(), grid, 4, progress=False, snapshots=[0], block_size=1024))[1:] == (0, 0)
    assert parts.equals(dj.scan(make(), grid, 3, progress=False, snapshots=[0]))
