"""python -m e4e_jax edit INPUT OUT --edits smile=1 ...: codes or images -> edited images."""

import itertools
import os
import sys

import numpy as np

from e4e_jax import bundle
from e4e_jax.commands.pictures import (
    add_class_flag,
    add_reading_flags,
    check_codes,
    checked_uint8,
    draw,
    drawn_size,
    load_generator,
    read_codes,
    save_gif,
    synthesize,
)
from e4e_jax.data import outputs
from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import save_png
from e4e_jax.data.names import check_places, file_labels, place
from e4e_jax.data.sheets import sheet
from e4e_jax.editing.edits import ChannelEdit, apply_edit, parse_edit
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.range import FAR_CHANNEL
from e4e_jax.editing.stylespace import move_channel
from e4e_jax.inversion.folder import save_latents

_GRID_ROWS = 16


def add_edit(commands):
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
        help=".npz of directions, may be repeated (default: toy/directions.npz, with --model=toy)",
    )  # fmt: skip
    parser.add_argument("--gif", action="store_true", help="an animation of each edit as well")
    add_class_flag(parser)
    add_reading_flags(parser)
    parser.set_defaults(run=_run)


def _run(flags):
    model = load_generator(flags.model, flags.label)
    files = flags.directions or (["toy/directions.npz"] if flags.model == "toy" else [])
    directions = {}
    for file in files:
        directions |= load_directions(bundle.resolve(file))
    edits = [parse_edit(text, directions, model.generator) for text in flags.edits]
    names, codes, originals = read_codes(flags.input, model, flags.out, flags)
    files = outputs.sheet_names(flags.out, names)
    check_places(flags.out, files)  # before the work

    columns = [] if originals is None else [originals]
    order = ["input"] * len(columns) + ["inversion"]
    columns.append(draw(model, codes, flags.batch_size))
    saved_names, saved_codes, animations = [], [], []
    for edit in edits:
        frames = []
        for strength in edit.strengths:
            order.append(f"{edit.label}={strength:g}")
            if isinstance(edit, ChannelEdit):  # which no w_plus can express
                _warn_of_far_channel(order[-1], strength)
                frames.append(_draw_moved(model, codes, edit, strength, flags.batch_size))
                continue
            edited = np.asarray(apply_edit(codes, edit, strength))
            check_codes(model, edited, f"the edit {order[-1]} leads to codes")
            frames.append(draw(model, edited, flags.batch_size))
            saved_names += [f"{name} {order[-1]}" for name in names]
            saved_codes.append(edited)
        columns += frames
        animations.append(frames)

    cells = np.stack(columns, axis=1)  # [N, columns, H, W, 3]
    gifs = file_labels([edit.label for edit in edits]) if flags.gif else []
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


def _draw_moved(model, codes, edit, strength, batch_size):
    """Codes [N, L, D] -> uint8 [N, H, W, 3] with a channel moved."""
    generator, size = model.generator, drawn_size(model)

    def draw_batch(batch):
        offset = strength * edit.deviation
        styles = move_channel(generator, batch, edit.layer, edit.channel, offset)
        return checked_uint8(synthesize(generator, batch, styles, size=size))

    return in_batches(draw_batch, (codes,), batch_size)
