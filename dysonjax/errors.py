"""The two ways in which dysonjax says no: a bad argument, and a run's directory that cannot be used."""


class InputError(ValueError):
    """An argument is not what was expected; the message is one line with its name, its value and what was expected."""


class StoreError(OSError):
    """A run's directory cannot be read, continued or written; what it already holds is untouched."""


def require(ok: bool, name: str, value: object, expected: str) -> None:
    """Raise `InputError` "name = value: expected …" unless `ok`."""
    if not ok:
        raise InputError(f"{name} = {value!r}: expected {expected}")
