"""Every scheme of Dyson's equation against exact laws: bias, order in the time step, cost."""

import functools
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from dysonjax import ensembles
from dysonjax.core.dynamics import Dynamics
from dysonjax.core.potentials import Quadratic
from dysonjax.core.tables import Table
from dysonjax.dynamics import dyson_schemes as schemes
from dysonjax.dynamics.dyson_equation import dyson
from dysonjax.engine.grid import Grid
from dysonjax.engine.scanning import scan
from dysonjax.spectra.spacings import mean_ratio

log = logging.getLogger(__name__)

SMALL_GAP = {1: 0.2, 2: 0.5, 4: 0.8}
"""A gap that is small and yet not too rare to be counted, for each β."""
STEPS = (0.3, 0.1, 0.03, 0.01)
ANHARMONIC_STEPS = (0.1, 0.05)
SIGMAS = 3
"""How many standard errors a value may lie beyond its tolerance."""
TOLERANCE = {
    ("⟨Σx²⟩", 0.03): 0.01,
    ("⟨Σx²⟩", 0.3): 0.02,
    ("⟨r⟩", 0.03): 0.005,
    ("P(small gap)", 0.03): 0.05,
}
"""What a default must keep in equilibrium, by quantity and step: relative errors, for ⟨r⟩ the difference."""
IN_TIME = {"⟨Σx²⟩": 0.02, "var Σx": 0.05, "var Σx²": 0.05}
"""What it must keep at fixed times."""


class Line(NamedTuple):
    """One measured number beside its exact value, relative to it (⟨r⟩: the difference)."""

    setting: str
    scheme: str
    dt: float
    quantity: str
    bias: float
    error: float
    tolerance: float | None
    """None: nothing is promised, the number is for comparison."""

    @property
    def good(self) -> bool:
        """Within the tolerance, statistical error allowed for; an error too large to tell is not good."""
        if self.tolerance is None:
            return True
        return abs(self.bias) <= self.tolerance + SIGMAS * self.error and SIGMAS * self.error <= 2 * self.tolerance


class Cost(NamedTuple):
    """Speed of a scheme, and the power of dt with which its bias of ⟨r⟩ and P(gap < 0.2) falls."""

    scheme: str
    updates_a_second: float
    order: float
    order_error: float


def in_equilibrium(n: int, beta: float, scheme: str, dt: float, replicas: int, default: bool) -> Iterator[Line]:
    """Stationary ⟨Σx²⟩, ⟨r⟩ and P(gap < 0.2) of n levels in V = x²/2 at T = 1, from a start far from equilibrium."""
    marks = [round(t / dt) for t in (6.0, 7.0, 8.0)]
    x = _levels(_gas(n, beta, scheme), dt, replicas, marks)
    exact = _exact(n, beta)
    for name, measure in _statistics(beta).items():
        samples = np.mean([measure(x[:, i]) for i in range(len(marks))], axis=0)
        reference, reference_error = exact[name]
        scale = 1 if name == "⟨r⟩" else reference
        if name == "⟨Σx²⟩":
            reference, reference_error = n + beta * n * (n - 1) / 2, 0.0
        error = np.hypot(samples.std(ddof=1) / np.sqrt(replicas), reference_error) / scale
        tolerance = TOLERANCE.get((name, dt)) if default else None
        yield Line(
            f"{n} levels, β = {beta:g}, equilibrium",
            scheme,
            dt,
            name,
            (samples.mean() - reference) / scale,
            error,
            tolerance,
        )


def in_time(n: int, beta: int, rows: int | None, dt: float, replicas: int) -> Iterator[Line]:
    """Moments of the default scheme at three times after a fixed start, V = x²/2, T = 1, against the matrix process."""
    start = np.linspace(1.5, 0.2, n) if rows else np.linspace(2, -1, n)
    gas = dyson(n, Quadratic(), beta=beta, geometry="singular" if rows else "symmetric", rows=rows, start=start)
    marks = [round(t / dt) for t in (0.3, 0.9, 2.1)]
    x = _levels(gas, dt, replicas, marks)
    shape = f"{n} × {rows} singular values" if rows else f"{n} levels"
    for i, mark in enumerate(marks):
        decay, t = np.exp(-dt * mark), dt * mark
        v, a = (1 - decay**2) / 2, start * decay
        for name, samples, exact in _moments(x[:, i], a, v, beta, rows):
            error = samples.std(ddof=1) / np.sqrt(replicas) / exact
            bias = float(samples.mean() / exact - 1)
            yield Line(f"{shape}, β = {beta}, t = {t:.1f}", "default", dt, name, bias, error, IN_TIME[name])


def anharmonic(dt: float, replicas: int) -> Iterator[Line]:
    """⟨Σx²⟩ of two levels in V = x⁴/4 at T = 1, against an integral: the split of drift and kick is the only error."""
    with np.errstate(under="ignore"):
        a, b = np.meshgrid(*2 * (np.linspace(-5, 5, 2001),))
        weight = np.abs(a - b) * np.exp(-(a**4 + b**4) / 4)
        exact = np.sum((a * a + b * b) * weight) / np.sum(weight)
    gas = dyson(2, _cubic, start=(1.0, -1.0))
    x = _levels(gas, dt, replicas, [round(t / dt) for t in (4.5, 6.0, 7.5, 9.0)])
    samples = np.mean(np.sum(x**2, axis=2), axis=1) / exact - 1
    error = samples.std(ddof=1) / np.sqrt(replicas)
    yield Line("2 levels, V = x⁴/4", "matrix_kick", dt, "⟨Σx²⟩", float(samples.mean()), float(error), None)


def cost(n: int, scheme: str, replicas: int, lines: list[Line]) -> Cost:
    """Level-updates per second without observables, and the measured order in dt."""
    grid = Grid(temperature=[1.0], dt=[0.01], seed=range(replicas))
    gas, steps = _gas(n, 1, scheme), 2000
    run = functools.partial(scan, gas, grid, steps, observables=(), snapshots=[steps], progress=False)
    run()  # compiles
    began = time.perf_counter()
    run()
    return Cost(scheme, n * replicas * steps / (time.perf_counter() - began), *order(lines, scheme))


def order(lines: list[Line], scheme: str) -> tuple[float, float]:
    """Power of dt by which a scheme's biases fall: least squares in logarithms, averaged over settings and quantities.

    Of each, only steps at which the bias is significant, of one sign, below a quarter and shrinking with dt are used;
    (NaN, NaN) where no two such steps are left. The error covers the scatter between quantities.
    """
    found = []
    for setting, quantity in sorted({(line.setting, line.quantity) for line in lines if line.scheme == scheme}):
        points = [line for line in lines if (line.setting, line.scheme, line.quantity) == (setting, scheme, quantity)]
        points = sorted((p for p in points if 4 * p.error < abs(p.bias) < 0.25), key=lambda p: p.dt)
        falls = all(0 < a.bias / b.bias < 1 for a, b in itertools.pairwise(points))
        if len(points) < 2 or not falls:
            continue
        x, y = np.log([p.dt for p in points]), np.log([abs(p.bias) for p in points])
        weight = np.array([(p.bias / p.error) ** 2 for p in points])
        centred = x - np.average(x, weights=weight)
        spread = np.sum(weight * centred**2)
        found.append((np.sum(weight * centred * y) / spread, spread))
    if not found:
        return np.nan, np.nan
    slopes, weights = np.array(found).T
    return float(np.average(slopes, weights=weights)), float(max(weights.sum() ** -0.5, np.ptp(slopes) / 2))


def check(replicas: int = 4096, advance: Callable[[str], None] = lambda what: None) -> tuple[list[Line], list[Cost]]:
    """All measurements; `advance` hears what has been done. Minutes at the default number of replicas on two cores."""
    lines: list[Line] = []

    def add(what: str, more: Iterator[Line]) -> None:
        lines.extend(more)
        advance(what)

    default = "matrix_kick"
    for scheme in schemes.ALL:
        for dt in STEPS:
            add(f"{scheme}, dt = {dt:g}", in_equilibrium(6, 1, scheme, dt, 4 * replicas, scheme == default))
    for n, beta in ((16, 1), (6, 2), (6, 4)):
        for dt in (0.3, 0.03):
            add(f"{n} levels, β = {beta}", in_equilibrium(n, beta, default, dt, replicas, True))
    for n, beta, rows in ((6, 1, None), (6, 2, None), (6, 1, 6), (6, 1, 12), (6, 2, 12)):
        add(f"in time, β = {beta}, rows {rows}", in_time(n, beta, rows, 0.3, 2 * replicas))
    for dt in ANHARMONIC_STEPS:
        add(f"anharmonic, dt = {dt:g}", anharmonic(dt, 32 * replicas))
    costs = []
    for scheme in schemes.ALL:
        costs.append(cost(6, scheme, replicas, lines))
        advance(f"cost of {scheme}")
    return lines, costs


TASKS = len(schemes.ALL) * (len(STEPS) + 1) + 6 + 5 + len(ANHARMONIC_STEPS)
"""How often `check` advances."""


def tables(lines: list[Line], costs: list[Cost]) -> list[Table]:
    """Biases with their errors and verdicts, a row for a scheme and step, and the cost and order of each scheme."""
    title = "bias ± standard error against the exact law, relative (⟨r⟩: difference); * beyond what is promised"
    found = []
    for part, names in (("In equilibrium", ("⟨Σx²⟩", "⟨r⟩", "P(small gap)")), ("In time", tuple(IN_TIME))):
        table = Table(title=f"{part}: {title}", title_justify="left")
        for column in ("setting", "scheme", "dt", *names, ""):
            table.add_column(column, justify="left" if column in ("setting", "scheme") else "right")
        rows: dict[tuple[str, str, float], dict[str, Line]] = {}
        for line in lines:
            if (line.tolerance in IN_TIME.values() and "t = " in line.setting) == (part == "In time"):
                rows.setdefault((line.setting, line.scheme, line.dt), {})[line.quantity] = line
        for (setting, scheme, dt), row in rows.items():
            promised = [line for line in row.values() if line.tolerance is not None]
            verdict = ("ok" if all(line.good for line in promised) else "FAILS") if promised else ""
            table.add_row(setting, scheme, f"{dt:g}", *(_shown(row.get(name)) for name in names), verdict)
        found.append(table)
    speed = Table(title="Cost at 6 levels, and measured weak order", title_justify="left")
    for column in ("scheme", "million level-updates/s", "bias falls as dt to the power"):
        speed.add_column(column, justify="left" if column == "scheme" else "right")
    for c in costs:
        power = "–" if np.isnan(c.order) else f"{c.order:.2f} ± {c.order_error:.2f}"
        speed.add_row(c.scheme, f"{c.updates_a_second / 1e6:.1f}", power)
    return [*found, speed]


def _shown(line: Line | None) -> str:
    """A bias with its error, in per cent unless it is that of ⟨r⟩."""
    if line is None:
        return ""
    mark = "" if line.good else "*"
    if line.quantity == "⟨r⟩":
        return f"{line.bias:+.4f} ± {line.error:.4f}{mark}"
    if abs(line.bias) > 10:
        return f"× {1 + line.bias:.2g}{mark}"
    return f"{100 * line.bias:+.2f} ± {100 * line.error:.2f} %{mark}"


def _cubic(x):
    return -(x**3)


def _gas(n: int, beta: float, scheme: str) -> Dynamics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Euler–Maruyama is here to be compared
        return dyson(n, Quadratic(), beta=beta, scheme=scheme)


def _levels(gas: Dynamics, dt: float, replicas: int, marks: list[int]) -> np.ndarray:
    """Levels [R, mark, n] at T = 1."""
    grid = Grid(temperature=[1.0], seed=range(replicas))
    ds = scan(gas, grid, marks[-1], dt=dt, snapshots=marks, observables=(), progress=False)
    return ds.levels.values[0, :, 1:].astype(float)


def _statistics(beta: float) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Of levels [R, n], a number for each replica."""
    return {
        "⟨Σx²⟩": lambda x: np.sum(x**2, axis=1),
        "⟨r⟩": mean_ratio,
        "P(small gap)": lambda x: np.mean(-np.diff(x, axis=1) < SMALL_GAP[round(beta)], axis=1),
    }


@functools.lru_cache(maxsize=8)
def _exact(n: int, beta: float) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each statistic over exact samples (Dumitriu and Edelman's tridiagonal matrices)."""
    x = np.asarray(ensembles.hermite_levels(jax.random.key(2024), n, beta, (400_000,)), float)
    return {name: ((s := f(x)).mean(), s.std() / np.sqrt(len(x))) for name, f in _statistics(beta).items()}


def _moments(x: np.ndarray, a: np.ndarray, v: float, beta: int, rows: int | None):
    """Samples and exact means of Σx² and its square deviation, from tr MᵀM with M = diag(a) + noise of variance v."""
    n, square = len(a), np.sum(x**2, axis=1)
    if rows is None:
        mean = a @ a + v * (2 * n + beta * n * (n - 1))
        variance = np.sum(8 * v * a**2 + 8 * v**2) + 4 * beta * n * (n - 1) * v**2
        total = np.sum(x, axis=1)
        yield "var Σx", (total - a.sum()) ** 2, 2 * n * v
    else:
        mean = a @ a + v * beta * n * rows
        variance = 4 * v * (a @ a) + 2 * beta * n * rows * v**2
    yield "⟨Σx²⟩", square, mean
    yield "var Σx²", (square - mean) ** 2, variance
