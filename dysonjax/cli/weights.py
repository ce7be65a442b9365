"""The command about saved weights: `dysonjax analyze`."""

from pathlib import Path
from typing import Annotated

import tyro

from dysonjax.cli.console import plain, tell
from dysonjax.cli.options import Format
from dysonjax.core.errors import StoreError
from dysonjax.core.folding import Layout
from dysonjax.experiments.base import Report
from dysonjax.runtime.progress import progress_bar

PARTS = 10_000
"""Of the progress bar, which learns the number of matrices on the way."""


def analyze(
    weights: Annotated[Path, tyro.conf.Positional],
    trained: Annotated[Path | None, tyro.conf.Positional] = None,
    pattern: str = "*",
    kernels: Layout | None = None,
    stack: int = 0,
    vectors: bool = False,
    key: int = 0,
    out: Path | None = None,
    format: Format = "plain",
) -> None:
    """What the spectra of saved weights say: bulk, outliers, tails and spacings, one row for each matrix.

    Args:
        weights: .npz, .safetensors, a PyTorch state dict (.pt, .pth) or an orbax directory.
        trained: the same weights later; the first file then holds the initial ones they are compared with.
        pattern: names of the matrices to look at, with wildcards.
        kernels: how more than two axes are a matrix, torch: first axis × the others, flax: the others × last axis; by
            default torch for .safetensors, .pt and .pth, flax for .npz and orbax.
        stack: how many leading axes of such an array number matrices, as of scanned layers.
        vectors: also the participation ratios of singular vectors, which takes twice as long.
        key: base of the random numbers of bootstraps.
        out: a directory for the table (`report.txt`) and all numbers (`spectra.csv`).
        format: of the table that is printed.
    """
    from dysonjax.weights.spectral_report import analyze as report_of
    from dysonjax.weights.spectral_report import table

    now, initial = (weights, None) if trained is None else (trained, weights)
    with progress_bar("matrices", PARTS, rate=False) as bar:
        told = 0

        def advance(done: int, total: int) -> None:
            nonlocal told
            bar.advance(PARTS * done // total - told)
            told = PARTS * done // total

        ds = report_of(now, initial, pattern, vectors=vectors, kernels=kernels, stack=stack, key=key, progress=advance)
    report = Report([table(ds)])
    tell(report, format)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "report.txt").write_text(plain(report))
            ds.to_dataframe().to_csv(out / "spectra.csv")
        except OSError as error:
            raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error
