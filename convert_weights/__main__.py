"""python -m convert_weights SRC [SRC...] DST: published checkpoints -> bundles, and back."""

from collections.abc import Sequence

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("convert_weights")

import argparse
import textwrap
import time

from convert_weights import formats
from convert_weights.checkpoint import ConvertError
from convert_weights.files import convert_files, to_pytorch


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = _parser().parse_args(arguments)
    return program.run("convert_weights", lambda: _convert(flags))


def _convert(flags):
    start = time.monotonic()
    if flags.to == "pytorch":
        _to_pytorch(flags)
    else:
        _to_bundle(flags)
    print(f"{flags.destination}: written in {time.monotonic() - start:.1f} s")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m convert_weights",
        description="Turns a published checkpoint into a bundle for e4e_jax.load, and back; "
        "directions and\ncodes of images into .npz files that `python -m e4e_jax` takes. Nothing "
        "in a file is executed.",
        epilog="formats:\n" + "\n".join(_format_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SRC",
        help="a .pt, .pth, .pkl, .npy or .npz file; several for LPIPS (trunk and linear weights), "
        "for directions and for codes; a bundle with --to pytorch",
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        help="the bundle's folder; a .npz file for directions and codes; a .pt file with "
        "--to pytorch",
    )
    parser.add_argument(
        "--format",
        choices=[*formats.FORMATS, *formats.ARRAYS],
        help="what SRC is, where it is not found out rightly; directions or latents, where a file "
        "may be the direction of all layers or the codes of one image",
    )
    parser.add_argument("--to", choices=["bundle", "pytorch"], default="bundle")
    parser.add_argument(
        "--class", dest="label", type=int, metavar="N",
        help="with --to pytorch: the class to keep of a class-conditional generator",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is at DST")
    return parser


def _format_lines():
    known = {name: form.description for name, form in formats.FORMATS.items()} | formats.ARRAYS
    for name, description in known.items():
        yield textwrap.fill(
            description, 96, initial_indent=f"  {name:12}", subsequent_indent=" " * 14
        )


def _to_bundle(flags):
    if flags.label is not None:
        raise ConvertError("--class goes with --to pytorch; a bundle holds all classes.")
    converted = convert_files(
        flags.sources, flags.destination, format=flags.format, overwrite=flags.overwrite
    )
    print(f"{' and '.join(flags.sources)}: {converted.kind}")
    _print_lines(converted.found)
    _print_lines(f"left out: {count} tensors, {why}" for why, count in converted.left_out.items())


def _to_pytorch(flags):
    if len(flags.sources) != 1 or flags.format is not None:
        raise ConvertError("--to pytorch takes one bundle and no --format.")
    (source,) = flags.sources
    found = to_pytorch(source, flags.destination, label=flags.label, overwrite=flags.overwrite)
    print(f"{source}: to PyTorch")
    _print_lines(found)


def _print_lines(lines):
    for line in lines:
        print(f"  {line}")


if __name__ == "__main__":
    program.end(main())
