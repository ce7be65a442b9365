"""How a run's findings are shown and kept, and how an earlier run is removed."""

import csv
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dysonjax.cli.options import Format
from dysonjax.core.errors import StoreError
from dysonjax.core.tables import contents, paper, width
from dysonjax.experiments.base import Report
from dysonjax.storage.locations import is_remote, put

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e[-+]\d+)?")


def show(run: Path, report: Report) -> None:
    """Print what was found, keep it as `report.txt` and draw the figures into `figures`, in the run's directory."""
    tell(report)
    try:
        put(run / "report.txt", plain(report))
        figures = _drawn_elsewhere(run, report.draw) if is_remote(run) else report.draw(run / "figures")
    except OSError as error:
        raise StoreError(f"{run}: figures cannot be written ({error.strerror or error})") from error
    say(f"{len(figures)} figures in {run / 'figures'}")


def tell(report: Report, form: Format = "plain") -> None:
    """Print sentences and tables; csv and json hold the tables alone, and sentences go to standard error."""
    tables = [part for part in report.said if isinstance(part, Table)]
    if form == "markdown":
        sys.stdout.write("\n".join(map(_markdown, report.said)))
    elif form != "plain":
        sys.stdout.write(as_csv(tables) if form == "csv" else as_json(tables))
        sys.stderr.writelines(f"{part}\n" for part in report.said if not isinstance(part, Table))
    elif sys.stdout.isatty():
        # NO_COLOR asks for no colours; bold letters would still be escape codes
        _print(Console(color_system=None if os.environ.get("NO_COLOR") else "auto"), report.said)
    else:
        sys.stdout.write(plain(report))


def say(sentence: str) -> None:
    """Print a line, which only the terminal breaks, so that a path or a command in it can be copied."""
    sys.stdout.write(f"{sentence}\n")


def plain(report: Report) -> str:
    """Sentences and tables as text: tables as wide as they need to be, no escape codes."""
    text = io.StringIO()
    widths = [width(part) for part in report.said if isinstance(part, Table)]
    _print(paper(text, max([report.width, *widths])), report.said, report.width)
    return text.getvalue()


def as_csv(tables: Sequence[Table]) -> str:
    """A line of column names and one for each row; several tables stand apart by a blank line and `# title`."""
    text = io.StringIO()
    for i, table in enumerate(tables):
        title, columns, rows = contents(table)
        if len(tables) > 1:
            text.write(f"{chr(10) * (i > 0)}# {' '.join(title.split())}\n")
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """A list of `{title, columns, rows}`; a cell that is a number, and nothing else, is one there."""
    found = []
    for table in tables:
        title, columns, rows = contents(table)
        numbers = [[json.loads(word) if NUMBER.fullmatch(word) else word for word in row] for row in rows]
        found.append({"title": " ".join(title.split()), "columns": columns, "rows": numbers})
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _markdown(part: Any) -> str:
    """A paragraph, or a title and a table as GitHub reads it."""
    if not isinstance(part, Table):
        return f"{part}\n"
    title, columns, rows = contents(part)
    rule = ["---:" if column.justify == "right" else "---" for column in part.columns]
    cells = [[word.replace("|", "\\|").replace("\n", "<br>") for word in row] for row in (columns, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
    return "\n".join([f"**{' '.join(title.split())}**\n" if title else "", *lines, ""])


def _print(console: Console, said: Sequence[Any], line: int | None = None) -> None:
    """Sentences are broken after `line` columns, by default those of the console."""
    for part in said:
        width = None if isinstance(part, Table) else line
        console.print(part, markup=False, highlight=False, width=width)


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
    from dysonjax.experiments.running import experiment_of

    if not out.is_dir() or not any(out.iterdir()):
        return
    experiment_of(out)
    out.fs.rm(out.path, recursive=True) if is_remote(out) else shutil.rmtree(out)  # type: ignore[attr-defined]
