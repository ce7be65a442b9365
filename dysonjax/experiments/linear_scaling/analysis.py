"""What a scaling run says: spacings and widths of its multiplets against T, beside the laws and the published fits."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dysonjax.core.tables import Table
from dysonjax.experiments.linear_scaling.ensembles import Ensemble
from dysonjax.experiments.linear_scaling.experiment import TITLES, ScalingRun
from dysonjax.experiments.tables import plain_table
from dysonjax.models import GaussianRBM
from dysonjax.spectra import Estimate, curve
from dysonjax.spectra.scaling import (
    MultipletTest,
    ScalingFit,
    SurmiseTest,
    TwoSample,
    equal_temperature_test,
    fit_through_origin,
    fitted_centres,
    moment_ratio,
    multiplet_ks,
    pair_widths,
    surmise_test,
)

SMALL = 0.03
"""Largest √(Tκ²Ω) of the fit that should reach the small-noise slope."""
SMALL_RATE = 0.0201
"""Largest α of that fit for linear networks, whose fluctuations are linear and whose steps are not small."""
LEAST = 30
"""Replicas that must be left for a setting to be analysed."""
MOST = 2048
"""Replicas of each setting in a test of equal T, whose cost grows with their square."""
PUBLISHED = {
    "rbm": {"spacing": (2.2750, 0.0326), "width": (2.2901, 0.0296)},
    "teacher-student": {"spacing": (1.8785, 0.0338), "width": (1.8711, 0.0336)},
}
"""Slopes of ⟨S⟩ and of √π σ fitted in arXiv:2407.16427."""


class Comparison(NamedTuple):
    """A Langevin equation and SGD at one setting: ratios of the pairs' ⟨S⟩ and of all levels' variances, and `shift`.

    `shift`: the difference of every multiplet's mean level in units of its σ.
    """

    ensemble: Ensemble
    spacing: Estimate
    variance: Estimate
    shift: Estimate


class Analysis(NamedTuple):
    """Of one level of description; `ensembles` are in the order of the run's settings."""

    description: str
    ensembles: list[Ensemble]
    spacing: ScalingFit | None
    """⟨S⟩ of the pairs against `predictor`."""
    width: ScalingFit | None
    """√π σ fitted to the pairs' densities."""
    small: ScalingFit | None
    """⟨S⟩ where the predictor is below `SMALL`."""
    spread: ScalingFit | None
    """√(2⟨(x − ⟨x⟩)²⟩/(k + 1)) of every multiplet against σ_i: 1 as T → 0."""
    centres: list[Estimate]
    """Mean level of each multiplet over its fixed point; of the RBM, λ/κ."""
    ratios: list[list[Estimate]]
    """⟨S²⟩/⟨S⟩² of each pair."""
    surmise: list[list[SurmiseTest]]
    multiplets: list[list[MultipletTest]]
    equal: list[tuple[Ensemble, Ensemble, TwoSample, Estimate]]
    """Settings of equal T, and the first's ⟨S⟩ of the pairs over the second's."""
    compared: list[Comparison]


def predictor(run: ScalingRun, temperature: float) -> np.ndarray:
    """What ⟨S⟩ of each pair is plotted against: √(Tκ²Ω) = σ/√2 for the RBM, σ otherwise, as in arXiv:2407.16427."""
    sigma = np.array([run.width(temperature)[pair.start] for pair in run.pairs])
    return sigma / np.sqrt(2) if run.model == "rbm" else sigma


def small_noise_slope(run: ScalingRun) -> float:
    """The slope of ⟨S⟩ = √π σ against `predictor`."""
    return float(np.sqrt(2 * np.pi) if run.model == "rbm" else np.sqrt(np.pi))


def analyse(run: ScalingRun, ensembles: Sequence[Ensemble]) -> list[Analysis]:
    """All estimates, one `Analysis` for each description of the run."""
    parts = {d: [e for e in ensembles if e.description == d] for d in run.level}
    return [_analyse(run, d, parts[d], parts.get("sgd", []) if d != "sgd" else []) for d in run.level]


def pair_levels(run: ScalingRun, levels: np.ndarray) -> np.ndarray:
    """The pairs [R, k, 2] among levels [R, n]."""
    return np.stack([levels[:, pair] for pair in run.pairs], axis=1)


def spacings(run: ScalingRun, levels: np.ndarray) -> np.ndarray:
    """S of every pair, [R, k]."""
    return np.abs(np.diff(pair_levels(run, levels), axis=2))[..., 0]


def squares(run: ScalingRun, levels: np.ndarray) -> np.ndarray:
    """2 Σ(x − ⟨x⟩)²/(k(k + 1)) of every k-fold multiplet, [R, multiplets]: σ² on average (one GOE block)."""
    off = [levels[:, m] - levels[:, m].mean() for m in run.multiplets]
    return np.stack([2 * np.mean(v**2, axis=1) / (v.shape[1] + 1) for v in off], axis=1)


def _analyse(run: ScalingRun, description: str, own: list[Ensemble], sgd: list[Ensemble]) -> Analysis:
    usable = [e for e in own if len(e.levels) >= LEAST]
    x = np.array([predictor(run, e.temperature) for e in usable]).reshape(len(usable), len(run.pairs))
    sigma = np.array([[run.width(e.temperature)[m.start] for m in run.multiplets] for e in usable])
    gaps = [spacings(run, e.levels) for e in usable] if run.pairs else []
    pairs = [pair_levels(run, e.levels) for e in usable] if run.pairs else []
    small = [i for i, e in enumerate(usable) if _small_noise(run, x[i], e)]
    peers = {e[1:3]: e for e in sgd if len(e.levels) >= LEAST}
    number = itertools.count()
    key = lambda: jax.random.fold_in(jax.random.key(run.key), next(number))  # noqa: E731
    return Analysis(
        description=description,
        ensembles=own,
        spacing=fit_through_origin(x, gaps) if x.size > 1 else None,
        width=fit_through_origin(x, pairs, pair_widths, groups=20) if x.size > 1 else None,
        small=fit_through_origin(x[small], [gaps[i] for i in small]) if x[small].size > 1 else None,
        spread=fit_through_origin(sigma, [squares(run, e.levels) for e in usable], _root_mean, groups=40)
        if sigma.size > 1
        else None,
        centres=[_centres(run, e) for e in usable],
        ratios=[[moment_ratio(s) for s in g.T] for g in gaps],
        surmise=[[surmise_test(key(), s) for s in g.T] for g in gaps],
        multiplets=[[multiplet_ks(key(), e.levels[:, m]) for m in run.multiplets] for e in usable],
        equal=[
            (a, b, equal_temperature_test(key(), a.levels[:MOST], b.levels[:MOST]), _ratio(run, a.levels, b.levels)[0])
            for a, b in itertools.combinations(usable, 2)
            if np.isclose(a.temperature, b.temperature, rtol=1e-6)
        ],
        compared=[_comparison(run, e, peers[e[1:3]]) for e in usable if e[1:3] in peers],
    )


def _small_noise(run: ScalingRun, x: np.ndarray, e: Ensemble) -> bool:
    """Is the setting among those that should follow the law of T → 0?"""
    return bool(x.size) and bool(np.max(x) < SMALL if run.model == "rbm" else e.learning_rate <= SMALL_RATE)


def _root_mean(squares: np.ndarray) -> np.ndarray:
    return np.sqrt(squares.mean(axis=0))


def _centres(run: ScalingRun, e: Ensemble) -> Estimate:
    """Mean level of each multiplet over its fixed point, in λ = μ² − x for the RBM."""
    if isinstance(run.network, GaussianRBM):
        mass2 = float(np.asarray(run.network.mass2))
        return fitted_centres(mass2 - e.levels, run.multiplets, mass2 - run.fixed_points)
    return fitted_centres(e.levels, run.multiplets, run.fixed_points)


def _ratio(run: ScalingRun, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
    """First over second of independent replicas: ⟨S⟩ of the pairs, the variance of every level."""
    count = min(len(first), len(second))
    parts = [
        curve(spacings(run, x)) if run.pairs else Estimate(np.zeros(0), np.zeros(0), len(x)) for x in (first, second)
    ]
    relative = np.hypot(*(p.error / p.value for p in parts))
    share = parts[0].value / parts[1].value
    variances = [curve((x - x.mean(axis=0)) ** 2) for x in (first, second)]
    spread = variances[0].value / variances[1].value
    return (
        Estimate(share, share * relative, count),
        Estimate(spread, spread * np.hypot(*(v.error / v.value for v in variances)), count),
    )


def _comparison(run: ScalingRun, e: Ensemble, sgd: Ensemble) -> Comparison:
    means = [fitted_centres(x.levels, run.multiplets) for x in (e, sgd)]
    sigma = np.array([run.width(e.temperature)[m.start] for m in run.multiplets])
    shift = Estimate(
        (means[0].value - means[1].value) / sigma, np.hypot(means[0].error, means[1].error) / sigma, means[0].count
    )
    return Comparison(e, *_ratio(run, e.levels, sgd.levels), shift)


def tables(run: ScalingRun, found: Sequence[Analysis]) -> list[Any]:
    """What a person reads at the end: settings, slopes, laws, equal temperatures, descriptions compared."""
    said: list[Any] = [_fits(run, found)]
    for one in found:
        said.append(_settings(run, one))
        if one.equal:
            said.append(_equal(one))
    compared = [one for one in found if one.compared]
    return [*said, *([_compared(compared)] if compared else [])]


def _fits(run: ScalingRun, found: Sequence[Analysis]) -> Table:
    table = plain_table(
        f"{run.network.config['model']}: fits through the origin over {len(run.settings)} settings, {run.seeds} seeds",
        "", "fit", "slope", "± jackknife", "unweighted", "χ²/dof", "published", "T → 0",
    )  # fmt: skip
    x, limit = ("√(Tκ²Ω)", "√(2π) = 2.507") if run.model == "rbm" else ("σ", "√π = 1.772")
    for one in found:
        lines = (
            (f"⟨S⟩ against {x}", one.spacing, "spacing", limit),
            (f"√π σ fitted, against {x}", one.width, "width", limit),
            (f"⟨S⟩ where {x} < {SMALL}" if run.model == "rbm" else "⟨S⟩ where α ≤ 0.02", one.small, "", limit),
            ("multiplets' σ against theory", one.spread, "", "1"),
        )
        for name, fit, key, expected in lines:
            if fit is not None:
                value = PUBLISHED.get(run.model, {}).get(key)
                table.add_row(
                    TITLES[one.description], name, str(fit.slope), f"{fit.jackknife_error:.2g}", str(fit.unweighted),
                    f"{fit.chi2 / fit.dof:.1f} ({fit.dof})", f"{value[0]:.4f} ± {value[1]:.4f}" if value else "–",
                    expected,
                )  # fmt: skip
    return table


def _settings(run: ScalingRun, one: Analysis) -> Table:
    names = [f"⟨S⟩/√π σ, {run.fixed_points[p.start]:.3g}" for p in run.pairs]
    table = plain_table(
        f"{TITLES[one.description]}: pairs by fixed point, in units of the small-noise law; p of the worst pair "
        "(surmise) and multiplet (density)",
        "α", "|B|", "T", *names, "⟨S²⟩/⟨S⟩²", "p surmise", "p density", "outside", "diverged",
    )  # fmt: skip
    usable = iter(range(len(one.centres)))
    for e in one.ensembles:
        first = [f"{e.learning_rate:g}", str(e.batch_size), f"{e.temperature:.3g}"]
        last = [str(e.outside), str(e.diverged)]
        if len(e.levels) < LEAST:
            table.add_row(*first, *["–"] * (len(names) + 3), *last)
            continue
        i = next(usable)
        shares = []
        if run.pairs:
            mean = curve(spacings(run, e.levels))
            scale = small_noise_slope(run) * predictor(run, e.temperature)
            shares = [
                str(Estimate(v, r, mean.count)) for v, r in zip(mean.value / scale, mean.error / scale, strict=True)
            ]
        ratio = [_mean_of(one.ratios[i]), f"{min(t.p_value for t in one.surmise[i]):.3f}"] if run.pairs else ["–", "–"]
        table.add_row(*first, *shares, *ratio, f"{min(t.p_value for t in one.multiplets[i]):.3f}", *last)
    return table


def _mean_of(estimates: Sequence[Estimate]) -> str:
    """Mean of the pairs', with the error of their mean as if they were independent."""
    value, error = np.mean([e.value for e in estimates]), np.sqrt(np.sum([e.error**2 for e in estimates]))
    return str(Estimate(value, error / len(estimates), estimates[0].count))


def _equal(one: Analysis) -> Table:
    table = plain_table(
        f"{TITLES[one.description]}: settings of equal T, two-sample test of whole spectra",
        "T", "(α, |B|)", "(α, |B|)", "energy distance", "p", "ratio of the pairs' ⟨S⟩",
    )  # fmt: skip
    for a, b, test, ratio in one.equal:
        table.add_row(
            f"{a.temperature:.3g}", f"{a.learning_rate:g}, {a.batch_size}", f"{b.learning_rate:g}, {b.batch_size}",
            f"{test.statistic:.4f}", f"{test.p_value:.3f}", str(ratio),
        )  # fmt: skip
    return table


def _compared(found: Sequence[Analysis]) -> Table:
    table = plain_table(
        "Against SGD: ratios of the pairs' ⟨S⟩ and of the variances (mean over levels); largest shift of a multiplet",
        "", "α", "|B|", "T", "⟨S⟩ of each pair", "variance", "shift/σ",
    )  # fmt: skip
    for one in found:
        for e, spacing, variance, shift in one.compared:
            worst = int(np.argmax(np.abs(shift.value) / shift.error))
            mean = Estimate(variance.value.mean(), np.sqrt(np.mean(variance.error**2)), variance.count)
            table.add_row(
                TITLES[one.description], f"{e.learning_rate:g}", str(e.batch_size), f"{e.temperature:.3g}",
                str(spacing), str(mean), str(Estimate(shift.value[worst], shift.error[worst], shift.count)),
            )  # fmt: skip
    return table
