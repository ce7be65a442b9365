"""Spectra per second: eigenvalues of small matrices, β-ensembles, number variance and rigidity, against their peers.

    python -m benchmarks.spectra              # everything; appends to benchmarks/results/spectra.jsonl
    python -m benchmarks.spectra --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.spectra --table      # the README's table from the recorded results

Peers are used where they install: SciPy and NumPy always, DPPy by the extra `bench`. Every pair is checked to agree
before it is timed, and timings alternate. One device: peers use one core too.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import tyro

from benchmarks import record
from dysonjax import ensembles, spectra

KINDS = ("levels", "with vectors")
DPPY = importlib.util.find_spec("dppy") is not None


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def compare(
    ours: Callable[[], Any], peers: dict[str, tuple[Callable[[], Any], float]], work: float, repeats: int
) -> dict:
    """Work a second of ours and of each peer (its own amount of work given), alternating, and the ratios."""
    rates: dict[str, list[float]] = {"dysonjax": [], **{name: [] for name in peers}}
    jax.block_until_ready(ours())  # compiles
    for _ in range(repeats):
        rates["dysonjax"].append(work / timed(ours))
        for name, (run, amount) in peers.items():
            rates[name].append(amount / timed(run))
    ratios = {name: record.spread(np.divide(rates["dysonjax"], r)) for name, r in rates.items() if name != "dysonjax"}
    return {"rates": {name: record.spread(r) for name, r in rates.items()}, "ratios": ratios}


def symmetric(n: int, count: int, near_diagonal: bool) -> np.ndarray:
    a = np.random.default_rng(0).normal(size=(count, n, n)).astype(np.float32)
    a = (a + a.swapaxes(1, 2)) / 2
    return 0.1 * a + np.diag(np.linspace(-3, 3, n, dtype=np.float32)) if near_diagonal else a


def eigenvalues(n: int, repeats: int, near_diagonal: bool = False) -> dict[str, Any]:
    """Symmetric float32 matrices from any start: side by side, against LAPACK in a loop, single and NumPy's double."""
    count = int(np.clip(2**20 // n**3, 16, 4096)) * (1 if jax.default_backend() == "cpu" else 64)
    a = symmetric(n, count, near_diagonal)
    on_device = jnp.asarray(a)
    ours, library = jax.jit(spectra.eigenvalues), jax.jit(partial(jnp.linalg.eigvalsh, symmetrize_input=False))
    exact = np.linalg.eigvalsh(a.astype(float))
    scale = np.abs(exact).max()
    errors = [float(np.abs(f(on_device) - exact).max() / scale) for f in (ours, library)]
    assert errors[0] < max(4 * errors[1], 4e-6), errors
    peers = {
        "LAPACK in a loop, float32": (lambda: library(on_device), count),
        "numpy.linalg.eigvalsh": (lambda: np.linalg.eigvalsh(a), count),
    }
    found = compare(lambda: ours(on_device), peers, count, repeats)
    return {"n": n, "near_diagonal": near_diagonal, "errors": errors, **found}


def weight_levels(k: int, repeats: int) -> dict[str, Any]:
    """Levels of float32 weights k × 2k, without and with eigenvectors: side by side, against LAPACK in a loop."""
    count = int(np.clip(2**19 // k**3, 16, 4096)) * (1 if jax.default_backend() == "cpu" else 64)
    w = np.random.default_rng(0).normal(size=(count, k, 2 * k)).astype(np.float32)
    on_device, exact = jnp.asarray(w), np.linalg.svd(w.astype(float), compute_uv=False) ** 2
    squares = lambda w: jnp.linalg.svd(w, compute_uv=False) ** 2  # noqa: E731
    pairs: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        KINDS[0]: (spectra.levels, squares),
        KINDS[1]: (spectra.levels_and_vectors, lambda w: (squares(w), jnp.linalg.eigh(w @ w.mT)[1])),
    }
    found: dict[str, Any] = {"k": k}
    for name, pair in pairs.items():
        ours, library = (partial(jax.jit(f), on_device) for f in pair)
        values = [jax.tree.leaves(f())[0] for f in (ours, library)]
        errors = [float(np.abs(x - exact).max() / exact.max()) for x in values]
        assert errors[0] < max(4 * errors[1], 4e-6), errors
        found[name] = {"errors": errors, **compare(ours, {"LAPACK in a loop": (library, count)}, count, repeats)}
    return found


def scipy_hermite(n: int, count: int) -> np.ndarray:
    """Dumitriu and Edelman's β = 1 model, as anybody would write it."""
    rng = np.random.default_rng(0)
    freedom = np.arange(n - 1, 0, -1)
    return np.array([
        scipy.linalg.eigvalsh_tridiagonal(rng.normal(size=n), np.sqrt(rng.chisquare(freedom) / 2)) for _ in range(count)
    ])  # fmt: skip


def beta_ensemble(n: int, count: int, repeats: int) -> dict[str, Any]:
    """Spectra per second of the β = 1 Hermite ensemble; all checked by E Σx² = n(n + 1)/2."""
    draw = lambda: ensembles.hermite_levels(jax.random.key(0), n, 1.0, (count,))  # noqa: E731
    square = np.sum(np.asarray(draw(), float) ** 2, axis=1)
    assert abs(square.mean() - n * (n + 1) / 2) < 5 * square.std() / np.sqrt(count)
    few = max(count // 50, 4)
    peers: dict[str, tuple[Callable[[], Any], float]] = {"scipy, one at a time": (lambda: scipy_hermite(n, few), few)}
    if DPPY:
        from dppy.beta_ensembles import HermiteEnsemble  # type: ignore[import-not-found]  # of the extra "bench"

        ensemble = HermiteEnsemble(beta=1)
        peers["DPPy"] = (lambda: [ensemble.sample_banded_model(size_N=n) for _ in range(few)], few)
    return {"n": n, **compare(draw, peers, count, repeats)}


def numpy_rigidity(u: np.ndarray, lengths: np.ndarray, windows: int = 256) -> np.ndarray:
    """Δ₃ by a least-squares line through the staircase of each window, sampled: the usual script."""
    found = []
    for length in lengths:
        values = []
        for start in np.linspace(u[0], u[-1] - length, windows):
            t = np.linspace(start, start + length, 200)
            staircase = np.searchsorted(u, t, "right")
            slope, offset = np.polyfit(t - start, staircase, 1)
            values.append(np.mean((staircase - slope * (t - start) - offset) ** 2))
        found.append(np.mean(values))
    return np.array(found)


def numpy_number_variance(u: np.ndarray, lengths: np.ndarray, windows: int = 1000) -> np.ndarray:
    """Σ² by counting in windows at many positions: the usual script."""
    found = []
    for length in lengths:
        start = np.linspace(u[0], u[-1] - length, windows)
        inside = np.searchsorted(u, start + length, "right") - np.searchsorted(u, start, "right")
        found.append(np.mean((inside - length) ** 2))
    return np.array(found)


def long_range(n: int, repeats: int) -> dict[str, Any]:
    """Seconds a call of Σ² and Δ₃ for n levels and 48 lengths."""
    u = np.sort(np.random.default_rng(0).uniform(0, n, n)).astype(np.float32)
    lengths, on_device = np.linspace(1, min(48, n / 4), 48), jnp.asarray(u)
    found: dict[str, Any] = {"levels": n}
    for name, ours, script, tolerance in (
        ("rigidity", spectra.rigidity, numpy_rigidity, 0.05),
        ("number_variance", spectra.number_variance, numpy_number_variance, 0.15),
    ):
        np.testing.assert_allclose(ours(on_device, lengths), script(u, lengths), rtol=tolerance)
        call = lambda ours=ours: ours(on_device, lengths)  # noqa: E731
        found[name] = compare(call, {"numpy script": (lambda s=script: s(u, lengths), 1)}, 1, repeats)
    return found


def main(tiny: bool = False, table: bool = False) -> None:
    """Run the benchmark, or print the README's table from recorded results."""
    if table:
        print(readme_table())
        return
    repeats = 2 if tiny else 7
    sizes = (4,) if tiny else (4, 6, 8, 10, 12, 16, 24, 32, 33, 64, 128, 256)
    result: dict[str, Any] = {
        "eigenvalues": [eigenvalues(n, repeats) for n in sizes],
        "near_diagonal": [eigenvalues(n, repeats, near_diagonal=True) for n in sizes if n <= 16],
        "weights": [weight_levels(k, repeats) for k in ((4,) if tiny else (4, 8, 12, 16, 24))],
        "beta_ensembles": [
            beta_ensemble(n, 64 if tiny else 2**19 // n, repeats) for n in ((16,) if tiny else (16, 100, 1000))
        ],
        "long_range": long_range(200 if tiny else 5000, repeats if tiny else 3),
    }
    if not tiny:
        record.append("spectra", result)
    show(result)


def show(result: dict[str, Any]) -> None:
    form = "{median:.3g} ({min:.3g} – {max:.3g})".format
    for line in [*result["eigenvalues"], *result["near_diagonal"], *result["beta_ensembles"]]:
        rates = ", ".join(f"{name} {form(**rate)}" for name, rate in line["rates"].items())
        ratios = ", ".join(f"{name} {form(**ratio)}" for name, ratio in line["ratios"].items())
        near = " nearly diagonal" if line.get("near_diagonal") else ""
        errors = f" errors {line['errors'][0]:.1e}, {line['errors'][1]:.1e}" if "errors" in line else ""
        print(f"n = {line['n']}{near}: spectra/s {rates}; ratio to {ratios}{errors}")
    for line in result["weights"]:
        for name in KINDS:
            rate, ratio = line[name]["rates"]["dysonjax"], line[name]["ratios"]["LAPACK in a loop"]
            print(f"weights {line['k']} × {2 * line['k']}, {name}: {form(**rate)} a second, {form(**ratio)} × LAPACK; "
                  f"errors {line[name]['errors'][0]:.1e}, {line[name]['errors'][1]:.1e}")  # fmt: skip
    for name in ("rigidity", "number_variance"):
        line = result["long_range"][name]
        seconds = 1 / line["rates"]["dysonjax"]["median"]
        print(f"{name}, {result['long_range']['levels']} levels, 48 lengths: {1e3 * seconds:.2f} ms a call, "
              f"{form(**line['ratios']['numpy script'])} × numpy script")  # fmt: skip


def readme_table() -> str:
    """Ratios to LAPACK in a loop for small matrices, and spectra of β-ensembles, for each device and JAX version."""
    rows = []
    for line in sorted(record.last("spectra"), key=lambda x: x["versions"]["jax"]):
        machine = f"{line['device']}, JAX {line['versions']['jax']}"
        eigen = {e["n"]: e["ratios"]["LAPACK in a loop, float32"]["median"] for e in line["eigenvalues"]}
        beta = next(b for b in line["beta_ensembles"] if b["n"] == 100)
        weights = next(w for w in line["weights"] if w["k"] == 16) if "weights" in line else {}
        rigidity = 1e3 / line["long_range"]["rigidity"]["rates"]["dysonjax"]["median"]
        rows.append([
            machine, *(f"{eigen[n]:.1f}" for n in (6, 12, 16, 32)),
            *(f"{weights[name]['ratios']['LAPACK in a loop']['median']:.1f}" if weights else "–" for name in KINDS),
            f"{beta['rates']['dysonjax']['median']:,.0f}",
            f"{min(r['median'] for r in beta['ratios'].values()):.1f}", f"{rigidity:.1f}",
        ])  # fmt: skip
    head = [
        "machine",
        *(f"n = {n}, × LAPACK" for n in (6, 12, 16, 32)),
        *(f"weights 16 × 32, {name}" for name in KINDS),
        "β-spectra/s, n = 100",
        "× fastest peer",
        "Δ₃, ms",
    ]
    return record.markdown(head, rows)


if __name__ == "__main__":
    tyro.cli(main)
