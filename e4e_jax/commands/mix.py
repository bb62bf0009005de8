"""python -m e4e_jax mix SOURCES DESTINATIONS OUT: style mixing, every source with every image."""

import functools
import re
from typing import Any

import numpy as np

from e4e_jax.commands.pictures import add_reading_flags, load_generator, read_codes
from e4e_jax.data import outputs
from e4e_jax.data.images import save_png
from e4e_jax.data.sheets import sheet
from e4e_jax.editing.mixing import mix_styles
from e4e_jax.inversion.folder import save_latents

_MOST = 32  # images on either side of a picture


def add_mix(commands: Any) -> None:
    parser = commands.add_parser("mix", help="give images some of the styles of others")
    parser.add_argument(
        "sources",
        help="whose styles are taken: a latents.npz (or projected_w.npz), or images: a folder, a "
        "file or a pattern",
    )
    parser.add_argument("destinations", help="what the other styles are kept of, given likewise")
    parser.add_argument("out", help="folder for a grid and latents.npz")
    parser.add_argument("--model", default="toy", help="a bundle (default: toy)")
    parser.add_argument(
        "--layers", default="0-3", metavar="FIRST-LAST", help="what is taken (default: 0-3, coarse)"
    )
    add_reading_flags(parser)
    parser.set_defaults(run=_run)


def _run(flags):
    layers = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", flags.layers)
    if layers is None:
        raise ValueError(f"--layers is {flags.layers!r:.80}; expected FIRST-LAST such as 0-3.")
    first, last = map(int, layers.groups())
    model = load_generator(flags.model)
    read = functools.cache(lambda name: read_codes(name, model, flags.out, flags))
    (sources, given, _), (destinations, kept, _) = read(flags.sources), read(flags.destinations)
    if max(len(sources), len(destinations)) > _MOST:
        raise ValueError(
            f"there are {len(sources)} sources and {len(destinations)} destinations; expected at "
            f"most {_MOST} of each."
        )
    # Row by row: [destinations, sources, L, D].
    shape = (len(kept), *given.shape)
    source, destination = (
        np.broadcast_to(array, shape).reshape(-1, *given.shape[1:])
        for array in (given, kept[:, None])
    )
    mixed = np.asarray(mix_styles(source, destination, first, last))

    images = model.draw(np.concatenate([given, kept, mixed]), flags.batch_size)
    cells = np.full((len(kept) + 1, len(given) + 1, *images.shape[1:]), 255, np.uint8)
    tops, lefts, inside = np.split(images, [len(given), len(given) + len(kept)])
    cells[0, 1:], cells[1:, 0] = tops, lefts
    cells[1:, 1:] = inside.reshape(cells[1:, 1:].shape)
    out = outputs.start_sheets(flags.out, {outputs.GRID: None})
    labels = [f"styles {flags.layers} of:", *sources]
    grid = sheet(cells.reshape(-1, *images.shape[1:]), len(given) + 1, labels)
    save_png(out / outputs.GRID, grid)
    names = [f"{name} with {source} @{first}-{last}" for name in destinations for source in sources]
    save_latents(out / outputs.LATENTS, names, mixed)
    print(f"{len(sources)} sources (top row), {len(destinations)} destinations (left column)")
    print(f"picture: {flags.out}/grid.png\ncodes: {flags.out}/latents.npz")
