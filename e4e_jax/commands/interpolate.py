"""python -m e4e_jax interpolate INPUT [INPUT...] OUT: from each image to the next."""

from typing import Any

import numpy as np

from e4e_jax.commands.pictures import (
    add_reading_flags,
    load_generator,
    read_codes,
    save_gif,
)
from e4e_jax.data import outputs
from e4e_jax.data.images import save_png
from e4e_jax.data.sheets import sheet
from e4e_jax.editing.mixing import interpolate_codes
from e4e_jax.inversion.folder import save_latents

_ANIMATION = "interpolation.gif"


def add_interpolate(commands: Any) -> None:
    parser = commands.add_parser("interpolate", help="go from each image to the next")
    parser.add_argument(
        "inputs", nargs="+", metavar="input",
        help="a latents.npz (or projected_w.npz), or images: a folder, a file or a pattern; two "
        "images in all, or more",
    )  # fmt: skip
    parser.add_argument("out", help="folder for a grid, a row for each pair, and latents.npz")
    parser.add_argument("--model", default="toy", help="a bundle (default: toy)")
    parser.add_argument("--frames", type=int, default=8, help="of a pair, both ends included")
    parser.add_argument("--gif", action="store_true", help="an animation of the whole way as well")
    add_reading_flags(parser)
    parser.set_defaults(run=_run)


def _run(flags):
    model = load_generator(flags.model)
    names, codes = [], []
    for name in flags.inputs:
        found, of_it, _ = read_codes(name, model, flags.out, flags)
        names += found
        codes += list(of_it)
    if len(codes) < 2:
        raise ValueError(f"{' '.join(flags.inputs)} is one image; expected two or more.")
    pairs = range(len(codes) - 1)
    ways = [np.asarray(interpolate_codes(codes[i], codes[i + 1], flags.frames)) for i in pairs]
    images = model.draw(np.concatenate(ways), flags.batch_size)

    sheets = [outputs.GRID, *([_ANIMATION] if flags.gif else [])]
    out = outputs.start_sheets(flags.out, dict.fromkeys(sheets))
    shares = np.linspace(0, 1, flags.frames)
    labels = [f"{share:.0%}" for share in shares]
    save_png(out / outputs.GRID, sheet(images, flags.frames, labels))
    steps = [f"{names[i]} to {names[i + 1]} {share:.3g}" for i in pairs for share in shares]
    save_latents(out / outputs.LATENTS, steps, np.concatenate(ways))
    print(f"{len(ways)} rows of {flags.frames} frames, through {' | '.join(names)}")
    print(f"picture: {flags.out}/grid.png\ncodes: {flags.out}/latents.npz")
    if flags.gif:
        once = [image for i, image in enumerate(images) if i == 0 or i % flags.frames]
        save_gif(out / _ANIMATION, once)
        print(f"animation: {flags.out}/{_ANIMATION}")
