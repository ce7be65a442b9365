"""Equal by value: what was made alike is equal, and what differs in anything is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dysonjax as dj
from dysonjax.core.values import Known, value_of
from dysonjax.models import FlaxModel, GaussianRBM, LinearNetwork, TanhNetwork
from dysonjax.models.gpt import GPTConfig, GPTModel
from dysonjax.models.text import Text

KERNEL = np.diag([4.0, 5.0, 6.0])
DATA = np.arange(12.0).reshape(6, 2)
MADE = {
    "tanh": lambda: TanhNetwork(),
    "tanh, other widths": lambda: TanhNetwork(hidden=[8, 4]),  # pyright: ignore[reportArgumentType]
    "linear": lambda: LinearNetwork(teacher=np.array([2.0, 1.0])),  # pyright: ignore[reportArgumentType]
    "rbm": lambda: GaussianRBM(visible=3, target=KERNEL.copy()),
    "rbm, other kernel": lambda: GaussianRBM(visible=3, target=KERNEL + np.diag([0, 0, 1e-9])),
    "rbm of data": lambda: GaussianRBM(visible=2, data=np.array([[1.0, 0], [0, 1], [1, 2]])),
    "gpt": lambda: GPTModel(GPTConfig(4, 2, 1, 1, 4), Text("abcd" * 10)),
    "gpt on a text": lambda: dj.sgd(GPTModel(GPTConfig(4, 2, 1, 1, 4), Text("abcd" * 10)), batches=None),
    "sgd": lambda: dj.sgd(TanhNetwork()),
    "sgd, fewer batches": lambda: dj.sgd(TanhNetwork(), batches=10),
    "adam": lambda: dj.sgd(TanhNetwork(), optimizer=optax.adam),
    "momentum": lambda: dj.sgd(TanhNetwork(), optimizer=functools.partial(optax.sgd, momentum=0.9)),
    "more momentum": lambda: dj.sgd(TanhNetwork(), optimizer=functools.partial(optax.sgd, momentum=0.99)),
    "wishart": lambda: dj.sgd(LinearNetwork(), sampling="wishart"),
    "population": lambda: dj.sgd(LinearNetwork(), sampling="population"),
    "contrastive divergence": lambda: dj.sgd(GaussianRBM(visible=3, target=KERNEL.copy())),
    "langevin": lambda: dj.matrix_langevin(TanhNetwork()),
    "langevin, closed": lambda: dj.matrix_langevin(LinearNetwork(), noise="isotropic"),
    "svag": lambda: dj.svag(TanhNetwork(), 4),
    "svag of gradients": lambda: dj.svag(GaussianRBM(), 2),
    "dyson": lambda: dj.dyson(4),
    "dyson, centres": lambda: dj.dyson(4, dj.Quadratic([3, 2, 1, 0]), coupling=[1, 2, 3, 4]),
    "dyson, other coupling": lambda: dj.dyson(4, dj.Quadratic([3, 2, 1, 0]), coupling=[1, 2, 3, 5]),
    "dyson of": lambda: dj.dyson_of(LinearNetwork(teacher=(3, 2), noise=1.0)),
    "quadratic": lambda: dj.Quadratic(np.array([1.0, 0.0])),  # pyright: ignore[reportArgumentType]
    "rbm's potential": lambda: dj.RBMPotential([1.0, 2.0]),
    "observables": lambda: dj.dyson(4).observables,
    "scheme": lambda: dj.schemes.ALL["matrix_kick"],
}


@pytest.mark.parametrize("name", MADE)
def test_made_alike_is_equal(name):
    one, other = MADE[name](), MADE[name]()
    assert one == other
    assert hash(one) == hash(other)
    assert Known(one) == Known(other)
    assert value_of(one).own


def test_made_otherwise_differs():
    made = [make() for make in MADE.values()]
    assert len(set(map(Known, made))) == len(made)
    assert [(i, j) for i, a in enumerate(made) for j, b in enumerate(made) if i != j and a == b] == []


def test_what_holds_a_users_function():
    """Equal when the functions are the same ones; as the key of a cache it is found by itself alone."""

    def model(loss, data=DATA):
        return FlaxModel(module, loss, (data, data))

    def module(rngs):
        return nnx.Linear(2, 2, rngs=rngs)

    def loss(net, example):
        return jnp.sum((net(example[0]) - example[1]) ** 2)

    one, same, other_data = model(loss), model(loss, DATA.copy()), model(loss, DATA + 1)
    other_loss = model(lambda net, example: loss(net, example))
    assert one == same
    assert hash(one) == hash(same)
    assert one not in (other_data, other_loss)
    assert dj.sgd(one, batches=1, tests=1) == dj.sgd(same, batches=1, tests=1)
    assert Known(one) == Known(one) != Known(same)
    measures = [lambda *view, i=i: jnp.zeros(i) for i in range(2)]
    names = [dj.observables.snapshot("x", measures[i]) for i in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_kinds_of_parts_differ():
    cell: list = []
    cell.append(cell)
    parts = [
        1, 1.0, True, "1", b"1", None, (), [], {}, (1,), ((1,),), 0.0, -0.0, float("nan"), np.float32(1), np.ones(1),
        np.ones(1, np.float32), np.ones((1, 1)), jnp.ones(1), jax.random.key(1), jax.random.key(2), {"a": 1}, {"b": 1},
        object, np.ones, jnp.tanh, cell, functools.partial(max, 1), [1].count,
    ]  # fmt: skip
    assert len({value_of(x).parts for x in parts}) == len(parts)
    assert all(value_of(x).parts == value_of(x).parts for x in parts)


def test_an_object_without_a_value():
    """Somebody's object counts as its own class has it, or as itself; one that may change is never looked into."""

    class Plain:
        pass

    one, other = Plain(), Plain()
    assert value_of([one]) == value_of([one]) != value_of([other])
    assert not value_of(one).own
    assert not value_of({1, 2}).own
