"""Which values are computed once and kept in memory, on a CPU.

XLA's CPU code fuses what makes a value into everything that uses it, and would compute a sum of many terms, or a tanh,
again in every place, and a factor of a product again in each of its terms. A barrier keeps such a value; a barrier
where none is needed costs a pass through memory.
"""

from typing import Any, NamedTuple

from jax.extend import core as jcore

COSTLY = frozenset((
    "tanh", "exp", "exp2", "expm1", "log", "log1p", "logistic", "sin", "cos", "tan", "atan2", "pow", "erf", "erfc",
    "erf_inv", "lgamma", "digamma", "cbrt",
))  # fmt: skip
"""Functions that take tens of operations."""
PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
MOVING = frozenset(["transpose", "reshape", "squeeze", "broadcast_in_dim", "slice", "rev", "expand_dims"])
"""Operations that only move numbers, which costs nothing where replicas stay last."""
CHEAP = frozenset((
    "abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "div", "eq", "floor",
    "ge", "gt", "integer_pow", "is_finite", "le", "lt", "max", "min", "mul", "ne", "neg", "not", "one_minus_square",
    "or", "round", "rsqrt", "select_n", "sign", "sqrt", "square", "sub", "xor",
))  # fmt: skip
"""Into such an operation a value is fused without being computed twice."""


class Kept(NamedTuple):
    """Variables of a jaxpr: factors of products, and those that are kept if they took long to compute."""

    factors: set[Any]
    wanted: set[Any]


def kept(jaxpr: Any) -> Kept:
    """Found by one walk from the results back to the operands."""
    factors: set[Any] = set()
    wanted: set[Any] = set()
    used: set[Any] = set()
    for v in jaxpr.outvars:
        _use(v, used, wanted)
    for equation in reversed(jaxpr.eqns):
        name, outs = equation.primitive.name, set(equation.outvars)
        moving = name in MOVING and not _grows(equation)
        for v in equation.invars:
            _use(v, used, wanted)
            if isinstance(v, jcore.Literal):
                continue
            if name in PRODUCTS or (name in MOVING and factors & outs):
                factors.add(v)
            if (not moving and name not in CHEAP) or (moving and wanted & outs):
                wanted.add(v)
    return Kept(factors, wanted)


def takes_long_alone(equation: Any) -> bool:
    """Whether it is a product or a costly function, or holds one."""
    if equation.primitive.name in COSTLY | PRODUCTS:
        return True
    held = [getattr(p, "jaxpr", p) for p in equation.params.values()]
    return any(takes_long_alone(one) for jaxpr in held if hasattr(jaxpr, "eqns") for one in jaxpr.eqns)


def _grows(equation: Any) -> bool:
    return equation.outvars[0].aval.size > equation.invars[0].aval.size


def _use(v: Any, used: set[Any], wanted: set[Any]) -> None:
    if not isinstance(v, jcore.Literal):
        (wanted if v in used else used).add(v)
