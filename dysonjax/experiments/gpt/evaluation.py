"""What a GPT has learnt: its loss on windows of text, and text that it writes itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from dysonjax.core.errors import require, whole
from dysonjax.models.gpt import GPTConfig, loss

CYCLE = 64
"""Windows that are evaluated at once."""


def evaluate(network: GPTConfig, params: PyTree, windows: Int[np.ndarray, "w t+1"]) -> Float[np.ndarray, " w"]:
    """The mean cross-entropy of each window's characters."""
    cycles = -(-len(windows) // CYCLE)
    padded = np.resize(windows, (cycles * CYCLE, windows.shape[1]))
    return np.asarray(_losses(network, params, jnp.asarray(padded.reshape(cycles, CYCLE, -1)))).ravel()[: len(windows)]


@partial(jax.jit, static_argnums=0)
def _losses(network: GPTConfig, params: PyTree, windows: Int[Array, "c w t+1"]) -> Float[Array, "c w"]:
    return jax.lax.map(jax.vmap(lambda window: loss(network, params, window)), windows)


def generate(
    network: GPTConfig,
    params: PyTree,
    key: PRNGKeyArray,
    prompt: Int[np.ndarray, " p"],
    length: int,
    temperature: float = 1.0,
) -> Int[np.ndarray, " length"]:
    """`length` tokens that the network adds to a prompt of at least one, drawn at a `temperature` > 0."""
    require(len(prompt) > 0, "prompt", prompt, "at least one token")
    require(temperature > 0, "temperature", temperature, "a positive number")
    whole("length", length)
    size = network.context
    known = np.asarray(prompt, np.int32)[-size:]
    return np.asarray(_generated(network, params, key, jnp.asarray(np.pad(known, (0, size - len(known)))),
                                 jnp.int32(len(known)), length, temperature))  # fmt: skip


@partial(jax.jit, static_argnums=(0, 5))
def _generated(network, params, key, window, known, length, temperature):
    model = network.merge(params)

    def add(carry, key):
        window, known = carry
        logits = model(window)[known - 1] / temperature
        token = jax.random.categorical(key, logits).astype(window.dtype)
        full = known == window.size
        window = jnp.where(full, jnp.roll(window, -1), window)
        window = window.at[jnp.where(full, known - 1, known)].set(token)
        return (window, jnp.minimum(known + 1, window.size)), token

    return jax.lax.scan(add, (window, known), jax.random.split(key, length))[1]
