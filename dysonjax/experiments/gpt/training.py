"""Training one GPT on one text, its spectra recorded on the way; by default the public nanoGPT recipe for a CPU.

The rate grows over the warm-up and falls as a cosine to a tenth; AdamW with weight decay on matrices only and gradients
clipped to a norm of one. Everything random in update i is drawn from a key folded with i, so that a run that was
interrupted and continued gives the numbers of one that was not.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from dysonjax.core.errors import require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report
from dysonjax.models import text as texts
from dysonjax.models.gpt import INIT_STD, GPTConfig, check_text, loss, random_windows
from dysonjax.runtime.devices import Devices
from dysonjax.runtime.progress import Bar, progress_bar
from dysonjax.runtime.team import WHOLE, Share, team
from dysonjax.storage.checkpoints import (
    RESULTS,
    flat,
    load_checkpoint,
    load_results,
    load_weights,
    save_checkpoint,
    save_results,
    save_weights,
)
from dysonjax.weights.monitor import SpectralMonitor

log = logging.getLogger(__name__)

SAMPLE = 400
"""Characters of the sample."""
SECONDS_PER_CHUNK = 0.5
"""Between two looks at the progress bar and the keyboard."""
SECONDS_PER_CHECKPOINT = 30.0
"""What a kill costs at most."""
VALIDATION_WINDOWS = 240
"""Windows of the validation text that tell the loss during training, spread evenly; at the end all of them do."""
CYCLE = 64
"""Windows that are evaluated at once."""


@dataclass(frozen=True)
class GPTRun(Experiment):
    """Train a small GPT on the characters of a text and follow the spectra of its weights.

    The defaults are the public nanoGPT recipe for a CPU: 4 layers, 128 channels, 2000 updates.
    """

    kind = "gpt"

    text: str = "shakespeare"
    """a UTF-8 file, or shakespeare (Tiny Shakespeare)"""
    layers: int = 4
    """blocks of attention and feed-forward network"""
    heads: int = 4
    """attention heads, a divisor of the channels"""
    channels: int = 128
    """width of the network"""
    context: int = 64
    """characters that are looked back on"""
    dropout: float = 0.0
    """share of activations set to zero in training"""
    bias: bool = False
    """whether linear maps and norms have biases"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw or sgd"""
    learning_rate: float = 1e-3
    """the highest learning rate"""
    final_rate: float = 0.1
    """the last learning rate, as a share of the highest"""
    warmup: int | None = None
    """updates until the highest rate (default a twentieth of all)"""
    batch_size: int = 12
    """windows of text in an update"""
    steps: int = 2000
    """updates"""
    weight_decay: float = 0.1
    """decay of matrices"""
    beta1: float = 0.9
    """of Adam's first moment, or momentum of SGD"""
    beta2: float = 0.99
    """of Adam's second moment"""
    clip: float = 1.0
    """largest norm of a gradient"""
    validation_every: int = 250
    """updates between validation losses"""
    watch: str = "*/key/kernel"
    """names of the matrices whose spectra are followed, with wildcards, such as '*kernel'"""
    every: int | Literal["log"] = "log"
    """updates between two spectra, or log: 21 times, log-spaced"""
    key: int = 0
    """base of all random numbers"""

    def __post_init__(self):
        require(self.optimizer in ("adamw", "sgd"), "optimizer", self.optimizer, "adamw or sgd")
        for name in ("batch_size", "steps", "validation_every"):
            whole(name, getattr(self, name))
        whole("key", self.key, 0, 2**32 - 1)
        if self.warmup is not None:
            whole("warmup", self.warmup, 0)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            require(np.isfinite(value) and value > 0, name, value, "a positive number")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "a number of at least 0")
        require(0 <= self.final_rate <= 1, "final_rate", self.final_rate, "a share of the learning rate, 0 … 1")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number of at least 0 and below 1")
        GPTConfig(2, self.context, self.layers, self.heads, self.channels, self.dropout, self.bias)

    @cached_property
    def source(self) -> texts.Text:
        """The text; raises `InputError` when it cannot be had or is shorter than the context."""
        found = texts.load(self.text)
        found.check(self.context)
        return found

    @cached_property
    def network(self) -> GPTConfig:
        """The network's sizes."""
        vocabulary = max(2, len(self.source.characters))
        return GPTConfig(vocabulary, self.context, self.layers, self.heads, self.channels, self.dropout, self.bias)

    def rate(self, step: Any) -> Any:
        """Learning rate of update `step`, counted from 0."""
        warmup = min(self.steps // 20 if self.warmup is None else self.warmup, self.steps)
        progress = jnp.clip((step - warmup) / max(self.steps - warmup, 1), 0, 1)
        share = self.final_rate + (1 - self.final_rate) * (1 + jnp.cos(jnp.pi * progress)) / 2
        return self.learning_rate * jnp.where(step < warmup, (step + 1) / (warmup + 1), share)

    @cached_property
    def transform(self) -> optax.GradientTransformation:
        """The optimiser."""
        matrices = lambda params: jax.tree.map(lambda w: w.ndim > 1, params)  # noqa: E731
        decay = {"weight_decay": self.weight_decay, "mask": matrices}
        if self.optimizer == "adamw":
            step = [optax.adamw(self.rate, b1=self.beta1, b2=self.beta2, **decay)]
        else:
            step = [optax.add_decayed_weights(**decay), optax.sgd(self.rate, momentum=self.beta1 or None)]
        return optax.chain(optax.clip_by_global_norm(self.clip), *step)

    def initial(self) -> PyTree:
        """The parameters before the first update."""
        return self.network.init(jax.random.fold_in(jax.random.key(self.key), 0))

    def monitor(self, params: PyTree) -> SpectralMonitor:
        """What records the spectra of the watched matrices, those of query, key and value also by head."""
        kinds = ("query", "key", "value") if self.heads > 1 else ()
        names = flat(jax.eval_shape(lambda: params))
        by_head = {f"*/{kind}/kernel": self.heads for kind in kinds if any(self._watches(n, kind) for n in names)}
        return SpectralMonitor(params, self.steps, self.watch, every=self.every, heads=by_head)

    def _watches(self, name: str, kind: str) -> bool:
        return name.endswith(f"/{kind}/kernel") and fnmatchcase(name, self.watch)

    def jobs(self, results: Results) -> "list[TrainingJob]":
        """The training of the one network."""
        return [TrainingJob(self)]

    def analyse(self, results: Results) -> tuple[xr.Dataset, Any, str | None]:
        """The results, what the spectra say (`summary.analysis`), and some text of the network where it is stored."""
        from dysonjax.experiments.gpt.summary import analysis

        said = None if results.place is None else _sample(self, results.place)
        return results.only, analysis(results.only, INIT_STD), said

    def report(self, analysis: tuple[xr.Dataset, Any, str | None]) -> Report:
        """Tables of losses and spectra, a sample of text, and figures."""
        from dysonjax.experiments.gpt import figures
        from dysonjax.experiments.gpt.summary import loss_table, spectra_table

        ds, found, text = analysis
        recipe = self == GPTRun(key=self.key)
        said = [loss_table(ds), spectra_table(found), *([] if text is None else [text])]
        return Report(said, lambda directory: figures.draw(ds, found, directory, recipe), 190)


@dataclass(frozen=True)
class TrainingJob:
    """The training of one network as a part of a run: one block of one replica; see `engine.jobs.Job`."""

    settings: GPTRun
    name: str = ""

    @property
    def cost(self) -> int:
        """Updates."""
        return self.settings.steps

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: bool | Bar | None = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None,
        extend: bool = False,
    ) -> xr.Dataset | None:  # fmt: skip
        """Train, or continue from the last checkpoint in `place`; other shares and processes leave it alone.

        `place` receives a checkpoint (`checkpoints`), the weights at both ends (`initial.npz`, `final.npz`) and the
        results (`results.zarr`).
        """
        require(not extend, "extend", str(place), "a run of scans; a training has no points to add")
        if share.index or not team().first:
            return None
        return trained(self.settings, place, progress, before=before)

    def open(self, place: Path) -> xr.Dataset:
        """Spectra and losses."""
        return load_results(place)

    def missing(self, place: Path) -> tuple[list[str], int]:
        """The whole training, or nothing."""
        return [] if (place / RESULTS).is_dir() else ["the training"], 1

    def forecast(self, place: Path | None, known: Any, shares: int = 1, block_size: int | None = None) -> None:
        """Nothing tells before it runs."""


def _sample(run: GPTRun, directory: Path) -> str:
    """Some text of the trained network."""
    params = load_weights(directory / "final.npz")
    start = "\n" if "\n" in run.source.characters else run.source.characters[0]
    tokens = generate(run.network, params, jax.random.key(run.key), run.source.encode(start), SAMPLE, 0.8)
    return f"A sample at temperature 0.8:\n{run.source.decode(tokens).strip()}"


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


def trained(
    run: GPTRun, out: Path | None = None, progress: bool | Bar | None = None, devices: Devices | None = None,
    before: Callable[[], None] = lambda: None,
        extend: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Train `run` to its end: levels of the watched matrices over time, `train_loss` [update], validation losses.

    `validation_loss` [validation_step] is the mean over `VALIDATION_WINDOWS` windows, `final_loss` that over all those
    of the validation text with its standard error `final_loss_error`, windows taken for independent.
    """
    check_text(run.network, run.source)
    if out is not None and (out / RESULTS).is_dir():
        before()
        return load_results(out)
    place, state = _sharing(run, devices or _fastest()), _start(run)
    before()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        state = State(**load_checkpoint(out, state._asdict()))
    state, tokens = jax.device_put((state, jnp.asarray(run.source.train)), place.everywhere)
    if out is not None and int(state.step) == 0:
        save_weights(out / "initial.npz", state.params)
    advance = jax.jit(partial(_advance, run, place), donate_argnums=0)
    fixed = texts.windows(run.source.validation_tokens, run.context, VALIDATION_WINDOWS)
    with progress_bar("gpt", run.steps, progress, rate=False) as bar:
        bar.advance(int(state.step))
        state = _loop(run, state, tokens, fixed, advance, bar, out)
    lost = np.flatnonzero(~np.isfinite(state.losses))
    if len(lost):
        log.warning("the loss became non-finite at update %d of %d", lost[0], run.steps)
    every = texts.windows(run.source.validation_tokens, run.context)
    ds = _dataset(run, state, evaluate(run.network, state.params, every))
    if out is not None:
        save_weights(out / "final.npz", state.params)
        save_results(out, ds)
    return ds


def _loop(run, state, tokens, fixed, advance, bar, out) -> State:
    marks = validation_steps(run)
    chunk, done, saved = 1, int(state.step), time.monotonic()
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
        if out is not None and (done == run.steps or time.monotonic() - saved > SECONDS_PER_CHECKPOINT):
            save_checkpoint(out, int(state.step), state._asdict())
            saved = time.monotonic()
    return state


def validation_steps(run: GPTRun) -> list[int]:
    """Numbers of updates after which the validation loss is taken, 0 first and the last one last."""
    return [*range(0, run.steps, run.validation_every), run.steps]


class _Sharing(NamedTuple):
    everywhere: Any
    """Every device has all of it."""
    batch: Any
    """Every device has its part of a batch."""


def _fastest() -> Devices:
    """One CPU device, whose products use every core already; all accelerators."""
    found = jax.local_devices()
    return found[:1] if found[0].platform == "cpu" else found


def _sharing(run: GPTRun, devices: Devices) -> _Sharing:
    """Batches are cut over as many devices as divide them."""
    used = max(n for n in range(1, len(devices) + 1) if run.batch_size % n == 0)
    mesh = Mesh(np.array(devices[:used]), ("batch",))
    return _Sharing(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch")))


def _start(run: GPTRun) -> State:
    params = run.initial()
    validation = jnp.full(len(validation_steps(run)), jnp.nan)
    first = texts.windows(run.source.validation_tokens, run.context, VALIDATION_WINDOWS)
    validation = validation.at[0].set(np.mean(evaluate(run.network, params, first)))
    losses = jnp.full(run.steps, jnp.nan)
    return State(params, run.transform.init(params), losses, run.monitor(params), validation, jnp.int32(0))


def _advance(run: GPTRun, place: _Sharing, state: State, tokens: Int[Array, " length"], until: Array) -> State:
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
    run: GPTRun, key: PRNGKeyArray, tokens: Int[Array, " length"]
) -> tuple[Int[Array, "b t+1"], PRNGKeyArray | None]:
    """The windows of one update, and the keys of their dropout if there is any."""
    place, dropout = jax.random.split(key)
    keys = jax.random.split(dropout, run.batch_size) if run.dropout else None
    return random_windows(place, tokens, run.batch_size, run.context), keys


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


def _dataset(run: GPTRun, state: State, final: Float[np.ndarray, " w"]) -> xr.Dataset:
    ds = state.record.dataset()
    label = lambda text, unit="nats": {"long_name": text, "units": unit}  # noqa: E731
    error = float(final.std(ddof=1) / np.sqrt(len(final))) if len(final) > 1 else math.nan
    return ds.assign(
        train_loss=("update", np.asarray(state.losses), label("loss on the batch before each update")),
        validation_loss=("validation_step", np.asarray(state.validation), label("loss on windows of other text")),
        final_loss=((), float(final.mean()), label("loss on all of the validation text")),
        final_loss_error=((), error, label("its standard error, windows independent")),
        learning_rate=("update", np.asarray(run.rate(np.arange(run.steps))), label("learning rate", "1")),
    ).assign_coords(
        update=("update", np.arange(run.steps), label("update", "1")),
        validation_step=("validation_step", validation_steps(run), label("updates", "1")),
    )
