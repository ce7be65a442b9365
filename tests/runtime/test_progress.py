"""The progress bar's rate: updates over the time that was spent on them."""

from dysonjax.runtime import compilation
from dysonjax.runtime.compilation import CompiledOnce
from dysonjax.runtime.progress import Pace


def test_compilation_does_not_count():
    """2,000 finished before; then two chunks of 1,000 in 2 s each, and 30 s of compilation between them."""
    clock = {"now": 0.0, "compiled": 0.0}
    pace = Pace(lambda: clock["now"], lambda: clock["compiled"])
    pace.advance(2000)
    assert pace.updates == 0
    for seconds, compiled in ((12.0, 10.0), (32.0, 30.0)):
        clock["now"] += seconds
        clock["compiled"] += compiled
        pace.advance(1000)
    assert pace.updates == 2000
    assert pace.rate == 500
    for _ in range(100):  # a minute is remembered
        clock["now"] += 1
        pace.advance(3000)
    assert 2900 < pace.rate <= 3000


def test_a_function_tells_that_it_is_compiled():
    before, seen = compilation.seconds_compiling(), []
    double = CompiledOnce(lambda x: seen.append(compilation.compiling()) or 2 * x)
    assert double(3.0 * compilation.jax.numpy.ones(2)).tolist() == [6.0, 6.0]
    assert seen == [True]
    assert compilation.seconds_compiling() > before
    assert not compilation.compiling()
