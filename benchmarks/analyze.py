"""The spectral report: its time against one call of LAPACK, and its numbers and time against weightwatcher's.

    python -m benchmarks.analyze              # everything; appends to benchmarks/results/analyze.jsonl
    python -m benchmarks.analyze --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.analyze --table      # the README's table from the recorded results
    python -m benchmarks.analyze --calibrate  # the simulated nulls of dysonjax/weights/bulk.py, minutes

weightwatcher (with torch) is used where it is installed. Both get the same matrices: of a small GPT at its start, with
planted spikes, and with a planted power law. The call of LAPACK is that of the report, the eigenvalues of a symmetric
float64 matrix; that of the singular values in float32 stands beside it. Timings alternate.
"""

import contextlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks import record
from dysonjax import analyze, ensembles
from dysonjax.weights import bulk  # inside: the nulls that --calibrate prints are of its own statistics

PEER = all(importlib.util.find_spec(name) is not None for name in ("weightwatcher", "torch"))


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def noise(k: int, l: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(k, l)).astype(np.float32) / np.float32(np.sqrt(l))


def large(n: int, repeats: int) -> dict[str, Any]:
    """A report of one n × n matrix against calls of LAPACK on it."""
    w = noise(n, n, np.random.default_rng(0))
    gram = w.astype(float) @ w.T.astype(float)
    calls = {
        "report": lambda: analyze({"w": w}),
        "eigvalsh, float64": lambda: np.linalg.eigvalsh(gram),
        "svd, float32": lambda: np.linalg.svd(w, compute_uv=False),
    }
    analyze({"w": noise(n, n, np.random.default_rng(1))[: max(n // 8, 16)]})  # compiles
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    ratios = {
        name: record.spread(np.divide(times["report"], t).tolist()) for name, t in times.items() if name != "report"
    }
    return {"n": n, "seconds": {name: record.spread(t) for name, t in times.items()}, "ratios": ratios}


def model(channels: int, layers: int) -> dict[str, np.ndarray]:
    """Matrices of a small GPT's shapes at its start; some with three spikes, some with a power law of α = 2.5."""
    rng, made = np.random.default_rng(0), {}
    for i in range(layers):
        shapes = {"qkv": (3, 1), "out": (1, 1), "up": (4, 1), "down": (1, 4)}
        for name, (rows, columns) in shapes.items():
            made[f"h.{i}.{name}"] = noise(rows * channels, columns * channels, rng)
    spiked = made["h.0.qkv"]
    spiked[range(3), range(3)] += [3, 4, 5]
    tail = noise(channels, 4 * channels, rng).astype(float)
    u, s, v = np.linalg.svd(tail, full_matrices=False)
    s = np.sort((1 - rng.random(channels)) ** (-0.5 / 1.5))[::-1]
    made["tail"] = ((u * s) @ v).astype(np.float32)
    return made


def peer(weights: dict[str, np.ndarray]) -> Any:
    """weightwatcher's table of the same matrices, in their order."""
    torch, weightwatcher = (importlib.import_module(name) for name in ("torch", "weightwatcher"))
    layers = []
    for w in weights.values():
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(np.ascontiguousarray(w))
        layers.append(layer)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        watcher = weightwatcher.WeightWatcher(model=torch.nn.Sequential(*layers))
        return watcher.analyze(mp_fit=True, svd_method="accurate", plot=False)


def against_peer(channels: int, layers: int, repeats: int) -> dict[str, Any]:
    """A whole model: seconds, and differences of α and σ in units of the error and of σ."""
    weights = model(channels, layers)
    ours = analyze(weights)
    order = list(ours["matrix"].values)
    weights = {name: weights[name] for name in order}
    times: dict[str, list[float]] = {"dysonjax": [], **({"weightwatcher": []} if PEER else {})}
    for _ in range(repeats):
        times["dysonjax"].append(seconds(lambda: analyze(weights)))
        if PEER:
            times["weightwatcher"].append(seconds(lambda: peer(weights)))
    found: dict[str, Any] = {"matrices": len(weights), "seconds": {k: record.spread(t) for k, t in times.items()}}
    if PEER:
        theirs = peer(weights)
        found["rows"] = [
            {
                "matrix": name,
                "alpha": float(ours["alpha"][i]), "alpha_error": float(ours["alpha_error"][i]),
                "their_alpha": float(theirs["alpha"].iloc[i]), "their_sigma": float(theirs["sigma"].iloc[i]),
                "x_min": float(ours["x_min"][i]), "their_x_min": float(theirs["xmin"].iloc[i]),
                "edge": float(ours["edge_high"][i]), "their_edge": float(theirs["bulk_max"].iloc[i]),
                "outliers": int(ours["outliers"][i]), "their_spikes": int(theirs["num_spikes"].iloc[i]),
            }
            for i, name in enumerate(order)
        ]  # fmt: skip
    return found


def calibrate(largest: int = 4096) -> None:
    """Print the nulls that dysonjax/weights/bulk.py holds: of matrices with normal entries, at three ratios each."""
    print("log2 K: mean, spread, skewness of K D; mean, spread of ln(√m D_s); spread of ⟨r⟩ × √number")
    for octave in range(3, int(np.log2(largest)) + 1):
        k, rows = 2**octave, []
        for i, ratio in enumerate((1.0, 0.5, 0.1)):
            l, count = round(k / ratio), int(np.clip(2**18 // k, 100, 4000))
            levels = np.asarray(ensembles.laguerre_levels(jax.random.key(i), k, l, 1, (count,)), float)
            for x in levels:
                spacings = bulk.bulk_spacings(x)
                spacing_count = k - 2 * int(np.ceil(bulk.DROP * k)) - 1
                rows.append([
                    k * bulk.bulk_distance(x, (k, l), x.sum() / (k * l)),
                    np.log(np.sqrt(spacing_count) * spacings.ks), spacings.mean_ratio.value,
                ])  # fmt: skip
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        skewness = np.mean((np.array(rows)[:, 0] - mean[0]) ** 3) / spread[0] ** 3
        print(f"{octave}: {mean[0]:.3f} {spread[0]:.3f} {skewness:.2f}; {mean[1]:.3f} {spread[1]:.3f}; "
              f"{spread[2] * np.sqrt(k - 2):.3f}", flush=True)  # fmt: skip


def main(tiny: bool = False, table: bool = False, calibrate: bool = False) -> None:
    """Run the benchmark, print the README's table from recorded results, or simulate the nulls."""
    if table:
        print(readme_table())
        return
    if calibrate:
        globals()["calibrate"](64 if tiny else 4096)
        return
    result = {
        "large": large(128 if tiny else 4096, 1 if tiny else 3),
        "model": against_peer(32 if tiny else 128, 1 if tiny else 4, 1 if tiny else 3),
    }
    if not tiny:
        record.append("analyze", result)
    show(result)


def show(result: dict[str, Any]) -> None:
    form = "{median:.3g} ({min:.3g} – {max:.3g})".format
    line = result["large"]
    ratios = ", ".join(f"{form(**r)} × {name}" for name, r in line["ratios"].items())
    print(f"report of a {line['n']} × {line['n']} matrix: {form(**line['seconds']['report'])} s, {ratios}")
    line = result["model"]
    times = ", ".join(f"{name} {form(**t)} s" for name, t in line["seconds"].items())
    print(f"report of a model of {line['matrices']} matrices: {times}")
    for row in line.get("rows", []):
        print(f"  {row['matrix']}: α {row['alpha']:.3f} ± {row['alpha_error']:.3f}, theirs {row['their_alpha']:.3f} ± "
              f"{row['their_sigma']:.3f}; edge {row['edge']:.3f}, theirs {row['their_edge']:.3f}; outliers "
              f"{row['outliers']}, theirs {row['their_spikes']}")  # fmt: skip


def readme_table() -> str:
    """The report's time against LAPACK's for 4096 × 4096 and weightwatcher's for a small GPT, for each machine."""
    rows = []
    for line in sorted(record.last("analyze"), key=lambda x: x["versions"]["jax"]):
        one, many = line["large"], line["model"]
        theirs = many["seconds"].get("weightwatcher")
        rows.append([
            f"{line['device']}, JAX {line['versions']['jax']}", f"{one['seconds']['report']['median']:.0f} s",
            *(f"{one['ratios'][name]['median']:.2f}" for name in ("eigvalsh, float64", "svd, float32")),
            f"{many['seconds']['dysonjax']['median']:.1f} s", f"{theirs['median']:.1f} s" if theirs else "–",
        ])  # fmt: skip
    head = ["machine", "4096 × 4096", "× eigvalsh, float64", "× svd, float32", "small GPT", "weightwatcher"]
    return record.markdown(head, rows)


if __name__ == "__main__":
    tyro.cli(main)
