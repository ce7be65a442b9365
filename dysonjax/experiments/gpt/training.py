"""The training loop of one GPT: its state, its updates, its validation losses, on as many devices as divide a batch.

Everything random in update i is drawn from a key folded with i, so that a run that was interrupted and continued gives
the numbers of one that was not.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from dysonjax.experiments.gpt.evaluation import evaluate
from dysonjax.experiments.gpt.settings import GPTSettings
from dysonjax.models import text as texts
from dysonjax.models.gpt import loss, random_windows
from dysonjax.runtime.devices import Devices
from dysonjax.runtime.progress import Bar
from dysonjax.weights.monitor import SpectralMonitor

SECONDS_PER_CHUNK = 0.5
"""Between two looks at the progress bar and the keyboard."""
VALIDATION_WINDOWS = 240
"""Windows of the validation text that tell the loss during training, spread evenly; at the end all of them do."""


class State(NamedTuple):
    """All that changes: parameters, the optimiser's state, loss of every update, recorded spectra, validation losses.

    `step`: updates done.
    """

    params: PyTree
    optimizer: PyTree
    losses: Float[Array, " steps"]
    record: SpectralMonitor
    validation: Float[Array, " v"]
    step: Int[Array, ""]


class Sharing(NamedTuple):
    """Where arrays lie."""

    everywhere: Any
    """Every device has all of it."""
    batch: Any
    """Every device has its part of a batch."""


def fastest() -> Devices:
    """One CPU device, whose products use every core already; all accelerators."""
    found = jax.local_devices()
    return found[:1] if found[0].platform == "cpu" else found


def shared_out(run: GPTSettings, devices: Devices) -> Sharing:
    """Batches are cut over as many devices as divide them."""
    used = max(n for n in range(1, len(devices) + 1) if run.batch_size % n == 0)
    mesh = Mesh(np.array(devices[:used]), ("batch",))
    return Sharing(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch")))


def start(run: GPTSettings) -> State:
    """The state before the first update."""
    params = run.initial()
    validation = jnp.full(len(validation_steps(run)), jnp.nan)
    validation = validation.at[0].set(np.mean(evaluate(run.network, params, _fixed_windows(run))))
    losses = jnp.full(run.steps, jnp.nan)
    return State(params, run.transform.init(params), losses, run.monitor(params), validation, jnp.int32(0))


def validation_steps(run: GPTSettings) -> list[int]:
    """Numbers of updates after which the validation loss is taken, 0 first and the last one last."""
    return [*range(0, run.steps, run.validation_every), run.steps]


def _fixed_windows(run: GPTSettings) -> Int[np.ndarray, "w t+1"]:
    return texts.windows(run.source.validation_tokens, run.context, VALIDATION_WINDOWS)


def train(
    run: GPTSettings, place: Sharing, state: State, tokens: Int[Array, " length"], bar: Bar,
    keep: Callable[[State], None] = lambda state: None,
) -> State:  # fmt: skip
    """The state after all updates; after every chunk of them `bar` advances and `keep` receives the state."""
    advance = jax.jit(partial(advanced, run, place), donate_argnums=0)
    marks, fixed = validation_steps(run), _fixed_windows(run)
    chunk, done = 1, int(state.step)
    bar.advance(done)
    while done < run.steps:
        until = min(done + chunk, run.steps, next(m for m in marks if m > done))
        began = time.perf_counter()
        state = advance(state, tokens, jnp.int32(until))
        jax.block_until_ready(state.step)
        rate = (until - done) / (time.perf_counter() - began)
        bar.advance(until - done)
        chunk, done = max(1, min(8 * chunk, int(rate * SECONDS_PER_CHUNK))), until
        if done in marks:
            mean = jnp.float32(np.mean(evaluate(run.network, state.params, fixed)))
            state = state._replace(validation=state.validation.at[marks.index(done)].set(mean))
        keep(state)
    return state


def advanced(run: GPTSettings, place: Sharing, state: State, tokens: Int[Array, " length"], until: Array) -> State:
    """Updates up to number `until`."""
    base = jax.random.fold_in(jax.random.key(run.key), 1)

    def update(step, state: State) -> State:
        batch, keys = draw(run, jax.random.fold_in(base, step), tokens)
        batch = jax.lax.with_sharding_constraint(batch, place.batch)
        value, gradient = jax.value_and_grad(lambda p: loss(run.network, p, batch, keys))(state.params)
        change, optimizer = run.transform.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, change)
        record = state.record.update(params, step + 1)
        return state._replace(
            params=params, optimizer=optimizer, record=record, losses=state.losses.at[step].set(value), step=step + 1
        )

    return jax.lax.fori_loop(state.step, until, update, state)


def draw(
    run: GPTSettings, key: PRNGKeyArray, tokens: Int[Array, " length"]
) -> tuple[Int[Array, "b t+1"], PRNGKeyArray | None]:
    """The windows of one update, and the keys of their dropout if there is any."""
    place, dropout = jax.random.split(key)
    keys = jax.random.split(dropout, run.batch_size) if run.dropout else None
    return random_windows(place, tokens, run.batch_size, run.context), keys
