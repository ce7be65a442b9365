"""Where programs that the tests compile are kept, for the next run of the tests."""

import atexit
import shutil
import tempfile
from importlib.metadata import version

from platformdirs import user_cache_path

from dysonjax.runtime.processor import processor

LARGEST_CACHE = 2**30
"""Bytes of compiled programs that are kept from one run of the tests to the next."""


def place_of_programs() -> str:
    """The folder of compiled programs: the user's, for this JAX and this processor, or one for this run alone."""
    place = user_cache_path("dysonjax") / "tests" / f"jax-{version('jax')}-jaxlib-{version('jaxlib')}-{processor()}"
    try:
        if sum(path.stat().st_size for path in place.glob("*")) > LARGEST_CACHE:
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return str(place)
    except OSError:  # another run removes it, or nobody may write there
        alone = tempfile.mkdtemp(prefix="dysonjax-tests-")
        atexit.register(shutil.rmtree, alone, ignore_errors=True)
        return alone
