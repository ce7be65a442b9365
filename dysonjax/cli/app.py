"""The command line: a command for every experiment, and `report`, `merge`, `reproduce`, `analyze` and others."""

import ast
import contextlib
import functools
import importlib.util
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, version
from pathlib import Path
from typing import Any

from dysonjax.core.errors import ClusterError, InputError, StoreError
from dysonjax.experiments.known import COMMANDS, GROUP, kinds
from dysonjax.storage.records import OWN


class Failed(Exception):
    """A command that has said all it found, and why that is an error."""


OTHERS = tuple(
    EntryPoint(name, f"dysonjax.cli.{place}:{name}", GROUP)
    for name, place in (
        ("reproduce", "runs"),
        ("report", "runs"),
        ("merge", "runs"),
        ("verify", "runs"),
        ("analyze", "weights"),
    )
)
"""Commands that belong to no experiment."""
NO_CACHE = "--no-compile-cache"
"""With every command: compiled programs are not kept on disk."""
HELP = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 for directories and processes, 2 for bad input, 130 for Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        code = _run([*(sys.argv[1:] if args is None else args)])
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in HELP:
        sys.stdout.write(_overview())
        return 0 if words else _refuse("command = none: expected one of those above", 2)
    if not {*HELP} & {*words}:  # help needs no JAX
        _start_jax(NO_CACHE not in words)
    try:
        _chosen([word for word in words if word != NO_CACHE])()
    except InputError as error:
        return _refuse(str(error), 2)
    except (StoreError, ClusterError, Failed) as error:
        return _refuse(str(error), 1)
    except KeyboardInterrupt as stop:
        return _refuse(f"interrupted; {stop}" if str(stop) else "interrupted", 130)
    return 0


def _start_jax(cache: bool) -> None:
    """A device for every core, and compiled programs from the last time."""
    if version("jax") < "0.12":  # it writes pages to stderr about each program that it finds on disk
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from dysonjax.runtime.compile_cache import use_compile_cache
    from dysonjax.runtime.devices import use_all_cores

    use_all_cores()
    if cache:
        use_compile_cache()


def commands() -> dict[str, EntryPoint]:
    """All commands by name, in the order of the overview; none is loaded."""
    runs = {name: entry for name, entry in kinds().items() if name != OWN}  # a user's own scan is made in Python
    return {**runs, **{entry.name: entry for entry in (*COMMANDS, *OTHERS)}}


def _chosen(words: Sequence[str]) -> Callable[[], Any]:
    """The command asked for, its arguments read but not yet run, so that only reading them is under tyro's eye."""
    name, *rest = words
    found = commands()
    if name not in found:
        raise InputError(f"command = {name!r}: expected one of {', '.join(found)}; see dysonjax --help")
    target = found[name].load()
    if name in kinds():
        from dysonjax.cli.runs import command_of, extension_of, resumption_of

        made, called, family = target.options(), name, None
        if isinstance(made, Mapping) and "" in made:  # chosen by an option; a run itself tells which it is of
            made, family = _by_option(made, rest), object
        if isinstance(made, Mapping) and rest and rest[0] in made:
            called, made = f"{name} {rest[0]}", made[rest.pop(0)]
        if rest and target.first and not rest[0].startswith("-"):
            rest.insert(0, f"--{target.first}")
        several = isinstance(made, Mapping)
        family = family or (target if several else made)
        asks = {"-h", "--help"} & {*rest}
        if _given("--resume", rest) is not None and not (several and asks):
            command = resumption_of(name, family)
        elif (extended := _given("--extend", rest)) and not asks:
            command = extension_of(name, extended, family)
        elif several:
            return _several(name, made, rest, target.__doc__ or "")
        else:
            command, target = command_of(name, made), made
        return _read(called, command, rest, target.__doc__ or "")()
    if name in {entry.name for entry in COMMANDS}:
        asked = _read(name, target, rest, target.__doc__ or "")
        return lambda: _said(asked())
    return _read(name, target, rest, target.__doc__ or "")


def _several(name: str, made: Mapping[str, Any], words: Sequence[str], text: str) -> Callable[[], Any]:
    """What there is to choose from, where an experiment has several classes of settings and none was named."""
    if not {"-h", "--help"} & {*words}:
        found = repr(words[0]) if words else "none"
        raise InputError(f"{name} = {found}: expected one of {', '.join(made)}; see dysonjax {name} --help")
    width = max(map(len, made))
    rows = [f"  {one:{width}}  {(of.__doc__ or '').splitlines()[0]}" for one, of in made.items()]
    usage = f"usage: dysonjax {name} {{{','.join(made)}}} [OPTIONS]; dysonjax {name} {next(iter(made))} --help"
    said = "\n".join([usage, "", _first_part(text), "", *rows, ""])
    return lambda: sys.stdout.write(said)


def _by_option(made: Mapping[str, Any], words: Sequence[str]) -> Any:
    """The class of settings that an option chooses; the one under "" where none of them is given."""
    return next((of for option, of in made.items() if option and _given(option, words) is not None), made[""])


def _given(option: str, words: Sequence[str]) -> str | None:
    """The value of an option, "" where it has none, None where it is not there."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word.split("=")[0] == option:
            return word.partition("=")[2] or following
    return None


def _read(name: str, command: Callable[..., Any], words: Sequence[str], text: str) -> Callable[[], Any]:
    """The command with its arguments; tyro's boxed messages become one line."""
    import tyro

    from dysonjax.cli.options import REGISTRY

    @functools.wraps(command)
    def deferred(*args: Any, **options: Any) -> Callable[[], Any]:
        return functools.partial(command, *args, **options)

    said, helped = io.StringIO(), io.StringIO()
    shown = contextlib.redirect_stdout(helped) if os.environ.get("NO_COLOR") else contextlib.nullcontext()
    try:
        with contextlib.redirect_stderr(said), shown:  # tyro knows no NO_COLOR
            return tyro.cli(
                deferred, prog=f"dysonjax {name}", args=[*words], config=(tyro.conf.FlagCreatePairsOff,),
                description=_first_part(text), registry=REGISTRY,
            )  # fmt: skip
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.write(helped.getvalue())
            raise
        words = _first_words(said.getvalue()).replace("settings.", "").rstrip(".")
        raise InputError(f"{words}; see dysonjax {name} --help") from None


def _said(report: Any) -> None:
    """Print what a command without a run has found."""
    from dysonjax.cli.console import tell

    tell(report)
    if report.failed:
        raise Failed(report.failed)


def _overview() -> str:
    """Name and summary of every command; the summaries are read from the sources, so that nothing is imported."""
    found = commands()
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {_summary(entry)}" for name, entry in found.items()]
    kept = f"Compiled programs are kept in the user's cache directory, or in DYSONJAX_CACHE; not with {NO_CACHE}."
    return "\n".join(["usage: dysonjax COMMAND [OPTIONS]; dysonjax COMMAND --help", "", *lines, "", kept, ""])


def _summary(entry: EntryPoint) -> str:
    """The first line of the docstring of what an entry point names."""
    try:
        spec = importlib.util.find_spec(entry.module)
        tree = ast.parse(Path(spec.origin).read_text())  # type: ignore[arg-type, union-attr]
    except (ImportError, AttributeError, TypeError, OSError, SyntaxError):
        return entry.value
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or entry.value).splitlines()[0]
    return entry.value


def _first_part(text: str) -> str:
    """A docstring up to its list of arguments."""
    lines = itertools.takewhile(lambda line: line.strip() != "Args:", (text or "").splitlines())
    return "\n".join(line.strip() for line in lines).strip()


def _first_words(box: str) -> str:
    """What stands in a box, drawn with lines or in ASCII, between its title and its first rule."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    inside = (line.strip(" │|").strip("─-+╰╯") for line in plain.splitlines()[1:])
    return " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, inside)))


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"dysonjax: {message}\n")
    return code
