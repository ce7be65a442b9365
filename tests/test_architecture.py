"""What holds everywhere in the package, read from its source: floors of imports, no print, docstrings everywhere."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dysonjax"

FLOORS = [
    {"errors", "aborts"},
    {"text"},
    {"dynamics", "blocks", "laws"},
    {"spectra"},
    {"ensembles", "weights"},
    {"noise", "potentials"},
    {"schemes"},
    {"observables", "scaling", "bulk", "tails"},
    {"analyze"},
    {"models"},
    {"moments", "gradients"},
    {"sgd", "dyson"},
    {"langevin", "svag", "verdicts"},
    {"simulate"},
    {"grid", "header", "places", "stored", "progress"},
    {"store", "processes", "planning"},
    {"cluster"},
    {"scan"},
    {"merge", "forecast", "records"},
    {"plots", "check", "validity", "monitor", "checkpoints"},
    {"training"},
    {"papers", "gas"},
    {"gas_figures"},
    {"console"},
    {"cli_cluster", "cli_gpt"},
    {"cli_scaling", "cli_weights"},
    {"cli"},
    {"__init__"},
]
"""A module imports from lower floors only; a folder is one module, and within it order is its own affair."""

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), name) for name, path in FILES.items()}
LEVEL = {module: level for level, floor in enumerate(FLOORS) for module in floor}


def module(name):
    """`models` for `models/base.py`, `scan` for `scan.py`."""
    return name.split("/")[0].removesuffix(".py")


def imported(tree):
    """First part behind `dysonjax.` of everything the source imports from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module]
            if node.module == "dysonjax":
                names = [f"dysonjax.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "dysonjax":
                yield "__init__"
            elif name.startswith("dysonjax."):
                part = name.split(".")[1]
                yield part if part in {module(n) for n in FILES} else "__init__"


def climbs(name, tree):
    """Imports of `name` that do not go down."""
    own = module(name)
    return sorted({other for other in imported(tree) if other != own and LEVEL[other] >= LEVEL[own]})


def test_every_module_has_its_floor():
    assert {module(name) for name in FILES} <= set(LEVEL)
    assert sum(map(len, FLOORS)) == len(LEVEL)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down(name):
    assert climbs(name, TREES[name]) == []


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("errors.py", "from dysonjax.dynamics import Dynamics", ["dynamics"]),
        ("grid.py", "def f():\n    from dysonjax import store", ["store"]),
        ("store.py", "import dysonjax.scan as s", ["scan"]),
        ("scan.py", "from dysonjax import Grid", ["__init__"]),
        ("scan.py", "import dysonjax", ["__init__"]),
        ("models/base.py", "from dysonjax.sgd import sgd\nfrom dysonjax.models import tanh_network", ["sgd"]),
        ("cli.py", "from dysonjax.papers import phase_diagram\nimport numpy", []),
    ],
)
def test_an_import_that_climbs_is_seen(name, source, wrong):
    assert climbs(name, ast.parse(source)) == wrong


def prints(tree):
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in ("print", "breakpoint")]


@pytest.mark.parametrize("name", [name for name in FILES if name != "cli.py"])
def test_the_library_never_prints(name):
    assert prints(TREES[name]) == []


def undocumented(tree, promised=frozenset()):
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
    return methods | {m.target.id for m in members if isinstance(m, ast.AnnAssign)}


@pytest.mark.parametrize("name", FILES)
def test_everything_public_has_a_docstring(name):
    assert undocumented(TREES[name], promises()) == []


def test_what_is_missing_is_seen():
    source = "def f(): ...\ndef _g(): ...\nclass C:\n    'Text.'\n    def m(self): ...\n    def loss(self): ...\n"
    assert undocumented(ast.parse(source), {"loss"}) == ["the module", "f", "m"]
    assert prints(ast.parse("print(1)\nf(print)\nx = 'print'")) == [1, 2]
    assert {"task", "init", "sample", "loss", "matrices", "config"} <= promises()


def test_public_names_are_those_listed():
    import dysonjax

    assert sorted(dysonjax.__all__) == list(dysonjax.__all__)
    for name in dysonjax.__all__:
        value = getattr(dysonjax, name)
        assert value.__doc__
