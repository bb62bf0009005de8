"""What the text of a compiled program says: convolutions, changes of layout, cycles, traffic."""

import collections
import dataclasses
import math
import re

# Bytes of an element; the other types have four.
_BYTES = {"bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1, "f64": 8, "s64": 8, "u64": 8}
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
# They move nothing: names of values, and the second halves of asynchronous operations.
_FREE = {
    *("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "iota", "partition-id"),
    *("all-reduce-done", "all-gather-done", "copy-done", "after-all"),
}
_LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation: `name = shape opcode(operands), ...`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    line: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Of the result, of all its parts if it is a tuple."""
        return sum(
            _BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(","))))
            for kind, sizes in _ARRAY.findall(self.shape)
        )


def read(text: str) -> dict:
    """Counts over a run of the program; loops count as often as they run.

    Returns:
      "cycles", as the compiler expects them (0 where it says nothing);
      "convolutions", how many there are by the type of their result, on a TPU with the products;
      "copies" and "copied_bytes", changes of layout of arrays of 1 MB and more that are not fused;
      "traffic_bytes", what operations read and write of memory, each its operands once.
    """
    computations, entry = _computations(text)
    convolutions = collections.Counter(
        re.findall(r"= (\w+)\[[^ ]* convolution\(", text)
        + re.findall(r"= \((\w+)\[.*custom_call_target=\"__cudnn\$conv", text)
    )

    def walk(name):  # -> cycles, traffic, bytes of each copy
        cycles, traffic, copies = 0, 0, []
        shapes = {}
        for instruction in computations.get(name, ()):
            shapes[instruction.name] = instruction.bytes
            inner, times = _called(instruction)
            if inner:
                parts = [walk(part) for part in inner]
                if instruction.opcode == "conditional":  # the dearest branch
                    parts = [max(parts, key=lambda part: part[:2])]
                for inner_cycles, inner_traffic, inner_copies in parts:
                    cycles += times * inner_cycles
                    traffic += times * inner_traffic
                    copies += times * inner_copies
            elif instruction.opcode not in _FREE:
                traffic += _traffic(instruction, shapes, computations)
            if found := re.search(r'"estimated_cycles":"(\d+)"', instruction.line):
                cycles += int(found[1])
            if instruction.opcode == "copy" and instruction.bytes >= _LARGE:
                copies.append(instruction.bytes)
        return cycles, traffic, copies

    cycles, traffic, copies = walk(entry)
    return {
        "cycles": cycles,
        "convolutions": dict(convolutions),
        "copies": len(copies),
        "copied_bytes": sum(copies),
        "traffic_bytes": traffic,
    }


def _computations(text):
    """Name of a computation -> its instructions; and the name of the one that the program is."""
    computations, current, entry = {}, None, None
    for line in text.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations[found[2]] = []
            entry = found[2] if found[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            root, name, shape, opcode, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.split(")", 1)[0]))
            current.append(Instruction(name, shape, opcode, operands, line, root is not None))
    return computations, entry


def _called(instruction):
    """Computations that an instruction runs as they are, and how often; a fusion is one itself."""
    line = instruction.line
    if instruction.opcode == "while":
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        return re.findall(r"body=%?([\w.\-]+)", line), int(trips[1]) if trips else 1
    if instruction.opcode == "conditional":
        return re.findall(r"%([\w.\-]+)", line.split("), ", 1)[1].split("}")[0]), 1
    if instruction.opcode == "call":
        return re.findall(r"to_apply=%?([\w.\-]+)", line), 1
    return [], 1


def _traffic(instruction, shapes, computations):
    """Bytes that one instruction reads and writes; of slices, what is in them."""
    if instruction.opcode != "fusion":
        return instruction.bytes + sum(shapes.get(name, 0) for name in set(instruction.operands))
    called = re.search(r"calls=%?([\w.\-]+)", instruction.line)[1]
    inside = {inner.name: inner for inner in computations[called]}

    def source(name):  # through changes of shape alone
        while inside[name].opcode == "bitcast":
            name = inside[name].operands[0]
        return name

    users = collections.defaultdict(list)
    for inner in inside.values():
        if inner.opcode != "bitcast":
            for position, name in enumerate(inner.operands):
                users[source(name)].append((inner, position))
    traffic = 0
    for inner in inside.values():
        if inner.opcode != "parameter":
            continue
        used = users[inner.name]
        if used and all(_is_slice(user, position) for user, position in used):
            # A buffer that is updated in place is not read.
            read = sum(user.bytes for user, _ in used if user.opcode != _UPDATE)
            traffic += min(read, inner.bytes)
        else:
            traffic += inner.bytes
    roots = [inner for inner in inside.values() if inner.is_root]
    if roots and roots[0].opcode == "tuple":
        roots = [inside[name] for name in roots[0].operands]
    for root in roots:
        root = inside[source(root.name)]
        traffic += inside[root.operands[1]].bytes if root.opcode == _UPDATE else root.bytes
    return traffic


_UPDATE = "dynamic-update-slice"


def _is_slice(user, position):
    return position == 0 and user.opcode in ("dynamic-slice", "slice", _UPDATE)
