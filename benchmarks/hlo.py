"""Reads the text of a compiled program (XLA's HLO): how many kernels an update launches and what it copies.

On an accelerator every instruction that is left outside a fusion is a kernel of its own, and a program of small ones
is as slow as their number, whatever they compute. Every figure here is a count in the text; nothing is estimated.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "domain", "add-dependency", "get-dimension-size", "while", "conditional", "call",
}  # fmt: skip
"""Instructions that launch nothing themselves."""
NO_KERNEL = {"AllocateBuffer", "AssumeGatherIndicesInBound"}
"""Custom calls that only reserve memory, or only tell the compiler something."""
DATA_SHARE = 0.01
"""Arguments that hold less of the data than this are not looked for among the copies."""


class Instruction(NamedTuple):
    """One line: `result` is the type as it stands, `called` the names of computations by attribute."""

    name: str
    opcode: str
    result: str
    attributes: str
    called: Mapping[str, tuple[str, ...]]

    @property
    def target(self) -> str:
        """What a custom call calls, else nothing."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def trips(self) -> int | None:
        """How often a loop goes round, where the compiler knows it."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def origin(self) -> str:
        """Where it stands in the JAX program, such as `jit(advance)/while/body/while`."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else self.name

    @property
    def launches(self) -> bool:
        """Whether the device starts a kernel for it; a pair of start and done is one."""
        ends = self.opcode.endswith(("-done", "-update"))
        return not (self.opcode in FREE or ends or self.target in NO_KERNEL)

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations of which a conditional takes one."""
        kinds = ("true_computation", "false_computation", "branch_computations")
        return tuple(name for kind in kinds for name in self.called.get(kind, ()))


class Module(NamedTuple):
    """A compiled program: the instructions of each computation, and the name of the first one."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def run(self, name: str) -> Iterator[Instruction]:
        """The instructions of a computation and of those that it calls outright."""
        for one in self.computations[name]:
            yield one
            for callee in one.called.get("to_apply", ()) if one.opcode == "call" else ():
                yield from self.run(callee)


@dataclass(frozen=True)
class Work:
    """What one pass through a computation launches; loops and branches inside it are apart."""

    kernels: Counter[str]
    """By kind of instruction, a custom call by its target; no copies."""
    copies: int
    loops: tuple[tuple[int | None, "Work"], ...]
    """Trips (None: the compiler does not know them) and the work of one, the loop's condition included if unknown."""
    branches: tuple["Work", ...]
    """The one of each conditional that launches most."""

    @property
    def all_kernels(self) -> int:
        """Those of a loop as often as it goes round, once if that is not known; no branches."""
        return self.kernels.total() + sum((trips or 1) * inside.all_kernels for trips, inside in self.loops)

    @property
    def all_copies(self) -> int:
        """Likewise."""
        return self.copies + sum((trips or 1) * inside.all_copies for trips, inside in self.loops)

    @property
    def launched(self) -> int:
        """Kernels and copies with the largest branch of every conditional."""
        inside = sum((trips or 1) * inside.launched for trips, inside in self.loops)
        return self.kernels.total() + self.copies + inside + sum(branch.launched for branch in self.branches)


class Copy(NamedTuple):
    """A kernel whose result has as many numbers as an argument that holds data."""

    bytes: int
    loops_around: int


_SIZES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+)\w*\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_START = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"\b(\w*computations?|body|condition|calls|to_apply)=(\{[^}]*\}|%?[\w.\-]+)")


def parse(text: str) -> Module:
    """The program that `compiled.as_text()` shows; raises `ValueError` when there is none."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}") and name:
            computations[name], name = tuple(lines), ""
        elif name and (start := _START.match(line)):
            lines.append(_instruction(start[1], line[start.end() :]))
    if not entry:
        raise ValueError("expected the text of a compiled program, with an ENTRY computation")
    return Module(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opcode = rest[: rest.index("(")]
    attributes = rest[_closing(rest, len(opcode)) :]
    plain = attributes.split(", metadata=")[0] if ", metadata=" in attributes else attributes
    called = {key: tuple(re.findall(r"[\w.\-]+", names)) for key, names in _CALLED.findall(plain)}
    return Instruction(name, opcode, result, attributes, called)


def _closing(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in re.finditer(r"[()]", text[start:]):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return start + place.end()
    raise ValueError(f"expected balanced parentheses in {text[:80]!r}")


def work(module: Module, name: str) -> Work:
    """What one pass through the computation of this name launches."""
    kernels: Counter[str] = Counter()
    copies, loops, branches = 0, [], []
    for one in module.run(name):
        if one.opcode == "while":
            inside = work(module, one.called["body"][0])
            if one.trips is None:
                asked = work(module, one.called["condition"][0])
                inside = Work(inside.kernels + asked.kernels, inside.copies + asked.copies,
                              inside.loops + asked.loops, inside.branches + asked.branches)  # fmt: skip
            loops.append((one.trips, inside))
        elif one.opcode == "conditional":
            branches.append(max((work(module, branch) for branch in one.branches), key=lambda found: found.launched))
        elif one.launches and one.opcode in ("copy", "copy-start"):
            copies += 1
        elif one.launches:
            kernels[one.target or one.opcode] += 1
    return Work(kernels, copies, tuple(loops), tuple(branches))


def nest(module: Module, depth: int) -> list[Instruction]:
    """The `depth` loops around an update, outermost first, none of them inside a conditional.

    Where several loops lie side by side it is those whose innermost body launches most. Raises `ValueError` when
    there are fewer.
    """
    found = max(_nests(module, module.entry, depth), key=lambda loops: _weight(module, loops), default=None)
    if found is None:
        raise ValueError(f"expected {depth} loops inside each other, found fewer")
    return found


def _nests(module: Module, name: str, depth: int) -> Iterator[list[Instruction]]:
    if not depth:
        yield []
        return
    for loop in module.run(name):
        if loop.opcode == "while":
            for inside in _nests(module, loop.called["body"][0], depth - 1):
                yield [loop, *inside]


def _weight(module: Module, loops: list[Instruction]) -> int:
    return work(module, loops[-1].called["body"][0]).launched if loops else 0


def everything(module: Module, name: str | None = None, around: int = 0) -> Iterator[tuple[int, Instruction]]:
    """All instructions outside fusions, with the number of loops around each."""
    for one in module.run(name or module.entry):
        yield around, one
        inner = [*one.called["body"], *one.called["condition"]] if one.opcode == "while" else one.branches
        for callee in inner:
            yield from everything(module, callee, around + (one.opcode == "while"))


def unknown_trips(module: Module) -> list[str]:
    """Where in the JAX program the loops stand whose trip count the compiler does not know."""
    return sorted(one.origin for _, one in everything(module) if one.opcode == "while" and one.trips is None)


def callbacks(lowered: str) -> list[str]:
    """Calls for which the device waits for the host, from the text before compilation (`lowered.as_text()`).

    There, because a program with a callback cannot be compiled without the device.
    """
    found = re.findall(r"custom_call @(\w*callback\w*)|stablehlo\.(infeed|outfeed|send|recv)\b", lowered)
    return sorted(target or operation for target, operation in found)


def copies_of_data(module: Module, sizes: list[int]) -> list[Copy]:
    """Kernels that write as many numbers as one of the data's arrays has, in whatever order or precision.

    `sizes`: numbers in each array of the data; those with less than `DATA_SHARE` of all are left out.
    """
    wanted = {size for size in sizes if size >= DATA_SHARE * sum(sizes)}
    found = []
    for around, one in everything(module):
        if one.launches:
            arrays = _arrays(one.result)[: 1 if one.opcode.endswith("-start") else None]
            found += [Copy(count * size, around) for count, size in arrays if count in wanted]
    return found


def _arrays(result: str) -> list[tuple[int, int]]:
    """Numbers and bytes a number of every array in a type."""
    found = []
    for kind, dims in _ARRAY.findall(result):
        size = _SIZES.get(kind) or max(1, int(kind[1:]) // 8)
        found.append((math.prod(int(n) for n in dims.split(",") if n), size))
    return found
