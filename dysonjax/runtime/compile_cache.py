"""Compiled programs on disk: JAX's compilation cache, in a folder of its own for each JAX and each kind of processor.

JAX finds an entry by the program, the versions, the flags and the kind of device. On a CPU the code also depends on
what the processor can do, which is not in JAX's key; hence the folders.
"""

import logging
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax

from dysonjax.runtime.processor import processor

log = logging.getLogger(__name__)

DIRECTORY = "DYSONJAX_CACHE"
"""The environment variable that moves the cache."""
LARGEST = 2**30
"""Bytes of a folder's programs; those that were not used for the longest time make room for others."""


def use_compile_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, so that another process need not compile them; the command line does so.

    Call it before anything is computed. A `jax_compilation_cache_dir` that is set already is left alone, unless a
    directory is asked for. Programs run what is in these files: let nobody else write there.

    Args:
        directory: by default the environment variable `DYSONJAX_CACHE`, or the user's cache directory. Below it each
            version of JAX and each kind of processor has a folder of its own, of at most 1 GiB.

    Returns:
        The folder in use, or None where none can be written: then programs are compiled as without this call.

    >>> dj.use_compile_cache()  # doctest: +SKIP
    """
    if directory is None and jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    place = _home(directory) / f"jax-{jax.__version__}-jaxlib-{version('jaxlib')}-{processor()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        log.info("no compiled programs are kept: %s", error)
        return None
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(place))
    return place


def _home(directory: str | os.PathLike[str] | None) -> Path:
    if chosen := directory or os.environ.get(DIRECTORY):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("dysonjax")
