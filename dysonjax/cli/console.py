"""How a run's findings are shown and kept, and how an earlier run is removed."""

import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from dysonjax.core.errors import StoreError
from dysonjax.experiments.base import Report
from dysonjax.experiments.running import experiment_of
from dysonjax.storage.locations import is_remote, put


def show(run: Path, report: Report) -> None:
    """Print what was found, keep it as `report.txt` and draw the figures into `figures`, in the run's directory."""
    text = io.StringIO()
    screen = Console() if sys.stdout.isatty() else Console(width=report.width)
    for console in (screen, Console(file=text, width=report.width)):
        for part in report.said:
            console.print(part)
    try:
        put(run / "report.txt", text.getvalue())
        figures = _drawn_elsewhere(run, report.draw) if is_remote(run) else report.draw(run / "figures")
    except OSError as error:
        raise StoreError(f"{run}: figures cannot be written ({error.strerror or error})") from error
    screen.print(f"{len(figures)} figures in {run / 'figures'}", highlight=False)


def _drawn_elsewhere(run: Path, draw: Callable[[Path], Sequence[Path]]) -> Sequence[Path]:
    """Figures of a run on object storage are drawn here and copied there."""
    with tempfile.TemporaryDirectory() as directory:
        figures = draw(Path(directory))
        (run / "figures").mkdir(parents=True, exist_ok=True)
        for figure in figures:
            (run / "figures" / figure.name).write_bytes(figure.read_bytes())
    return figures


def clear(out: Path) -> None:
    """Remove an earlier run's directory; refuses one that holds no dysonjax run."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    experiment_of(out)
    out.fs.rm(out.path, recursive=True) if is_remote(out) else shutil.rmtree(out)  # type: ignore[attr-defined]
