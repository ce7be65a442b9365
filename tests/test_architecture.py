"""What holds everywhere in the package: floors of imports, no circles, no print, docstrings, what is public."""

import ast
import functools
import types
from collections.abc import Set
from pathlib import Path

import grimp
import pytest

import dysonjax

PACKAGE = Path(__file__).parents[1] / "dysonjax"

FLOORS = [
    {"cli"},
    {"experiments"},
    {"dynamics"},
    {"models", "engine", "weights"},
    {"spectra", "ensembles", "storage"},
    {"kernels", "laws", "runtime"},
    {"core"},
]
"""A room imports from the floors below it and from itself only. `dysonjax` itself imports from all."""

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), name) for name, path in FILES.items()}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("dysonjax", cache_dir=None)


def climbs(graph):
    """Chains of imports that do not go down, as (importer, imported)."""
    found = graph.find_illegal_dependencies_for_layers(layers=FLOORS, containers={"dysonjax"})
    return sorted((one.importer, one.imported) for one in found)


def test_every_room_has_its_floor(graph):
    rooms = {name.removeprefix("dysonjax.") for name in graph.find_children("dysonjax")}
    assert rooms == set().union(*FLOORS)
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 15


def test_imports_go_down(graph):
    assert climbs(graph) == []


def test_imports_go_in_no_circle(graph):
    for room in ("dysonjax", *graph.find_children("dysonjax")):
        assert graph.nominate_cycle_breakers(room) == set()


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("core.errors", "dynamics.langevin", [("dysonjax.core", "dysonjax.dynamics")]),
        ("kernels.products", "laws", [("dysonjax.kernels", "dysonjax.laws")]),
        ("cli.app", "core.errors", []),
    ],
)
def test_an_import_that_climbs_is_seen(importer, imported, wrong):
    graph = grimp.ImportGraph()
    for name in ("dysonjax", *(f"dysonjax.{room}" for floor in FLOORS for room in floor)):
        graph.add_module(name)
    graph.add_import(importer=f"dysonjax.{importer}", imported=f"dysonjax.{imported}")
    assert climbs(graph) == wrong


def test_a_circle_is_seen():
    graph = grimp.ImportGraph()
    graph.add_import(importer="dysonjax.core.a", imported="dysonjax.core.b")
    graph.add_import(importer="dysonjax.core.b", imported="dysonjax.core.a")
    graph.add_module("dysonjax.core")
    assert graph.nominate_cycle_breakers("dysonjax.core")


def prints(tree):
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in ("print", "breakpoint")]


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("cli/")])
def test_the_library_never_prints(name):
    assert prints(TREES[name]) == []


def undocumented(tree, promised: Set[str] = frozenset()):
    """Public classes, functions and methods without a docstring.

    Methods that a protocol of the package promises are described there, once for all who keep it, and dunder methods
    are Python's own.
    """
    nodes = [("the module", tree)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            nodes.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                functions = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                nodes += [(f.name, f) for f in functions if not f.name.startswith("_") and f.name not in promised]
    return [name for name, node in nodes if not ast.get_docstring(node)]


@functools.cache
def promises():
    """Names that the package's protocols declare."""
    protocols = [
        node
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Protocol" for base in node.bases)
    ]
    members = [member for node in protocols for member in node.body]
    methods = {m.name for m in members if isinstance(m, ast.FunctionDef)}
    return methods | {m.target.id for m in members if isinstance(m, ast.AnnAssign) and isinstance(m.target, ast.Name)}


@pytest.mark.parametrize("name", FILES)
def test_everything_public_has_a_docstring(name):
    assert undocumented(TREES[name], promises()) == []


def test_what_is_missing_is_seen():
    source = "def f(): ...\ndef _g(): ...\nclass C:\n    'Text.'\n    def m(self): ...\n    def loss(self): ...\n"
    assert undocumented(ast.parse(source), {"loss"}) == ["the module", "f", "m"]
    assert prints(ast.parse("print(1)\nf(print)\nx = 'print'")) == [1, 2]
    assert {"task", "init", "sample", "loss", "matrices", "config"} <= promises()


def test_public_names_are_those_listed():
    assert sorted(dysonjax.__all__) == list(dysonjax.__all__)
    assert dir(dysonjax) == dysonjax.__all__
    for name in dysonjax.__all__:
        assert getattr(dysonjax, name).__doc__


def test_no_module_is_hidden_by_a_function(graph):
    """`dysonjax.scan` is a function, so no module may have its name, at any depth.

    The paper's experiment had its folder before `dysonjax.phase_diagram` did the same for any network.
    """
    functions = {n for n in dysonjax.__all__ if not isinstance(getattr(dysonjax, n), types.ModuleType)}
    found = sorted(name for name in graph.modules if name.rsplit(".", 1)[-1] in functions)
    assert found == ["dysonjax.experiments.phase_diagram"]
