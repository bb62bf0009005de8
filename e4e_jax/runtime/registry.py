"""Tables of parts by name: the one door through which parts of others come in."""

import difflib
import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
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
        raise ValueError(
            f"there is no {self.kind} {name!r:.80}{perhaps(name, self._parts)}; expected "
            f"{self.expected}."
        )

    @property
    def expected(self) -> str:
        """What can be found here, in words."""
        return f"one of {', '.join(self._parts)}, or any package.module:object"


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


def call(what: str, part: Any, *arguments: Any, **named: Any) -> Any:
    """`part(*arguments, **named)`, a part of others with its options.

    Only the call itself is looked at: what the part raises is its own.

    Raises:
      ValueError: see `check_call`.
    """
    check_call(what, part, *arguments, **named)
    return part(*arguments, **named)


def check_call(what: str, part: Any, *arguments: Any, **named: Any) -> None:
    """Whether `part(*arguments, **named)` is a call that the part takes; it is not called.

    Args:
      what: the part in messages, such as "config.optimizer.name adamw".

    Raises:
      ValueError: it cannot be called, or not with these; in one sentence.
    """
    if not callable(part):
        raise ValueError(f"{what} is {part!r:.80}, which cannot be called.")
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):  # not known of some that are written in C
        return
    try:
        bound = signature.bind_partial(*arguments).arguments
    except TypeError:
        raise ValueError(
            f"{what} takes {_written(signature)}; expected one that takes {len(arguments)} "
            "arguments by position."
        ) from None
    free = {
        name: p.default is p.empty
        for name, p in signature.parameters.items()
        if name not in bound and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in named:
        if name not in free and not takes_all:
            raise ValueError(
                f"{what} takes no {name!r:.80}{perhaps(name, free)}; it takes "
                f"{', '.join(free) or 'no options'}."
            )
    for name, needed in free.items():
        if needed and name not in named:
            raise ValueError(f"{what} needs {name!r}, which is not given.")


def takes(part: Any, name: str) -> bool:
    """Whether a part has an argument of that name."""
    return name in inspect.signature(part).parameters


def perhaps(name: str, known: Collection[str]) -> str:
    """ " (is it NAME?)" where one of the known names is near, else nothing."""
    near = difflib.get_close_matches(str(name), known, 1)
    return f" (is it {near[0]}?)" if near else ""


def _written(signature):
    return f"({', '.join(signature.parameters)})"
