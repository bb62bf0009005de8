"""The numbers that flags of commands take, in one table that is looked at before all else."""

import argparse

# Flag -> the least and the most; a test fails for a flag without a row.
RANGES = {
    "batch_size": (1, 2**20),
    "max_bad_images": (0, 10**9),
    "iterations": (1, 1_000),
    "refine": (0, 1_000_000),
    "frames": (2, 1_000),
    "count": (0, 1_000_000),  # commands that know the least and the most say it
    "samples": (1, 100_000_000),
    "size": (1, 8_192),
    "step": (0, 10**9),
    "label": (0, 1_000_000),
}
_WRITTEN = {"label": "class"}


def check_numbers(flags: argparse.Namespace) -> None:
    """Checks every flag that is a number.

    Args:
      flags: what argparse gives; None is a flag that was not given.

    Raises:
      ValueError: a number is too small or too large; in one sentence.
    """
    for name, (least, most) in RANGES.items():
        value = getattr(flags, name, None)
        if value is not None and not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most:,}"
            raise ValueError(f"--{_WRITTEN.get(name, name)} is {value}; expected {bound}.")
