"""How often the intervals of `dysonjax.experiments.learning` and of the phase diagram's T_c hold the truth.

    python -m benchmarks.coverage                       # synthetic curves; appends to benchmarks/results/coverage.jsonl
    python -m benchmarks.coverage --tiny                # the same at a size of seconds, nothing recorded
    python -m benchmarks.coverage --phase-diagram RUN   # T_c: 200 subsets of 16 of a run's 1000 seeds
    python -m benchmarks.coverage --table               # the recorded coverages

95 % is meant everywhere. A case draws thresholds with a known law, asks at some rates which networks learn, and counts
how often the truth is below and above the interval. Nothing is tuned to a case.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from scipy import special, stats

from benchmarks import record
from dysonjax.experiments.learning.boundaries import descending, fit_boundary, fit_power, wilson
from dysonjax.experiments.learning.thresholds import SHAPES, of_seeds, surface
from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram

DECADE = np.log(10)
SPAN = 3 * DECADE
"""Rates are tried over three decades."""
LAWS: dict[str, Callable[[Any], Any]] = {
    "logistic": lambda u: special.logit(u) / (2 * special.logit(0.9)),
    "normal": lambda u: stats.norm.ppf(u) / (2 * stats.norm.ppf(0.9)),
    "early": lambda u: np.log(-np.log1p(-u)) / (np.log(-np.log(0.1)) - np.log(-np.log(0.9))),
    "late": lambda u: -np.log(-np.log(u)) / (np.log(-np.log(0.1)) - np.log(-np.log(0.9))),
}
"""Quantiles of thresholds in log-rate; from 10 to 90 % they span 1."""


class Case(NamedTuple):
    """A transition, and how it is looked at."""

    seeds: int
    width: float = 1.0
    """from P(learns) = 90 to 10 %, in distances of two rates"""
    rates: int = 12
    law: str = "logistic"
    paired: bool = True
    noise: float = 0.0
    """share of a paired seed's variance that is drawn anew at every rate"""
    refined: bool = False
    """a few rates first, then more rates and twice the seeds where the outcome changes"""
    rising: bool = False
    """too small rates do not learn"""
    probability: float = 0.95


CASES = (
    *(Case(n, w, paired=p) for p in (True, False) for n in (4, 8, 16, 32, 64) for w in (0.03, 0.1, 0.5, 1, 3.67)),
    *(Case(n, w, r, paired=p) for p in (True, False) for n in (4, 16, 64) for r, w in ((6, 1.67), (20, 6.33))),
    *(Case(n, 3.67, law=law, paired=p) for p in (True, False) for law in ("normal", "early", "late") for n in (8, 64)),
    *(Case(n, 3.67, noise=s) for n in (8, 16, 64) for s in (0.1, 0.3)),
    *(Case(n, w, refined=True, paired=p) for p in (True, False) for n in (4, 16) for w in (0.1, 1, 3.67)),
    *(Case(n, w, rising=True, paired=p) for p in (True, False) for n in (8, 32) for w in (0.5, 3.67)),
    *(Case(n, w, paired=p, probability=0.5) for p in (True, False) for n in (4, 16) for w in (0.5, 3.67)),
)


def outcomes(
    rng: np.random.Generator, case: Case, log_rates: np.ndarray, places: tuple[float, float], scale: float, first: int
) -> tuple[np.ndarray, ...]:
    """Rates, seeds from `first` on, and which of them learn, of networks whose thresholds lie around `places`."""
    shape = (case.seeds, len(log_rates))
    share = case.noise if case.paired else 1.0
    z = np.sqrt(1 - share) * rng.normal(size=(case.seeds, 1)) + np.sqrt(share) * rng.normal(size=shape)
    learned = places[0] + scale * LAWS[case.law](special.ndtr(z)) > log_rates
    if case.rising:
        learned &= places[1] + 0.2 * rng.normal(size=shape) < log_rates
    seed = first + np.arange(case.seeds)
    return np.tile(np.exp(log_rates), case.seeds), np.repeat(seed, len(log_rates)), learned.ravel()


def looked_at(rng: np.random.Generator, case: Case) -> tuple[tuple[np.ndarray, ...], float]:
    """One experiment, (rates, seeds, learned), and the logarithm of its true boundary."""
    grid = np.linspace(0, SPAN, case.rates)
    scale, middle = case.width * grid[1], SPAN * rng.uniform(0.4, 0.7)
    places = middle, 0.1 * SPAN
    found = outcomes(rng, case, grid, places, scale, 0)
    if case.refined:
        share = found[2].reshape(case.seeds, -1).mean(0)
        low = grid[max(int(np.argmax(share < 1)) - 1, 0)]
        high = grid[min(int(np.flatnonzero(share > 0)[-1]) + 1, case.rates - 1)] if share.any() else grid[1]
        closer = np.linspace(low, high, 7)[1:-1]
        more = outcomes(rng, case._replace(seeds=2 * case.seeds), closer, places, scale, case.seeds)
        found = tuple(np.concatenate(pair) for pair in zip(found, more, strict=True))
    if case.rising:
        kept = descending(found[0], found[2])
        found = tuple(a[kept] for a in found)
    return found, middle + scale * LAWS[case.law](1 - case.probability)


def generator(*of: object) -> np.random.Generator:
    """Random numbers that belong to a case and to nothing else."""
    return np.random.default_rng([*repr(of).encode()])


def counted(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float]:
    """How often an interval covers, how often the truth is below and above it."""
    below, above = float(np.mean(truth < low)), float(np.mean(truth > high))
    return {"coverage": 1 - below - above, "below": below, "above": above}


def boundary(case: Case, repeats: int) -> dict[str, Any]:
    """Coverage of `fit_boundary`, the median width in distances of two rates, shares of open and isotonic fits."""
    rng, rows, step = generator(case), [], SPAN / (case.rates - 1)
    for _ in range(repeats):
        data, truth = looked_at(rng, case)
        found = fit_boundary(*data, probability=case.probability, paired=case.paired)
        rows.append((np.exp(truth), found.low, found.high, found.method == "isotonic"))
    truth, low, high, isotonic = np.array(rows).T
    closed = (low > 0) & (high < np.inf)
    width = float(np.median(np.log(high[closed] / low[closed]))) / step if closed.any() else None
    return {**case._asdict(), **counted(truth, low, high), "width_of_interval": width,
            "open": 1 - float(closed.mean()), "isotonic": float(isotonic.mean())}  # fmt: skip


PEERS = tuple(Case(n, w, law=law) for n, w, law in
              ((8, 3.67, "logistic"), (16, 3.67, "logistic"), (16, 1.0, "logistic"), (16, 3.67, "early")))  # fmt: skip


def best_and_profile(data: tuple[np.ndarray, ...], probability: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Of the logistic alone: the likeliest boundary, a grid of boundaries, the profile's log-likelihood ratio there."""
    position, scale, _, log = surface(of_seeds(np.log(data[0]), *data[1:]), probability, 0)
    at = (position - SHAPES[0][1](probability) * scale)[:, 0]
    profile = log.max(1)
    return at[np.argmax(profile)], at, profile - profile.max()


def peers(case: Case, repeats: int, draws: int) -> dict[str, Any]:
    """Coverage of other intervals: of the profile likelihood, and of the bootstrap over whole seeds."""
    rng, n = generator("peers", case), case.seeds
    t2 = stats.t.ppf(0.975, n - 1) ** 2
    cuts = {"profile, χ²": stats.chi2.ppf(0.95, 1), "profile, t": n * np.log1p(t2 / (n - 1))}
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(repeats):
        data, truth = looked_at(rng, case)
        best, at, ratio = best_and_profile(data, case.probability)
        for name, cut in cuts.items():
            kept = at[-2 * ratio <= cut]
            found.setdefault(name, []).append((truth, kept[0], kept[-1]))
        table = [a.reshape(n, -1) for a in data]

        def of(rows: np.ndarray, table: list[np.ndarray] = table) -> float:
            rate, _, learned = (a[rows].ravel() for a in table)
            return best_and_profile((rate, np.repeat(np.arange(len(rows)), case.rates), learned), case.probability)[0]

        drawn = np.array([of(rng.integers(0, n, n)) for _ in range(draws)])
        for name, ends in bootstrap_ends(drawn, best, np.array([of(np.delete(np.arange(n), k)) for k in range(n)])):
            found.setdefault(name, []).append((truth, *np.quantile(drawn, ends)))
    return {**case._asdict(), "methods": {k: counted(*np.array(v).T) for k, v in found.items()}}


def bootstrap_ends(drawn: np.ndarray, best: float, without: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Which quantiles of the draws are the ends: 2.5 and 97.5 %, and those of BCa (Efron 1987)."""
    z = stats.norm.ppf([0.025, 0.975])
    shift = stats.norm.ppf(np.clip(np.mean(drawn < best) + np.mean(drawn == best) / 2, 0.01, 0.99))
    off = without.mean() - without
    bent = np.sum(off**3) / (6 * np.sum(off**2) ** 1.5) if np.any(off) else 0.0
    bca = stats.norm.cdf(shift + (shift + z) / (1 - bent * (shift + z)))
    return [("bootstrap, percentile", np.array([0.025, 0.975])), ("bootstrap, BCa", bca)]


class PowerCase(NamedTuple):
    """Boundaries at several batch sizes, size^p times scatter, whose thresholds have a part that a seed keeps."""

    sizes: int
    seeds: int
    width: float
    scatter: float = 0.0
    """standard deviation of what is beyond the power law, in log-rate"""
    shared: float = 0.7
    """share of a threshold's variance that a seed has at every size"""


POWERS = (*(PowerCase(k, n, w) for k in (3, 4, 7) for n in (8, 16) for w in (0.5, 2)),
          *(PowerCase(k, 16, w, scatter=0.2) for k in (4, 7) for w in (0.5, 2)))  # fmt: skip
EXPONENT = 0.7


def power(case: PowerCase, repeats: int) -> dict[str, Any]:
    """Coverage of the exponent of `fit_power` through boundaries of `fit_boundary`, and its median half-width."""
    rng, rows, grid = generator(case), [], np.linspace(0, SPAN, 12)
    sizes = 2.0 ** np.arange(1, 1 + case.sizes)
    for _ in range(repeats):
        kept, middle = rng.normal(size=(case.seeds, 1)), rng.uniform(0.35, 0.5) * SPAN
        middles = middle + EXPONENT * np.log(sizes / sizes.mean()) + case.scatter * rng.normal(size=len(sizes))
        found = []
        for place in middles:
            z = np.sqrt(case.shared) * kept + np.sqrt(1 - case.shared) * rng.normal(size=kept.shape)
            learned = place + case.width * grid[1] * LAWS["logistic"](special.ndtr(z)) > grid
            seed = np.repeat(np.arange(case.seeds), len(grid))
            found.append(fit_boundary(np.tile(np.exp(grid), case.seeds), seed, learned.ravel())[:3])
        fitted = fit_power(sizes, *np.transpose(found))
        rows.append((EXPONENT, fitted.low, fitted.high))
    truth, low, high = np.array(rows).T
    return {**case._asdict(), **counted(truth, low, high), "half": float(np.median(high - low)) / 2}


def wilson_coverage(trials: int) -> dict[str, Any]:
    """Exact coverage averaged over p = 0.05 … 0.95, and the worst of them."""
    p, k = np.linspace(0.05, 0.95, 181), np.arange(trials + 1)
    low, high = wilson(k, trials)
    inside = (low <= p[:, None]) & (p[:, None] <= high)
    each = (stats.binom.pmf(k, trials, p[:, None]) * inside).sum(1)
    return {"trials": trials, "coverage": float(each.mean()), "worst": float(each.min())}


TEMPERATURES = ("level_temperature", "critical_temperature", "critical_temperature_exact")


def phase_diagram(run: Path, subsets: int, seeds: int = 16, whole: int = 1000) -> dict[str, Any]:
    """T_c of random subsets of seeds against that of them all; the run is computed where it is not there."""
    from dysonjax.experiments import running
    from dysonjax.experiments.phase_diagram.summary import temperatures

    rates = tuple(2.0**k for k in range(-3, 5))
    diagram = PhaseDiagram(rates, (0.125, 1.0), seeds=whole, epochs=60, snapshots=3)
    ds = running.run(diagram, run).only.load()
    rng, truth = np.random.default_rng(0), temperatures(ds)
    drawn = [temperatures(ds.isel(seed=rng.choice(whole, seeds, replace=False))) for _ in range(subsets)]
    rows = []
    for name in (*TEMPERATURES, "learning_temperature"):
        for width in diagram.init_width:
            low, high = (
                np.array([float(d[f"{name}_{end}"].sel(init_width=width, batch_size=4)) for d in drawn])
                for end in ("low", "high")
            )
            true = float(truth[name].sel(init_width=width, batch_size=4))
            rows.append({"name": name, "init_width": width, "truth": true, **counted(np.array(true), low, high),
                         "factor": float(np.median(high / np.maximum(low, 1e-9)))})  # fmt: skip
    return {"subsets": subsets, "seeds": seeds, "whole": whole, "phase_diagram": rows}


def synthetic(tiny: bool, repeats: int) -> dict[str, Any]:
    """Every coverage on synthetic curves."""
    few, draws = (3, 9) if tiny else (repeats // 2, 199)
    every = 30 if tiny else 1
    began = time.perf_counter()
    return {
        "repeats": repeats,
        "wilson": [wilson_coverage(n) for n in (4, 8, 16, 32, 64)],
        "boundary": [boundary(case, repeats) for case in CASES[::every]],
        "power": [power(case, repeats) for case in POWERS[::every]],
        "peers": [{**peers(case, few, draws), "repeats": few, "draws": draws} for case in PEERS[::every]],
        "seconds": time.perf_counter() - began,
    }


def shown(result: dict[str, Any]) -> str:
    """Tables of a result: one row a case, and their averages."""
    parts = []
    for kind in ("wilson", "boundary", "power", "phase_diagram"):
        if rows := result.get(kind):
            each = [r["coverage"] for r in rows]
            parts.append(f"{kind}: {100 * np.mean(each):.1f} % on average, {100 * min(each):.1f} % at worst")
            parts.append(record.markdown([*rows[0]], [[_cell(k, v) for k, v in row.items()] for row in rows]))
    for row in result.get("peers", ()):
        said = ", ".join(f"{name} {100 * m['coverage']:.1f}" for name, m in row["methods"].items())
        parts.append(f"peers, {row['seeds']} seeds, width {row['width']}, {row['law']}: {said} %")
    return "\n\n".join(parts)


def _cell(name: str, value: Any) -> str:
    if name in ("coverage", "below", "above", "open", "isotonic", "worst"):
        return f"{100 * value:.1f}"
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def main(
    tiny: bool = False,
    repeats: int = 400,
    phase_diagram_run: Annotated[Path | None, tyro.conf.arg(name="phase-diagram")] = None,
    table: bool = False,
) -> None:
    """Measure coverage.

    Args:
        tiny: at a size of seconds, nothing recorded.
        repeats: of every case.
        phase_diagram_run: this run of the phase diagram instead, computed if it is not there.
        table: only print what is recorded.
    """
    if table:
        print("\n\n".join(shown(line) for line in recorded().values()))
        return
    result = phase_diagram(phase_diagram_run, 200) if phase_diagram_run else synthetic(tiny, 2 if tiny else repeats)
    if not tiny:
        record.append("coverage", result)
    print(shown(result))


def recorded() -> dict[str, dict[str, Any]]:
    """The newest recorded coverages: of synthetic curves and of the phase diagram."""
    lines = [json.loads(line) for line in (record.RESULTS / "coverage.jsonl").read_text().splitlines()]
    return {"phase diagram" if "phase_diagram" in line else "synthetic": line for line in lines}


if __name__ == "__main__":
    tyro.cli(main)
