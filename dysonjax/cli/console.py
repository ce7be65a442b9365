"""What the commands share: how numbers on the command line are read, how a run's findings are shown and kept."""

import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dysonjax.core.errors import InputError, StoreError, require
from dysonjax.storage import store
from dysonjax.storage.locations import is_remote, put
from dysonjax.storage.merging import stores_in


def grid_values(name: str, text: str) -> tuple[float, ...]:
    """Values of `first:last:count` (log-spaced) or of a comma list; raises `InputError`."""
    expected = "first:last:count, log-spaced and positive, or a comma list of numbers"
    try:
        if ":" not in text:
            return tuple(float(v) for v in text.split(","))
        first, last, count = text.split(":")
        ends, number = (float(first), float(last)), int(count)
    except ValueError:
        raise InputError(f"{name} = {text!r}: expected {expected}") from None
    require(all(np.isfinite(v) and v > 0 for v in ends) and number >= 1, name, text, f"{expected}, count at least 1")
    require(number == 1 or ends[0] != ends[1], name, text, "two different ends, or a count of 1")
    spaced = np.geomspace(*ends, number)
    return tuple(float(f"{v:.12g}") for v in spaced)


def whole_number(name: str, value: float) -> int:
    """A value of `grid_values` as an int of at least 1; raises `InputError`."""
    require(np.isfinite(value) and value == int(value) and value >= 1, name, value, "whole numbers of at least 1")
    return int(value)


def show(run: Path, said: Sequence[Any], draw: Callable[[Path], Sequence[Path]], width: int = 120) -> None:
    """Print what was found, keep it as `report.txt` and draw the figures into `figures`, in the run's directory."""
    text = io.StringIO()
    screen = Console() if sys.stdout.isatty() else Console(width=width)
    for console in (screen, Console(file=text, width=width)):
        for part in said:
            console.print(part)
    try:
        put(run / "report.txt", text.getvalue())
        figures = _drawn_elsewhere(run, draw) if is_remote(run) else draw(run / "figures")
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
    stores = stores_in(out)
    for place in stores:
        store.load(place)  # only a dysonjax run may be replaced
    if stores:
        out.fs.rm(out.path, recursive=True) if is_remote(out) else shutil.rmtree(out)  # type: ignore[attr-defined]


def clear_record(out: Path, name: str) -> None:
    """Remove a directory that holds the record `name` of a run, and no other one."""
    if (out / name).is_file():
        shutil.rmtree(out)
    else:
        require(
            not out.exists() or not any(out.iterdir()), "out", str(out), f"a directory with {name}, or an empty one"
        )
