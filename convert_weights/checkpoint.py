"""What a source file holds, and the strict accounting of it."""

import collections
import dataclasses
import re
import typing

import numpy as np
from flax import nnx

from convert_weights.rows import Row, set_variables, variables


class ConvertError(ValueError):
    """The source cannot be converted; in one sentence."""


@dataclasses.dataclass
class Checkpoint:
    """The contents of a source file.

    Nested dicts are flattened: {"g_ema": {"style.1.weight": x}} is "g_ema/style.1.weight".

    Attributes:
      name: of the file, for messages.
      tensors: name -> array; emptied as they are used or left out.
      values: name -> number, string, bool or None: everything else.
      prefix: what every name of `shape`, `has`, `count`, `fill` and `check_constant` is behind.
      left_out: reason -> number of tensors.
      path: of the file.
      notes: lines to print about what was found and how it was read.
      metadata: entries for the JSON of a bundle.
    """

    name: str
    tensors: dict[str, typing.Any]
    values: dict[str, typing.Any]
    prefix: str = ""
    left_out: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    path: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)
    metadata: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    _missing: list[str] = dataclasses.field(default_factory=list)
    _misshapen: list[str] = dataclasses.field(default_factory=list)
    _planned: list = dataclasses.field(default_factory=list)

    def under(self, prefix: str) -> "Checkpoint":
        """The same contents, seen behind another prefix."""
        return dataclasses.replace(self, prefix=prefix)

    def error(self, reason: str) -> ConvertError:
        return ConvertError(f"{self.name}: {reason}.")

    def note(self, line: str) -> None:
        """A line to print, once however often it is found."""
        if line not in self.notes:
            self.notes.append(line)

    def require(self, found: bool, name: str) -> None:
        if not found:
            raise self.error(f"there is no {self.prefix}{name}, which this kind of file has")

    def has(self, name: str) -> bool:
        """Whether there is such a tensor, or one whose name begins so."""
        name = self.prefix + name
        return name in self.tensors or any(key.startswith(name) for key in self.tensors)

    def shape(self, *names: str, rank: int | None = 2) -> tuple[int, ...]:
        """The shape of the first of these tensors that has the rank (None: any) and numbers."""
        for name in names:
            shape = tuple(getattr(self.tensors.get(self.prefix + name), "shape", ()))
            if shape and all(shape) and rank in (None, len(shape)):
                return shape
        raise self.error(
            f"{self.prefix}{names[0]} is missing, empty or not of rank {rank or 'one or more'}"
        )

    def count(self, prefix: str, step: int = 1, start: int = 0) -> int:
        """How many modules `prefix`start, start + step, ... there are without a gap."""
        pattern = re.compile(re.escape(self.prefix + prefix) + r"(\d{1,4})\.")
        found = {int(match[1]) for key in self.tensors if (match := pattern.match(key))}
        n = 0
        while start + n * step in found:
            n += 1
        return n

    def leave_out(self, pattern: str, reason: str) -> None:
        """Drops the tensors whose names, prefix and all, hold the regular expression."""
        for key in [key for key in self.tensors if re.search(pattern, key)]:
            del self.tensors[key]
            self.left_out[reason] += 1

    def check_constant(self, name: str, expected: np.ndarray, reason: str) -> None:
        """Drops a tensor that may be there and must then hold `expected`."""
        tensor = self.tensors.pop(self.prefix + name, None)
        if tensor is None:
            return
        self.left_out[reason] += 1
        same_shape = tuple(tensor.shape) == expected.shape
        if not same_shape or not np.array_equal(to_numpy(tensor), expected):
            self._misshapen.append(f"{self.prefix}{name} is not the [1, 3, 3, 1] filter")

    def fill(
        self, network: nnx.Module, rows: list[Row], constants: dict[str, typing.Any] | None = None
    ) -> None:
        """Plans to fill an abstract network; `finish` does it once everything is accounted for.

        Args:
          network: made by `nnx.eval_shape`.
          rows: its table; with `constants` they cover every variable.
          constants: path -> number or array, for variables that the file does not have.
        """
        constants, plan, ours = constants or {}, [], variables(network)
        for row in rows:
            name, shape = self.prefix + row.source, row.source_shape(ours[row.path].shape)
            tensor = self.tensors.pop(name, None)
            if tensor is None:
                self._missing.append(name)
            elif tuple(tensor.shape) != shape or not is_float(tensor):
                found = f"{tensor.dtype} {list(tensor.shape)}"
                self._misshapen.append(f"{name} is {found}, expected floats {list(shape)}")
            else:
                plan.append((row, tensor))
        self._planned.append((network, plan, constants))

    def finish(self) -> None:
        """Fills the networks with float32 arrays.

        Raises:
          ConvertError: with every tensor that is missing, misshapen or left over.
        """
        self.leave_out(r"num_batches_tracked$", "batch counters")
        groups = [
            ("missing", self._missing),
            ("unexpected", sorted(self.tensors)),
            ("misshapen", self._misshapen),
        ]
        if any(names for _, names in groups):
            raise self.error(
                "; ".join(
                    f"{len(names)} {kind}: {', '.join(names)}" for kind, names in groups if names
                )
            )
        while self._planned:
            network, plan, constants = self._planned.pop()
            ours = variables(network)
            arrays = {p: np.full(ours[p].shape, x, np.float32) for p, x in constants.items()}
            plan.reverse()
            while plan:  # one tensor at a time, each let go once it is copied
                row, tensor = plan.pop()
                if row.path not in arrays:
                    arrays[row.path] = np.empty(ours[row.path].shape, np.float32)
                target = arrays[row.path] if row.index is None else arrays[row.path][row.index]
                target[...] = row.to_variable(to_numpy(tensor))
            set_variables(network, arrays)


def to_numpy(tensor: typing.Any) -> np.ndarray:
    """A float tensor of any precision as a float32 array, without a copy where it is one."""
    return np.asarray(tensor, np.float32)


def is_float(tensor: typing.Any) -> bool:
    return str(tensor.dtype) in ("float16", "bfloat16", "float32", "float64")
