"""How fast is Dyson's equation, and how fast is it right?

    python -m benchmarks.dyson_core              # everything, minutes; appends to benchmarks/results/dyson_*.jsonl
    python -m benchmarks.dyson_core --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.dyson_core --table      # the README's tables from the recorded results

Two questions. First, level-updates per second of the same Euler–Maruyama step, N levels and R replicas, through the
engine (`dysonjax.simulate`, a random key for every replica) and its peers: NumPy over replicas, PyTorch, diffrax with
its fastest Brownian path, once vmapped over replicas as its documentation does, once as one equation of shape [N, R].
Second, what it costs to be right: the Kolmogorov–Smirnov distance of spacings and of the density from the exact
stationary law, against the time spent, for every scheme. All programs are first checked to do the same update.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tyro

import dysonjax as dj
from benchmarks import record
from dysonjax.engine.grid import Replicas  # inside: the keys for `simulate`, without scan's store and labels
from dysonjax.kernels import random_numbers as noise  # inside: a kernel's own rate

DT, KAPPA = 1e-3, 1.0
RELAXED = 5.0
"""Time after which the start is forgotten: e^{−10} of the second moment is left."""
TARGET = 0.02
"""The KS distance asked for."""
PEERS = {
    name: importlib.util.find_spec(name) is not None
    for name in ("torch", "diffrax")  # both come with the extra `bench`; without them their rows are left out
}


class Problem(NamedTuple):
    """Starts [N, R] and temperatures [R]."""

    x: np.ndarray
    temperature: np.ndarray


def problem(n: int, replicas: int) -> Problem:
    start = np.linspace(2, -2, n) if n > 1 else np.zeros(1)
    hot = np.linspace(0.01, 0.1, replicas, dtype=np.float32) * min(1, 10 / n)  # so that gaps outlast the few steps
    return Problem(np.repeat(start.astype(np.float32)[:, None], replicas, 1), hot.astype(np.float32))


def gas_of(n: int, scheme: str | None) -> dj.Dynamics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Euler–Maruyama warns; here it is what peers can do
        return dj.dyson(n, dj.Quadratic(stiffness=KAPPA), scheme=scheme, start=np.linspace(2, -2, n) if n > 1 else None)


def engine(n: int, replicas: int, scheme: str | None = "euler_maruyama") -> Callable[[int], np.ndarray]:
    """`run(steps)` returns levels [R, n]."""
    gas = gas_of(n, scheme)
    points = Replicas(gas, dj.Grid(temperature=[1.0], dt=[DT], seed=range(replicas)), jax.random.key(0))
    keys, hyper = points.keys(0, slice(0, replicas)), points.hyper(0, slice(0, replicas))
    hyper = {**hyper, "temperature": jnp.asarray(problem(n, replicas).temperature)}

    def run(steps: int) -> np.ndarray:
        return dj.simulate(gas, keys, hyper, steps, snapshots=[steps], observables=())["levels"][:, -1]

    return run


def numpy_step(x: np.ndarray, temperature: np.ndarray, normal: np.ndarray, dt: float = DT) -> np.ndarray:
    """One Euler–Maruyama step of [N, R] levels, the definition that all programs share."""
    force = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            pair = 1 / (x[i] - x[j])
            force[i] += pair
            force[j] -= pair
    return x + dt * (temperature * force - KAPPA * x) + np.sqrt(2 * temperature * dt) * normal


def numpy_program(n: int, replicas: int, by_pairs: bool) -> Callable[[int], np.ndarray]:
    """Vectorised over replicas: all pairs at once in [N, N, R], or pair by pair, which is faster for few levels."""
    p = problem(n, replicas)
    eye = np.eye(n, dtype=np.float32)[..., None]

    def run(steps: int) -> np.ndarray:
        rng, x = np.random.default_rng(0), p.x.copy()
        for _ in range(steps):
            normal = rng.standard_normal(x.shape, dtype=np.float32)
            if by_pairs:
                x = numpy_step(x, p.temperature, normal)
            else:
                force = (1 / (x[:, None] - x[None] + eye) - eye).sum(1)
                x = x + DT * (p.temperature * force - KAPPA * x) + np.sqrt(2 * p.temperature * DT) * normal
        return x.T

    return run


def torch_program(n: int, replicas: int) -> Callable[[int], np.ndarray]:
    import torch  # type: ignore[import-not-found]  # of the extra "bench"

    p = problem(n, replicas)
    temperature, eye = torch.from_numpy(p.temperature), torch.eye(n)[..., None]

    def run(steps: int) -> np.ndarray:
        torch.manual_seed(0)
        x = torch.from_numpy(p.x.copy())
        with torch.inference_mode():
            width = torch.sqrt(2 * temperature * DT)
            for _ in range(steps):
                force = (1 / (x[:, None] - x[None] + eye) - eye).sum(1)
                x = x + DT * (temperature * force - KAPPA * x) + width * torch.randn_like(x)
        return x.numpy().T

    return run


def diffrax_program(n: int, replicas: int, vmapped: bool) -> Callable[[int], np.ndarray]:
    """Its documentation's advice: `UnsafeBrownianPath`, constant step, saved at the end only, no exceptions, jitted."""
    import diffrax  # type: ignore[import-not-found]  # of the extra "bench"
    import lineax  # type: ignore[import-not-found]  # of the extra "bench"

    p = problem(n, replicas)
    shape = (n,) if vmapped else (n, replicas)
    eye = jnp.eye(n) if vmapped else jnp.eye(n)[..., None]

    def drift(t: Any, x: Any, temperature: Any) -> Any:
        return temperature * (1 / (x[:, None] - x[None] + eye) - eye).sum(1) - KAPPA * x

    def width(t: Any, x: Any, temperature: Any) -> Any:
        return lineax.DiagonalLinearOperator(jnp.broadcast_to(jnp.sqrt(2 * temperature), shape))

    def solve(x: Any, temperature: Any, key: Any, end: Any, most: int) -> Any:
        path = diffrax.UnsafeBrownianPath(shape, key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(width, path))
        # forward mode is the faster of the two adjoints that this path allows
        return diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, end, DT, x, args=temperature, saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(), max_steps=most, throw=False,
        ).ys[0]  # fmt: skip

    def run(steps: int) -> np.ndarray:
        end = steps * DT
        if vmapped:
            keys = jax.random.split(jax.random.key(0), replicas)
            return np.asarray(many(jnp.asarray(p.x.T), jnp.asarray(p.temperature), keys, end, steps + 1))
        return np.asarray(whole(jnp.asarray(p.x), jnp.asarray(p.temperature), jax.random.key(0), end, steps + 1)).T

    many = jax.jit(jax.vmap(solve, in_axes=(0, 0, 0, None, None)), static_argnums=4)
    whole = jax.jit(solve, static_argnums=4)
    return run


def programs(n: int, replicas: int) -> dict[str, Callable[[int], np.ndarray]]:
    found = {"engine": engine(n, replicas), "numpy": numpy_program(n, replicas, by_pairs=False)}
    if n <= 32:
        found["numpy, pair by pair"] = numpy_program(n, replicas, by_pairs=True)
    if PEERS["torch"]:
        found["torch"] = torch_program(n, replicas)
    if PEERS["diffrax"]:
        found["diffrax, vmapped"] = diffrax_program(n, replicas, vmapped=True)
        found["diffrax, one equation"] = diffrax_program(n, replicas, vmapped=False)
    return found


def check_programs() -> None:
    """The same step: deterministic part against `numpy_step`, noise by the variance of each level after few steps."""
    p = problem(3, 4096)
    for name, run in programs(3, 4096).items():
        after = run(4)
        still = p.x
        for _ in range(4):
            still = numpy_step(still, p.temperature, np.zeros_like(p.x))
        width = np.sqrt(8 * p.temperature * DT)[:, None]
        z = (after - still.T) / width
        np.testing.assert_allclose(z.mean(0), 0, atol=5 / np.sqrt(4096), err_msg=name)
        np.testing.assert_allclose(z.var(0), 1, atol=5 * np.sqrt(2 / 4096) + 0.02, err_msg=name)


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def steps_for(n: int, replicas: int, work: float) -> int:
    """Steps worth about `work` pair forces."""
    return int(np.clip(work / (n * max(n, 10) * replicas), 3, 20_000))


def throughput(n: int, replicas: int, repeats: int, work: float, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Level-updates per second of every program, alternating, and the engine's ratios to its peers in each round."""
    steps = {}
    chosen = {name: run for name, run in programs(n, replicas).items() if not only or name in only}
    rates: dict[str, list[float]] = {name: [] for name in chosen}
    for name, run in chosen.items():
        share = 1 if name == "engine" else 1 / 16
        steps[name] = max(3, int(steps_for(n, replicas, work) * share))
        run(steps[name])  # compiles
    for _ in range(repeats):
        for name, run in chosen.items():
            rates[name].append(n * replicas * steps[name] / timed(lambda r=run, s=steps[name]: r(s)))
    ratios = {name: record.spread(np.divide(rates["engine"], r)) for name, r in rates.items() if name != "engine"}
    return {
        "levels": n,
        "replicas": replicas,
        "rates": {k: record.spread(r) for k, r in rates.items()},
        "ratios": ratios,
    }


def random_floor(repeats: int, count: int = 10, replicas: int = 128, steps: int = 20_000) -> dict[str, float]:
    """Normal numbers per second on all devices: how fast any Langevin step could be if all else were free."""
    keys = jax.random.split(jax.random.key(0), replicas)
    ways = {
        "side by side": lambda i: noise.normals(keys, (count,), stream=i),
        "jax.random.normal, vmapped": lambda i: jax.vmap(
            lambda key: jax.random.normal(jax.random.fold_in(key, i), (count,)), out_axes=-1
        )(keys),
    }
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("d",))
    rates = {}
    for name, draw in ways.items():

        def total(start: Any, draw: Any = draw) -> Any:
            return jax.lax.fori_loop(0, steps, lambda i, s: s + draw(i), start)

        spec = jax.sharding.PartitionSpec("d")
        run = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
        start = jnp.zeros((count * mesh.size, replicas))
        jax.block_until_ready(run(start))
        best = min(timed(lambda r=run, s=start: jax.block_until_ready(r(s))) for _ in range(repeats))
        rates[name] = mesh.size * count * replicas * steps / best
    rng = np.random.default_rng(0)
    rates["numpy"] = 10**7 / min(timed(lambda: rng.standard_normal(10**7, dtype=np.float32)) for _ in range(repeats))
    return rates


def quality(n: int, scheme: str, dt: float, replicas: int) -> dict[str, Any]:
    """KS distances of a middle spacing and of the pooled density from the exact law, and seconds, T = κ = 1."""
    gas = gas_of(n, scheme)
    grid = dj.Grid(temperature=[1.0], seed=range(replicas))
    steps = round(RELAXED / dt)
    run = lambda steps: dj.scan(gas, grid, steps, dt=dt, snapshots=[steps], observables=(), progress=False)  # noqa: E731
    run(2)  # compiles
    began = time.perf_counter()
    x = run(steps).levels.values[0, :, -1].astype(float)
    seconds = time.perf_counter() - began
    exact = exact_levels(n)
    spacing = lambda y: y[:, n // 2 - 1] - y[:, n // 2]  # noqa: E731
    distance = lambda a, b: float(scipy.stats.ks_2samp(a, b, method="asymp").statistic)  # noqa: E731  # type: ignore[attr-defined]  # scipy has no types
    return {
        "levels": n, "scheme": scheme, "dt": dt, "seconds": seconds, "replicas": replicas,
        "spacing": distance(spacing(x), spacing(exact)), "density": distance(x.ravel(), exact.ravel()),
    }  # fmt: skip


def exact_levels(n: int, count: int = 200_000) -> np.ndarray:
    return np.asarray(dj.ensembles.hermite_levels(jax.random.key(1), n, 1.0, (count,)), float)


STEPS = {
    "matrix_kick": (0.5, 0.1),
    "pairwise_kick": (0.1, 0.03, 0.01, 0.003),
    "neighbour_implicit": (0.1, 0.03, 0.01, 0.003, 0.001),
    "backward_euler": (0.1, 0.03, 0.01),
    "euler_maruyama": (0.03, 0.01, 0.003, 0.001, 0.0003),
}


def error_against_time(n: int, replicas: int, tiny: bool) -> list[dict[str, Any]]:
    """Each scheme at falling steps until its spacings are right; 64 levels need small ones, and n³ solves hours."""
    lines = []
    for scheme, steps in STEPS.items():
        if n > 16:
            steps = steps[:1] if scheme == "matrix_kick" else [dt for dt in steps if dt < 0.02]
            if scheme == "backward_euler":
                continue
        for dt in steps[:1] if tiny else steps:
            lines.append(quality(n, scheme, dt, replicas))
            if lines[-1]["spacing"] < TARGET / 2:
                break
    return lines


def speed(tiny: bool) -> dict[str, Any]:
    """Level-updates per second: against peers, against the number of replicas, for each scheme, and the noise floor."""
    accelerator = jax.default_backend() != "cpu"
    repeats, work = (2, 1e5) if tiny else (5, 4e9 if not accelerator else 4e11)
    sizes = [(10, 64)] if tiny else [(10, 4096), (16, 4096), (4, 4096), (32, 1024), (100, 256), (1000, 16), (4096, 1)]
    crowds = [1, 8] if tiny else [1, 10, 100, 1000, 10_000, 100_000, *[1_000_000] * accelerator]
    result: dict[str, Any] = {
        "throughput": [throughput(n, r, repeats if n == 10 else 3, work if n == 10 else work / 8) for n, r in sizes],
        "against_replicas": [throughput(10, r, 2, work / 8, ("engine", "numpy")) for r in crowds],
        "schemes": {},
        "random_floor": random_floor(repeats, steps=20 if tiny else 20_000),
    }
    for scheme in dj.schemes.ALL:
        n, replicas = (10, 64) if tiny else (10, 4096)
        run, steps = engine(n, replicas, scheme), steps_for(n, replicas, work / 8)
        run(steps)
        rates = [n * replicas * steps / timed(lambda r=run, s=steps: r(s)) for _ in range(repeats)]
        result["schemes"][scheme] = record.spread(rates)
    return result


def main(tiny: bool = False, table: bool = False, part: Literal["both", "speed", "quality"] = "both") -> None:
    """Run the benchmark or a part of it, or print the README's tables from recorded results."""
    if table:
        print(readme_table())
        return
    dj.use_all_cores()
    check_programs()
    result: dict[str, Any] = {}
    if part != "quality":
        result = speed(tiny)
        if not tiny:
            record.append("dyson_speed", result)
    if part != "speed":
        found = [
            q for n in ((6,) if tiny else (6, 16, 64)) for q in error_against_time(n, 256 if tiny else 2**18 // n, tiny)
        ]
        result["quality"] = found
        if not tiny:
            record.append("dyson_quality", {"quality": found})
    show(result)


def show(result: dict[str, Any]) -> None:
    for line in result.get("throughput", []) + result.get("against_replicas", []):
        rates = ", ".join(f"{k} {r['median'] / 1e6:.3g}" for k, r in line["rates"].items())
        ratios = ", ".join(
            f"{k} {r['median']:.3g} ({r['min']:.3g} – {r['max']:.3g})" for k, r in line["ratios"].items()
        )
        print(f"N = {line['levels']}, R = {line['replicas']}: {rates} M level-updates/s; engine × {ratios}")
    if "schemes" in result:
        print("schemes, M level-updates/s:", {k: round(v["median"] / 1e6, 1) for k, v in result["schemes"].items()})
        print("normal numbers, M/s:", {k: round(v / 1e6, 1) for k, v in result["random_floor"].items()})
    for q in result.get("quality", []):
        print(
            f"N = {q['levels']:3d} {q['scheme']:20s} dt = {q['dt']:<6g} KS spacing {q['spacing']:.4f} "
            f"density {q['density']:.4f}  {q['seconds'] / q['replicas'] * 1e6:.1f} µs a replica"
        )


def time_to_target(quality: list[dict[str, Any]], n: int) -> dict[str, str]:
    """Microseconds a replica with which each scheme first reaches `TARGET`, or by how much its smallest step misses."""
    found: dict[str, str] = {}
    for q in (q for q in quality if q["levels"] == n):
        micro = q["seconds"] / q["replicas"] * 1e6
        if q["spacing"] <= TARGET:
            found.setdefault(q["scheme"], f"{micro:.3g}")
    for q in (q for q in quality if q["levels"] == n):
        if q["scheme"] not in found or found[q["scheme"]].startswith(">"):
            found[q["scheme"]] = f"> {q['seconds'] / q['replicas'] * 1e6:.3g} ({q['spacing']:.3f})"
    return found


def readme_table() -> str:
    """Ratios at N = 10, R = 4096, and the time to a KS distance of 0.02, for each recorded device and JAX version."""
    speed_rows, quality_rows = [], []
    form = "{median:.0f} ({min:.0f} – {max:.0f})".format
    peers = ("numpy", "numpy, pair by pair", "torch", "diffrax, vmapped", "diffrax, one equation")
    for line in sorted(record.last("dyson_speed"), key=lambda x: x["versions"]["jax"]):
        main = line["throughput"][0]
        rate = form(**{k: v / 1e6 for k, v in main["rates"]["engine"].items()})
        ratios = (
            "{median:.1f} ({min:.1f} – {max:.1f})".format(**main["ratios"][p]) for p in peers if p in main["ratios"]
        )
        speed_rows.append([f"{line['device']}, JAX {line['versions']['jax']}", rate, *ratios])
    for line in sorted(record.last("dyson_quality"), key=lambda x: x["versions"]["jax"]):
        for n in sorted({q["levels"] for q in line["quality"]}):
            reached = time_to_target(line["quality"], n)
            machine = f"{line['device']}, JAX {line['versions']['jax']}"
            quality_rows.append([machine, str(n), *(reached.get(s, "–") for s in STEPS)])
    head = ["machine", "million level-updates/s", *(f"× {p}" for p in peers)]
    schemes = ["machine", "levels", *(s.replace("_", " ") for s in STEPS)]
    return record.markdown(head, speed_rows) + "\n\n" + record.markdown(schemes, quality_rows)


if __name__ == "__main__":
    tyro.cli(main)
