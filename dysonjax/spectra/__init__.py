"""Kernels on spectra: levels of stacked matrices and what is computed from them, batched on the leading axes."""

from dysonjax.spectra.eigen import levels
from dysonjax.spectra.spacings import gaps

__all__ = ["gaps", "levels"]
