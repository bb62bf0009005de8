"""What an unpickled object holds, by name: nested dicts, lists, modules and options made flat."""

import dataclasses
import typing
from typing import Any

from convert_weights.unpickle import Array, Object, Tensor, UnpickleError

_MAX_DEPTH = 32  # of published files: four dicts, and modules up to six deep
_MAX_ENTRIES = 1_000_000  # parts may be shared, so that their number says nothing of the file
_MAX_NAME = 1000
_BESIDE = ("latent_avg", "opts")  # attributes of e4e's and pSp's module that their files have


@dataclasses.dataclass
class Contents:
    """The leaves of an object.

    Names of entries of dicts and lists are joined by "/", those of modules within modules by ".":
    {"G_ema": Generator()} has "G_ema/synthesis.b4.conv1.weight".

    Attributes:
      tensors: name -> array.
      values: name -> number, string, bool or None.
    """

    tensors: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    values: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    _visited: int = 0

    def add(self, value: Any, name: str = "", joint: str = "/", depth: int = 0) -> "Contents":
        """Adds what is in `value`.

        Raises:
          UnpickleError: it is nested without end.
        """
        self._visited += 1
        if depth > _MAX_DEPTH or self._visited > _MAX_ENTRIES or len(name) > _MAX_NAME:
            raise UnpickleError(f"it is nested more than {_MAX_DEPTH} deep or without end")
        if isinstance(value, Tensor):
            self.tensors[name or "tensor"] = value.array()
        elif isinstance(value, Array):
            if value.value is not None and value.value.dtype.kind in "biufc":
                if value.value.ndim:
                    self.tensors[name or "tensor"] = value.value
                else:
                    self.values[name] = value.value.item()
            for entry in value.objects if len(value.objects) == 1 else [value.objects]:
                self.add(entry, name, depth=depth + 1)
        elif isinstance(value, bool | int | float | str | None):
            self.values[name] = value
        elif _is_module(value):
            self._add_module(value.state, name, joint, depth)
        elif isinstance(value, dict | list | tuple):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in entries:
                self.add(entry, f"{name}/{key}" if name else str(key), depth=depth + 1)
            for key, entry in getattr(value, "state", {}).items():  # a Namespace's
                self.add(entry, f"{name}/{key}" if name else str(key), depth=depth + 1)
        return self

    def _add_module(self, state, name, joint, depth):
        before = f"{name}{joint}" if name else ""
        for key, value in state.items():
            if isinstance(value, bool | int | float | str | None):
                self.values[f"{before}{key}"] = value
            elif not name and key in _BESIDE and not _is_module(value):
                self.add(value, key, depth=depth + 1)
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = state.get(kind) or {}
            if not isinstance(entries, dict):
                raise UnpickleError(f"one of its modules has {kind} that are no dict")
            for key, value in entries.items():
                if kind == "_modules" and value is not None and not _is_module(value):
                    raise UnpickleError(f"{before}{key} is no module")
                if kind != "_modules" and not isinstance(value, Tensor | Array | None):
                    raise UnpickleError(f"{before}{key} is no tensor")
                if value is not None:
                    self.add(value, f"{before}{key}", ".", depth + 1)


def _is_module(value) -> bool:
    return isinstance(value, Object) and not {"_parameters", "_modules"}.isdisjoint(value.state)
