"""python -m e4e_jax toy OUT: draws built-in faces, for trying everything without data."""

from typing import Any

from e4e_jax.data.images import save_png
from e4e_jax.data.names import place
from e4e_jax.toy.faces import HELD_OUT, ToyFaces


def add_toy(commands: Any) -> None:
    parser = commands.add_parser("toy", help="draw built-in faces as image files")
    parser.add_argument("out", help="folder to fill")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.set_defaults(run=_run)


def _run(flags):
    if flags.count < 1:
        raise ValueError(f"--count is {flags.count}; expected at least 1.")
    faces = ToyFaces(flags.count, resolution=flags.size, start=HELD_OUT)
    for i in range(flags.count):
        save_png(place(flags.out, f"face{i:04d}.png"), faces[i])
    print(f"{flags.count} faces: {flags.out}")
