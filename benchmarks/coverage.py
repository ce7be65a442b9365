"""How often the intervals of `dysonjax.experiments.learning` and of the phase diagram's T_c hold the truth.

    python -m benchmarks.coverage                       # synthetic curves; appends to benchmarks/results/coverage.jsonl
    python -m benchmarks.coverage --tiny                # the same at a size of seconds, nothing recorded
    python -m benchmarks.coverage --phase-diagram RUN   # T_c: 200 subsets of 16 seeds of a run with 1000, made if absent
    python -m benchmarks.coverage --table               # the recorded coverages

95 % is meant everywhere. A case draws thresholds with a known law, asks at some rates which networks learn, and counts
how often the truth is below and above the interval. Nothing is tuned to a case.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from scipy import special, stats

from benchmarks import record
from dysonjax.experiments.learning.boundaries import descending, fit_boundary, fit_power, wilson
from dysonjax.experiments.learning.thresholds import of_seeds, surface

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
    *(Case(n, w, paired=p) for p in (True, False) for n in (4, 8, 16, 32, 64) for w in (0.1, 0.5, 1, 3.67)),
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


def boundary(case: Case, repeats: int, key: int = 0) -> dict[str, Any]:
    """Coverage of `fit_boundary`, misses on both sides, the median width in distances of rates, open and isotonic."""
    rng = np.random.default_rng([key, abs(hash(case._replace(law="")[:3])) % 2**32, *map(ord, case.law)])
    rows = []
    for _ in range(repeats):
        (rate, seed, learned), truth = looked_at(rng, case)
        found = fit_boundary(rate, seed, learned, probability=case.probability, paired=case.paired)
        low, high = np.log(max(found.low, 1e-300)), np.log(found.high)
        rows.append((truth < low, truth > high, found.low > 0 and found.high < np.inf, found.method == "isotonic",
                     (high - low) / (SPAN / (case.rates - 1))))  # fmt: skip
    below, above, closed, isotonic, width = np.array(rows, float).T
    inside = closed > 0
    return {
        **case._asdict(), "coverage": 1 - (below + above).mean(), "below": below.mean(), "above": above.mean(),
        "open": 1 - inside.mean(), "isotonic": isotonic.mean(),
        "interval": float(np.median(width[inside])) if inside.any() else None,
    }  # fmt: skip


def show_cases(rows: list[dict[str, Any]]) -> None:
    for r in rows:
        print({k: (round(v, 3) if isinstance(v, float) else v) for k, v in r.items()})
    c = np.array([r["coverage"] for r in rows])
    print("mean", c.mean(), "worst", c.min())
if __name__ == "__main__":
    import sys
    rows=[]
    for c in CASES:
        r=boundary(c,int(sys.argv[1])); rows.append(r)
        if len(sys.argv)>2 and r["coverage"]>.9 and r["isotonic"]<.03: continue
        print(*c, '|', *(f"{100*r[k]:.0f}" for k in ('coverage','below','above','open','isotonic')), r['interval'] and round(r['interval'],2), flush=True)
    cc=np.array([r["coverage"] for r in rows]); print(cc.mean(),cc.min(),cc.max())
