"""Programs are compiled once: in a process, and, where a directory is given, on a machine.

In a process a program is found by what tracing produced, with the derivatives in it, so that another function of the
same content need not be compiled. On disk it is JAX's compilation cache (`use_compile_cache`).
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax

DATA = 1 << 16
"""Bytes from which on an array that a function has captured is given to its program, and is no part of it."""
CALLBACKS = ("callback", "stablehlo.send", "stablehlo.recv")
"""What a program has that calls Python; its text does not say which function."""


class CompiledOnce:
    """A function of arrays, compiled for each kind of them; `donate` are the numbers of arguments that it may reuse."""

    def __init__(self, function: Callable[..., Any], donate: tuple[int, ...] = ()):
        self.function, self._donate = function, donate
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        return self.compiled(*args)(*args)

    def compiled(self, *args: Any) -> Callable[..., Any]:
        """The program for such arguments."""
        leaves, tree = jax.tree.flatten(args)
        kinds = tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves), tree
        if kinds not in self._compiled:
            with _clock.running():
                self._compiled[kinds] = _compile(self.function, self._donate, args)
        return self._compiled[kinds]

    def lower(self, *args: Any) -> Any:
        """What tracing makes of it, not compiled."""
        return _lowered(self.function, self._donate, args)[0]


def _compile(function: Callable[..., Any], donate: tuple[int, ...], args: tuple[Any, ...]) -> Callable[..., Any]:
    lowered, data = _lowered(function, donate, args)
    text = lowered.as_text()
    if any(word in text for word in CALLBACKS):
        program = lowered.compile()
    else:
        placed = tuple(x.sharding for x in jax.tree.leaves(args) if isinstance(x, jax.Array))
        trees = jax.tree.structure(args), lowered.out_tree  # names and empty parts, which the text does not have
        program = _found(_Lowered(hashlib.sha256(text.encode()).digest(), trees, placed, settings(), lowered))
    return functools.partial(program, data) if data else program


def _lowered(function: Callable[..., Any], donate: tuple[int, ...], args: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    """The function lowered, and its data: large arrays that it has captured, which become its first argument."""
    traced: Any = jax.jit(function, donate_argnums=donate).trace(*args)
    closed = traced.jaxpr
    constants = closed.consts
    large = [i for i, x in enumerate(constants) if getattr(x, "nbytes", 0) >= DATA]
    if not large:
        return traced.lower(), []
    from jax.extend.core import jaxpr_as_fun

    def with_data(data: list[Any], *args: Any) -> Any:
        whole = list(constants)
        for i, x in zip(large, data, strict=True):
            whole[i] = x
        out = jaxpr_as_fun(type(closed)(closed.jaxpr, whole))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), out)

    data = [constants[i] for i in large]
    return jax.jit(with_data, donate_argnums=tuple(i + 1 for i in donate)).lower(data, *args), data


@dataclass(frozen=True)
class _Lowered:
    """A program by its text, what it takes and returns, where its arguments are, and JAX's settings."""

    digest: bytes
    trees: tuple[Any, ...]
    placed: tuple[Any, ...]
    settings: tuple[Any, ...]
    lowered: Any = field(compare=False)


@functools.lru_cache(maxsize=64)
def _found(program: _Lowered) -> Callable[..., Any]:
    return program.lowered.compile()


def settings() -> tuple[Any, ...]:
    """All of JAX's settings as they are now, in a `with` block too: tracing and compiling depend on them."""
    return tuple(str(getattr(jax.config, name, value)) for name, value in jax.config.values.items())


class _Clock:
    """How long this process has compiled, and whether it does so now."""

    def __init__(self) -> None:
        self.spent, self.since = 0.0, None

    @contextmanager
    def running(self) -> Iterator[None]:
        began = self.since = time.perf_counter()
        try:
            yield
        finally:
            self.spent, self.since = self.spent + time.perf_counter() - began, None


_clock = _Clock()


def compiling() -> bool:
    """Whether a program is being compiled."""
    return _clock.since is not None


def seconds_compiling() -> float:
    """How long programs have been compiled in this process, tracing included."""
    since = _clock.since
    return _clock.spent + (0.0 if since is None else time.perf_counter() - since)
