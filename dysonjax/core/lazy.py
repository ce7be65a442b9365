"""Public names that are imported when they are first used, so that `import dysonjax` is quick."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def public(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of `package` (PEP 562).

    `homes`: for each public name "module:name", or "module" where the name stands for a whole module.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, own = homes[name].partition(":")
        value = importlib.import_module(module)
        if own:
            value = getattr(value, own)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes)
