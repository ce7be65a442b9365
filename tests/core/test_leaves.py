"""Names of leaves: one rule for dicts, lists and flax, and the names that stored runs of a `FlaxModel` have."""

import jax.numpy as jnp
import pytest
from flax import nnx

import dysonjax as dj
from dysonjax.core.leaves import named_leaves


class Net(nnx.Module):
    """A layer called "value", as attention has it, and one that holds another."""

    def __init__(self, rngs: nnx.Rngs):
        self.value = nnx.Linear(2, 3, rngs=rngs)
        self.inner = nnx.Sequential(nnx.Linear(3, 1, use_bias=False, rngs=rngs))


NAMES = ["inner/layers/0/kernel", "value/bias", "value/kernel"]


@pytest.mark.parametrize("of", [lambda state: state, nnx.to_pure_dict], ids=["variables", "arrays"])
def test_names_of_a_module(of):
    assert [*named_leaves(of(nnx.state(Net(nnx.Rngs(0)), nnx.Param)))] == NAMES


def test_names_of_dicts_and_lists():
    tree = {"b": [1, (2, 3)], "a": {"value": 4}, "variable": nnx.Param(jnp.ones(1))}
    assert [*named_leaves(tree)] == ["a/value", "b/0", "b/1/0", "b/1/1", "variable"]


def test_names_that_stored_runs_have():
    model = dj.models.FlaxModel(Net, lambda net, example: jnp.sum(net.inner(net.value(example))), jnp.ones((4, 2)))
    assert model.config["parameters"] == {"inner.layers.0.kernel": [3, 1], "bias": [3], "kernel": [2, 3]}
