"""What a thing is made of, so that two things that were made alike are equal: models, dynamics, observables.

A function of this package has a value: its code and what it captured. A function of a user has none; it is equal to
itself alone, and so is everything that holds it.
"""

import dataclasses
import functools
import hashlib
import inspect
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

OWN = frozenset({"dysonjax", "jax", "jaxlib", "numpy", "optax"})
"""Packages whose functions never change while a process lives, so that their code says what they do."""
PLAIN = (type(None), bool, int, str, bytes)
FUNCTIONS = (types.BuiltinFunctionType, np.ufunc, type(jax.jit(abs)), jax.custom_jvp, jax.custom_vjp)
"""Functions without Python code to look at."""


class ByValue:
    """Equal to another of its class that was made of equal values; arrays count by their content."""

    def __eq__(self, other: object) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        return value_of(self) == value_of(other)

    def __hash__(self) -> int:
        return hash(value_of(self))


class Value(NamedTuple):
    """What a thing is made of, depth first; `own`: all of it is this package's or plain data, and nothing a user's."""

    parts: tuple[Any, ...]
    own: bool


class Known:
    """A thing as the key of a cache: found again by its value, or by itself alone if it holds anything of a user's.

    A user's function may read what changes between two calls; it is for the one who traces it to see.
    """

    def __init__(self, thing: Any):
        self.thing = thing
        try:
            self._key: Any = value_of(thing, only_own=True).parts
        except _Foreign:
            self._key = _Held(thing, same=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def value_of(thing: Any, only_own: bool = False) -> Value:
    """The value of a thing; with `only_own` raises at the first part that is a user's, before any data are read."""
    telling = _Telling(only_own)
    telling.tell(thing)
    return Value(tuple(telling.parts), telling.own)


class _Foreign(Exception):
    """A part that is a user's."""


class _Held:
    """A part that cannot be looked into: equal to itself, or to what its own class, if it has a hash, calls equal."""

    def __init__(self, thing: Any, same: bool = False):
        self.thing = thing
        try:
            self.hash = id(thing) if same else hash(thing)
        except TypeError:
            same, self.hash = True, id(thing)
        self.same = same

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Held) or self.thing is other.thing:
            return isinstance(other, _Held)
        alike = type(self.thing) is type(other.thing) and not (self.same or other.same)
        return alike and bool(self.thing == other.thing)

    def __hash__(self) -> int:
        return self.hash


class _Telling:
    """A walk through a thing, which writes down the kind, the length and the content of everything on its way."""

    def __init__(self, only_own: bool):
        self.parts: list[Any] = []
        self.own = True
        self.only_own = only_own
        self.path: list[Any] = []
        self.arrays: dict[int, tuple[Any, bytes]] = {}

    def tell(self, x: Any) -> None:
        if isinstance(x, PLAIN) and type(x) in PLAIN:
            self.parts += (type(x), x)
        elif isinstance(x, float | complex | np.generic):
            self.parts += (type(x), repr(x))
        elif isinstance(x, np.ndarray) or (isinstance(x, jax.Array) and not isinstance(x, Tracer)):
            self._array(x)
        elif any(x is above for above in self.path):
            self.parts += ("again", next(i for i, above in enumerate(self.path) if above is x))
        else:
            self.path.append(x)
            self._compound(x)
            self.path.pop()

    def _compound(self, x: Any) -> None:
        kind: Any = type(x)
        if kind in (tuple, list) or (isinstance(x, tuple) and hasattr(kind, "_fields")):
            self._children(kind, x, kind in (tuple, list) or _root(kind) in OWN)
        elif isinstance(x, dict | types.MappingProxyType) and kind in (dict, types.MappingProxyType):
            self._children(dict, [part for item in x.items() for part in item])
        elif isinstance(x, types.FunctionType):
            self._function(x)
        elif isinstance(x, types.MethodType):
            self._children(kind, (x.__func__, x.__self__))
        elif isinstance(x, functools.partial):
            self._children(functools.partial, (x.func, x.args, x.keywords))
        elif dataclasses.is_dataclass(x) and not isinstance(x, type) and _root(kind) == "dysonjax":
            self._children(kind, [getattr(x, field.name) for field in dataclasses.fields(x)])
        elif isinstance(x, type):
            self._held(x, _root(x) in OWN or x.__module__ == "builtins")
        elif isinstance(x, types.ModuleType):
            self._held(x, x.__name__.split(".")[0] in OWN)
        else:
            named = isinstance(x, FUNCTIONS) and _root(x) in OWN | {"builtins", "", "math"}
            self._held(x, named or isinstance(x, np.dtype) or kind is object)  # JAX has bare objects as marks

    def _children(self, kind: Any, children: Any, own: bool = True) -> None:
        self.parts += (kind, len(children))
        self._note(own)
        for child in children:
            self.tell(child)

    def _function(self, function: types.FunctionType) -> None:
        module = str(function.__globals__.get("__name__", ""))
        if module.split(".")[0] not in OWN:
            # tests wrap some functions of ours, one wrapper for each, to check their annotations
            inside = inspect.unwrap(function).__globals__.get("__name__", "")
            self._held(function, module.startswith("jaxtyping.") and inside.startswith("dysonjax."))
            return
        captured = [_content(cell) for cell in function.__closure__ or ()]
        self.parts += (types.FunctionType, module, function.__code__)
        self._children(tuple, (*captured, function.__defaults__, function.__kwdefaults__))

    def _array(self, x: Any) -> None:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            self.parts += (str(jax.random.key_impl(x)),)
            x = jax.random.key_data(x)
        if id(x) not in self.arrays:
            digest = hashlib.sha256(np.ascontiguousarray(x)).digest()
            self.arrays[id(x)] = x, digest  # the array too, or its number might be another's
        kind = np.ndarray if isinstance(x, np.ndarray) else jax.Array
        self.parts += (kind, str(x.dtype), x.shape, getattr(x, "weak_type", False), self.arrays[id(x)][1])

    def _held(self, x: Any, own: bool) -> None:
        self._note(own)
        self.parts.append(_Held(x))

    def _note(self, own: bool) -> None:
        self.own &= own
        if self.only_own and not own:
            raise _Foreign


def _root(x: Any) -> str:
    """The package that a class or a function belongs to."""
    return str(getattr(x, "__module__", None) or "").split(".")[0]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has not been bound yet
        return None
