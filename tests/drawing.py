"""Figures without most of the time that they take, for tests of something else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure


@contextmanager
def composed() -> Iterator[None]:
    """Figures are made and not drawn; their files are empty."""
    with mock.patch.object(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(b"")):
        yield


@contextmanager
def drawn_once() -> Iterator[None]:
    """Every part of a figure is drawn once, where matplotlib puts it; to lay figures out they are drawn thrice more."""

    def save(figure: Any, path: Path, **options: Any) -> None:
        figure.set_layout_engine("none")
        figure.canvas.print_png(path)

    with mock.patch.object(Figure, "savefig", save):
        yield
