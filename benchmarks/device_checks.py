"""Is what the device computes right? The rows of `benchmarks.on_device` that compare with other programs and laws.

Each returns what it measured and whether it `passed`; the tolerances are stated beside the figures.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from flax import nnx

import dysonjax as dj
from benchmarks.device_timing import Context
from dysonjax.experiments import PhaseDiagram, Results

UPDATES, RATE, BATCH, REPLICAS = 5, 0.1, 4, 4
FLOAT32 = 1e-5
"""Relative to the largest level: a few updates of float32, products in full precision."""
LEAST_P = 1e-4
"""The smallest of a few dozen p-values: below it a right program falls once in several hundred runs."""
SIGMAS = 5.0


def hidden_of(context: Context) -> tuple[int, int]:
    """Widths of the tanh network that is checked: the published ones; on a CPU smaller ones, which compile sooner."""
    return (8, 4) if context.on_cpu else (32, 16)


class Net(nnx.Module):
    """A user's network, 8-16-1."""

    def __init__(self, rngs: nnx.Rngs):
        self.first, self.second = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nnx.tanh(self.first(x)))


def squared_error(net: Net, example: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Loss of one example."""
    return jnp.mean((net(example[0]) - example[1]) ** 2)


def users_data(examples: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [examples, 8] and targets [examples, 1]."""
    x = np.random.default_rng(0).normal(size=(examples, 8)).astype(np.float32)
    return x, np.sin(x[:, :1])


def drawn_data(key: Any, count: int) -> tuple[jax.Array, jax.Array]:
    """As many fresh inputs and targets."""
    x = jax.random.normal(key, (count, 8))
    return x, jnp.sin(x[:, :1])


def users_model(data: Any = None) -> dj.models.FlaxModel:
    """The user's network, as the README shows it."""
    watch = lambda name: name == "first.kernel"  # noqa: E731, levels of the other one take as long to compile
    return dj.models.FlaxModel(lambda rngs: Net(rngs), squared_error, data or users_data(), watch=watch)


def engine_against_optax(context: Context) -> dict[str, Any]:
    """Levels of W Wᵀ after five updates, by the engine and by a loop of `jax.grad` and optax over one replica.

    A user's network under Adam, and the tanh network, whose gradient the engine has by hand, under plain SGD. With
    products in full float32 both must agree to rounding; the difference under JAX's default precision, which may
    round a product's factors to fewer digits on an accelerator, is only reported.
    """
    graph = nnx.split(Net(nnx.Rngs(0)), nnx.Param)[0]
    tanh = dj.models.TanhNetwork(hidden=hidden_of(context))
    programs = {
        "user's network, adam": (
            users_model(drawn_data), optax.adam, lambda p, example, task: squared_error(nnx.merge(graph, p), example)
        ),
        "tanh network, sgd": (tanh, None, tanh.loss),
    }  # fmt: skip
    errors: dict[str, dict[str, float]] = {}
    for precision in ("highest",) if context.on_cpu else ("highest", "default"):
        with jax.default_matmul_precision(precision):
            errors[precision] = {name: largest_difference(*program) for name, program in programs.items()}
    worst = max(errors["highest"].values())
    return {
        "value": worst, "unit": "largest difference / largest level", "tolerance": FLOAT32, "passed": worst < FLOAT32,
        "differences": errors,
        "sizes": {"updates": UPDATES, "replicas": REPLICAS, "batch_size": BATCH, "hidden": hidden_of(context)},
    }  # fmt: skip


def largest_difference(model: Any, optimizer: Any, loss: Callable[..., jax.Array]) -> float:
    """Between the levels of the engine and of the plain loop, over all replicas and matrices, by the largest level."""
    dynamics = dj.sgd(model, batches=UPDATES, tests=8, optimizer=optimizer)
    keys = jax.random.split(jax.random.key(3), REPLICAS)
    hyper = {"learning_rate": np.full(REPLICAS, RATE, np.float32), "init_width": np.ones(REPLICAS, np.float32)}
    found = dj.simulate(
        dynamics, keys, hyper | {"batch_size": BATCH}, UPDATES, snapshots=[UPDATES], observables=(),
        devices=jax.local_devices()[:1],
    )  # fmt: skip
    plain = [model.matrices(params) for params in plain_loop(dynamics, optimizer or optax.sgd, loss, keys)]
    worst = 0.0
    for name in plain[0]:
        w = np.stack([np.asarray(matrices[name], float) for matrices in plain])
        exact = np.linalg.svd(w, compute_uv=False) ** 2
        levels = found["levels" if len(plain[0]) == 1 else f"levels_{name}"][:, -1]
        worst = max(worst, float(np.abs(levels - exact).max() / exact.max()))
    return worst


def plain_loop(dynamics: dj.Dynamics, optimizer: Any, loss: Callable[..., jax.Array], keys: Any) -> list[Any]:
    """Final parameters of one replica after the other, trained on the engine's data from the engine's start."""
    transform = optimizer(RATE)

    @jax.jit
    def begin(key: Any) -> tuple[Any, Any]:
        data_key, init_key = jax.random.split(key)
        hyper: dict[str, Any] = {"learning_rate": jnp.float32(RATE), "init_width": jnp.float32(1), "batch_size": BATCH}
        hyper["data"] = dynamics.data(data_key, hyper)
        return hyper["data"], dynamics.init(init_key, hyper).params

    @jax.jit
    def update(params: Any, state: Any, batch: Any, task: Any) -> tuple[Any, Any]:
        mean = lambda p: jnp.mean(jax.vmap(lambda example: loss(p, example, task))(batch))  # noqa: E731
        change, state = transform.update(jax.grad(mean)(params), state, params)
        return optax.apply_updates(params, change), state

    final = []
    for key in keys:
        data, params = begin(key)
        task = getattr(data, "task", None)  # a user's network has none
        state = transform.init(params)
        for number in range(UPDATES):
            params, state = update(params, state, jax.tree.map(lambda x, i=number: x[i], data.batches), task)
        final.append(params)
    return final


def phase_diagram_against_cpu(context: Context) -> dict[str, Any]:
    """Four corners of the phase diagram on the device and, with other seeds, on the CPU: the same distributions.

    At each corner the largest level, the training loss and the memory at the end are compared by Kolmogorov and
    Smirnov's two-sample test. The same seeds on both tell how far single networks have drifted apart; that is only
    reported, because the paramagnetic ones are chaotic.
    """
    seeds, batches, epochs = (32 if context.on_cpu else 256), 20, 10
    corners = PhaseDiagram(
        (0.125, 16.0), (0.125, 256.0), seeds=seeds, epochs=epochs, batches=batches, snapshots=2,
        hidden=hidden_of(context),
    )  # fmt: skip
    (job,) = corners.jobs(Results())

    def last(first: int, count: int, devices: Any) -> Any:
        grid = dj.Grid(**{**job.grid.axes, "seed": range(first, first + count)})
        ds = dj.scan(
            job.dynamics, grid, job.steps, snapshots=job.snapshots, observables=job.observables, devices=devices,
            progress=False,
        )  # fmt: skip
        names = {"largest level": ds.levels.isel(level=0), "training loss": ds.train_loss, "memory": ds.memory}
        return {name: x.isel(snapshot=-1).values.reshape(-1, count) for name, x in names.items()}

    cpu = jax.devices("cpu")
    ours = last(0, seeds, jax.local_devices())
    theirs = last(seeds, seeds, cpu) if context.on_cpu else last(0, 2 * seeds, cpu)
    p = {
        f"{name}, corner {i}": float(scipy.stats.ks_2samp(x[i], theirs[name][i, -seeds:], method="asymp").pvalue)  # type: ignore[attr-defined]  # scipy has no types
        for name, x in ours.items() for i in range(len(x))
    }  # fmt: skip
    result = {
        "value": min(p.values()), "unit": "smallest p of 12", "tolerance": LEAST_P, "passed": min(p.values()) > LEAST_P,
        "p": p, "sizes": {"seeds": seeds, "updates": job.steps, "batches": batches, "hidden": hidden_of(context)},
        "distance_that_fails": float(scipy.stats.kstwobign.isf(LEAST_P) * np.sqrt(2 / seeds)),
    }  # fmt: skip
    if not context.on_cpu:
        result["same_seeds_median_relative_difference"] = {
            name: np.median(np.abs(x - theirs[name][:, :seeds]) / np.abs(x).clip(1e-30), axis=1).tolist()
            for name, x in ours.items()
        }  # fmt: skip
    return result


def exact_laws(context: Context) -> dict[str, Any]:
    """Six levels in a quadratic well under the matrix kick, which is exact at any step, against closed forms.

    Stationary ⟨Σx²⟩ = n(n + 1)/2 and ⟨(Σx)²⟩ = n for β = T = κ = 1; ⟨r⟩ and the middle spacing against levels of the
    β-ensemble drawn on the CPU. Every mean within five standard errors, the spacings' p above its bound, no crossing.
    """
    n, replicas = 6, 4096 if context.on_cpu else 16384
    ds = dj.scan(
        dj.dyson(n, scheme="matrix_kick"), dj.Grid(temperature=[1.0], seed=range(replicas)), 100, dt=0.1,
        snapshots=[100], progress=False,
    ).isel(snapshot=-1)  # fmt: skip
    x = ds.levels.values.reshape(replicas, n).astype(float)
    with jax.default_device(jax.devices("cpu")[0]):
        exact = np.asarray(dj.ensembles.hermite_levels(jax.random.key(1), n, 1.0, (4 * replicas,)), float)
    ratios = [np.asarray(dj.spectra.spacing_ratios(jnp.asarray(y)), float).mean(axis=1) for y in (x, exact)]
    found = {
        "sum of squares": deviation(np.sum(x**2, axis=1), n * (n + 1) / 2),
        "square of the sum": deviation(np.sum(x, axis=1) ** 2, n),
        "spacing ratio": deviation(ratios[0], ratios[1].mean(), ratios[1].std() / np.sqrt(len(ratios[1]))),
    }
    own, theirs = (y[:, n // 2 - 1] - y[:, n // 2] for y in (x, exact))
    p = float(scipy.stats.ks_2samp(own, theirs, method="asymp").pvalue)  # type: ignore[attr-defined]  # scipy has no types
    crossed = int(ds.order_violations.sum())
    worst = max(abs(f["sigmas"]) for f in found.values())
    return {
        "value": worst, "unit": "standard errors, the largest", "tolerance": SIGMAS,
        "passed": worst < SIGMAS and p > LEAST_P and crossed == 0, "means": found, "spacing_p": p,
        "order_violations": crossed, "sizes": {"levels": n, "replicas": replicas, "updates": 100},
    }  # fmt: skip


def deviation(samples: np.ndarray, expected: float, error: float = 0.0) -> dict[str, float]:
    """Mean, its standard error, what is expected, and how many standard errors (the expected value's too) apart."""
    own = float(samples.std(ddof=1) / np.sqrt(len(samples)))
    mean = float(samples.mean())
    return {"mean": mean, "error": own, "expected": expected, "sigmas": (mean - expected) / float(np.hypot(own, error))}
