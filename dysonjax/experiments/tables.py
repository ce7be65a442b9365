"""The tables of the papers' reports."""

from dysonjax.core.tables import Table


def plain_table(title: str, *columns: str) -> Table:
    """An empty table whose columns are set to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table
