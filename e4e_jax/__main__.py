"""python -m e4e_jax COMMAND: what can be done with bundles from the shell."""

from collections.abc import Sequence
from typing import Any

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("e4e_jax")

import argparse
import json

from e4e_jax import bundle
from e4e_jax.commands.directions import add_directions
from e4e_jax.commands.edit import add_edit
from e4e_jax.commands.export import add_export
from e4e_jax.commands.interpolate import add_interpolate
from e4e_jax.commands.invert import add_invert
from e4e_jax.commands.mix import add_mix
from e4e_jax.commands.numbers import check_numbers
from e4e_jax.commands.toy import add_toy
from e4e_jax.runtime.tuning import set_up


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code, 1 with one sentence for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m e4e_jax", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(commands)
    flags = parser.parse_args(arguments)

    def run():
        check_numbers(flags)
        set_up()
        return flags.run(flags)

    return program.run("e4e_jax", run)


def add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="print what a bundle is: its JSON")
    parser.add_argument("bundle", help='a folder, or a shipped one such as "toy/generator"')
    parser.set_defaults(run=lambda flags: info(flags.bundle))


def info(name: str) -> None:
    """Prints the JSON of a bundle.

    Raises:
      FileNotFoundError, ValueError: there is no bundle; in one sentence.
    """
    print(json.dumps(bundle.read_description(bundle.resolve(name)), indent=2))


# Every command is a function that adds its parser to argparse's subparsers and sets `run`.
COMMANDS = [
    add_info,
    add_invert,
    add_edit,
    add_mix,
    add_interpolate,
    add_directions,
    add_export,
    add_toy,
]


if __name__ == "__main__":
    program.end(main())
