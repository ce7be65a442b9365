"""How fast is full-matrix SGD of the tanh network (K = 16, L = 32, |B| = 4), and what limits it?

    python -m benchmarks.sgd_engine              # everything, minutes; appends to benchmarks/results/sgd_engine.jsonl
    python -m benchmarks.sgd_engine --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.sgd_engine --table      # the README's table from the recorded results

The engine runs through `dysonjax.scan` with its observables and a store on disk. Its peers compute the same updates on
the same data: NumPy one network at a time, as the paper's authors did, and PyTorch on the CPU, one at a time and
vmapped. All are first checked against NumPy in float64; timings alternate, so that every ratio is between neighbours.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import dysonjax as dj
from benchmarks import record
from dysonjax.engine.grid import Replicas  # inside: the keys that scan gives its replicas, for the peers
from dysonjax.kernels import products as blocks  # inside: both forms of its products are compared

PUBLISHED_UPDATES = 1.44e12
TORCH = importlib.util.find_spec("torch") is not None  # comes with the extra `bench`; without it its rows are left out
ALPHA, WIDTH, BATCH = 0.125, 0.125, 4
WIDTHS = ((16, 8), (32, 16), (64, 32), (128, 64), (256, 128))


class Problem(NamedTuple):
    """Networks and data: m [R, L, 3], w [R, K, L], z [R, 1, K], x [R, batches, B, 3], targets y [R, batches, B, 1]."""

    m: np.ndarray
    w: np.ndarray
    z: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Size:
    """How much is run."""

    replicas: int
    steps: int
    batches: int
    numpy_steps: int
    repeats: int


def sizes(tiny: bool) -> Size:
    if tiny:
        return Size(replicas=16, steps=200, batches=20, numpy_steps=100, repeats=2)
    if jax.default_backend() == "cpu":
        return Size(replicas=512, steps=100_000, batches=1000, numpy_steps=20_000, repeats=5)
    return Size(replicas=14_400, steps=20_000, batches=1000, numpy_steps=20_000, repeats=5)


def flops_per_update(outputs: int, inputs: int, batch: int) -> int:
    """Operations of one update: W h and Σ d hᵀ, a multiplication and an addition each; tanh not counted."""
    return 4 * outputs * inputs * batch


def networks(batches: int, replicas: int) -> tuple[dj.Dynamics, dj.Grid]:
    """What the engine runs: networks of seeds 0 … replicas − 1 at one point."""
    dynamics = dj.sgd(dj.models.TanhNetwork(), batches=batches)
    return dynamics, dj.Grid(learning_rate=[ALPHA], init_width=[WIDTH], batch_size=[BATCH], seed=range(replicas))


def problem(size: Size, replicas: int) -> Problem:
    """The engine's own networks and data, for its peers."""
    dynamics, grid = networks(size.batches, replicas)
    points = Replicas(dynamics, grid, jax.random.key(0))

    def draw(key: Any) -> Any:
        data_key, init_key = jax.random.split(key)
        hyper = {"learning_rate": ALPHA, "init_width": jnp.float32(WIDTH), "batch_size": BATCH}
        hyper["data"] = dynamics.data(data_key, hyper)
        task, (h, y) = hyper["data"].task, hyper["data"].batches
        x = jax.random.normal(jax.random.split(data_key, 3)[1], (size.batches * BATCH, 3)).reshape(
            size.batches, BATCH, 3
        )
        return (task["M"], dynamics.init(init_key, hyper).params["W"], task["Z"], x, y), h

    drawn, h = jax.jit(jax.vmap(draw))(points.keys(0, slice(0, replicas)))
    p = Problem(*map(np.array, drawn))
    np.testing.assert_allclose(np.tanh(p.x @ p.m[:, None].mT), h, atol=1e-6)  # the same inputs, before the frozen layer
    return p


def numpy_samples(p: Problem, steps: int, dtype: type = np.float32) -> np.ndarray:
    """Plain NumPy, one network, one update, one sample at a time through all three layers: the authors' way."""
    final = []
    for m, w, z, x, y in _networks(p, dtype):
        for t in range(steps):
            gradient = np.zeros_like(w)
            for b in range(BATCH):
                s = np.tanh(m @ x[t % len(x), b])
                phi = np.tanh(w @ s)
                error = y[t % len(x), b] - z @ phi
                gradient -= np.outer((z.T @ error) * (1 - phi**2), s)
            w -= ALPHA / BATCH * gradient
        final.append(w)
    return np.array(final)


def numpy_batches(p: Problem, steps: int, dtype: type = np.float32) -> np.ndarray:
    """Plain NumPy, one network and one update at a time, the batch as a matrix: the authors' way, vectorised."""
    final = []
    for m, w, z, x, y in _networks(p, dtype):
        for t in range(steps):
            s = np.tanh(x[t % len(x)] @ m.T)
            phi = np.tanh(s @ w.T)
            error = y[t % len(x)] - phi @ z.T
            w += ALPHA / BATCH * ((error @ z) * (1 - phi**2)).T @ s
        final.append(w)
    return np.array(final)


def _networks(p: Problem, dtype: type) -> list[list[np.ndarray]]:
    return [[a[i].astype(dtype) for a in p] for i in range(len(p.w))]


def torch_one_at_a_time(p: Problem, steps: int) -> np.ndarray:
    """PyTorch with autograd and its SGD, one network at a time, one thread (more only cost time at this size)."""
    import torch  # type: ignore[import-not-found]  # of the extra "bench"

    torch.set_num_threads(1)
    final = []
    for network in _networks(p, np.float32):
        m, w, z, x, y = map(torch.from_numpy, network)
        w.requires_grad_()
        optimizer = torch.optim.SGD([w], lr=ALPHA)
        for t in range(steps):
            optimizer.zero_grad()
            phi = torch.tanh(torch.tanh(x[t % len(x)] @ m.T) @ w.T)
            (0.5 * torch.mean((y[t % len(x)] - phi @ z.T) ** 2)).backward()
            optimizer.step()
        final.append(w.detach().numpy())
    return np.array(final)


def torch_vmapped(p: Problem, steps: int) -> np.ndarray:
    """PyTorch with `torch.func.vmap` of `torch.func.grad` over all networks, all cores."""
    import os

    import torch  # type: ignore[import-not-found]  # of the extra "bench"

    torch.set_num_threads(os.cpu_count() or 1)

    def loss(w: Any, m: Any, z: Any, x: Any, target: Any) -> Any:
        return 0.5 * torch.mean((target - torch.tanh(torch.tanh(x @ m.T) @ w.T) @ z.T) ** 2)

    gradient = torch.func.vmap(torch.func.grad(loss))
    m, w, z, x, y = (torch.from_numpy(a.copy()) for a in p)
    for t in range(steps):
        w = w - ALPHA * gradient(w, m, z, x[:, t % x.shape[1]], y[:, t % x.shape[1]])
    return w.numpy()


def engine(dynamics: dj.Dynamics, grid: dj.Grid, steps: int) -> Any:
    """`dysonjax.scan` with everything a user gets: observables, 21 snapshots, a store on disk."""
    with tempfile.TemporaryDirectory() as folder:
        return dj.scan(dynamics, grid, steps, out=f"{folder}/run", progress=False).load()


def check(size: Size) -> None:
    """All programs agree with NumPy in float64 after 100 updates, to float32 accuracy."""
    p, steps = problem(size, 4), 100
    exact = numpy_batches(p, steps, np.float64)
    programs = (numpy_samples, numpy_batches, *((torch_one_at_a_time, torch_vmapped) if TORCH else ()))
    for program in programs:
        np.testing.assert_allclose(program(p, steps), exact, atol=5e-6, err_msg=program.__name__)
    levels = np.linalg.svd(exact, compute_uv=False) ** 2
    measured = engine(*networks(size.batches, 4), steps).levels.isel(snapshot=-1).values.reshape(levels.shape)
    np.testing.assert_allclose(measured, levels, rtol=1e-4, atol=1e-6, err_msg="engine")


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak_gflops(n: int | None = None, precision: str = "highest") -> float:
    """Rate of a large float32 matrix product over all devices, the best of several, in 10⁹ operations a second."""
    accelerator = jax.default_backend() != "cpu"
    n = n or (16384 if accelerator else 3072)
    product = jax.jit(lambda a: jnp.dot(a, a, precision=precision))
    a = jnp.ones((n, n), jnp.float32) / n
    product(a).block_until_ready()
    devices = jax.local_device_count() if accelerator else 1  # one product already uses every core of a CPU
    return devices * 2 * n**3 / min(timed(lambda: product(a).block_until_ready()) for _ in range(5)) / 1e9


def compare(size: Size) -> dict[str, Any]:
    """Updates per second of the engine and its peers, alternating, and their ratios."""
    dynamics, grid = networks(size.batches, size.replicas)
    one, many = problem(size, 1), problem(size, min(size.replicas, 256))
    vmapped = max(size.numpy_steps // 50, 10)
    programs: dict[str, tuple[Callable[[], Any], int]] = {
        "engine": (lambda: engine(dynamics, grid, size.steps), size.replicas * size.steps),
        "numpy, sample by sample": (lambda: numpy_samples(one, size.numpy_steps), size.numpy_steps),
        "numpy, batch as matrix": (lambda: numpy_batches(one, size.numpy_steps), size.numpy_steps),
        "torch, one network": (lambda: torch_one_at_a_time(one, size.numpy_steps // 4), size.numpy_steps // 4),
        "torch, vmapped": (lambda: torch_vmapped(many, vmapped), len(many.w) * vmapped),
    }
    programs = {name: p for name, p in programs.items() if TORCH or not name.startswith("torch")}
    compile_seconds = timed(programs["engine"][0])
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(size.repeats):
        for name, (run, updates) in programs.items():
            rates[name].append(updates / timed(run))
    compile_seconds -= size.replicas * size.steps / float(np.median(rates["engine"]))
    ratios = {f"engine / {n}": record.spread(np.divide(rates["engine"], r)) for n, r in rates.items() if n != "engine"}
    return {
        "replicas": size.replicas,
        "steps": size.steps,
        "updates_per_second": {n: record.spread(r) for n, r in rates.items()},
        "ratios": ratios,
        "compile_seconds": compile_seconds,
    }


def against_replicas(size: Size, counts: tuple[int, ...]) -> dict[str, float]:
    """Updates per second through `scan` for each number of replicas, of a twentieth of the main run's length."""
    rates, steps = {}, size.steps // 20
    for count in counts:
        dynamics, grid = networks(size.batches, count)
        engine(dynamics, grid, 21)  # compiles
        rates[str(count)] = count * steps / timed(lambda d=dynamics, g=grid: engine(d, g, steps))
    return rates


def against_widths(size: Size, widths: tuple[tuple[int, int], ...], peak: float) -> dict[str, dict[str, float]]:
    """Updates per second, share of peak, and seconds to compile for each (L, K)."""
    found = {}
    for inputs, outputs in widths:
        dynamics = dj.sgd(dj.models.TanhNetwork(hidden=(inputs, outputs)), batches=min(size.batches, 100))
        grid = dj.Grid(learning_rate=[ALPHA], init_width=[WIDTH], batch_size=[BATCH], seed=range(32))
        flops = flops_per_update(outputs, inputs, BATCH)
        steps = int(np.clip(size.steps * size.replicas / 32 / 16 * 8192 / flops, 50, 10**6))
        first = timed(lambda d=dynamics, g=grid, s=steps: engine(d, g, s))
        again = timed(lambda d=dynamics, g=grid, s=steps: engine(d, g, s))
        rate = 32 * steps / again
        found[f"{inputs}x{outputs}"] = {
            "updates_per_second": rate,
            "share_of_peak": rate * flops / peak / 1e9,
            "compile_seconds": first - again,
        }
    return found


def against_form(size: Size) -> dict[str, float]:
    """Updates per second with each way of writing a short sum (see `dysonjax.kernels.products`)."""
    rates, chosen = {}, blocks.FORM
    for form in ("unrolled", "reduce"):
        blocks.FORM = form
        dynamics, grid = networks(size.batches, 64)  # a new dynamics, so that it is compiled anew
        steps = min(size.steps, 5000)
        engine(dynamics, grid, steps)
        rates[form] = 64 * steps / timed(lambda d=dynamics, g=grid, s=steps: engine(d, g, s))
    blocks.FORM = chosen
    return rates


def main(tiny: bool = False, table: bool = False) -> None:
    """Run the benchmark, or print the README's table from recorded results."""
    if table:
        print(readme_table())
        return
    dj.use_all_cores()
    size = sizes(tiny)
    check(size)
    peak = peak_gflops()
    result = compare(size)
    rate = result["updates_per_second"]["engine"]["median"]
    result |= {
        "peak_gflops": peak,
        "share_of_peak": rate * flops_per_update(16, 32, BATCH) / peak / 1e9,
        "published_run_hours": PUBLISHED_UPDATES / rate / 3600,
        "against_replicas": against_replicas(size, (1, 16) if tiny else (1, 10, 100, 1000, 10_000)),
        "against_widths": against_widths(
            size, ((8, 4),) if tiny else ((16, 8), (32, 16), (64, 32), (128, 64), (256, 128)), peak
        ),
        "against_form": against_form(size),
    }
    if not tiny:
        record.append("sgd_engine", result)
    show(result)


def show(result: dict[str, Any]) -> None:
    for name, rate in result["updates_per_second"].items():
        print(f"{name:22s} {rate['median']:12.4g} updates/s ({rate['min']:.4g} – {rate['max']:.4g})")
    for name, ratio in result["ratios"].items():
        print(f"{name:32s} {ratio['median']:8.0f} ({ratio['min']:.0f} – {ratio['max']:.0f})")
    share = f"{result['share_of_peak']:.0%} of {result['peak_gflops']:.0f} Gflop/s"
    print(f"compile {result['compile_seconds']:.1f} s; {share}")
    print(f"the published 1.44e12 updates: {result['published_run_hours']:.1f} hours")
    for name in ("against_replicas", "against_widths", "against_form"):
        print(name.replace("_", " "), result[name])


def readme_table() -> str:
    """Updates per second and medians of the ratios, a row for each recorded device and JAX version."""
    rows, peers = [], []
    for line in sorted(record.last("sgd_engine"), key=lambda x: x["versions"]["jax"]):
        rates = line["updates_per_second"]
        million = "{median:.1f} ({min:.1f} – {max:.1f})".format(**{k: v / 1e6 for k, v in rates["engine"].items()})
        ratios = ["{median:.0f} ({min:.0f} – {max:.0f})".format(**r) for r in line["ratios"].values()]
        machine = f"{line['device']}, JAX {line['versions']['jax']}"
        rows.append([machine, million, *ratios, f"{line['share_of_peak']:.0%}"])
        peers = [name.removeprefix("engine / ") for name in line["ratios"]]
    return record.markdown(["machine", "million updates/s", *(f"× {p}" for p in peers), "of peak"], rows)


if __name__ == "__main__":
    tyro.cli(main)
