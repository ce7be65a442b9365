"""Tables of which no value is ever cut: wide where there is room, folded at spaces or in parts on a narrow screen."""

import html
import io
from typing import IO, Any, NamedTuple

from rich import table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

UNLIMITED = 100_000
"""Columns of a screen on which every table fits."""
FRAME = 3
"""Columns that the frame takes of each of a table's columns, and one more at its end."""


class Contents(NamedTuple):
    """The words of a table."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class Table(table.Table):
    """A table of rich whose cells are plain text, "[x]" included, and are shown whole on every screen.

    Where the screen is too narrow, cells fold at spaces; where that is not enough, the columns stand in several tables
    one below the other, each with the first columns, which tell the rows apart. A notebook shows it as HTML.
    """

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; of a string, no character is taken for markup."""
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = [self] if width(self) <= options.max_width else _parts(self, options.max_width)
        for part in parts:
            yield from table.Table.__rich_console__(part, console, options)

    def __str__(self) -> str:
        text = io.StringIO()
        paper(text, width(self)).print(self)
        return text.getvalue()

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> dict[str, str]:
        title, columns, rows = contents(self)
        lines = [f"<caption>{html.escape(title)}</caption>" if title else ""]
        for cell, row in (("th", columns), *(("td", row) for row in rows)):
            lines.append("<tr>" + "".join(f"<{cell}>{html.escape(word)}</{cell}>" for word in row) + "</tr>")
        return {"text/html": f"<table>{''.join(lines)}</table>", "text/plain": str(self)}


def paper(file: IO[str], columns: int) -> Console:
    """What writes into a file of so many columns, whatever the environment says of terminals and colours."""
    return Console(file=file, width=columns, color_system=None, force_terminal=False, force_jupyter=False)


def contents(shown: table.Table) -> Contents:
    """The words of any table of rich."""
    columns = [[_words(cell) for cell in column.cells] for column in shown.columns]
    heads = [_words(column.header) for column in shown.columns]
    return Contents(_words(shown.title or ""), heads, [list(row) for row in zip(*columns, strict=True)])


def width(shown: table.Table) -> int:
    """Columns that a table takes where no cell is folded."""
    console = paper(io.StringIO(), UNLIMITED)
    return Measurement.get(console, console.options, shown).maximum


def _words(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _parts(shown: table.Table, room: int) -> list[table.Table]:
    """The same table in one or more that fit into `room` columns."""
    words = contents(shown)
    columns = [[head, *cells] for head, *cells in zip(words.columns, *words.rows, strict=True)]
    whole = [max(cell_len(line) for cell in column for line in cell.splitlines() or [""]) for column in columns]
    longest = [max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    # only a name is longer than a third of a screen, or than 16 letters
    least = [min(size, max(room // 3, 16)) for size in longest]
    names = _names(words.rows)
    if 2 * _size(least[:names]) > room:
        names = 1
    groups: list[list[int]] = []
    for i in range(names, len(columns)):
        if groups and _size([least[j] for j in (*groups[-1], i)]) <= room:
            groups[-1].append(i)
        else:
            groups.append([*range(names), i])
    return [_part(shown, group, _widened(group, least, whole, room), group == groups[0]) for group in groups]


def _names(rows: list[list[str]]) -> int:
    """How many of the first columns tell all rows apart; 1 if none do."""
    counts = range(1, len(rows[0]) if rows else 1)
    return next((k for k in counts if len({tuple(row[:k]) for row in rows}) == len(rows)), 1)


def _size(widths: list[int]) -> int:
    return sum(widths) + FRAME * len(widths) + 1


def _widened(group: list[int], least: list[int], whole: list[int], room: int) -> dict[int, int]:
    """What is left of the room goes to the columns that lack least."""
    widths = {i: least[i] for i in group}
    spare = room - _size([*widths.values()])
    for i in sorted(group, key=lambda i: whole[i] - least[i]):
        more = max(0, min(spare, whole[i] - least[i]))
        widths[i] += more
        spare -= more
    return widths


def _part(shown: table.Table, group: list[int], widths: dict[int, int], first: bool) -> table.Table:
    """Some of the columns, of given widths."""
    title = shown.title if first else None
    part = table.Table(title=title, caption=shown.caption if first else None, title_justify=shown.title_justify)
    for i in group:
        column = shown.columns[i]
        part.add_column(column.header, justify=column.justify, overflow="fold", width=widths[i])
    for row, *cells in zip(shown.rows, *(shown.columns[i].cells for i in group), strict=True):
        part.add_row(*cells, end_section=row.end_section)
    return part
