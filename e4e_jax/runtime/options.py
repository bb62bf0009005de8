"""Parts of others that a command names: their options, and what is said of their failures."""

import ast
import contextlib
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

_OPTION = re.compile(r"([A-Za-z_]\w*)=(.*)", re.ASCII | re.DOTALL)
_LONGEST = 10_000  # characters of an option


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE of each text; values that Python reads as literals become these, others strings.

    "steps=50" is a whole number, "sizes=(1, 2)" a tuple, "path=x.npz" a string.

    Raises:
      ValueError: another form, or a name twice; in one sentence.
    """
    found: dict[str, Any] = {}
    for text in texts:
        match = _OPTION.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None or match[1] in found:
            reason = "is given twice" if match else "is not understood"
            raise ValueError(f"the option {text!r:.80} {reason}; expected NAME=VALUE.")
        try:
            found[match[1]] = ast.literal_eval(match[2])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[match[1]] = match[2]
    return found


def part_name(part: Any) -> str:
    """What a part is called in messages: its name or import path, or that of the function."""
    return part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)


@contextlib.contextmanager
def failures_of(what: str) -> Iterator[None]:
    """Errors of a part of others become one sentence; its own sentences stay as they are.

    Raises:
      ValueError: from any error that is no ValueError, OSError or ImportError.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "JaxRuntimeError":  # the device's memory
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}, line {last.lineno}"
        raise ValueError(f"{what} failed: {type(error).__name__}: {error} ({where})") from error
