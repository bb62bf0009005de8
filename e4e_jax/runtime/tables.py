"""Tables of numbers in .csv files, read without trusting what is in them."""

import csv
import io
import math
import os

import numpy as np

from e4e_jax.runtime.files import opened

_LONGEST_NAME = 1000


def read_table(path: str | os.PathLike, what: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Reads a .csv file of a header name,COLUMN,... and rows of a name and numbers.

    The text is UTF-8. An empty field or "nan" is a number that nobody knows, NaN; empty lines are
    passed over.

    Args:
      path: the file.
      what: what it should hold, for messages, such as "scores".

    Returns:
      The names of the K columns, and name -> float64 [K], in the order of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, or is no such table; in one sentence.
    """
    with opened(path, what, ".csv") as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        rows = ((reader.line_num, row) for row in reader if row)
        try:
            _, header = next(rows, (0, []))
            columns = [_name(name, f"column {i}") for i, name in enumerate(header[1:], start=2)]
            if not columns:
                raise ValueError(f"it has no {what}; expected a header name,ATTRIBUTE,... and rows")
            for column in columns:
                if columns.count(column) > 1:
                    raise ValueError(f"it has two columns {column!r}")
            table, lines = {}, {}
            for line, row in rows:
                name = _name(row[0], f"the name in line {line}")
                if name in table:
                    raise ValueError(f"{name!r} is in line {lines[name]} and in line {line}")
                table[name], lines[name] = _numbers(row, len(columns), line), line
        except UnicodeDecodeError:
            raise ValueError("it is no text in UTF-8") from None
        if not table:
            raise ValueError(f"it has no {what}; expected rows below the header")
        return columns, table


def _name(text, which) -> str:
    text = text.strip()
    if not text or not text.isprintable() or len(text) > _LONGEST_NAME:
        raise ValueError(f"{which} is {text!r:.80}; expected a name")
    return text


def _numbers(row, count, line) -> np.ndarray:
    """The numbers behind a row's name."""
    try:
        numbers = [float(value) if value.strip() else math.nan for value in row[1:]]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(map(math.isinf, numbers)):
        raise ValueError(
            f"line {line}: expected a name and {count} numbers, found {','.join(row)!r:.80}"
        )
    return np.array(numbers)
