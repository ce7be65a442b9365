"""Exceptions for invalid input, unusable run directories and lost processes."""

from numbers import Integral
from typing import Any


class InputError(ValueError):
    """An argument is not what was expected; the message is one line: its name, its value and what was expected."""


class StoreError(OSError):
    """A run's directory cannot be read, continued or written; what it already holds is untouched."""


class ClusterError(RuntimeError):
    """A process of a run on several cannot be reached, or ended; the blocks that any of them finished are kept."""


def require(ok: object, name: str, value: object, expected: str) -> None:
    """Raise `InputError` "name = value: expected …" unless `ok`.

    Args:
        ok: what must be true.
        name: name of the argument.
        value: its value.
        expected: what was expected.

    Raises:
        InputError: `ok` is not true.
    """
    if not ok:
        raise InputError(f"{name} = {shown(value)}: expected {expected}")


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` as an int in `least` … `most`.

    Args:
        name: name of the argument.
        value: its value.
        least: the smallest number allowed.
        most: the largest number allowed; None for no limit.

    Returns:
        The number.

    Raises:
        InputError: anything else, booleans and fractions too.
    """
    integral = isinstance(value, Integral) and not isinstance(value, bool)
    inside = integral and least <= int(value) and (most is None or int(value) <= most)
    require(inside, name, value, f"a whole number {f'of at least {least}' if most is None else f'in {least} … {most}'}")
    return int(value)


def shown(value: object, width: int = 80) -> str:
    """A value on one line of bounded length.

    Args:
        value: any object.
        width: characters at most.

    Returns:
        Its `repr`, cut off where it is longer.
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
