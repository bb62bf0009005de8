"""What the text of a compiled program says: convolutions, changes of layout, cycles, least time."""

import collections
import dataclasses
import math
import re

# Bytes of an element; the other types have four.
_BYTES = {"bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1, "f64": 8, "s64": 8, "u64": 8}
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
# They move nothing, but give values names.
_FREE = {
    *("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "iota", "partition-id"),
    "after-all",
}
_LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a device can do at most.

    Attributes:
      memory: bytes/s.
      flops: FLOP/s of products of 16-bit numbers.
      flops32: those of TF32.
    """

    memory: float
    flops: float
    flops32: float

    def seconds(self, moved: float, flops: float, itemsize: int) -> float:
        """The least time of one operation: of its traffic or of its arithmetic.

        Args:
          moved: bytes read and written.
          flops: of its convolutions and products.
          itemsize: bytes of a number that they multiply.
        """
        return max(moved / self.memory, flops / (self.flops if itemsize == 2 else self.flops32))


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
    def arrays(self) -> list[tuple[int, list[int]]]:
        """Bytes of an element and sizes of the result, of all its parts if it is a tuple."""
        return [
            (_BYTES.get(kind, 4), [int(size) for size in sizes.split(",") if size])
            for kind, sizes in _ARRAY.findall(self.shape)
        ]

    @property
    def bytes(self) -> int:
        return sum(itemsize * math.prod(sizes) for itemsize, sizes in self.arrays)


def read(text: str, rates: Rates | None = None) -> dict:
    """Counts over a run of the program; loops count as often as they run, or once if that is open.

    Args:
      text: of the compiled program.
      rates: of a GPU, whose convolutions are calls of cuDNN.

    Returns:
      "cycles", as the compiler expects them (0 where it says nothing);
      "convolutions", how many there are by the type of their result, on a TPU with the products;
      "copies" and "copied_bytes", changes of layout of arrays of 1 MB and more that are not fused;
      "traffic_bytes", what operations read and write of memory, each its operands once;
      "least_seconds", the sum of what each operation takes at least at the rates, or 0.
    """
    computations, entry = _computations(text)
    convolutions = collections.Counter(
        re.findall(r"= (\w+)\[[^ ]* convolution\(", text)
        + re.findall(r"= \((\w+)\[.*custom_call_target=\"__cudnn\$conv", text)
    )

    def walk(name):  # -> cycles, traffic, seconds, bytes of each copy
        cycles, traffic, seconds, copies = 0, 0, 0.0, []
        known = {}
        for instruction in computations.get(name, ()):
            known[instruction.name] = instruction
            inner, times = _called(instruction)
            if inner:
                parts = [walk(part) for part in inner]
                if instruction.opcode == "conditional":  # the dearest branch
                    parts = [max(parts, key=lambda part: part[:2])]
                for part in parts:
                    cycles += times * part[0]
                    traffic += times * part[1]
                    seconds += times * part[2]
                    copies += times * part[3]
            elif instruction.opcode not in _FREE:
                moved = _traffic(instruction, known, computations)
                traffic += moved
                if rates:
                    seconds += rates.seconds(moved, *_flops(instruction, known, computations))
            if found := re.search(r'"estimated_cycles":"(\d+)"', instruction.line):
                cycles += int(found[1])
            if instruction.opcode == "copy" and instruction.bytes >= _LARGE:
                copies.append(instruction.bytes)
        return cycles, traffic, seconds, copies

    cycles, traffic, seconds, copies = walk(entry)
    return {
        "cycles": cycles,
        "convolutions": dict(convolutions),
        "copies": len(copies),
        "copied_bytes": sum(copies),
        "traffic_bytes": traffic,
        "least_seconds": seconds,
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


def _inside(instruction, computations):
    """The instructions of a fusion, by their names."""
    called = re.search(r"calls=%?([\w.\-]+)", instruction.line)[1]
    return {inner.name: inner for inner in computations[called]}


def _flops(instruction, known, computations):
    """FLOPs of an instruction's convolution or products, and bytes of a number in them."""
    if instruction.opcode == "fusion":
        inside = _inside(instruction, computations)
        flops, itemsize = 0, 4
        for inner in inside.values():
            if inner.opcode == "dot":
                itemsize, sizes = inside[inner.operands[0]].arrays[0]
                contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", inner.line)[1]
                depth = math.prod(sizes[int(axis)] for axis in contracted.split(",") if axis)
                flops += 2 * math.prod(inner.arrays[0][1]) * depth
        return flops, itemsize
    if "__cudnn$conv" not in instruction.line:
        return 0, 4
    result = instruction.arrays[0]
    first, second = (known[name].arrays[0] for name in instruction.operands[:2])
    if "convBackwardInput" in instruction.line:
        output, kernel = first, second
    elif "convBackwardFilter" in instruction.line:
        output, kernel = second, result
    else:
        output, kernel = result, second
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.line)[1]
    channels = kernel[1][labels.index("o")]
    return 2 * math.prod(output[1]) * math.prod(kernel[1]) // channels, first[0]


def _traffic(instruction, known, computations):
    """Bytes that one instruction reads and writes; of slices, what is in them."""
    if instruction.opcode.endswith("-done"):  # what it gives is what it wrote
        return instruction.bytes
    if instruction.opcode != "fusion":
        read = sum(known[name].bytes for name in set(instruction.operands) if name in known)
        return read if instruction.opcode.endswith("-start") else instruction.bytes + read
    inside = _inside(instruction, computations)

    def source(name):  # through changes of shape alone
        while inside[name].opcode == "bitcast":
            name = inside[name].operands[0]
        return name

    users = collections.defaultdict(list)
    for inner in inside.values():
        if inner.opcode != "bitcast":
            for position, name in enumerate(inner.operands):
                users[source(name)].append((inner, position))
    roots = [inside[source(inner.name)] for inner in inside.values() if inner.is_root]
    if roots and roots[0].opcode == "tuple":
        roots = [inside[source(name)] for name in roots[0].operands]

    def in_place(inner):
        if inner.opcode != "dynamic-update-slice" or inner not in roots:
            return False
        return inside[source(inner.operands[0])].opcode == "parameter"

    traffic = 0
    for inner in inside.values():
        if inner.opcode != "parameter":
            continue
        read = 0
        for user, position in users[inner.name]:
            if position == 0 and user.opcode in ("dynamic-slice", "slice"):
                read += user.bytes
            elif not (position == 0 and in_place(user)):
                read += inner.bytes
        traffic += min(read, inner.bytes)
    for root in roots:
        traffic += inside[root.operands[1]].bytes if in_place(root) else root.bytes
    return traffic
