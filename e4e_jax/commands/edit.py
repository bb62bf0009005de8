"""python -m e4e_jax edit INPUT OUT --edits smile=1 ...: codes or images -> edited images."""

import functools
import os
import pathlib

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from e4e_jax import bundle
from e4e_jax import model as models
from e4e_jax.data.images import image_grid, resize_image, save_png, to_float, to_uint8
from e4e_jax.data.sources import open_images
from e4e_jax.editing.directions import apply_direction
from e4e_jax.editing.edits import ChannelEdit, parse_edit
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.stylespace import move_channel
from e4e_jax.inversion.folder import check_output, load_latents, output_names, save_latents
from e4e_jax.inversion.invert import synthesize_like

_GRID_ROWS = 16
_FRAME_SECONDS = 0.08


def add_edit(commands):
    parser = commands.add_parser("edit", help="edit codes or images along directions")
    parser.add_argument("input", help="a latents.npz, or images: a folder, a file or a pattern")
    parser.add_argument("out", help="folder for strips, a grid and latents.npz")
    parser.add_argument("--model", default="toy", help="a bundle (default: toy)")
    parser.add_argument(
        "--edits", nargs="+", required=True, metavar="NAME[@FIRST-LAST]=STRENGTHS",
        help="such as smile=1, age=-1:1:5, sefa_0=-3,3, pca_10@7-8=-2 or style:3:12=5",
    )  # fmt: skip
    parser.add_argument(
        "--directions", action="append", metavar="FILE",
        help=".npz of directions, may be repeated (default: toy/directions.npz, with --model=toy)",
    )  # fmt: skip
    parser.add_argument("--gif", action="store_true", help="an animation of each edit as well")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.set_defaults(run=_run)


def _run(flags):
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size is {flags.batch_size}; expected at least 1.")
    model = models.load(flags.model)
    if not isinstance(model, models.GeneratorModel):
        raise ValueError(f"{flags.model} has no generator; expected an inverter or a generator.")
    files = flags.directions or (["toy/directions.npz"] if flags.model == "toy" else [])
    directions = {}
    for file in files:
        directions |= load_directions(bundle.resolve(file))
    edits = [parse_edit(text, directions, model.generator) for text in flags.edits]
    names, codes, originals = _read(flags, model)
    draw = functools.partial(_draw, model, flags.batch_size)

    columns, saved_names, saved_codes = [*originals, draw(codes)], [], []
    animations = []
    for edit in edits:
        frames = []
        for strength in edit.strengths:
            if isinstance(edit, ChannelEdit):  # which no w_plus can express
                frames.append(draw(codes, edit, strength))
                continue
            edited = np.asarray(apply_direction(codes, edit.direction, strength))
            frames.append(draw(edited))
            saved_names += [f"{name} {edit.label}={strength:g}" for name in names]
            saved_codes.append(edited)
        columns += frames
        animations.append(frames)

    out = pathlib.Path(flags.out)
    if os.path.realpath(out / "latents.npz") == os.path.realpath(flags.input):
        raise ValueError(f"{flags.input} would be replaced; choose another folder for OUT.")
    cells = np.stack(columns, axis=1)  # [N, columns, H, W, 3]
    for i, file in enumerate(output_names(names)):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        save_png(out / file, image_grid(cells[i], len(columns)))
        for edit, frames in zip(edits, animations, strict=True):
            if flags.gif:
                path = out / f"{os.path.splitext(file)[0]}.{edit.label}.gif"
                _save_gif(path, [frame[i] for frame in frames])
    shown = cells[:_GRID_ROWS]
    save_png(out / "grid.png", image_grid(shown.reshape(-1, *shown.shape[2:]), len(columns)))
    if saved_codes:
        save_latents(out / "latents.npz", saved_names, np.concatenate(saved_codes))
    order = ["input"] * len(originals) + ["inversion"]
    order += [f"{edit.label}={s:g}" for edit in edits for s in edit.strengths]
    print(f"{len(names)} images, from left to right: {' | '.join(order)}")
    print(f"picture: {out}/grid.png" + (f"\ncodes: {out}/latents.npz" if saved_codes else ""))


def _read(flags, model):
    """Names, codes [N, L, D], and the images themselves in a list, empty where codes were given."""
    name = flags.input
    if name.endswith(".npz"):
        names, codes = load_latents(name)
        expected = (model.num_styles, model.generator.config.w_dim)
        if codes.shape[1:] != expected:
            raise ValueError(
                f"{name} holds codes {list(codes.shape)}; expected [N, {expected[0]}, "
                f"{expected[1]}], as this generator takes them."
            )
        return names, codes, []
    if not isinstance(model, models.Inverter):
        raise ValueError(f"{name} are images and the model has no encoder; expected a latents.npz.")
    source = open_images(name)
    check_output(flags.out, source)
    images = np.stack([resize_image(source[i], model.image_size) for i in range(len(source))])
    codes = _in_batches(lambda batch: model.encode(to_float(batch)), images, flags.batch_size)
    size = _size(model)
    return source.names, codes, [np.stack([resize_image(image, size) for image in images])]


def _draw(model, batch_size, codes, edit=None, strength=0.0):
    """Codes [N, L, D] -> uint8 [N, H, W, 3], with a channel moved where there is an edit."""

    def draw(batch):
        if edit is None:
            return to_uint8(_synthesize(model.generator, batch, size=_size(model)))
        offset = strength * edit.deviation
        return to_uint8(
            _synthesize_moved(
                model.generator, batch, edit.channel, offset, layer=edit.layer, size=_size(model)
            )
        )

    return _in_batches(draw, codes, batch_size)


@functools.partial(nnx.jit, static_argnames=("size",))
def _synthesize(generator, codes, *, size):
    return synthesize_like(generator, jnp.asarray(codes), size)


@functools.partial(nnx.jit, static_argnames=("layer", "size"))
def _synthesize_moved(generator, codes, channel, offset, *, layer, size):
    styles = move_channel(generator, codes, layer, channel, offset)
    return synthesize_like(generator, jnp.asarray(codes), size, styles=styles)


def _size(model):
    """(height, width) of what is drawn: of the encoder's shape where there is one."""
    height, width = getattr(model, "image_size", (model.resolution, model.resolution))
    return model.resolution * height // width, model.resolution


def _in_batches(function, array, batch_size):
    """The last batch is filled up, so that one compiled program serves all."""
    results = []
    for start in range(0, len(array), batch_size):
        batch = array[start : start + batch_size]
        missing = batch_size - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        results.append(np.asarray(function(filled))[: len(batch)])
    return np.concatenate(results)


def _save_gif(path, frames):
    """There and back again, whole or not at all."""
    frames = [Image.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:],
            duration=int(1000 * _FRAME_SECONDS), loop=0,
        )  # fmt: skip
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error
