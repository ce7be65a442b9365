"""How fast is the device? The rows of `benchmarks.on_device` that measure rates; on a CPU with fewer replicas.

Operations and bytes are the least that a unit of work takes: products and sums of the update counted by hand, random
numbers and elementary functions left out, and its state read and written once. A share of bandwidth above one says
that the state stays in caches, as it does on a CPU.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dysonjax as dj
from benchmarks import dyson_core, gpt, rbm, sgd_engine, spectra
from benchmarks.device_checks import Net, squared_error, users_data, users_model
from benchmarks.device_timing import Context, Cost, Run, measured
from benchmarks.sgd_engine import timed
from dysonjax.experiments import GPTRun, PhaseDiagram, Results

TILE = 16_384
"""Replicas that an accelerator takes side by side."""
LEVELS = 10
EPOCHS = 100
"""Of a whole phase diagram."""


def tanh_network(context: Context, replicas: int) -> dict[str, Any]:
    """Replica-updates a second through `scan`, with its observables; on a CPU a hundredth of the replicas.

    A replica's 1000 batches are half a megabyte: 9 GB a tile, of which the compiled code makes a copy. Large crowds, in
    blocks of one tile, have 100, or drawing them would take longer than the updates. Neither fits into a cache.
    """
    count, batches, block = (replicas // 100, 100, 2048) if context.on_cpu else (replicas, 1000, TILE)
    if count > TILE:
        batches = 100
    dynamics, grid = dynamics_of(batches), sgd_engine.networks(batches, count)[1]
    size = min(block, count)

    def run(steps: int) -> Any:
        return dj.scan(dynamics, grid, steps, snapshots=[steps], block_size=size, progress=False)

    rows, columns, batch = 16, 32, sgd_engine.BATCH
    cost = Cost(sgd_engine.flops_per_update(rows, columns, batch), 4 * (2 * rows * columns + batch * (columns + 1)))
    sizes = {"replicas": count, "batches": batches, "replicas_a_block": size}
    tiles = -(-count // (TILE * jax.local_device_count()))
    return measured(context, run, count, "replica-updates/s", sizes, cost, tiles)


@functools.cache
def dynamics_of(batches: int) -> dj.Dynamics:
    """One for all crowds, so that those in blocks of one size are compiled once."""
    return sgd_engine.networks(batches, 1)[0]


def gas(context: Context, scheme: str | None) -> dict[str, Any]:
    """Level-updates a second of Dyson's equation for ten levels: pair forces, or at least 4n³/3 for eigenvalues."""
    n, replicas = LEVELS, 4096 if context.on_cpu else TILE
    flops = 4 * n**2 / 3 if scheme is None else 2 * (n - 1) + 6
    run = dyson_core.engine(n, replicas, scheme)
    sizes = {"levels": n, "replicas": replicas, "scheme": scheme or "default"}
    return measured(context, run, n * replicas, "level-updates/s", sizes, Cost(flops, 8))


def boltzmann_machine(context: Context, kind: str) -> dict[str, Any]:
    """Replica-updates a second of the 10 × 10 machine: three sweeps of 16 chains, exact draws, or one Wishart matrix.

    Counted are the products: of the sweeps, or K = WᵀW, its factor and the solves, then Ĉ and W (C − Ĉ).
    """
    n, chains, replicas = rbm.N, rbm.BATCH, 1024 if context.on_cpu else TILE
    draws = {
        "chains": rbm.SWEEPS * 2 * 2 * chains * n**2 + 2 * chains * n**2,
        "exact": 2 * n**3 + n**3 / 3 + chains * n**2 + 2 * chains * n**2,
        "wishart": 2 * n**3 + n**3 / 3 + n**3 + 2 * n**3,
    }
    kept = 2 * n * n + (2 * chains * n if kind == "chains" else 0)
    cost = Cost(draws[kind] + 2 * n**3, 4 * kept)
    return measured(
        context, rbm.machines(kind, replicas), replicas, "replica-updates/s", {"replicas": replicas, "n": n}, cost
    )


def own_network(context: Context) -> dict[str, Any]:
    """Replica-updates a second of a user's 8-16-1 through `scan`, and of a `vmap` that its user would write by hand."""
    count, batch, batches = (256 if context.on_cpu else TILE), 16, 50
    dynamics = dj.sgd(users_model(), batches=batches)
    grid = dj.Grid(learning_rate=[0.05], batch_size=[batch], seed=range(count))

    def run(steps: int) -> Any:
        return dj.scan(dynamics, grid, steps, snapshots=[steps], observables=(), block_size=count, progress=False)

    share = context._replace(budget=context.budget / 2)
    cost = Cost(batch * (4 * 8 * 16 + 6 * 16), 4 * (2 * (8 * 16 + 16 + 16 + 1) + batch * 9))
    sizes = {"replicas": count, "batch_size": batch, "batches": batches, "network": "8-16-1"}
    ours = measured(share, run, count, "replica-updates/s", sizes, cost)
    share = share._replace(tell=lambda figures: None)
    theirs = measured(share, by_hand(count, batch, batches), count, "replica-updates/s", sizes, cost)
    kept = ("value", "spread", "compile_s", "start_s", "seconds", "updates", "kernels_per_update", "kernels_note")
    return {**ours, "by_hand": {k: theirs[k] for k in kept}, "ratio_to_by_hand": ours["value"] / theirs["value"]}


def by_hand(count: int, batch: int, batches: int) -> Run:
    """The user's network without us: `vmap` over replicas of a gradient step, in one compiled loop."""
    graph = nnx.split(Net(nnx.Rngs(0)), nnx.Param)[0]
    x, y = (jnp.asarray(a) for a in users_data())

    def mean_loss(params: Any, examples: Any) -> jax.Array:
        net = nnx.merge(graph, params)
        return jnp.mean(jax.vmap(lambda example: squared_error(net, example))(examples))

    @jax.jit
    def begin(keys: Any) -> tuple[Any, Any]:
        params = jax.vmap(lambda key: nnx.state(Net(nnx.Rngs(key)), nnx.Param))(keys)
        rows = jax.vmap(lambda key: jax.random.permutation(key, len(x))[: batch * batches])(keys)
        return params, (x[rows].reshape(count, batches, batch, -1), y[rows].reshape(count, batches, batch, -1))

    @jax.jit
    def train(params: Any, data: Any, steps: Any) -> Any:
        def update(i: Any, params: Any) -> Any:
            examples = jax.tree.map(lambda a: a[:, i % batches], data)
            gradient = jax.vmap(jax.grad(mean_loss))(params, examples)
            return jax.tree.map(lambda w, g: w - 0.05 * g, params, gradient)

        return jax.lax.fori_loop(0, steps, update, params)

    def run(steps: int) -> Any:
        return jax.block_until_ready(train(*begin(jax.random.split(jax.random.key(0), count)), steps))

    return run


def transformer(context: Context) -> dict[str, Any]:
    """Tokens a second of the recipe for a CPU on a made-up text, without a record of its spectra.

    6 operations a weight and token, and 12 × layers × context × channels for attention; weights, gradients and Adam's
    moments are read and written once an update.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "ring.txt"
        place.write_text(gpt.text())
        settings = GPTRun(str(place), steps=10**6, every=10**6, validation_every=10**6)
        began = time.perf_counter()
        program = gpt.Ours(settings)
    prepared = time.perf_counter() - began
    weights = sum(w.size for w in jax.tree.leaves(program.state.params))
    tokens = settings.batch_size * settings.context
    attention = 12 * settings.layers * settings.context * settings.channels
    result = measured(
        context, program.more, tokens, "tokens/s", {"weights": weights, "tokens_an_update": tokens},
        Cost(6 * weights + attention, 4 * 8 * weights / tokens),
    )  # fmt: skip
    return {**result, "compile_s": prepared}


def eigenvalues(context: Context, n: int) -> dict[str, Any]:
    """Spectra a second of stacked symmetric n × n matrices by the package and by `jnp.linalg.eigvalsh`, 4n³/3 each."""
    count = int(np.clip(2**20 // n**3, 16, 4096)) * (1 if context.on_cpu else 64)
    a = spectra.symmetric(n, count, near_diagonal=False)
    library = functools.partial(jnp.linalg.eigvalsh, symmetrize_input=False)
    exact = np.linalg.eigvalsh(a.astype(float))
    sizes, cost = {"n": n, "matrices": count}, Cost(4 * n**3 / 3, 4 * n * n)
    return _beside_library(context, a, exact, dj.spectra.eigenvalues, library, sizes, cost)


def weight_levels(context: Context, m: int, n: int) -> dict[str, Any]:
    """Spectra a second of stacked m × n weight matrices by the package and by `jnp.linalg.svd`, 4mn² − 4n³/3 each."""
    count = 64 if context.on_cpu else 128
    w = np.random.default_rng(0).normal(size=(count, m, n)).astype(np.float32)
    exact = np.square(np.linalg.svd(w.astype(float), compute_uv=False))
    library = lambda w: jnp.square(jnp.linalg.svd(w, compute_uv=False))  # noqa: E731
    sizes, cost = {"m": m, "n": n, "matrices": count}, Cost(4 * m * n**2 - 4 * n**3 / 3, 4 * m * n)
    return _beside_library(context, w, exact, dj.spectra.levels, library, sizes, cost)


def _beside_library(
    context: Context, matrices: np.ndarray, exact: np.ndarray, ours: Any, library: Any, sizes: dict[str, int],
    cost: Cost,
) -> dict[str, Any]:  # fmt: skip
    on_device, programs = jnp.asarray(matrices), {"package": jax.jit(ours), "library": jax.jit(library)}
    share = context._replace(budget=context.budget / 2, tell=lambda figures: None)
    found, errors = {}, {}
    for name, program in programs.items():

        def run(times: int, program: Any = program) -> None:
            values = None
            for _ in range(times):
                values = program(on_device)
            jax.block_until_ready(values)

        found[name] = measured(share, run, len(matrices), "spectra/s", sizes, cost)
        errors[name] = float(np.abs(np.asarray(program(on_device), float) - exact).max() / np.abs(exact).max())
    own, other = found["package"], found["library"]
    kept = ("value", "spread", "compile_s", "kernels_per_update")
    return {
        **own, "library": {k: other[k] for k in kept}, "ratio_to_library": own["value"] / other["value"],
        "largest_errors": errors, "passed": errors["package"] < max(4 * errors["library"], 4e-6),
    }  # fmt: skip


def phase_diagram(context: Context) -> dict[str, Any]:
    """As much of the 12 × 12 × 100 diagram of 100 epochs as fits into the budget, with all that it records.

    An accelerator takes all networks for as many epochs as fit; a CPU takes all epochs of as many seeds.
    """
    end = time.perf_counter() + context.budget
    diagram = Diagram(block=144 if context.on_cpu else TILE)
    seeds = 1 if context.on_cpu else 100
    first, start = (timed(lambda: diagram.run(seeds, 1)) for _ in range(2))
    epoch = max(timed(lambda: diagram.run(seeds, 3)) - start, 1e-3) / 2
    fitting = 0.9 * (end - time.perf_counter()) - start
    epochs = int(np.clip(1 + fitting / epoch, 1, EPOCHS))
    if context.on_cpu:
        seeds = int(np.clip((fitting + start) / (start + (EPOCHS - 1) * epoch), 1, 100))
    begun = time.perf_counter()

    def report(updates: int, finished: bool) -> dict[str, Any]:
        seconds = time.perf_counter() - begun
        return {
            "value": updates / seconds, "unit": "replica-updates/s", "seconds": seconds, "compile_s": first - start,
            "start_s": start, "share_of_diagram": updates / (144 * 100 * EPOCHS * 1000), "finished": finished,
            "sizes": {"points": 144, "seeds": seeds, "epochs": epochs, "batches": 1000},
        }  # fmt: skip

    progress = Progress(lambda updates: context.tell(report(updates, False)))
    diagram.run(seeds, epochs, progress)
    return report(progress.updates, True)


class Diagram:
    """The published grid through `scan`, of any number of seeds and epochs, compiled once."""

    def __init__(self, block: int):
        self.block, self.job = block, PhaseDiagram().jobs(Results())[0]

    def run(self, seeds: int, epochs: int, progress: Any = False) -> Any:
        asked = PhaseDiagram(seeds=seeds, epochs=epochs).jobs(Results())[0]
        return dj.scan(
            self.job.dynamics, asked.grid, asked.steps, snapshots=asked.snapshots, observables=self.job.observables,
            block_size=self.block, progress=progress,
        )  # fmt: skip


class Progress:
    """Hears of updates and tells how many there have been, so that a diagram that is cut short is not lost."""

    def __init__(self, tell: Callable[[int], None]):
        self.updates, self.tell = 0, tell

    def advance(self, updates: int) -> None:
        self.updates += updates
        self.tell(self.updates)
