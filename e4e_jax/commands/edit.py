"""python -m e4e_jax edit INPUT OUT --edits smile=1 ...: codes or images -> edited images."""

import itertools
import os
import sys
from typing import Any

import numpy as np

from e4e_jax import bundle
from e4e_jax.commands.pictures import (
    add_class_flag,
    add_reading_flags,
    check_codes,
    load_generator,
    read_codes,
    save_gif,
)
from e4e_jax.data import outputs
from e4e_jax.data.images import save_png
from e4e_jax.data.names import check_places, file_labels, place
from e4e_jax.data.sheets import sheet
from e4e_jax.editing.edits import ChannelEdit
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.range import FAR_CHANNEL
from e4e_jax.editing.written import parse_edit
from e4e_jax.inversion.folder import save_latents
from e4e_jax.models.stylegan2 import StyleCodes

_GRID_ROWS = 16


def add_edit(commands: Any) -> None:
    parser = commands.add_parser("edit", help="edit codes or images along directions")
    parser.add_argument(
        "input", help="a latents.npz (or projected_w.npz), or images: a folder, a file or a pattern"
    )
    parser.add_argument("out", help="folder for strips, a grid and latents.npz")
    parser.add_argument("--model", default="toy", help="a bundle (default: toy)")
    parser.add_argument(
        "--edits", nargs="+", required=True, metavar="NAME[@FIRST-LAST]=STRENGTHS",
        help="such as smile=1, age=-1:1:5, sefa_0=-3,3, pca_10@7-8=-2 or style:3:12=5; "
        "pca_10@7-8:=-2 moves to this coordinate along a component of GANSpace",
    )  # fmt: skip
    parser.add_argument(
        "--directions", action="append", metavar="FILE",
        help=".npz of directions, may be repeated (default: directions.npz beside the bundle, if "
        "there is one)",
    )  # fmt: skip
    parser.add_argument("--gif", action="store_true", help="an animation of each edit as well")
    add_class_flag(parser)
    add_reading_flags(parser)
    parser.set_defaults(run=_run)


def _run(flags):
    written = [parse_edit(text) for text in flags.edits]
    model = load_generator(flags.model, flags.label)
    directions: dict[str, np.ndarray] = {}
    for file in flags.directions or []:
        directions |= load_directions(bundle.resolve(file))
    given = None if flags.directions is None else directions
    edits = [model.resolve_edit(edit, given) for edit in written]
    names, codes, originals = read_codes(flags.input, model, flags.out, flags)
    files = outputs.sheet_names(flags.out, names)
    check_places(flags.out, files)  # before the work

    columns = [] if originals is None else [originals]
    order = ["input"] * len(columns) + ["inversion"]
    columns.append(model.draw(codes, flags.batch_size))
    saved_names, saved_codes, animations = [], [], []
    for about, edit in zip(written, edits, strict=True):
        frames = []
        for strength in about.strengths:
            order.append(f"{about.label}={strength:g}")
            edited = edit.apply(model.generator, codes, strength)
            if isinstance(edit, ChannelEdit):
                _warn_of_far_channel(order[-1], strength)
            if not isinstance(edited, StyleCodes):  # which a file of codes cannot hold
                check_codes(model, edited, f"the edit {order[-1]} leads to codes")
                saved_names += [f"{name} {order[-1]}" for name in names]
                saved_codes.append(np.asarray(edited))
            frames.append(model.draw(edited, flags.batch_size))
        columns += frames
        animations.append(frames)

    cells = np.stack(columns, axis=1)  # [N, columns, H, W, 3]
    gifs = file_labels([edit.label for edit in written]) if flags.gif else []
    animated = [[f"{os.path.splitext(file)[0]}.{gif}.gif" for gif in gifs] for file in files]
    sheets = dict.fromkeys([outputs.GRID, *itertools.chain(*animated)])
    out = outputs.start_sheets(flags.out, sheets | dict(zip(files, names, strict=True)))
    for i, file in enumerate(files):
        save_png(place(out, file), sheet(cells[i], len(columns), order))
        for path, frames in zip(animated[i], animations if gifs else [], strict=True):
            save_gif(place(out, path), [frame[i] for frame in frames])
    shown = cells[:_GRID_ROWS]
    cells = shown.reshape(-1, *shown.shape[2:])
    save_png(out / outputs.GRID, sheet(cells, len(columns), order))
    if saved_codes:
        save_latents(out / outputs.LATENTS, saved_names, np.concatenate(saved_codes))
    print(f"{len(names)} images, from left to right: {' | '.join(order)}")
    print(f"picture: {out}/grid.png" + (f"\ncodes: {out}/latents.npz" if saved_codes else ""))


def _warn_of_far_channel(label, strength):
    if abs(strength) > FAR_CHANNEL:
        print(
            f"e4e_jax: the edit {label} moves a channel by more than {FAR_CHANNEL:g} of its "
            "standard deviations; what is drawn is nothing that the generator has learned.",
            file=sys.stderr,
        )
