"""Activation functions by name, each with its derivative."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

Activation = Literal["tanh", "relu", "identity"]

# each activation with its derivative, written in terms of the activation's own value
ACTIVATIONS: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (jnp.tanh, lambda a: 1 - a * a),
    "relu": (jax.nn.relu, lambda a: (a > 0).astype(a.dtype)),
    "identity": (lambda z: z, jnp.ones_like),
}
