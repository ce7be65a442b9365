"""Which values of a jaxpr have an axis of replicas, if some of its operands have; nothing is computed.

A value that no replica's own number reaches stays shared. In a loop that takes some rounds to find out.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend import core as jcore

INLINED = {"jit", "pjit", "closed_call", "core_call", "core_closed_call", "remat", "remat2", "checkpoint"}
"""Operations that only hold others; a recomputation is done without its saving of memory."""


def inner(equation: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr that an equation holds, and its constants."""
    params = equation.params
    held = next(params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params)
    return opened(held)


def opened(closed: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def jaxprs_of(equation: Any) -> Iterator[Any]:
    """The jaxprs of all functions that an equation runs: the body of a loop, every branch of a condition."""
    closed = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")  # noqa: E731
    found = (opened(x)[0] for x in jax.tree.leaves(list(equation.params.values()), is_leaf=closed))
    return (jaxpr for jaxpr in found if hasattr(jaxpr, "eqns"))


def carried(params: dict[str, Any]) -> tuple[int, int]:
    """Where the carry of a `scan` begins and ends among its operands."""
    if "ft_in" in params:  # since JAX 0.12
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(consts) + len(carry)
    return params["num_consts"], params["num_consts"] + params["num_carry"]


def reached(jaxpr: Any, batched: Sequence[bool]) -> list[bool]:
    """Which results have replicas, if these operands have; nothing is computed."""
    known = dict(zip(jaxpr.invars, batched, strict=True))
    see = lambda v: not isinstance(v, jcore.Literal) and known.get(v, False)  # noqa: E731
    for equation in jaxpr.eqns:
        ins = [see(v) for v in equation.invars]
        known.update(zip(equation.outvars, _reached_by(equation, ins), strict=True))
    return [see(v) for v in jaxpr.outvars]


def _reached_by(equation: Any, batched: list[bool]) -> list[bool]:
    name = equation.primitive.name
    if any(batched):
        if name in INLINED:
            return reached(inner(equation)[0], batched)
        if name == "scan":
            carry, ys = scanned(equation, batched)
            return carry + ys
        if name == "while":
            return repeated(equation, batched)[0]
        if name == "cond":
            return chosen(equation, batched)
    return [any(batched)] * len(equation.outvars)


def scanned(equation: Any, batched: Sequence[bool]) -> tuple[list[bool], list[bool]]:
    """Which parts of a scan's carry and which of its stacked results have replicas."""
    first, past = carried(equation.params)
    body = opened(equation.params["jaxpr"])[0]
    carry = list(batched[first:past])
    while True:
        outs = reached(body, [*batched[:first], *carry, *batched[past:]])
        grown = [a or b for a, b in zip(carry, outs, strict=False)]
        if grown == carry:
            return carry, outs[len(carry) :]
        carry = grown


def repeated(equation: Any, batched: Sequence[bool]) -> tuple[list[bool], bool]:
    """Which parts of a `while` loop's carry have replicas, and whether each of these ends on its own."""
    params = equation.params
    asked, moved = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carry = list(batched[moved:])
    while True:
        own = reached(opened(params["cond_jaxpr"])[0], [*batched[:asked], *carry])[0]
        outs = reached(opened(params["body_jaxpr"])[0], [*batched[asked:moved], *carry])
        grown = [own or a or b for a, b in zip(carry, outs, strict=True)]
        if grown == carry:
            return carry, own
        carry = grown


def chosen(equation: Any, batched: Sequence[bool]) -> list[bool]:
    """Which results of a `cond` have replicas: all where each replica has a branch of its own."""
    of_branches = [reached(opened(b)[0], batched[1:]) for b in equation.params["branches"]]
    return [batched[0] or any(outs) for outs in zip(*of_branches, strict=True)]
