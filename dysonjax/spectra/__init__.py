"""Kernels on spectra: levels of stacked matrices and what is computed from them, batched on the leading axes."""

from dysonjax.kernels.eigenvalues import eigenvalues
from dysonjax.kernels.singular_values import levels, levels_and_vectors
from dysonjax.kernels.tridiagonal import bidiagonal_singular_values, tridiagonal_eigenvalues
from dysonjax.spectra.estimates import (
    Estimate,
    curve,
    density,
    estimate,
    ks_distance,
    ks_two_sample,
)
from dysonjax.spectra.fits import fit_beta, fit_beta_from_ratios, fit_brody, outliers, tracy_widom_p_values
from dysonjax.spectra.resampling import bootstrap, jackknife
from dysonjax.spectra.rigidity import (
    form_factor_law,
    number_variance,
    number_variance_law,
    rigidity,
    rigidity_law,
    spectral_form_factor,
)
from dysonjax.spectra.spacings import gaps, k_gaps, k_spacing_ratios, participation_ratios, spacing_ratios
from dysonjax.spectra.unfolding import (
    by_ensemble,
    by_law,
    by_local_mean,
    by_polynomial,
    by_spline,
    unfolding_sensitivity,
)

__all__ = [
    "Estimate",
    "bidiagonal_singular_values",
    "bootstrap",
    "by_ensemble",
    "by_law",
    "by_local_mean",
    "by_polynomial",
    "by_spline",
    "curve",
    "density",
    "eigenvalues",
    "estimate",
    "fit_beta",
    "fit_beta_from_ratios",
    "fit_brody",
    "form_factor_law",
    "gaps",
    "jackknife",
    "k_gaps",
    "k_spacing_ratios",
    "ks_distance",
    "ks_two_sample",
    "levels",
    "levels_and_vectors",
    "number_variance",
    "number_variance_law",
    "outliers",
    "participation_ratios",
    "rigidity",
    "rigidity_law",
    "spacing_ratios",
    "spectral_form_factor",
    "tracy_widom_p_values",
    "tridiagonal_eigenvalues",
    "unfolding_sensitivity",
]
