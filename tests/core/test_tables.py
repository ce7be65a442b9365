"""Tables show every value whole, on screens of any width."""

import io
import re

import pytest
from rich.console import Console

from dysonjax.core.tables import Table, contents, width

NAMES = ["T", "mean ratio", "largest gap of all", "state"]
ROWS = [["0.01", "0.950(23)", "-1.25e-03", "[red]"], ["0.1", "0.483(68)", "12.5", "diverged twice"]]


def example() -> Table:
    table = Table(title="two gases, β = 1")
    for name in NAMES:
        table.add_column(name, justify="right")
    for row in ROWS:
        table.add_row(*row)
    return table


def shown(table: Table, columns: int) -> str:
    text = io.StringIO()
    Console(file=text, width=columns, color_system=None).print(table)
    return text.getvalue()


@pytest.mark.parametrize("columns", [300, 62, 50, 40, 24])
def test_no_number_is_cut_and_nothing_lost(columns):
    text = shown(example(), columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    for word in (w for row in (NAMES, *ROWS) for cell in row for w in cell.split()):
        assert word in re.split(r"[\s│┃]+", text)


def test_parts_tell_their_rows_apart():
    parts = shown(example(), 24).count("┏")
    assert parts == len(NAMES) - 1
    assert shown(example(), 24).count(" 0.01 ") == parts


def test_a_name_longer_than_the_screen_folds():
    table = Table()
    table.add_column("matrix")
    table.add_column("α")
    table.add_row("a" * 30 + "." + "b" * 30, "2.51(3)")
    text = shown(table, 40)
    assert max(map(len, text.splitlines())) <= 40 and "2.51(3)" in text
    assert text.count("a") == 31 and text.count("b") == 30  # one in "matrix"


def test_a_notebook_and_a_string_have_it_whole():
    table = example()
    assert contents(table) == ("two gases, β = 1", NAMES, ROWS)
    bundle = table._repr_mimebundle_()
    assert "<td>0.950(23)</td>" in bundle["text/html"] and "<td>[red]</td>" in bundle["text/html"]
    assert bundle["text/plain"] == str(table) == shown(table, width(table))
    assert "\x1b" not in str(table)
