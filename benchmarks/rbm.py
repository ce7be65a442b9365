"""RBM updates per second, against the machine trained one at a time and the cost of its random numbers.

    python -m benchmarks.rbm              # everything; appends to benchmarks/results/rbm.jsonl
    python -m benchmarks.rbm --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.rbm --table      # the README's table from the recorded results

The machine of arXiv:2407.16427: N_v = N_h = 10, three Gibbs sweeps of 16 persistent chains an update. PyTorch trains
one at a time in one thread, as the authors do; NumPy likewise. All of them must first learn the same levels. Ours runs
on every core, so the ratios are those of the whole machine against one such program; `share` is that of the rate at
which the machine makes the normal numbers that an update of the chains needs.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import record
from dysonjax import sgd, simulate, use_all_cores
from dysonjax.engine.loop import tile_size  # inside: the floor is measured in the engine's own tiles
from dysonjax.kernels import random_numbers as noise  # inside: the floor is this kernel alone
from dysonjax.models import GaussianRBM

TORCH = importlib.util.find_spec("torch") is not None
MACHINE = GaussianRBM()
RATE, BATCH, SWEEPS, N = 0.05, 16, 3, 10
NAMES = {
    "chains": "dysonjax, Gibbs chains",
    "exact": "dysonjax, exact draws",
    "wishart": "dysonjax, Wishart",
    "numpy": "NumPy, one machine",
    "torch": "PyTorch, one machine",
    "floor": "the chains' random numbers alone",
}


def machines(kind: str, replicas: int) -> Callable[[int], np.ndarray]:
    """`run(steps)` trains so many machines by Gibbs "chains", "exact" draws or "wishart"; returns levels [R, n]."""
    if kind == "wishart":
        dynamics = sgd(MACHINE, sampling="wishart")
    else:
        dynamics = sgd(GaussianRBM(chains="exact") if kind == "exact" else MACHINE)
    keys = jax.random.split(jax.random.key(1), replicas)
    hyper: dict[str, Any] = {"learning_rate": np.full(replicas, RATE, np.float32)}
    hyper |= {"init_width": np.full(replicas, 0.1, np.float32), "batch_size": BATCH}
    if kind == "wishart":
        hyper["batch_size"] = np.full(replicas, BATCH, np.float32)
    return lambda steps: simulate(dynamics, keys, hyper, steps, snapshots=[steps], observables=())["levels"][:, -1]


def ours(kind: str, replicas: int, steps: int) -> tuple[float, np.ndarray]:
    """Updates per second of all replicas together, compiled before, and the levels at the end [R, n]."""
    run = machines(kind, replicas)
    run(steps)
    began = time.perf_counter()
    levels = run(steps)
    return replicas * steps / (time.perf_counter() - began), levels


def torch_machine(steps: int) -> tuple[float, np.ndarray]:
    """The authors' way: one machine, every operation a PyTorch call."""
    import torch  # type: ignore[import-not-found]  # of the extra "bench"

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    target = torch.linalg.inv(torch.tensor(MACHINE.kernel, dtype=torch.float32))
    w, phi = 0.1 * normal(N, N), torch.ones(BATCH, N)
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(steps):
            for _ in range(SWEEPS):
                h = phi @ w.T + normal(BATCH, N)
                phi = h @ w / 9 + normal(BATCH, N) / 3
            w = w + RATE * w @ (target - phi.T @ phi / BATCH)
    return steps / (time.perf_counter() - began), torch.linalg.svdvals(w).numpy()[None] ** 2


def numpy_machine(steps: int) -> tuple[float, np.ndarray]:
    """The same in NumPy."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    target = np.linalg.inv(MACHINE.kernel).astype(np.float32)
    w, phi = np.float32(0.1) * normal(N, N), np.ones((BATCH, N), np.float32)
    began = time.perf_counter()
    for _ in range(steps):
        for _ in range(SWEEPS):
            h = phi @ w.T + normal(BATCH, N)
            phi = h @ w / np.float32(9) + normal(BATCH, N) / np.float32(3)
        w = w + np.float32(RATE) * (w @ (target - phi.T @ phi / np.float32(BATCH)))
    return steps / (time.perf_counter() - began), np.linalg.svd(w, compute_uv=False)[None] ** 2


def floor(replicas: int, steps: int) -> float:
    """Updates a second if only the chains' normal numbers were made, on every core."""
    devices = jax.local_devices()
    tile = tile_size(sgd(MACHINE), replicas, devices[0].platform)
    keys = jax.random.split(jax.random.key(2), tile)

    def one(keys):
        def draw(i, total):
            own = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
            return total + noise.normals(own, (2 * SWEEPS * BATCH, N))[0, 0]

        return jax.lax.fori_loop(0, steps, draw, jnp.zeros(tile))

    run = jax.jit(one)
    placed = [jax.device_put(keys, device) for device in devices]
    jax.block_until_ready([run(k) for k in placed])
    began = time.perf_counter()
    jax.block_until_ready([run(k) for k in placed])
    return len(devices) * tile * steps / (time.perf_counter() - began)


def measure(replicas: int, steps: int, repeats: int) -> dict[str, Any]:
    """Rates and ratios from alternating timings."""
    rates: dict[str, list[float]] = {}
    reference = ours("wishart", 64, 2000)[1].mean(axis=0)[:3]
    for _ in range(repeats):
        alone = {"numpy": numpy_machine, **({"torch": torch_machine} if TORCH else {})}
        found = {kind: ours(kind, replicas, steps) for kind in ("chains", "exact", "wishart")}
        found |= {name: run(max(steps, 2000)) for name, run in alone.items()}
        for kind, (rate, levels) in found.items():
            if steps >= 1000 or kind in alone:  # the infrared modes are learnt by then
                assert np.all(np.abs(levels.mean(axis=0)[:3] - reference) < 0.8), (kind, levels.mean(axis=0), reference)
            rates.setdefault(kind, []).append(rate)
        rates.setdefault("floor", []).append(floor(replicas, steps // 4))
    base = rates["torch" if TORCH else "numpy"]
    ratios = {k: record.spread(np.divide(r, base)) for k, r in rates.items()}
    share = record.spread(np.divide(rates["chains"], rates["floor"]))
    return {
        "replicas": replicas, "steps": steps, "rates": {k: record.spread(r) for k, r in rates.items()},
        "ratios": ratios, "share": share,
    }  # fmt: skip


def readme_table() -> str:
    """The README's table, from the newest result of each JAX version and device."""
    rows = []
    for line in record.last("rbm"):
        for kind, name in NAMES.items():
            if kind in line["rates"]:
                rate, ratio = line["rates"][kind], line["ratios"][kind]
                rows.append([
                    name, f"JAX {line['versions']['jax']}, {line['device']}", f"{rate['median'] / 1e3:.3g}",
                    f"{ratio['median']:.3g} ({ratio['min']:.3g}–{ratio['max']:.3g})",
                ])  # fmt: skip
    return record.markdown(["10 × 10, k = 3, 16 chains", "on", "thousand updates/s", "× PyTorch one at a time"], rows)


def main(tiny: bool = False, table: bool = False) -> None:
    """Measure and record; see the module."""
    if table:
        print(readme_table())
        return
    use_all_cores()
    result = measure(256, 100, 1) if tiny else measure(4096, 1000, 5)
    if not tiny:
        record.append("rbm", result)
    for kind in NAMES:
        if kind in result["rates"]:
            rate, ratio = (
                "{median:.4g} ({min:.4g}–{max:.4g})".format(**result[of][kind]) for of in ("rates", "ratios")
            )
            print(f"{NAMES[kind]}: {rate} updates/s, {ratio} × one at a time")


if __name__ == "__main__":
    tyro.cli(main)
