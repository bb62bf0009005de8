"""Tables of parts by name: the one door through which parts of others come in."""

import difflib
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class Registry(Mapping[str, Any]):
    """Parts of one kind by name; beside a name, any import path `package.module:object`.

    `registry[name]` is the part, as with a dict; `find` takes import paths as well, and says what
    is wrong with either. A part that is written as an import path is imported when it is asked
    for, so that a table costs nothing to read and a room can name what lies above it.

    Args:
      kind: what the parts are, for messages, such as "loss".
      parts: name -> the part, or its import path.
    """

    def __init__(self, kind: str, parts: Mapping[str, Any]):
        self.kind = kind
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> Any:
        part = self._parts[name]
        return import_object(part) if isinstance(part, str) else part

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def find(self, name: str) -> Any:
        """The part of a name or of an import path.

        Raises:
          ValueError: there is none, or it cannot be imported; in one sentence.
        """
        self.check(name)
        if name in self._parts:
            return self[name]
        try:
            return import_object(name)
        except Exception as error:  # a module of others may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"the {self.kind} {name} cannot be imported: {reason}") from error

    def check(self, name: str) -> None:
        """Whether `find` could find it, without an import.

        Raises:
          ValueError: it is neither a name nor an import path; in one sentence.
        """
        if name in self._parts or is_import_path(name):
            return
        near = difflib.get_close_matches(name, self._parts, 1)
        raise ValueError(
            f"there is no {self.kind} {name!r:.80}"
            + (f" (is it {near[0]}?)" if near else "")
            + f"; expected one of {', '.join(self._parts)}, or any package.module:object."
        )


def is_import_path(text: str) -> bool:
    """Whether it is written as `package.module:object`."""
    return isinstance(text, str) and _IMPORT_PATH.fullmatch(text) is not None


def import_object(path: str) -> Any:
    """The object at `package.module:object`; of a nested one `package.module:outer.inner`."""
    module, _, names = path.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found
