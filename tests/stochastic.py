"""Every stochastic tolerance of the tests: means by standard errors, laws by the Dvoretzky–Kiefer–Wolfowitz bound.

Samples are independent replicas on axis 0, never a time series. A correct program fails one of these by chance with
probability 10⁻⁶ or less, and keys are fixed. Each also fails when it could not have seen an error of the size
`resolution`: a test without power is a defect.
"""

import numpy as np

FAILURE = 1e-6
"""Probability that `assert_law` refuses samples of the right law."""


def assert_mean(samples, expected, sigmas=5, bias=0.0, *, resolution):
    """The mean over axis 0 is `expected` to within `sigmas` standard errors and a known `bias`.

    All of it is done entry by entry; `expected`, `bias` and `resolution` broadcast against a sample.
    """
    samples = np.asarray(samples, np.float64)
    assert len(samples) >= 30, f"{len(samples)} samples: too few for a standard error"
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    tolerance = sigmas * error + bias
    assert np.all(tolerance <= resolution), f"no power: tolerance {np.max(tolerance):.3g} exceeds {resolution}"
    off = np.abs(samples.mean(axis=0) - expected)
    assert np.all(off <= tolerance), f"mean off by {np.max(off):.3g}, tolerance {np.max(tolerance):.3g}"


def assert_law(samples, cdf, bias=0.0, *, resolution):
    """The distribution function of `samples` [n] is `cdf` to within √(ln(2/FAILURE)/2n) and a known `bias`."""
    x = np.sort(np.asarray(samples, np.float64))
    assert x.ndim == 1
    assert np.all(np.isfinite(x)), "samples that are not finite"
    tolerance = np.sqrt(np.log(2 / FAILURE) / (2 * x.size)) + bias
    assert tolerance <= resolution, f"no power: tolerance {tolerance:.3g} exceeds {resolution}"
    wanted = np.asarray(cdf(x), np.float64)
    assert np.all((wanted >= 0) & (wanted <= 1)), "not a distribution function"
    rank = np.arange(x.size)
    distance = max(np.max((rank + 1) / x.size - wanted), np.max(wanted - rank / x.size))
    assert distance <= tolerance, f"distance {distance:.3g} from the law, tolerance {tolerance:.3g}"
