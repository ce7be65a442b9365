"""The spectral report: what the singular values of a model's weight matrices say, one row for each matrix."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float
from rich.text import Text

from dysonjax import spectra
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.folding import Layout
from dysonjax.core.tables import Table
from dysonjax.weights.bulk import bulk_spacings, fit_bulk, rank
from dysonjax.weights.reading import layout_of, read_weights
from dysonjax.weights.tail import fit_tail, hill

PASSES = 0.01
"""Least p-value with which a law counts as followed."""
TOLERANCE: Any = 1e-7
"""Of the largest level in Lanczos's iteration."""
DENSE = 256
"""Up to this size the leading vector comes from all vectors, beyond from Lanczos's iteration."""
LEAST_SIZE, LARGEST_SIZE = 1e-70, 1e70
"""Of a matrix' largest entry: between them float64 holds the squares of levels, which the fits need."""

COLUMNS: Mapping[str, str] = {
    "rows": "rows of W",
    "columns": "columns of W",
    "ratio": "q = K/L ≤ 1, the shorter side over the longer",
    "rank": "levels that are not zero to within float32's rounding",
    "norm": "Frobenius norm ‖W‖_F",
    "stable_rank": "‖W‖_F²/‖W‖², how many levels as large as the largest would make the norm",
    "largest": "largest level, ‖W‖²",
    "variance": "σ² of the fitted Marchenko–Pastur law, L times the variance of an entry",
    "variance_error": "its standard error, entries independent",
    "entry_std": "σ/√L, the fitted standard deviation of an entry",
    "edge_low": "lower edge of the fitted law",
    "edge_high": "upper edge of the fitted law",
    "threshold": "Tracy–Widom level (β = 1) above which a level is an outlier",
    "bulk_ks": "distance of the levels that are no outliers from the fitted law",
    "bulk_p": "p-value of that distance, against random matrices fitted alike",
    "bulk_passes": f"whether that p-value is at least {PASSES}",
    "outliers": "levels beyond the threshold",
    "largest_p": "Tracy–Widom p-value of the largest level",
    "alpha": "exponent of the tail's power law, ρ(x) ∝ x^−α",
    "alpha_error": "its standard error, the search for x_min included",
    "x_min": "level from which on the power law is fitted",
    "tail_levels": "levels from there on",
    "tail_ks": "distance of the tail from the power law",
    "tail_p": "p-value of that distance, by the bootstrap",
    "lognormal_ratio": "ln likelihood of the power law less that of a log-normal law, ≤ 0",
    "lognormal_p": "p-value of it if the power law is true",
    "truncated_ratio": "ln likelihood of the power law less that of one with an exponential cut-off, ≤ 0",
    "truncated_p": "p-value of it if the power law is true",
    "mean_ratio": "⟨r⟩ of neighbouring gaps of the bulk's singular values: 0.5307 if random, 0.3863 if Poisson",
    "mean_ratio_error": "its standard error",
    "spacing_ks": "distance of the bulk's unfolded spacings from Wigner's surmise",
    "spacing_ks_reference": "mean of that distance for random matrices of as many levels",
    "spacing_p": "p-value of the distance, against them",
}
"""Variables of every report, and what they are."""
VECTORS: Mapping[str, str] = {
    "participation_left": "median share of the rows on which a left singular vector lives, 1/3 for random ones",
    "participation_right": "median share of the columns on which a right singular vector lives",
    "outlier_participation_left": "the same of the outliers' vectors",
    "outlier_participation_right": "the same of the outliers' vectors",
}
"""Extra columns when `vectors` is asked for."""
INITIAL: Mapping[str, str] = {
    "change": "‖W − W₀‖_F/‖W₀‖_F",
    "norm_change": "‖W‖_F/‖W₀‖_F − 1",
    "spectra_ks": "distance between the two spectra, Kolmogorov and Smirnov's of two samples",
    "top_overlap_left": "|u·u₀| of the leading left singular vectors",
    "top_overlap_right": "|v·v₀| of the leading right singular vectors",
    "new_outliers": "outliers less those of the initial weights",
}
"""Extra columns when `initial` is given."""
FOLDED: Mapping[Layout, str] = {"torch": "as torch's, out × in·…", "flax": "as flax's, in·… × out"}
"""How the title of the table says what `kernels` was."""
CURVES: Mapping[str, str] = {
    "levels": "eigenvalues of W Wᵀ, largest first",
    "outlier_p": "Tracy–Widom p-values of the outliers",
    "hill": "Hill's estimate of α from the 1, 2, … largest levels",
}
"""Extra arrays when `curves` is asked for, over the dimension "level", NaN beyond a matrix's last level."""


class _Spectrum(NamedTuple):
    levels: Float[np.ndarray, " K"]
    left: Float[np.ndarray, "m j"] | None
    """Left singular vectors of all levels, of the largest one, or none."""
    right: Float[np.ndarray, "n j"] | None


def analyze(
    weights: Any,
    initial: Any = None,
    pattern: str = "*",
    *,
    vectors: bool = False,
    curves: bool = False,
    level: float = 0.01,
    kernels: Layout | None = None,
    stack: int = 0,
    key: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The spectral report of the matrices of a model, one row for each: dimension "matrix", variables `COLUMNS`.

    Levels x are the eigenvalues of W Wᵀ, W [K, L] with K ≤ L (transposed where it must be), from one call of LAPACK in
    float64 on the Gram matrix. Their bulk against Marchenko and Pastur's law and its spacings: `weights.bulk`; their
    tail: `weights.tail`.

    Args:
        weights: a path or a pytree, as in `read_weights`.
        initial: weights to compare with, of the same names and shapes; adds `INITIAL`.
        pattern: names of the matrices, as in `read_weights`.
        vectors: add `VECTORS`, for two or three times the cost.
        curves: add `CURVES`; `ds.drop_dims("level").to_dataframe()` is then the table.
        level: an outlier is a level that noise exceeds with a probability below this.
        kernels: how an array of more than two axes is a matrix, "torch" or "flax", as in `read_weights`; None takes the
            layout of `weights`, for `initial` too.
        stack: how many leading axes number matrices, as in `read_weights`.
        key: seed of the bootstrap of the tails, for each matrix by its name.
        progress: called as `progress(done, total)` after each matrix with the work done.

    Returns:
        One row per matrix; p-values that cannot be computed for lack of levels are NaN.

    Raises:
        InputError: a bad argument, or weights that cannot be read.

        analyze({"layer0/key": w}).to_dataframe()
        analyze("after.npz", "before.npz", "*attn*key*")
    """
    require(0 < level < 1, "level", level, "a probability in (0, 1)")
    base = jax.random.key(whole("key", key, 0, 2**32 - 1))
    layout = layout_of(weights) if kernels is None else kernels
    now = read_weights(weights, pattern, layout, stack)
    before = {} if initial is None else _matching(now, read_weights(initial, pattern, layout, stack, "initial"))
    for name, w in [*now.items(), *before.items()]:
        _of_usual_size(name, w)
    rows, work = [], {name: min(w.shape) * w.size for name, w in now.items()}
    for done, (name, w) in enumerate(now.items(), 1):
        own = jax.random.fold_in(base, crc32(name.encode()))
        rows.append(_row(own, w, before.get(name), vectors, curves, level))
        if progress is not None:
            progress(sum(list(work.values())[:done]), sum(work.values()))
    ds = xr.Dataset(coords={"matrix": list(now)})
    texts = {**COLUMNS, **VECTORS, **INITIAL, **CURVES}
    for variable in rows[0]:
        found = [row[variable] for row in rows]
        if variable in CURVES:
            padded = np.full((len(found), max(len(row["levels"]) for row in rows)), np.nan)
            for line, values in zip(padded, found, strict=True):
                line[: len(values)] = values
            ds[variable] = (("matrix", "level"), padded)
        else:
            ds[variable] = ("matrix", np.array(found))
        ds[variable].attrs["long_name"] = texts[variable]
    return ds.assign_attrs(pattern=pattern, outlier_level=level, key=key, kernels=layout, stack=stack)


def table(ds: xr.Dataset) -> Table:
    """The report as a table for the terminal, its main columns; p-values below 0.01 in bold."""
    shown = Table(title=f"weight matrices, kernels {FOLDED[ds.attrs['kernels']]}", title_justify="left")
    shown.add_column("matrix")
    compared = "change" in ds
    heads = ["shape", "stable rank", "σ²", "KS bulk (p)", "outliers", "α", "KS tail (p)", "⟨r⟩", "KS surmise (p)"]
    for head in heads + ["change", "new"] * compared:
        shown.add_column(head, justify="right")
    for name in ds["matrix"].values:
        row = {str(k): v.item() for k, v in ds.sel(matrix=name).data_vars.items() if not v.dims}
        cells = [
            f"{row['rows']}×{row['columns']}", _number(row["stable_rank"]), _number(row["variance"]),
            _with_p(row["bulk_ks"], row["bulk_p"]), str(row["outliers"]),
            _with_error(row["alpha"], row["alpha_error"]), _with_p(row["tail_ks"], row["tail_p"]),
            _with_error(row["mean_ratio"], row["mean_ratio_error"]), _with_p(row["spacing_ks"], row["spacing_p"]),
        ]  # fmt: skip
        if compared:
            cells += [_number(row["change"]), f"{row['new_outliers']:+d}"]
        shown.add_row(str(name), *cells)
    return shown


def _row(key: Any, w: np.ndarray, before: np.ndarray | None, vectors: bool, curves: bool, level: float) -> dict:
    """Of one matrix."""
    found = _spectrum(w, "all" if vectors else "none" if before is None else "first")
    x, shape = found.levels, w.shape
    bulk = fit_bulk(x, shape, level)
    spacings = bulk_spacings(x[bulk.outliers :])
    tail = fit_tail(key, x)
    norm = float(np.sqrt(np.sum(x)))
    row = {
        "rows": shape[0], "columns": shape[1], "ratio": min(shape) / max(shape), "rank": rank(x), "norm": norm,
        "stable_rank": norm**2 / x[0] if x[0] > 0 else np.nan, "largest": float(x[0]),
        "variance": bulk.variance.value, "variance_error": bulk.variance.error,
        "entry_std": float(np.sqrt(bulk.variance.value / max(shape))),
        "edge_low": bulk.edges[0], "edge_high": bulk.edges[1], "threshold": bulk.threshold,
        "bulk_ks": bulk.ks, "bulk_p": bulk.ks_p, "bulk_passes": bulk.ks_p >= PASSES,
        "outliers": bulk.outliers, "largest_p": bulk.p_largest,
        "alpha": tail.exponent.value, "alpha_error": tail.exponent.error, "x_min": tail.x_min,
        "tail_levels": tail.exponent.count, "tail_ks": tail.ks, "tail_p": tail.ks_p,
        "lognormal_ratio": tail.lognormal.ratio, "lognormal_p": tail.lognormal.p,
        "truncated_ratio": tail.truncated.ratio, "truncated_p": tail.truncated.p,
        "mean_ratio": spacings.mean_ratio.value, "mean_ratio_error": spacings.mean_ratio.error,
        "spacing_ks": spacings.ks, "spacing_ks_reference": spacings.ks_reference, "spacing_p": spacings.ks_p,
    }  # fmt: skip
    if vectors:
        for side, of in (("left", found.left), ("right", found.right)):
            assert of is not None
            share = np.asarray(spectra.participation_ratios(jnp.asarray(of)), float) / len(of)
            row[f"participation_{side}"] = float(np.median(share))
            outside = share[: bulk.outliers]
            row[f"outlier_participation_{side}"] = float(np.median(outside)) if len(outside) else np.nan
    if before is not None:
        row |= _compared(w, before, found, bulk.outliers, level)
    if curves:
        row |= {"levels": x, "outlier_p": bulk.p_values, "hill": hill(x)}
    return row


def _compared(w: np.ndarray, before: np.ndarray, found: _Spectrum, outliers: int, level: float) -> dict:
    """The variables `INITIAL`."""
    first = _spectrum(before, "first")
    norms = [float(np.sqrt(np.sum(x))) for x in (found.levels, first.levels)]
    start = norms[1] if norms[1] > 0 else np.nan
    both = min(norms) > 0
    overlaps = [
        float(np.abs(a[:, 0] @ b[:, 0])) if both else np.nan
        for a, b in ((found.left, first.left), (found.right, first.right))
        if a is not None and b is not None
    ]
    return {
        "change": float(np.linalg.norm(w.astype(float) - before)) / start, "norm_change": norms[0] / start - 1,
        "spectra_ks": spectra.ks_two_sample(found.levels, first.levels),
        "top_overlap_left": overlaps[0], "top_overlap_right": overlaps[1],
        "new_outliers": outliers - fit_bulk(first.levels, w.shape, level).outliers,
    }  # fmt: skip


def _spectrum(w: np.ndarray, wanted: str) -> _Spectrum:
    """Levels, and the singular vectors of "all", of the "first" or of "none" of them.

    The Gram matrix squares the singular values, and float64 has the digits for it: small ones come out better than
    from an SVD in float32, at a fraction of its time.
    """
    scale = float(np.max(np.abs(w))) or 1.0
    short = np.asarray(w if w.shape[0] <= w.shape[1] else w.T, float) / scale
    gram = short @ short.T
    if wanted == "none":
        return _Spectrum(_positive(np.linalg.eigvalsh(gram)) * scale**2, None, None)
    if wanted == "all" or len(gram) <= DENSE:
        x, u = np.linalg.eigh(gram)
        u = u[:, ::-1]
    else:
        from scipy.sparse.linalg import eigsh

        x = np.linalg.eigvalsh(gram)
        u = eigsh(gram, k=1, v0=np.ones(len(gram)), tol=TOLERANCE, maxiter=100 * len(gram))[1]
    v = short.T @ u
    length = np.linalg.norm(v, axis=0)
    v = v / np.where(length > 0, length, 1)
    return _Spectrum(_positive(x) * scale**2, *((u, v) if w.shape[0] <= w.shape[1] else (v, u)))


def _positive(x: np.ndarray) -> np.ndarray:
    """Largest first, without rounding below zero."""
    return np.maximum(x[::-1], 0)


def _matching(now: Mapping[str, np.ndarray], before: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, w in now.items():
        require(name in before, "initial", sorted(before), f"the matrix {name!r}, too")
        require(before[name].shape == w.shape, f"initial {name}", before[name].shape, f"the shape {w.shape}")
    return before


def _of_usual_size(name: str, w: np.ndarray) -> None:
    """Refuse a matrix whose levels are no numbers of float64, or all of them zero there."""
    size = float(np.max(np.abs(w)))
    if size and not LEAST_SIZE <= size <= LARGEST_SIZE:
        expected = f"0, or between {LEAST_SIZE:g} and {LARGEST_SIZE:g} (levels go with its square)"
        raise InputError(f"{name} has a largest entry of size {size:.3g}: expected {expected}")


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"


def _with_error(value: float, error: float) -> str:
    return str(spectra.Estimate(value, error, 0)) if np.isfinite(value) else "–"


def _with_p(value: float, p: float) -> Text:
    """A distance and its p-value."""
    if not np.isfinite(value):
        return Text("–")
    text = f"({p:.2g})" if p >= 0.001 else "(<.001)"
    return Text.assemble(f"{value:.3f} ", (text, "" if p >= PASSES else "bold"))
