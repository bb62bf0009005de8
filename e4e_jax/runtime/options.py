"""Options of parts that are functions: from the command line, and checked before the work."""

import ast
import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from e4e_jax.runtime.registry import perhaps

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


def option_names(part: Callable) -> list[str] | None:
    """The options of a part: its parameters that can be given by name alone; None for any.

    So are those of a class with `__call__`.
    """
    parameters = inspect.signature(part).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def check_options(what: str, part: Callable, options: Mapping[str, Any]) -> None:
    """Whether a part takes these options.

    Args:
      what: the part, for the message, such as "the inversion method w_plus".

    Raises:
      ValueError: it can not be called, or has no such option; in one sentence.
    """
    if not callable(part):
        raise ValueError(f"{what} is {type(part).__name__}; expected a function.")
    names = option_names(part)
    if names is None:
        return
    for name in options:
        if name not in names:
            raise ValueError(
                f"{what} has no option {name:.80}{perhaps(name, names)}; expected "
                f"{'one of ' + ', '.join(names) if names else 'none'}."
            )


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
        raise ValueError(f"{what} failed: {type(error).__name__}: {error}") from error
