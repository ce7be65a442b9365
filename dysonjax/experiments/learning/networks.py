"""A user's own network, optimiser and axes from words: `mynet.py:make`, `adamw`, `weight_decay=0,1e-4`."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dysonjax.core.errors import InputError, require, shown

if TYPE_CHECKING:
    from dysonjax.core.model import Network

WANTED = "FILE.py:FUNCTION or package.module:FUNCTION"
MODEL = "a function without required arguments that returns a model, such as dj.models.FlaxModel"
OPTIMIZER = "the name of an optimiser of optax, such as adam, adamw, sgd, contrib.muon, or FILE.py:FUNCTION"
SCHEDULE = "FILE.py:FUNCTION, a function of update and number of updates that returns a factor of the learning rate"

_modules: dict[tuple[str, str], ModuleType] = {}
_models: dict[tuple[str, str], Any] = {}


def network_of(text: str) -> "Network":
    """The model that a user's function returns; the user's file is run for it.

    The file runs in its own folder, which is first among the places of modules meanwhile, so that data and modules
    beside it are found wherever the command was given. It runs once per process, and again when its text has changed;
    so does the function.

    Args:
        text: "mynet.py:make", a file and a function without required arguments, or "package.module:make".

    Raises:
        InputError: there is no such file or function, it raises (the exception is the cause), or it returns no model.

    >>> network_of("mynet.py:make")  # doctest: +SKIP
    """
    known = (text, fingerprint(text))
    if known not in _models:
        _models[known] = _made(text)
    return _models[known]


def optimizer_of(text: str | None) -> Callable[..., Any] | None:
    """The optimiser of a name, None for plain gradient descent; raises `InputError`.

    Args:
        text: a name in optax, "adamw" or "contrib.muon", or "mynet.py:function", a function of the learning rate and of
            numbers that returns an optimiser. It is not called here.
    """
    if text is None:
        return None
    if ":" in text:
        return _function_of("optimizer", text, OPTIMIZER)
    import optax

    found: Any = optax
    for name in text.split("."):
        found = None if name.startswith("_") else getattr(found, name, None)
    known = callable(found) and not inspect.isclass(found)
    require(known, "optimizer", text, OPTIMIZER)
    return found


def schedule_of(text: str | None) -> Callable[..., Any] | None:
    """The function that "mynet.py:function" names, None for a constant rate; raises `InputError`."""
    return None if text is None else _function_of("schedule", text, SCHEDULE)


def axes_of(texts: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Axes of a grid by name.

    Args:
        texts: "weight_decay=0,1e-4", values between commas, or "b1=0.8:0.99:4", log-spaced; a text without "=" goes on
            with the values of the one before.

    Raises:
        InputError: a text that is none of these, or an axis that is given twice.

    >>> axes_of(["weight_decay=0,1e-4", "momentum=0.9"])
    {'weight_decay': (0.0, 0.0001), 'momentum': (0.9,)}
    """
    found: dict[str, tuple[float, ...]] = {}
    name = ""
    for text in texts:
        head, equals, values = text.rpartition("=")
        if equals:
            name = head.strip()
            require(name.isidentifier(), "axis", text, "NAME=VALUES, such as weight_decay=0,1e-4")
            require(name not in found, "axis", text, f"{name} once")
            found[name] = ()
        require(name, "axis", text, "NAME=VALUES, such as weight_decay=0,1e-4")
        found[name] += _numbers(text, values)
    return found


def fingerprint(text: str) -> str:
    """The SHA-256 of the file of "mynet.py:make" or "package.module:make", 64 hexadecimal digits; "" of no file.

    Files that it imports are not in it. Raises `InputError` where there is no such file or module.
    """
    place, _ = _parts("model", text, WANTED)
    path = _path("model", text, place) if _is_file(place) else _path_of_module("model", text, place)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def _made(text: str) -> Any:
    from dysonjax.core.model import Network

    function, folder = _found("model", text, MODEL)
    if isinstance(function, Network):
        return function
    require(callable(function), "model", text, f"{MODEL}, not {type(function).__name__}")
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in _parameters(function) if p.default is p.empty and p.kind not in free]
    require(not needed, "model", text, f"{MODEL}; this one needs {', '.join(needed)}")
    with _inside(folder):
        made = _tried("model", text, MODEL, function)
    if not isinstance(made, Network):
        kind = "None" if made is None else type(made).__name__
        raise InputError(f"model = {shown(text)}: expected {MODEL}(module, loss_function, data), not {kind}")
    return made


def _found(argument: str, text: str, wanted: str) -> tuple[Any, Path]:
    """What a text names, and the folder that it runs in; the file is run."""
    place, name = _parts(argument, text, WANTED)
    if _is_file(place):
        path = _path(argument, text, place)
        folder, module = path.parent, _module_of_file(argument, text, wanted, path)
    else:
        folder = Path.cwd()
        _path_of_module(argument, text, place)
        with _inside(folder):
            module = _tried(argument, text, wanted, lambda: importlib.import_module(place))
    if not hasattr(module, name):
        own = getattr(module, "__name__", "")
        there = [n for n, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == own and n[0] != "_"]
        raise InputError(
            f"{argument} = {shown(text)}: expected a function of {place}, which has {', '.join(there) or 'none'}"
        )
    return getattr(module, name), folder


def _parts(argument: str, text: str, wanted: str) -> tuple[str, str]:
    require(isinstance(text, str), argument, text, wanted)
    place, _, name = text.rpartition(":")
    require(place and name.isidentifier(), argument, text, wanted)
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _path(argument: str, text: str, place: str) -> Path:
    path = Path(place).expanduser().resolve()
    require(path.is_file(), argument, text, f"{WANTED}; there is no file {place}")
    return path


def _path_of_module(argument: str, text: str, place: str) -> Path | None:
    """The file of a module, None where it has none."""
    with _inside(Path.cwd()):
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            spec = None
        except Exception as error:  # of a package that holds it
            raise _fault(argument, text, WANTED, error) from error
    if spec is None:
        raise InputError(f"{argument} = {shown(text)}: expected {WANTED}; there is no module {place}")
    return Path(spec.origin) if spec.origin and Path(spec.origin).is_file() else None


def _module_of_file(argument: str, text: str, wanted: str, path: Path) -> ModuleType:
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    known = (str(path), content)
    if known not in _modules:
        # a name of its own: two files may be called the same, and a class looks for its module by name
        spec = importlib.util.spec_from_file_location(f"{path.stem}_{content[:12]}", path)
        assert spec is not None
        assert spec.loader is not None
        module, load = importlib.util.module_from_spec(spec), spec.loader.exec_module
        sys.modules[module.__name__] = module
        try:
            with _inside(path.parent):
                _tried(argument, text, wanted, lambda: load(module))
        except InputError:
            del sys.modules[module.__name__]
            raise
        _modules[known] = module
    return _modules[known]


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In this folder, whose modules come first."""
    before, search = Path.cwd(), sys.path[:]
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        yield
    finally:
        sys.path[:] = search
        os.chdir(before)


def _tried(argument: str, text: str, wanted: str, function: Callable[[], Any]) -> Any:
    """What a user's function returns; its exceptions become one line."""
    try:
        return function()
    except InputError:  # is one line
        raise
    except (Exception, SystemExit) as error:
        raise _fault(argument, text, wanted, error) from error


def _function_of(argument: str, text: str, wanted: str) -> Callable[..., Any]:
    """The function that a text names; its exceptions become one line."""
    function, _ = _found(argument, text, wanted)
    require(callable(function), argument, text, wanted)

    @functools.wraps(function)
    def called(*args: Any, **more: Any) -> Any:
        return _tried(argument, text, wanted, lambda: function(*args, **more))

    return called


def _fault(argument: str, text: str, wanted: str, error: BaseException) -> InputError:
    """One line about an exception of the user's, with the last of the user's lines on its way."""
    place = _parts(argument, text, wanted)[0]
    file = Path(place).name if _is_file(place) else f"{place.split('.')[-1]}.py"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == file]
    said = " ".join(str(error).split())
    why = type(error).__name__ + (f": {said}" if said else "")
    at = f", line {lines[-1]} of {file}" if lines and file not in why else ""
    return InputError(f"{argument} = {shown(text)}: expected {wanted} ({shorter(why)}{at})")


def shorter(text: str, width: int = 160) -> str:
    """A text of at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # a builtin
        return []


def _numbers(text: str, values: str) -> tuple[float, ...]:
    try:
        if values.count(":") == 2:
            first, last, count = values.split(":")
            ends, number = (float(first), float(last)), int(count)
            require(min(ends) > 0 and number >= 1, "axis", text, "FIRST:LAST:COUNT, positive, the count at least 1")
            return tuple(float(f"{v:.12g}") for v in np.geomspace(*ends, number))
        found = tuple(float(v) for v in values.split(","))
    except InputError:
        raise
    except ValueError:
        found = ()
    require(found and np.isfinite(found).all(), "axis", text, "finite numbers between commas, or FIRST:LAST:COUNT")
    return found
